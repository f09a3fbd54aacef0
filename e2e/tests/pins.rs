//! A pinned data path outlives its engine, and the next engine adopts it (ARCHITECTURE.md,
//! What must always hold, 8).

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

/// A map that is not Sidetrack's.
fn other_map() -> MapHandle {
    let options = libbpf_rs::libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_rs::libbpf_sys::bpf_map_create_opts>() as u64,
        ..Default::default()
    };
    MapHandle::create(MapType::Array, Some("other"), 4, 8, 1, &options).expect("the map is made")
}

/// Starts an engine that adopts the pinned data path.
fn reopen(host: &mut Host, bpffs: &Bpffs) {
    let engine = Engine::open(host.root(), config(bpffs))
        .and_then(|engine| engine.load())
        .and_then(|engine| engine.attach());
    host.engine = Some(engine.unwrap_or_else(|error| panic!("{error}: {error:?}")));
}

#[test]
fn pinned_data_path_outlives_its_engine_and_is_adopted() {
    let bpffs = Bpffs::mount();
    let mut host = Host::with_config("pins", config(&bpffs));
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
            "only the pins hold the data path"
        );
        reopen(&mut host, &bpffs);
        assert!(host.engine().resumed());
        assert_eq!(host.engine().generation(), generation);
        assert_eq!(host.engine().service_name(service.number), Some("inspect"));
        assert_eq!(
            host.engine()
                .listeners(&service)
                .expect("the map is readable")
                .tcp(),
            (1, 1)
        );
        assert_eq!(host.connect("10.1.2.3:82")["reply"], "10.1.2.3:82");
        host.redirect_all(&[&service]);
        assert_eq!(host.engine().generation(), generation + 1);
        assert_eq!(host.count(Counter::Redirected), 1 + 3 * round - 1);
        assert_eq!(host.connect("10.1.2.3:83")["reply"], "10.1.2.3:83");
    }
    drop(host.engine.take());
    remove_pins(&bpffs.pins()).expect("the pins are removed");
    wait::until("nothing is redirected any more", || {
        host.connect("127.0.0.1:1")["errno"] == libc::ECONNREFUSED
    });
}

/// The state is that of an engine which was killed while it attached its programs.
#[test]
fn partly_attached_data_path_is_completed() {
    let bpffs = Bpffs::mount();
    let mut host = Host::with_config("pins_part", config(&bpffs));
    let service = host.service("inspect");
    let _answering = host.answer(&service);
    host.redirect_all(&[&service]);
    drop(host.engine.take());
    let links = std::fs::read_dir(bpffs.pins().join("links")).expect("the links are pinned");
    let mut removed = 0;
    for link in links.flatten() {
        let name = link.file_name().into_string().expect("the name is UTF-8");
        if ["_getpeername4", "_connect6", "_getsockopt"]
            .iter()
            .any(|program| name.ends_with(program))
        {
            std::fs::remove_file(link.path()).expect("the pin is removed");
            removed += 1;
        }
    }
    assert_eq!(removed, 3, "a link of each of these programs was pinned");
    reopen(&mut host, &bpffs);
    for to in ["10.1.2.3:80", "[fd00::1]:80"] {
        let report = host.connect(to);
        assert_eq!(
            (&report["reply"], &report["peer"]),
            (&to.into(), &to.into())
        );
    }
    drop(host.engine.take());
    remove_pins(&bpffs.pins()).expect("the pins are removed");
}

/// Another version of Sidetrack might have pinned such a map.
#[test]
fn pinned_map_of_another_size_is_refused_and_named() {
    let bpffs = Bpffs::mount();
    let mut host = Host::with_config("pins_size", config(&bpffs));
    drop(host.engine.take());
    let path = bpffs.pins().join("maps/sidetrack_contexts");
    std::fs::remove_file(&path).expect("the map is pinned");
    let mut other = other_map();
    other.pin(&path).expect("the map is pinned");
    let refused = Engine::open(host.root(), config(&bpffs)).err();
    let refused = refused.expect("the map is refused").to_string();
    assert!(refused.contains("sidetrack_contexts"), "{refused}");
    remove_pins(&bpffs.pins()).expect("the pins are removed");
}

#[test]
fn pins_of_another_scope_are_refused() {
    let bpffs = Bpffs::mount();
    let mut host = Host::with_config("pins_scope", config(&bpffs));
    drop(host.engine.take());
    let other = Engine::open(&host.program_cgroup, config(&bpffs));
    let refused = other.err().expect("the scope is refused");
    assert!(matches!(&refused, Error::Pins { path, .. } if *path == bpffs.pins()));
    let scope = host.program_cgroup.path().display().to_string();
    assert!(refused.to_string().contains(&scope), "{refused}");
    remove_pins(&bpffs.pins()).expect("the pins are removed");
}

#[test]
fn dot_in_the_name_of_a_folder_for_pins_is_explained() {
    let bpffs = Bpffs::mount();
    let host = Host::without_engine("pins_dot");
    let pins = bpffs.path("a/b.c/pins");
    let config = Config {
        pins: Some(pins.clone()),
        ..Config::default()
    };
    let refused = Engine::open(host.root(), config)
        .err()
        .expect("the folder is refused");
    assert!(matches!(&refused, Error::Pins { path, .. } if *path == pins));
    assert!(refused.to_string().contains("no dot"), "{refused}");
    assert!(!bpffs.path("a").exists(), "nothing was made");
}

/// The folder may be shared: what an engine has not pinned stays.
#[test]
fn other_files_in_the_folder_of_the_pins_are_kept() {
    let bpffs = Bpffs::mount();
    let host = Host::without_engine("pins_shared");
    let mut other = other_map();
    std::fs::create_dir(bpffs.pins()).expect("the folder is made");
    let path = bpffs.pins().join("other");
    other.pin(&path).expect("the map is pinned");
    drop(Engine::open(host.root(), config(&bpffs)).expect("the engine opens"));
    assert!(path.exists());
    other.unpin(&path).expect("the map is unpinned");
    remove_pins(&bpffs.pins()).expect("the pins are removed");
}

#[test]
fn pins_outside_of_a_bpf_file_system_are_refused() {
    let host = Host::without_engine("pins_plain");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = Config {
        pins: Some(folder.path().join("pins")),
        ..Config::default()
    };
    let refused = Engine::open(host.root(), config)
        .err()
        .expect("the folder is refused");
    assert!(refused.to_string().contains("mount -t bpf"), "{refused}");
}
