mod author;

use proptest::prelude::*;

use super::*;
use crate::{Absent, Action, ConnectMode, Identity, LayerKind, RecordsMode, RedirectContext};

const SESSION: u64 = 7;

fn root() -> Author {
    Author::default()
}

fn user(uid: u32) -> Author {
    Author { uid, ..root() }
}

fn dynamic(session: u64) -> Author {
    Author {
        session: Some(session),
        ..root()
    }
}

fn owner(name: &str) -> Author {
    Author {
        owner: Some(name.into()),
        ..root()
    }
}

fn identity(key: u128, name: &str) -> Identity {
    Identity {
        key: Uuid::from_u128(key),
        name: name.into(),
        description: String::new(),
    }
}

fn provider(key: u128) -> Provider {
    Provider {
        identity: identity(key, "vendor"),
        lifetime: Lifetime::Static,
        service_name: None,
    }
}

fn sublayer(key: u128) -> Sublayer {
    Sublayer {
        identity: identity(key, "group"),
        lifetime: Lifetime::Static,
        provider: None,
        weight: 1,
    }
}

fn service(key: u128) -> Service {
    Service {
        identity: identity(key, &format!("proxy {key}")),
        lifetime: Lifetime::Static,
        provider: None,
        records: RecordsMode::Required,
        records_bound: false,
        connect: ConnectMode::Accepted,
        on_absent: Absent::Block,
        context: RedirectContext::None,
    }
}

fn filter(key: u128) -> Filter {
    let layer = LayerKind::ConnectRedirect.both()[0];
    Filter {
        identity: identity(key, &format!("filter {key}")),
        ..Filter::new("", layer, Action::Permit)
    }
}

fn no_key() -> Uuid {
    panic!("the object has a key")
}

fn add<T: Object>(objects: &mut Objects, object: T, author: &Author) -> Result<Uuid, Code> {
    let added = objects.add(object, author, no_key);
    added.map_err(|error| error.code)
}

fn delete<T: Object>(objects: &mut Objects, key: u128, author: &Author) -> Result<(), Code> {
    let deleted = objects.delete::<T>(Uuid::from_u128(key), author);
    deleted.map_err(|error| error.code)
}

#[test]
fn a_key_is_unique_within_its_kind_and_made_if_it_is_missing() {
    let mut objects = Objects::default();
    add(&mut objects, provider(1), &root()).unwrap();
    add(&mut objects, sublayer(1), &root()).unwrap();
    assert_eq!(
        add(&mut objects, provider(1), &root()),
        Err(Code::AlreadyExists)
    );
    let made = objects.add(provider(0), &root(), || Uuid::from_u128(9));
    assert_eq!(made, Ok(Uuid::from_u128(9)));
    add(&mut objects, service(1), &root()).unwrap();
    let namesake = Service {
        identity: identity(2, "proxy 1"),
        ..service(2)
    };
    assert_eq!(
        add(&mut objects, namesake, &root()),
        Err(Code::AlreadyExists)
    );
    let nameless = Provider {
        identity: identity(3, ""),
        ..provider(3)
    };
    assert_eq!(
        add(&mut objects, nameless, &root()),
        Err(Code::NullDisplayName)
    );
}

#[test]
fn only_a_service_with_records_can_pend_connects() {
    let mut objects = Objects::default();
    let pended = |key, records| Service {
        records,
        connect: ConnectMode::Pended,
        ..service(key)
    };
    let legacy = add(&mut objects, pended(1, RecordsMode::Legacy), &root());
    assert_eq!(legacy, Err(Code::InvalidFlags));
    for (key, records) in [(2, RecordsMode::Required), (3, RecordsMode::RequiredOrOwn)] {
        add(&mut objects, pended(key, records), &root()).unwrap();
    }
}

#[test]
fn the_id_of_a_filter_is_never_used_again() {
    let mut objects = Objects::default();
    add(&mut objects, filter(1), &root()).unwrap();
    delete::<Filter>(&mut objects, 1, &root()).unwrap();
    add(&mut objects, filter(1), &root()).unwrap();
    assert_eq!(objects.get::<Filter>(Uuid::from_u128(1)).unwrap().id, 2);
    let mut later = Objects::default();
    later.number_from(objects.last_id());
    add(&mut later, filter(2), &root()).unwrap();
    assert_eq!(later.get::<Filter>(Uuid::from_u128(2)).unwrap().id, 3);
}

#[test]
fn an_object_refers_only_to_objects_that_exist() {
    let mut objects = Objects::default();
    let of_provider = Sublayer {
        provider: Some(Uuid::from_u128(5)),
        ..sublayer(1)
    };
    assert_eq!(
        add(&mut objects, of_provider, &root()),
        Err(Code::ProviderNotFound)
    );
    let in_sublayer = Filter {
        sublayer: Uuid::from_u128(5),
        ..filter(1)
    };
    assert_eq!(
        add(&mut objects, in_sublayer, &root()),
        Err(Code::SublayerNotFound)
    );
    let to_service = Filter {
        action: Action::Redirect(Uuid::from_u128(5)),
        ..filter(1)
    };
    assert_eq!(
        add(&mut objects, to_service, &root()),
        Err(Code::CalloutNotFound)
    );
    assert_eq!(
        delete::<Filter>(&mut objects, 1, &root()),
        Err(Code::FilterNotFound)
    );
}

#[test]
fn an_object_is_in_use_until_its_last_reference_is_deleted() {
    let mut objects = Objects::default();
    add(&mut objects, sublayer(1), &root()).unwrap();
    for key in [1, 2] {
        let filter = Filter {
            sublayer: Uuid::from_u128(1),
            ..filter(key)
        };
        add(&mut objects, filter, &root()).unwrap();
    }
    for key in [1, 2] {
        assert_eq!(
            delete::<Sublayer>(&mut objects, 1, &root()),
            Err(Code::InUse)
        );
        delete::<Filter>(&mut objects, key, &root()).unwrap();
    }
    delete::<Sublayer>(&mut objects, 1, &root()).unwrap();
}

#[test]
fn the_universal_sublayer_is_built_in() {
    let mut objects = Objects::default();
    let universal = SUBLAYER_UNIVERSAL.as_u128();
    assert_eq!(
        delete::<Sublayer>(&mut objects, universal, &root()),
        Err(Code::BuiltinObject)
    );
    assert_eq!(
        add(&mut objects, sublayer(universal), &root()),
        Err(Code::BuiltinObject)
    );
    let built_in = Provider {
        lifetime: Lifetime::BuiltIn,
        ..provider(1)
    };
    assert_eq!(
        add(&mut objects, built_in, &root()),
        Err(Code::BuiltinObject)
    );
}

#[test]
fn case_143_a_filter_may_not_outlive_its_sublayer() {
    use Lifetime::{BootTime, Persistent, Static};
    let mut objects = Objects::default();
    add(&mut objects, sublayer(1), &dynamic(SESSION)).unwrap();
    add(&mut objects, sublayer(2), &root()).unwrap();
    let persistent = Sublayer {
        lifetime: Persistent,
        ..sublayer(3)
    };
    add(&mut objects, persistent, &root()).unwrap();
    let mut key = 0;
    let mut try_add = |lifetime, sublayer, author: &Author| {
        key += 1;
        let filter = Filter {
            lifetime,
            sublayer: Uuid::from_u128(sublayer),
            ..filter(key)
        };
        add(&mut objects, filter, author).err()
    };
    let mismatch = Some(Code::LifetimeMismatch);
    assert_eq!(try_add(Persistent, 1, &root()), mismatch);
    assert_eq!(try_add(Static, 1, &root()), mismatch);
    assert_eq!(try_add(Static, 1, &dynamic(SESSION)), None);
    assert_eq!(try_add(Static, 1, &dynamic(SESSION + 1)), mismatch);
    assert_eq!(try_add(Persistent, 2, &root()), mismatch);
    assert_eq!(try_add(BootTime, 2, &root()), mismatch);
    assert_eq!(try_add(Static, 2, &root()), None);
    assert_eq!(try_add(Persistent, 3, &root()), None);
    assert_eq!(try_add(BootTime, 3, &root()), None);
}

#[test]
fn persistent_objects_do_not_refer_to_other_providers_persistent_ones() {
    let mut objects = Objects::default();
    for key in [1, 2] {
        let vendor = Provider {
            lifetime: Lifetime::Persistent,
            ..provider(key)
        };
        add(&mut objects, vendor, &root()).unwrap();
    }
    let of_provider_1 = Sublayer {
        lifetime: Lifetime::Persistent,
        provider: Some(Uuid::from_u128(1)),
        ..sublayer(1)
    };
    add(&mut objects, of_provider_1, &root()).unwrap();
    let mut try_add = |key, lifetime, provider: Option<u128>| {
        let filter = Filter {
            lifetime,
            provider: provider.map(Uuid::from_u128),
            sublayer: Uuid::from_u128(1),
            ..filter(key)
        };
        add(&mut objects, filter, &root()).err()
    };
    let mismatch = Some(Code::LifetimeMismatch);
    assert_eq!(try_add(1, Lifetime::Persistent, Some(2)), mismatch);
    assert_eq!(try_add(2, Lifetime::Persistent, None), mismatch);
    assert_eq!(try_add(3, Lifetime::Persistent, Some(1)), None);
    assert_eq!(try_add(4, Lifetime::Static, Some(2)), None);
}

#[test]
fn a_dynamic_session_adds_only_dynamic_objects_which_end_with_it() {
    let mut objects = Objects::default();
    let persistent = Provider {
        lifetime: Lifetime::Persistent,
        ..provider(1)
    };
    assert_eq!(
        add(&mut objects, persistent, &dynamic(SESSION)),
        Err(Code::DynamicSessionInProgress)
    );
    add(&mut objects, provider(1), &dynamic(SESSION)).unwrap();
    let of_provider_1 = Some(Uuid::from_u128(1));
    let group = Sublayer {
        provider: of_provider_1,
        ..sublayer(1)
    };
    add(&mut objects, group, &dynamic(SESSION)).unwrap();
    add(&mut objects, service(1), &dynamic(SESSION)).unwrap();
    let referring = Filter {
        sublayer: Uuid::from_u128(1),
        provider: of_provider_1,
        action: Action::Redirect(Uuid::from_u128(1)),
        ..filter(1)
    };
    add(&mut objects, referring, &dynamic(SESSION)).unwrap();
    add(&mut objects, filter(2), &root()).unwrap();
    assert_eq!(
        delete::<Filter>(&mut objects, 1, &dynamic(SESSION + 1)),
        Err(Code::WrongSession)
    );
    assert_eq!(objects.count_sessions().get(&SESSION), Some(&4));
    assert_eq!(objects.remove_session(SESSION), 4);
    assert_eq!(objects.all::<Filter>().count(), 1);
    assert_eq!(objects.all::<Sublayer>().count(), 1);
    assert_eq!(*objects.references, count_references(&objects));
}

#[test]
fn a_user_changes_only_objects_of_providers_it_owns() {
    let mut objects = Objects::default();
    add(&mut objects, provider(1), &user(1000)).unwrap();
    add(&mut objects, provider(2), &user(2000)).unwrap();
    let of = |key, provider: Option<u128>| Filter {
        provider: provider.map(Uuid::from_u128),
        ..filter(key)
    };
    let wrong = Err(Code::WrongSession);
    let mine = user(1000);
    assert_eq!(add(&mut objects, of(1, None), &mine), wrong);
    assert_eq!(add(&mut objects, of(1, Some(2)), &mine), wrong);
    assert_eq!(
        add(&mut objects, of(1, Some(3)), &mine),
        Err(Code::ProviderNotFound)
    );
    add(&mut objects, of(1, Some(1)), &mine).unwrap();
    add(&mut objects, of(2, Some(1)), &root()).unwrap();
    assert_eq!(
        delete::<Filter>(&mut objects, 1, &user(2000)).map(|_| Uuid::nil()),
        wrong
    );
    assert_eq!(
        delete::<Provider>(&mut objects, 2, &mine).map(|_| Uuid::nil()),
        wrong
    );
    delete::<Filter>(&mut objects, 1, &root()).unwrap();
    delete::<Filter>(&mut objects, 2, &mine).unwrap();
    delete::<Provider>(&mut objects, 1, &mine).unwrap();
}

#[test]
fn each_kind_has_a_limit() {
    let mut objects = Objects::default();
    for key in 1..=PROVIDERS_MAX as u128 {
        add(&mut objects, provider(key), &root()).unwrap();
    }
    let more = add(&mut objects, provider(u128::MAX), &root());
    assert_eq!(more, Err(Code::OutOfBounds));
    for key in 1..=SERVICES_MAX as u128 {
        add(&mut objects, service(key), &root()).unwrap();
    }
    let more = add(&mut objects, service(1 + SERVICES_MAX as u128), &root());
    assert_eq!(more, Err(Code::TooManyCallouts));
    for key in 1..SUBLAYERS_MAX as u128 {
        add(&mut objects, sublayer(key), &root()).unwrap();
    }
    let more = add(&mut objects, sublayer(u128::MAX), &root());
    assert_eq!(more, Err(Code::TooManySublayers));
    for key in 1..=FILTERS_MAX as u128 {
        add(&mut objects, filter(key), &root()).unwrap();
    }
    let more = add(&mut objects, filter(u128::MAX), &root());
    assert_eq!(more, Err(Code::OutOfBounds));
}

fn desired(filters: impl IntoIterator<Item = Filter>) -> Desired {
    Desired {
        filters: filters.into_iter().collect(),
        ..Desired::default()
    }
}

fn named(name: &str) -> Filter {
    Filter {
        identity: identity(0, name),
        ..filter(0)
    }
}

#[test]
fn applying_a_policy_replaces_only_the_previous_one_of_the_owner() {
    let mut objects = Objects::default();
    add(&mut objects, filter(1), &root()).unwrap();
    let others = objects.apply(desired([named("a")]), &owner("other"));
    assert_eq!(others.unwrap().count(Operation::Add), 1);
    let first = desired([named("a"), named("b"), named("c")]);
    let added = objects.apply(first, &owner("mine")).unwrap();
    assert_eq!(added.count(Operation::Add), 3);
    let blocking = Filter {
        action: Action::Block,
        ..named("b")
    };
    let second = desired([named("a"), blocking, named("d")]);
    let difference = objects.apply(second.clone(), &owner("mine")).unwrap();
    let count = |operation| difference.count(operation);
    assert_eq!(
        (
            count(Operation::Add),
            count(Operation::Replace),
            count(Operation::Remove),
            difference.unchanged
        ),
        (1, 1, 1, 1)
    );
    let again = objects.apply(second, &owner("mine")).unwrap();
    assert_eq!((again.changes.len(), again.unchanged), (0, 3));
    assert_eq!(objects.all::<Filter>().count(), 1 + 1 + 3);
}

#[test]
fn an_applied_policy_is_checked() {
    let mut objects = Objects::default();
    let apply = |desired, author: &Author| {
        let mut objects = objects.clone();
        objects.apply(desired, author).map_err(|error| error.code)
    };
    let twice = desired([named("a"), named("a")]);
    assert_eq!(apply(twice, &owner("mine")), Err(Code::AlreadyExists));
    let no_owner = apply(Desired::default(), &owner(""));
    assert_eq!(no_owner, Err(Code::NullDisplayName));
    let long = apply(Desired::default(), &owner(&"x".repeat(257)));
    assert_eq!(long, Err(Code::OutOfBounds));
    let many = desired((1..=FILTERS_MAX as u128 + 1).map(filter));
    assert_eq!(apply(many, &owner("mine")), Err(Code::OutOfBounds));
    add(&mut objects, filter(1), &root()).unwrap();
    let apply = |desired, author: &Author| {
        let mut objects = objects.clone();
        objects.apply(desired, author).map_err(|error| error.code)
    };
    let of_another_owner = apply(desired([filter(1)]), &owner("mine"));
    assert_eq!(of_another_owner, Err(Code::AlreadyExists));
}

#[test]
fn a_policy_of_the_greatest_size_is_replaced_by_another_one() {
    let mut objects = Objects::default();
    let half = FILTERS_MAX as u128;
    for start in [1, 1 + half] {
        let full = desired((start..start + half).map(filter));
        let difference = objects.apply(full, &owner("mine")).unwrap();
        assert_eq!(difference.count(Operation::Add), FILTERS_MAX);
    }
    assert_eq!(objects.all::<Filter>().count(), FILTERS_MAX);
    assert_eq!(*objects.references, count_references(&objects));
}

#[test]
fn an_object_is_replaced_only_if_references_to_it_stay_valid() {
    let mut objects = Objects::default();
    let with = |lifetime, weight| Desired {
        sublayers: vec![Sublayer {
            lifetime,
            weight,
            ..sublayer(1)
        }],
        ..Desired::default()
    };
    let mine = owner("mine");
    objects.apply(with(Lifetime::Persistent, 1), &mine).unwrap();
    let referring = Filter {
        lifetime: Lifetime::Persistent,
        sublayer: Uuid::from_u128(1),
        ..filter(1)
    };
    add(&mut objects, referring, &root()).unwrap();
    let mut tried = objects.clone();
    tried.apply(with(Lifetime::Persistent, 2), &mine).unwrap();
    let shorter = objects.clone().apply(with(Lifetime::Static, 2), &mine);
    assert_eq!(shorter.unwrap_err().code, Code::LifetimeMismatch);
    let gone = objects.clone().apply(Desired::default(), &mine);
    assert_eq!(gone.unwrap_err().code, Code::InUse);
}

/// The number of references to each object, counted from the objects.
fn count_references(objects: &Objects) -> BTreeMap<(ObjectKind, Uuid), u32> {
    fn count<T: Object>(objects: &Objects, counts: &mut BTreeMap<(ObjectKind, Uuid), u32>) {
        for object in objects.all::<T>() {
            for reference in object.references().into_iter().flatten() {
                *counts.entry(reference).or_default() += 1;
            }
        }
    }
    let mut counts = BTreeMap::new();
    count::<Sublayer>(objects, &mut counts);
    count::<Service>(objects, &mut counts);
    count::<Filter>(objects, &mut counts);
    counts
}

#[derive(Clone, Debug)]
enum TestChange {
    AddProvider(u128),
    AddSublayer(u128, u128),
    AddFilter(u128, u128),
    DeleteProvider(u128),
    DeleteSublayer(u128),
    DeleteFilter(u128),
    EndSession,
}

fn change() -> impl Strategy<Value = (bool, TestChange)> {
    let key = || 1..6u128;
    let step = prop_oneof![
        key().prop_map(TestChange::AddProvider),
        (key(), key()).prop_map(|(key, provider)| TestChange::AddSublayer(key, provider)),
        (key(), key()).prop_map(|(key, sublayer)| TestChange::AddFilter(key, sublayer)),
        key().prop_map(TestChange::DeleteProvider),
        key().prop_map(TestChange::DeleteSublayer),
        key().prop_map(TestChange::DeleteFilter),
        Just(TestChange::EndSession),
    ];
    (any::<bool>(), step)
}

proptest! {
    /// After any sequence of changes, references lead to objects that exist, and their numbers are
    /// right.
    #[test]
    fn references_stay_consistent(steps in prop::collection::vec(change(), 1..80)) {
        let mut objects = Objects::default();
        for (in_session, step) in steps {
            let author = if in_session { dynamic(SESSION) } else { root() };
            let before = objects.clone();
            let done = match step {
                TestChange::AddProvider(key) => add(&mut objects, provider(key), &author).map(drop),
                TestChange::AddSublayer(key, of) => {
                    let provider = Some(Uuid::from_u128(of));
                    add(&mut objects, Sublayer { provider, ..sublayer(key) }, &author).map(drop)
                }
                TestChange::AddFilter(key, of) => {
                    let sublayer = Uuid::from_u128(of);
                    add(&mut objects, Filter { sublayer, ..filter(key) }, &author).map(drop)
                }
                TestChange::DeleteProvider(key) => delete::<Provider>(&mut objects, key, &author),
                TestChange::DeleteSublayer(key) => delete::<Sublayer>(&mut objects, key, &author),
                TestChange::DeleteFilter(key) => delete::<Filter>(&mut objects, key, &author),
                TestChange::EndSession => {
                    objects.remove_session(SESSION);
                    prop_assert!(!objects.count_sessions().contains_key(&SESSION));
                    Ok(())
                }
            };
            prop_assert_eq!(&*objects.references, &count_references(&objects));
            for entry in objects.entries::<Filter>() {
                prop_assert_eq!(objects.check_references(entry), Ok(()));
            }
            if done.is_err() {
                prop_assert!(Arc::ptr_eq(&before.filters, &objects.filters));
                prop_assert!(Arc::ptr_eq(&before.sublayers, &objects.sublayers));
            }
        }
    }
}
