//! Restricted authors: whose connections their filters match, and that they stand in nobody's way.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::field_values::{EmptyHost, FieldValues, Program};
use crate::rank::order;
use crate::reference::{ServiceStates, classify, matches};
use crate::{Condition, Field, MatchType, Value, Weight};

const ALICE: u32 = 1000;
const BOB: u32 = 1001;

/// A member of the group whose filters apply to its own connections only.
fn member(uid: u32) -> Author {
    Author {
        reach: Reach::OwnUser,
        ..user(uid)
    }
}

/// A set in which root has a sublayer and a service, and two members have a provider each.
fn with_members() -> Objects {
    let mut objects = Objects::default();
    add(&mut objects, sublayer(1), &root()).unwrap();
    add(&mut objects, service(1), &root()).unwrap();
    for uid in [ALICE, BOB] {
        add(&mut objects, provider(uid.into()), &member(uid)).unwrap();
    }
    objects
}

fn of(uid: u32, filter: Filter) -> Filter {
    Filter {
        provider: Some(Uuid::from_u128(uid.into())),
        ..filter
    }
}

/// A service that a member may add.
fn service_of(uid: u32, key: u128) -> Service {
    Service {
        provider: Some(Uuid::from_u128(uid.into())),
        records_bound: true,
        ..service(key)
    }
}

fn redirect(key: u128, service: u128) -> Filter {
    Filter {
        action: Action::Redirect(Uuid::from_u128(service)),
        ..filter(key)
    }
}

fn has<T: Object>(objects: &Objects, key: u128) -> bool {
    objects.get::<T>(Uuid::from_u128(key)).is_ok()
}

fn is_user(uid: u32) -> Condition {
    Condition::equal(Field::User, Value::Uint(uid.into()))
}

#[test]
fn only_filters_of_restricted_authors_are_restricted() {
    let mut objects = with_members();
    add(&mut objects, of(ALICE, filter(1)), &member(ALICE)).unwrap();
    add(&mut objects, filter(2), &root()).unwrap();
    let claimed = Filter {
        only_user: Some(0),
        ..of(BOB, filter(3))
    };
    add(&mut objects, claimed, &member(BOB)).unwrap();
    let only_user = |objects: &Objects, key| {
        let filter = objects.get::<Filter>(Uuid::from_u128(key));
        filter.unwrap().only_user
    };
    assert_eq!(only_user(&objects, 1), Some(ALICE));
    assert_eq!(only_user(&objects, 2), None);
    assert_eq!(only_user(&objects, 3), Some(BOB));
    let mut restored = Objects::default();
    restored
        .restore(ObjectEntry {
            object: filter(4),
            author: member(ALICE),
        })
        .unwrap();
    assert_eq!(only_user(&restored, 4), Some(ALICE));
}

#[test]
fn a_restricted_filter_that_excludes_its_user_is_refused() {
    let mut objects = with_members();
    let to_user = |key, condition| Filter {
        conditions: vec![condition],
        ..of(ALICE, filter(key))
    };
    let others = to_user(1, is_user(BOB));
    assert_eq!(
        add(&mut objects, others, &member(ALICE)),
        Err(Code::NeverMatch)
    );
    add(&mut objects, to_user(2, is_user(ALICE)), &member(ALICE)).unwrap();
}

#[test]
fn filters_of_restricted_authors_have_a_share_of_the_memory() {
    let mut objects = with_members();
    let large = |key: u128| {
        let mut filter = of(ALICE, filter(key));
        let ports = (0..1024).map(|port| Condition {
            field: Field::RemotePort,
            match_type: MatchType::Equal,
            value: Value::Uint(port),
        });
        filter.conditions = ports.collect();
        filter
    };
    let refused = (1..).find_map(|key| add(&mut objects, large(key), &member(ALICE)).err());
    assert_eq!(refused, Some(Code::OutOfBounds));
    let bytes: usize = objects.all::<Filter>().map(Object::size).sum();
    assert!(bytes <= RESTRICTED_BYTES_MAX && bytes > RESTRICTED_BYTES_MAX / 2);
    add(&mut objects, filter(1_000_000), &root()).unwrap();
}

/// A condition on a field with small numbers, so that it often holds.
fn condition() -> impl Strategy<Value = Condition> {
    let field = prop_oneof![
        Just(Field::User),
        Just(Field::CurrentUser),
        Just(Field::RemotePort),
    ];
    let match_type = prop::sample::select(vec![
        MatchType::Equal,
        MatchType::NotEqual,
        MatchType::Greater,
        MatchType::Less,
        MatchType::GreaterOrEqual,
        MatchType::LessOrEqual,
        MatchType::Range,
        MatchType::FlagsAllSet,
        MatchType::FlagsAnySet,
        MatchType::FlagsNoneSet,
    ]);
    (field, match_type, 0..4u64, 0..4u64).prop_map(|(field, match_type, low, more)| Condition {
        field,
        match_type,
        value: match match_type {
            MatchType::Range => Value::Range(
                Box::new(Value::Uint(low)),
                Box::new(Value::Uint(low + more)),
            ),
            _ => Value::Uint(low),
        },
    })
}

fn connection(user: u32, current: u32, port: u16, elevated: bool) -> FieldValues {
    let program = |user| Program {
        user,
        elevated,
        ..Program::default()
    };
    FieldValues {
        layer: LayerKind::ConnectRedirect.both()[0],
        program: program(user),
        current: program(current),
        local: "0.0.0.0:0".parse().unwrap(),
        remote: SocketAddr::from(([192, 0, 2, 1], port)),
        protocol: 6,
        netns: 1,
        inbound: false,
        redirected: false,
        proxied: false,
    }
}

proptest! {
    #[test]
    fn a_restricted_filter_matches_what_it_would_match_of_its_user(
        conditions in prop::collection::vec(condition(), 0..6),
        only_user in 0..4u32,
        user in 0..4u32,
        current in 0..4u32,
        port in 0..4u16,
        elevated in any::<bool>(),
    ) {
        let unrestricted = Filter { conditions, ..filter(1) };
        let restricted = Filter { only_user: Some(only_user), ..unrestricted.clone() };
        let filters = [unrestricted, restricted];
        let services: [(u16, &Service); 0] = [];
        let ranked = order(&filters, [], services).unwrap();
        let values = connection(user, current, port, elevated);
        let would_match = matches(&ranked[0], &EmptyHost, &values);
        prop_assert_eq!(
            matches(&ranked[1], &EmptyHost, &values),
            would_match && user == only_user && !elevated
        );
        prop_assert_eq!(ranked[0].weight, ranked[1].weight);
    }
}

fn any_filter() -> impl Strategy<Value = Filter> {
    let action = prop_oneof![
        Just(Action::Permit),
        Just(Action::Block),
        Just(Action::Veto),
        Just(Action::Inspect),
        (1..=3u128).prop_map(|service| Action::Redirect(Uuid::from_u128(service))),
    ];
    (action, 0..3u128, 0..4u64, any::<bool>()).prop_map(|(action, sublayer, weight, hard)| Filter {
        action,
        sublayer: Uuid::from_u128(sublayer),
        weight: Weight::Literal(weight),
        clear_action_right: hard,
        ..filter(1)
    })
}

/// The verdict of these filters on a connection of [`ALICE`]: blocked, and the filter that redirects.
fn verdict(filters: &[Filter], seen: &[u16]) -> (bool, Option<u64>) {
    let weighted = |key| Sublayer {
        weight: key as u16,
        ..sublayer(key)
    };
    let sublayers = [1, 2].map(weighted);
    let services: Vec<_> = (1..=3).map(service).collect();
    let ranked = order(filters, &sublayers, (1..).zip(&services)).unwrap();
    let states = ServiceStates {
        seen: seen.to_vec(),
        absent: vec![3],
        ..ServiceStates::default()
    };
    let values = connection(ALICE, ALICE, 80, false);
    let verdict = classify(&ranked, &EmptyHost, &values, &states);
    let redirect = verdict.redirect.map(|rank| ranked[rank as usize].filter.id);
    (verdict.blocked, redirect)
}

proptest! {
    #[test]
    fn restricted_filters_lift_nothing_that_other_filters_do(
        others in prop::collection::vec(any_filter(), 0..6),
        restricted in prop::collection::vec(any_filter(), 0..6),
        seen in prop::collection::vec(1..=3u16, 0..2),
    ) {
        let mut filters = others.clone();
        filters.extend(restricted.into_iter().map(|filter| Filter {
            only_user: Some(ALICE),
            ..filter
        }));
        (1..).zip(&mut filters).for_each(|(id, filter)| filter.id = id);
        let (blocked_by_others, redirected_by_others) = verdict(&filters[..others.len()], &seen);
        let (blocked, redirected) = verdict(&filters, &seen);
        prop_assert!(blocked || !blocked_by_others);
        prop_assert!(blocked || redirected_by_others.is_none() || redirected == redirected_by_others);
    }
}

#[test]
fn a_name_stands_for_the_users_own_service_or_for_roots() {
    let mut objects = with_members();
    let squatter = Service {
        identity: identity(2, "proxy 1"),
        ..service_of(ALICE, 2)
    };
    add(&mut objects, squatter.clone(), &member(ALICE)).unwrap();
    let again = Service {
        identity: identity(3, "proxy 1"),
        ..squatter
    };
    assert_eq!(
        add(&mut objects, again, &member(ALICE)),
        Err(Code::AlreadyExists)
    );
    let key = |uid| {
        let found = objects.service_named("proxy 1", uid).ok();
        found.map(|entry| entry.object.identity.key.as_u128())
    };
    assert_eq!(key(0), Some(1));
    assert_eq!(key(ALICE), Some(2));
    assert_eq!(key(BOB), Some(1));
    delete::<Service>(&mut objects, 1, &root()).unwrap();
    for uid in [0, BOB] {
        assert!(objects.service_named("proxy 1", uid).is_err(), "{uid}");
    }
    add(&mut objects, service(1), &root()).unwrap();
}

#[test]
fn objects_refer_to_those_of_their_user_and_of_root() {
    let mut objects = with_members();
    // Any author's service may hold connects: they are of connections that are redirected to it.
    let pended = Service {
        connect: ConnectMode::Pended,
        ..service_of(ALICE, 2)
    };
    add(&mut objects, pended, &member(ALICE)).unwrap();
    let refused = Err(Code::WrongSession);
    let mut try_add = |filter, author: &Author| add(&mut objects, filter, author).map(drop);
    assert_eq!(try_add(redirect(1, 2), &root()), refused);
    assert_eq!(try_add(of(BOB, redirect(2, 2)), &member(BOB)), refused);
    try_add(of(ALICE, redirect(3, 2)), &member(ALICE)).unwrap();
    try_add(of(ALICE, redirect(4, 1)), &member(ALICE)).unwrap();
    let with_context = Filter {
        context: Some(RedirectContext::Auto),
        ..of(ALICE, redirect(5, 1))
    };
    assert_eq!(try_add(with_context, &member(ALICE)), refused);
    let legacy = Service {
        records: RecordsMode::Legacy,
        ..service(3)
    };
    add(&mut objects, legacy, &root()).unwrap();
    let to_legacy = add(&mut objects, of(ALICE, redirect(6, 3)), &member(ALICE));
    assert_eq!(to_legacy, refused.map(|()| Uuid::nil()));
    let exempt = [
        (RecordsMode::Legacy, true),
        (RecordsMode::RequiredOrOwn, true),
        (RecordsMode::Required, false),
    ];
    for (records, records_bound) in exempt {
        let exempt = Service {
            records,
            records_bound,
            ..service_of(ALICE, 4)
        };
        let added = add(&mut objects, exempt, &member(ALICE));
        assert_eq!(
            added,
            Err(Code::WrongSession),
            "{records:?} {records_bound}"
        );
    }
}

#[test]
fn restricted_objects_give_way_with_what_refers_to_them() {
    let mut objects = with_members();
    let of_alice = service_of(ALICE, 2);
    add(&mut objects, of_alice.clone(), &member(ALICE)).unwrap();
    add(&mut objects, of(ALICE, redirect(1, 2)), &member(ALICE)).unwrap();
    assert_eq!(
        add(&mut objects, of_alice, &member(BOB)),
        Err(Code::AlreadyExists)
    );
    add(&mut objects, service(2), &root()).unwrap();
    assert!(!has::<Filter>(&objects, 1));
    let added = objects.entry::<Service>(Uuid::from_u128(2)).unwrap();
    assert_eq!(added.author, root());
    // Her provider's key is taken too, and with the provider goes everything of it.
    add(&mut objects, of(ALICE, filter(2)), &member(ALICE)).unwrap();
    let desired = Desired {
        providers: vec![provider(ALICE.into())],
        ..Desired::default()
    };
    let difference = objects.apply(desired, &owner("ops")).unwrap();
    assert!(!has::<Filter>(&objects, 2));
    assert_eq!(difference.count(Operation::Remove), 1);
}

#[test]
fn restricted_objects_do_not_keep_others_from_deleting_or_replacing_theirs() {
    let mut objects = with_members();
    let desired = |records| Desired {
        services: vec![Service {
            records,
            ..service(5)
        }],
        ..Desired::default()
    };
    let applied = |objects: &mut Objects, desired| {
        let difference = objects.apply(desired, &owner("ops")).unwrap();
        difference.count(Operation::Remove)
    };
    applied(&mut objects, desired(RecordsMode::Required));
    add(&mut objects, of(ALICE, redirect(1, 5)), &member(ALICE)).unwrap();
    assert_eq!(
        applied(&mut objects, desired(RecordsMode::RequiredOrOwn)),
        0
    );
    assert!(has::<Filter>(&objects, 1));
    assert_eq!(applied(&mut objects, desired(RecordsMode::Legacy)), 1);
    assert!(!has::<Filter>(&objects, 1));
    applied(&mut objects, desired(RecordsMode::Required));
    add(&mut objects, of(ALICE, redirect(2, 5)), &member(ALICE)).unwrap();
    assert_eq!(applied(&mut objects, Desired::default()), 2);
    add(&mut objects, of(ALICE, redirect(3, 1)), &member(ALICE)).unwrap();
    add(&mut objects, redirect(4, 1), &root()).unwrap();
    assert_eq!(
        delete::<Service>(&mut objects, 1, &root()),
        Err(Code::InUse)
    );
    assert!(
        has::<Filter>(&objects, 3),
        "a call that fails changes nothing"
    );
    delete::<Filter>(&mut objects, 4, &root()).unwrap();
    delete::<Service>(&mut objects, 1, &root()).unwrap();
    assert!(!has::<Filter>(&objects, 3));
}

#[test]
fn an_owners_policy_is_that_of_one_user() {
    let mut objects = with_members();
    let mine = |author: Author| Author {
        owner: Some("local".into()),
        ..author
    };
    let of_user = |uid, key| Desired {
        filters: vec![of(uid, filter(key))],
        ..Desired::default()
    };
    objects
        .apply(of_user(ALICE, 1), &mine(member(ALICE)))
        .unwrap();
    objects.apply(of_user(BOB, 2), &mine(member(BOB))).unwrap();
    objects.apply(Desired::default(), &owner("local")).unwrap();
    assert!(has::<Filter>(&objects, 1) && has::<Filter>(&objects, 2));
    objects
        .apply(Desired::default(), &mine(member(ALICE)))
        .unwrap();
    assert!(!has::<Filter>(&objects, 1) && has::<Filter>(&objects, 2));
}

#[test]
fn restricted_authors_together_have_a_share_of_each_kind() {
    let mut objects = with_members();
    let share = (SERVICES_MAX / RESTRICTED_SHARE) as u128;
    for key in 0..share {
        let uid = if key % 2 == 0 { ALICE } else { BOB };
        add(&mut objects, service_of(uid, 100 + key), &member(uid)).unwrap();
    }
    let full = Err(Code::TooManyCallouts);
    let one_more = service_of(ALICE, 99);
    assert_eq!(add(&mut objects, one_more.clone(), &member(ALICE)), full);
    let mut applying = objects.clone();
    let desired = Desired {
        services: vec![one_more],
        ..Desired::default()
    };
    let author = Author {
        owner: Some("alice".into()),
        ..member(ALICE)
    };
    assert_eq!(
        applying.apply(desired, &author).map_err(|error| error.code),
        full.map(|_| Difference::default())
    );
    add(&mut objects, service(99), &root()).unwrap();
}

#[test]
fn an_object_whose_reach_was_not_recorded_is_replaced_when_it_is_applied_again() {
    let mut objects = Objects::default();
    let author = |reach| Author {
        owner: Some("vendor".into()),
        reach,
        ..user(ALICE)
    };
    let desired = || Desired {
        providers: vec![provider(1)],
        filters: vec![Filter {
            provider: Some(Uuid::from_u128(1)),
            ..filter(1)
        }],
        ..Desired::default()
    };
    objects
        .restore(ObjectEntry {
            object: provider(1),
            author: author(Reach::Unrecorded),
        })
        .unwrap();
    objects
        .restore(ObjectEntry {
            object: of(1, filter(1)),
            author: author(Reach::Unrecorded),
        })
        .unwrap();
    assert_eq!(objects.all::<Filter>().next().unwrap().only_user, None);
    for (reach, only_user) in [(Reach::OwnUser, Some(ALICE)), (Reach::Host, None)] {
        let mut objects = objects.clone();
        let difference = objects.apply(desired(), &author(reach)).unwrap();
        assert_eq!(difference.count(Operation::Replace), 2, "{reach:?}");
        assert_eq!(objects.all::<Filter>().next().unwrap().only_user, only_user);
    }
}
