//! The daemon and `sidetrack run` under a real systemd, the daemon with the unit that `make install`
//! installs and all of its restrictions.

use std::process::{Command, Stdio};

use e2e::{Host, client_binary};

const DAEMON: &str = "\
started: active
without a policy: errno:111
redirected: reply:10.1.2.3:80
blocked: errno:13
while the daemon is dead: errno:13
restarted: 1
by the stored policy: errno:13
stopped: inactive
by the pinned data path: errno:13
started again: active
removed: errno:111
";

/// Most seconds that the whole may take. It is enough for a machine that is busy with other tests.
const TIMEOUT: &str = "120";

const RUN: &str = "\
in: /system.slice/sidetrack-run-PID-START.scope/sidetrack.run.PID.START/program
owner of the scope's cgroup: root
connect: 0, 1 flow
in the slice of a user: /user.slice/user-1.slice/sidetrack-run-PID-START.scope/sidetrack.run.PID.START/program
to the user's cgroup: refused
connect: 0, 1 flow
run within a run: 2
killed run: its command is gone
units: 0
";

#[test]
fn unit_starts_classifies_restarts_and_stops_under_systemd() {
    assert_observed("under_systemd", "daemon", "sidetrackd.service", DAEMON);
}

#[test]
fn run_is_a_scope_unit_under_systemd() {
    assert_observed("run_under_systemd", "run", "", RUN);
}

/// Boots systemd with these units, runs the script, and compares its output.
fn assert_observed(test: &str, script: &str, units: &str, expected: &str) {
    let host = Host::without_engine(test);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = Command::new("timeout")
        .args(["--signal=KILL", TIMEOUT])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/boot"))
        .env("CGROUP", host.root().path())
        .env(
            "BINARIES",
            client_binary().parent().expect("the client is in a folder"),
        )
        .env("FOLDER", folder.path())
        .env("PROBE", script)
        .env("UNITS", units)
        .stdin(Stdio::null())
        .output()
        .expect("timeout is installed");
    let read = |name| std::fs::read_to_string(folder.path().join(name)).unwrap_or_default();
    assert_eq!(
        read("output"),
        expected,
        "{}{}",
        read("errors"),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The threshold of `systemd-analyze security` is ten times the exposure that it prints.
#[test]
fn unit_is_restricted() {
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=30"])
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../packaging/sidetrackd.service"
        ))
        .output()
        .expect("systemd is installed");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
}
