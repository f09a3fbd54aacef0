use proptest::prelude::*;

use super::*;
use crate::{Absent, Action, Context, Identity, LayerKind, Records};

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
        records: Records::Required,
        on_absent: Absent::Block,
        context: Context::None,
    }
}

fn filter(key: u128) -> Filter {
    let layer = LayerKind::ConnectRedirect.both()[0];
    Filter {
        identity: identity(key, &format!("rule {key}")),
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
fn keys_are_unique_within_a_kind_and_made_if_there_is_none() {
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
fn filters_get_numbers_that_are_never_given_twice() {
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
fn what_an_object_refers_to_must_exist() {
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
fn what_is_referred_to_is_in_use_until_the_last_reference_goes() {
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
    let theirs = Sublayer {
        lifetime: Lifetime::Persistent,
        provider: Some(Uuid::from_u128(1)),
        ..sublayer(1)
    };
    add(&mut objects, theirs, &root()).unwrap();
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
fn a_dynamic_session_adds_dynamic_objects_only_and_takes_them_along() {
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
    let theirs = Some(Uuid::from_u128(1));
    let group = Sublayer {
        provider: theirs,
        ..sublayer(1)
    };
    add(&mut objects, group, &dynamic(SESSION)).unwrap();
    add(&mut objects, service(1), &dynamic(SESSION)).unwrap();
    let rule = Filter {
        sublayer: Uuid::from_u128(1),
        provider: theirs,
        action: Action::Redirect(Uuid::from_u128(1)),
        ..filter(1)
    };
    add(&mut objects, rule, &dynamic(SESSION)).unwrap();
    add(&mut objects, filter(2), &root()).unwrap();
    assert_eq!(
        delete::<Filter>(&mut objects, 1, &dynamic(SESSION + 1)),
        Err(Code::WrongSession)
    );
    assert_eq!(objects.count_session(SESSION), 4);
    assert_eq!(objects.remove_session(SESSION), 4);
    assert_eq!(objects.all::<Filter>().count(), 1);
    assert_eq!(objects.all::<Sublayer>().count(), 1);
    assert_eq!(*objects.references, counted(&objects));
}

#[test]
fn a_vendor_changes_its_own_providers_objects_only() {
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
fn each_kind_has_its_limit() {
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
fn an_applied_policy_replaces_the_owners_last_one_and_nothing_else() {
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
fn an_applied_policy_keeps_the_rules() {
    let mut objects = Objects::default();
    let apply = |desired, author: &Author| {
        let mut objects = objects.clone();
        objects.apply(desired, author).map_err(|error| error.code)
    };
    let twice = desired([named("a"), named("a")]);
    assert_eq!(apply(twice, &owner("mine")), Err(Code::AlreadyExists));
    let nobody = apply(Desired::default(), &owner(""));
    assert_eq!(nobody, Err(Code::NullDisplayName));
    let long = apply(Desired::default(), &owner(&"x".repeat(257)));
    assert_eq!(long, Err(Code::OutOfBounds));
    let many = desired((1..=FILTERS_MAX as u128 + 1).map(filter));
    assert_eq!(apply(many, &owner("mine")), Err(Code::OutOfBounds));
    add(&mut objects, filter(1), &root()).unwrap();
    let apply = |desired, author: &Author| {
        let mut objects = objects.clone();
        objects.apply(desired, author).map_err(|error| error.code)
    };
    let anothers = apply(desired([filter(1)]), &owner("mine"));
    assert_eq!(anothers, Err(Code::AlreadyExists));
}

#[test]
fn a_full_policy_gives_way_to_another_full_one() {
    let mut objects = Objects::default();
    let half = FILTERS_MAX as u128;
    for start in [1, 1 + half] {
        let full = desired((start..start + half).map(filter));
        let difference = objects.apply(full, &owner("mine")).unwrap();
        assert_eq!(difference.count(Operation::Add), FILTERS_MAX);
    }
    assert_eq!(objects.all::<Filter>().count(), FILTERS_MAX);
    assert_eq!(*objects.references, counted(&objects));
}

#[test]
fn a_replaced_object_may_not_let_down_who_refers_to_it() {
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
    let rule = Filter {
        lifetime: Lifetime::Persistent,
        sublayer: Uuid::from_u128(1),
        ..filter(1)
    };
    add(&mut objects, rule, &root()).unwrap();
    let mut tried = objects.clone();
    tried.apply(with(Lifetime::Persistent, 2), &mine).unwrap();
    let shorter = objects.clone().apply(with(Lifetime::Static, 2), &mine);
    assert_eq!(shorter.unwrap_err().code, Code::LifetimeMismatch);
    let gone = objects.clone().apply(Desired::default(), &mine);
    assert_eq!(gone.unwrap_err().code, Code::InUse);
}

/// The references, counted anew.
fn counted(objects: &Objects) -> BTreeMap<(Kind, Uuid), u32> {
    fn count<T: Object>(objects: &Objects, counts: &mut BTreeMap<(Kind, Uuid), u32>) {
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
enum Step {
    AddProvider(u128),
    AddSublayer(u128, u128),
    AddFilter(u128, u128),
    DeleteProvider(u128),
    DeleteSublayer(u128),
    DeleteFilter(u128),
    EndSession,
}

fn step() -> impl Strategy<Value = (bool, Step)> {
    let key = || 1..6u128;
    let step = prop_oneof![
        key().prop_map(Step::AddProvider),
        (key(), key()).prop_map(|(key, provider)| Step::AddSublayer(key, provider)),
        (key(), key()).prop_map(|(key, sublayer)| Step::AddFilter(key, sublayer)),
        key().prop_map(Step::DeleteProvider),
        key().prop_map(Step::DeleteSublayer),
        key().prop_map(Step::DeleteFilter),
        Just(Step::EndSession),
    ];
    (any::<bool>(), step)
}

proptest! {
    /// Whatever is done in whatever order: references lead to what exists, and are counted right.
    #[test]
    fn references_hold(steps in prop::collection::vec(step(), 1..80)) {
        let mut objects = Objects::default();
        for (in_session, step) in steps {
            let author = if in_session { dynamic(SESSION) } else { root() };
            let before = objects.clone();
            let done = match step {
                Step::AddProvider(key) => add(&mut objects, provider(key), &author).map(drop),
                Step::AddSublayer(key, of) => {
                    let provider = Some(Uuid::from_u128(of));
                    add(&mut objects, Sublayer { provider, ..sublayer(key) }, &author).map(drop)
                }
                Step::AddFilter(key, of) => {
                    let sublayer = Uuid::from_u128(of);
                    add(&mut objects, Filter { sublayer, ..filter(key) }, &author).map(drop)
                }
                Step::DeleteProvider(key) => delete::<Provider>(&mut objects, key, &author),
                Step::DeleteSublayer(key) => delete::<Sublayer>(&mut objects, key, &author),
                Step::DeleteFilter(key) => delete::<Filter>(&mut objects, key, &author),
                Step::EndSession => {
                    objects.remove_session(SESSION);
                    prop_assert_eq!(objects.count_session(SESSION), 0);
                    Ok(())
                }
            };
            prop_assert_eq!(&*objects.references, &counted(&objects));
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
