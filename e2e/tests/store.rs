//! The daemon's store and the policy that is pinned in the kernel: a store that is lost or older never
//! opens what was blocked.

use std::fs;

use e2e::{Daemon, Host, Process};
use libbpf_rs::{MapCore, MapFlags, MapHandle};

/// Blocks two ports.
const TWO_PORTS: &str = r#"
defaults = { lifetime = "persistent", layer = "auth-connect", action = "block" }
filter = [{ name = "a", remote_port = 81 }, { name = "b", remote_port = 82 }]
"#;
/// Blocks one of them.
const ONE_PORT: &str = r#"
defaults = { lifetime = "persistent", layer = "auth-connect", action = "block" }
filter = [{ name = "a", remote_port = 81 }]
"#;

/// Asserts which of the ports 81 and 82 are blocked. No process listens at any of them.
fn assert_blocked(host: &Host, blocked: [bool; 2]) {
    for (port, blocked) in [81, 82].into_iter().zip(blocked) {
        let errno = match blocked {
            true => libc::EACCES,
            false => libc::ECONNREFUSED,
        };
        let to = format!("127.0.0.9:{port}");
        assert_eq!(host.connect(&to)["errno"], errno, "{to}");
    }
}

fn assert_refused(daemon: &mut Daemon, options: &[&str], parts: &[&str]) {
    let (code, log) = daemon.restart_with(options).expect_err("it is refused");
    let text = log.lines().last().unwrap_or_default();
    assert_eq!(code, Some(2), "{text}");
    for part in parts {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn lost_store_opens_nothing_that_is_blocked() {
    let host = Host::without_engine("store_lost");
    let mut daemon = Daemon::attached(&host);
    daemon.apply(TWO_PORTS);
    assert_blocked(&host, [true, true]);
    daemon.kill();
    fs::remove_file(daemon.store()).expect("there is a store");
    let options = ["--adopt-kernel", "--start-empty", "4 filters"];
    assert_refused(&mut daemon, &[], &options);
    assert_refused(&mut daemon, &[], &options);
    assert_blocked(&host, [true, true]);

    daemon.restart_with(&["--adopt-kernel"]).expect("it starts");
    daemon.restart();
    assert_blocked(&host, [true, true]);
    let state = daemon.sidetrack(&["state"]);
    assert!(state.stdout.contains("4 filters"), "{state:?}");
    let explained = daemon.sidetrack(&["explain", "tcp", "127.0.0.9:81"]);
    assert_ne!(explained.code, Some(0), "{explained:?}");
    daemon.apply(ONE_PORT);
    assert_blocked(&host, [true, false]);
    daemon.restart();
    assert_blocked(&host, [true, false]);

    daemon.kill();
    fs::remove_file(daemon.store()).expect("there is a store");
    daemon.restart_with(&["--start-empty"]).expect("it starts");
    assert_blocked(&host, [false, false]);
}

/// Puts these policies in force after one that blocks one port, and replaces the store by its copy from
/// that time.
fn with_older_store(test: &str, later: &[&str]) -> (Host, Daemon) {
    let host = Host::without_engine(test);
    let mut daemon = Daemon::attached(&host);
    daemon.apply(ONE_PORT);
    daemon.kill();
    let copy = daemon.write_file("copy", "");
    fs::copy(daemon.store(), &copy).expect("the store is copied");
    daemon.restart();
    later.iter().for_each(|policy| daemon.apply(policy));
    daemon.kill();
    fs::copy(&copy, daemon.store()).expect("the store is replaced");
    (host, daemon)
}

#[test]
fn older_copy_of_the_store_opens_nothing_that_is_blocked() {
    let (host, mut daemon) = with_older_store("store_older", &[TWO_PORTS]);
    assert_refused(&mut daemon, &[], &["older", "--start-stored"]);
    assert_blocked(&host, [true, true]);
    daemon.restart_with(&["--start-stored"]).expect("it starts");
    assert_blocked(&host, [true, false]);
    daemon.restart();
}

/// The filters of the older copy are those in force, but it knows less than the kernel: later starts must
/// not refuse it again.
#[test]
fn store_that_was_accepted_once_is_accepted_by_later_starts() {
    let (host, mut daemon) = with_older_store("store_accepted", &[TWO_PORTS, ONE_PORT]);
    assert_refused(&mut daemon, &[], &["older", "--start-stored"]);
    daemon.restart_with(&["--start-stored"]).expect("it starts");
    daemon.restart();
    assert_blocked(&host, [true, false]);
}

/// The store was changed while no daemon controlled the kernel. The kernel has the service under its
/// earlier setting, and must not get the new one twice.
#[test]
fn service_that_changed_while_the_daemon_was_away_is_created_once() {
    let host = Host::without_engine("store_service");
    let mut daemon = Daemon::attached(&host);
    let policy = |records: &str| {
        format!(
            r#"
defaults = {{ lifetime = "persistent" }}
service = [{{ name = "inspect", records = "{records}" }}]

[[filter]]
name = "all"
layer = "connect-redirect"
remote_port = 80
action = {{ redirect = "inspect" }}
"#
        )
    };
    daemon.apply(&policy("required"));
    daemon.restart_with(&["--detached"]).expect("it starts");
    daemon.apply(&policy("required_or_own"));
    daemon.restart();
    let map = MapHandle::from_pinned_path(daemon.pins().join("maps/sidetrack_services"))
        .expect("the map is pinned");
    let name = b"inspect";
    let of_this_name = map.keys().filter(|key| {
        let value = map.lookup(key, MapFlags::ANY).expect("the map is readable");
        value.is_some_and(|value| value.windows(name.len()).any(|part| part == name))
    });
    assert_eq!(of_this_name.count(), 1);
    let _proxy = Process::registered(&host.service_cgroup, &daemon.socket(), "inspect", "answer");
    assert_eq!(host.connect("10.255.0.1:80")["reply"], "10.255.0.1:80");
}
