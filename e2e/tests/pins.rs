//! A pinned data path outlives its engine, and the next one takes it up (design 7.8).

use e2e::{Bpffs, Host, wait};
use libbpf_rs::{MapHandle, MapType};
use sidetrack_engine::counter::Counter;
use sidetrack_engine::{Config, Engine, Error, remove_pins};

fn config(bpffs: &Bpffs) -> Config {
    Config {
        pins: Some(bpffs.pins()),
        ..Config::default()
    }
}

fn reopen(host: &mut Host, bpffs: &Bpffs) {
    let engine = Engine::open(host.root(), config(bpffs))
        .and_then(|engine| engine.load())
        .and_then(|engine| engine.attach());
    host.engine = Some(engine.unwrap_or_else(|error| panic!("{error}: {error:?}")));
}

#[test]
fn pinned_data_path_outlives_its_engine_and_is_taken_up() {
    let bpffs = Bpffs::mount();
    let mut host = Host::with("pins", config(&bpffs));
    let service = host.service("inspect");
    let _answering = host.answer(&service);
    host.redirect_all(&[&service]);
    assert_eq!(host.connect("10.1.2.3:80")["reply"], "10.1.2.3:80");
    for round in 1..4 {
        let generation = host.engine().generation();
        drop(host.engine.take());
        assert_eq!(
            host.connect("10.1.2.3:81")["reply"],
            "10.1.2.3:81",
            "nobody holds it but the pins"
        );
        reopen(&mut host, &bpffs);
        assert!(host.engine().resumed());
        assert_eq!(host.engine().generation(), generation);
        assert_eq!(host.engine().service_name(service.number), Some("inspect"));
        assert_eq!(host.engine().listeners(&service).expect("readable"), (1, 1));
        assert_eq!(host.connect("10.1.2.3:82")["reply"], "10.1.2.3:82");
        host.redirect_all(&[&service]);
        assert_eq!(host.engine().generation(), generation + 1);
        assert_eq!(host.count(Counter::Redirected), 1 + 3 * round - 1);
        assert_eq!(host.connect("10.1.2.3:83")["reply"], "10.1.2.3:83");
    }
    drop(host.engine.take());
    remove_pins(&bpffs.pins()).expect("they can go");
    wait::until("nothing is redirected any more", || {
        host.connect("127.0.0.1:1")["errno"] == libc::ECONNREFUSED
    });
}

/// As if the engine had been killed while it attached.
#[test]
fn data_path_that_is_attached_in_part_is_completed() {
    let bpffs = Bpffs::mount();
    let mut host = Host::with("pins_part", config(&bpffs));
    let service = host.service("inspect");
    let _answering = host.answer(&service);
    host.redirect_all(&[&service]);
    drop(host.engine.take());
    let links = std::fs::read_dir(bpffs.pins().join("links")).expect("they are there");
    let mut removed = 0;
    for link in links.flatten() {
        let name = link.file_name().into_string().expect("it is text");
        if ["_getpeername4", "_connect6", "_getsockopt"]
            .iter()
            .any(|program| name.ends_with(program))
        {
            std::fs::remove_file(link.path()).expect("it can be removed");
            removed += 1;
        }
    }
    assert_eq!(removed, 3, "a link of each of these programs was pinned");
    reopen(&mut host, &bpffs);
    for to in ["10.1.2.3:80", "[fd00::1]:80"] {
        let told = host.connect(to);
        assert_eq!((&told["reply"], &told["peer"]), (&to.into(), &to.into()));
    }
    drop(host.engine.take());
    remove_pins(&bpffs.pins()).expect("they can go");
}

/// As another version might have it.
#[test]
fn pinned_map_of_another_size_is_refused_by_its_name() {
    let bpffs = Bpffs::mount();
    let mut host = Host::with("pins_size", config(&bpffs));
    drop(host.engine.take());
    let path = bpffs.pins().join("maps/sidetrack_contexts");
    std::fs::remove_file(&path).expect("it is there");
    let options = libbpf_rs::libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_rs::libbpf_sys::bpf_map_create_opts>() as u64,
        ..Default::default()
    };
    let mut other = MapHandle::create(MapType::Array, Some("other"), 4, 8, 1, &options)
        .expect("a map can be made");
    other.pin(&path).expect("it can be pinned");
    let refused = Engine::open(host.root(), config(&bpffs)).err();
    let refused = refused.expect("it is refused").to_string();
    assert!(refused.contains("sidetrack_contexts"), "{refused}");
    remove_pins(&bpffs.pins()).expect("they can go");
}

#[test]
fn pins_of_another_scope_are_left_alone() {
    let bpffs = Bpffs::mount();
    let mut host = Host::with("pins_scope", config(&bpffs));
    drop(host.engine.take());
    let other = Engine::open(&host.program, config(&bpffs));
    assert!(matches!(other.err(), Some(Error::Pins { .. })));
    remove_pins(&bpffs.pins()).expect("they can go");
}

#[test]
fn folder_that_is_no_bpf_file_system_is_refused() {
    let host = Host::bare("pins_plain");
    let folder = tempfile::tempdir().expect("a folder");
    let config = Config {
        pins: Some(folder.path().join("pins")),
        ..Config::default()
    };
    let refused = Engine::open(host.root(), config)
        .err()
        .expect("it is refused");
    assert!(refused.to_string().contains("mount -t bpf"), "{refused}");
}
