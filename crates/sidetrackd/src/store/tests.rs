use std::time::Instant;

use sidetrack_policy::set::{Author, Object, Reach};
use sidetrack_policy::{Action, Identity, LayerKind};

use super::*;

mod file;

const BOOT: &str = "a boot";

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(&folder.path().join("policy.redb")).unwrap();
    store.begin_boot(BOOT).unwrap();
    (folder, store)
}

fn identity(key: u128, name: &str) -> Identity {
    Identity {
        key: Uuid::from_u128(key),
        name: name.into(),
        description: String::new(),
    }
}

fn filter(key: u128, lifetime: Lifetime) -> Filter {
    let layer = LayerKind::ConnectRedirect.both()[0];
    Filter {
        identity: identity(key, "rule"),
        lifetime,
        ..Filter::new("", layer, Action::Block)
    }
}

fn provider(key: u128, unit: Option<&str>) -> Provider {
    Provider {
        identity: identity(key, "vendor"),
        lifetime: Lifetime::Persistent,
        service_name: unit.map(Into::into),
    }
}

fn add<T: Object>(objects: &mut Objects, object: T, author: &Author) {
    objects.add(object, author, Uuid::nil).unwrap();
}

fn keys(objects: &Objects) -> Vec<u128> {
    let filters = objects.all::<Filter>();
    filters
        .map(|filter| filter.identity.key.as_u128())
        .collect()
}

#[test]
fn objects_are_loaded_with_their_authors() {
    let (_folder, mut store) = store();
    let mut objects = Objects::default();
    let applied = Author {
        uid: 1000,
        owner: Some("mine".into()),
        session: None,
        reach: Reach::OwnUser,
    };
    add(&mut objects, provider(1, None), &applied);
    let theirs = Filter {
        provider: Some(Uuid::from_u128(1)),
        ..filter(1, Lifetime::Persistent)
    };
    add(&mut objects, theirs, &applied);
    add(
        &mut objects,
        filter(2, Lifetime::BootTime),
        &Author::default(),
    );
    add(
        &mut objects,
        filter(3, Lifetime::Static),
        &Author::default(),
    );
    let dynamic = Author {
        session: Some(7),
        ..Author::default()
    };
    add(&mut objects, filter(4, Lifetime::Static), &dynamic);
    store.write(&objects).unwrap();
    let loaded = store.load(BOOT, &|_| true).unwrap().objects;
    assert_eq!(keys(&loaded), [1, 2, 3, 4]);
    for key in [1, 4].map(Uuid::from_u128) {
        assert_eq!(
            loaded.entry::<Filter>(key).unwrap(),
            objects.entry::<Filter>(key).unwrap()
        );
    }
    assert_eq!(loaded.last_id(), objects.last_id());
    assert_eq!(keys(&loaded.at_boot()), [2]);
    assert_eq!(keys(&loaded.after_boot()), [1, 3, 4]);
    let rebooted = store.load("another boot", &|_| true).unwrap().objects;
    assert_eq!(keys(&rebooted), [1, 2]);
}

#[test]
fn differences_are_written_in_both_directions() {
    let (_folder, mut store) = store();
    let author = Author::default();
    let mut first = Objects::default();
    (1..=5).for_each(|key| add(&mut first, filter(key, Lifetime::Persistent), &author));
    store.write(&first).unwrap();
    let mut second = first.clone();
    second
        .delete::<Filter>(Uuid::from_u128(2), &author)
        .unwrap();
    second
        .delete::<Filter>(Uuid::from_u128(5), &author)
        .unwrap();
    add(&mut second, filter(6, Lifetime::Persistent), &author);
    add(&mut second, filter(2, Lifetime::Persistent), &author);
    let load = |store: &mut Store| store.load(BOOT, &|_| true).unwrap().objects;
    store.write(&second).unwrap();
    assert_eq!(keys(&load(&mut store)), [1, 2, 3, 4, 6]);
    let key = Uuid::from_u128(2);
    assert_eq!(
        load(&mut store).get::<Filter>(key),
        second.get::<Filter>(key)
    );
    store.write(&first).unwrap();
    assert_eq!(keys(&load(&mut store)), [1, 2, 3, 4, 5]);
    assert_eq!(
        load(&mut store).get::<Filter>(key),
        first.get::<Filter>(key)
    );
}

#[test]
fn static_objects_end_when_the_host_restarts() {
    let (_folder, mut store) = store();
    let mut objects = Objects::default();
    add(
        &mut objects,
        filter(1, Lifetime::Static),
        &Author::default(),
    );
    add(
        &mut objects,
        filter(2, Lifetime::Persistent),
        &Author::default(),
    );
    store.write(&objects).unwrap();
    let later = store.load("another boot", &|_| true).unwrap();
    assert_eq!(keys(&later.objects), [2]);
    assert_eq!(later.notes.len(), 1, "{:?}", later.notes);
    store.begin_boot("another boot").unwrap();
    store.begin_boot(BOOT).unwrap();
    assert_eq!(keys(&store.load(BOOT, &|_| true).unwrap().objects), [2]);
    assert_eq!(
        store.load(BOOT, &|_| true).unwrap().objects.last_id(),
        objects.last_id()
    );
}

#[test]
fn persistent_objects_of_a_disabled_unit_are_stored_but_not_loaded() {
    let (_folder, mut store) = store();
    let author = Author::default();
    let mut objects = Objects::default();
    add(&mut objects, provider(1, Some("on.service")), &author);
    add(&mut objects, provider(2, Some("off.service")), &author);
    for key in [1, 2] {
        let provider = Some(Uuid::from_u128(key));
        let theirs = Filter {
            provider,
            ..filter(key, Lifetime::Persistent)
        };
        add(&mut objects, theirs, &author);
    }
    store.write(&objects).unwrap();
    let loaded = store.load(BOOT, &|unit| unit == "on.service").unwrap();
    assert_eq!(keys(&loaded.objects), [1]);
    assert!(
        loaded.notes[0].starts_with("2 persistent"),
        "{:?}",
        loaded.notes
    );
    let mut more = loaded.objects.clone();
    add(&mut more, filter(3, Lifetime::Persistent), &author);
    store.write(&more).unwrap();
    let all = store.load(BOOT, &|_| true).unwrap().objects;
    assert_eq!(keys(&all), [1, 2, 3]);
}

#[test]
fn an_unreadable_record_is_an_error() {
    let (_folder, mut store) = store();
    store
        .transact(|transaction| {
            let mut table = transaction.open_table(Filter::TABLE)?;
            table.insert(7, [0xff; 3].as_slice())?;
            Ok(())
        })
        .unwrap();
    let error = store.load(BOOT, &|_| true).unwrap_err().to_string();
    assert!(error.contains("filter with the key 00000000-"), "{error}");
}

#[test]
fn a_second_process_cannot_open_the_store() {
    let (folder, _store) = store();
    let error = Store::open(&folder.path().join("policy.redb")).unwrap_err();
    assert!(error.to_string().contains("cannot open"), "{error}");
}

#[test]
fn a_hundred_thousand_filters_are_written_and_loaded() {
    let (folder, mut store) = store();
    let mut objects = Objects::default();
    for key in 1..=100_000 {
        add(
            &mut objects,
            filter(key, Lifetime::Persistent),
            &Author::default(),
        );
    }
    let began = Instant::now();
    store.write(&objects).unwrap();
    println!("written in {:?}", began.elapsed());
    drop(store);
    let began = Instant::now();
    let mut store = Store::open(&folder.path().join("policy.redb")).unwrap();
    println!("checked in {:?}", began.elapsed());
    let began = Instant::now();
    let loaded = store.load(BOOT, &|_| true).unwrap().objects;
    println!("loaded in {:?}", began.elapsed());
    assert_eq!(loaded.all::<Filter>().len(), 100_000);
}
