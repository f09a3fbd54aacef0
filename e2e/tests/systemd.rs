//! The daemon under a real systemd, by the unit that is installed, with all that the unit takes from it.

use std::process::{Command, Stdio};

use e2e::{Host, client_binary};

const EXPECTED: &str = "\
started: active
without a policy: errno:111
redirected: reply:10.1.2.3:80
blocked: errno:13
while it is dead: errno:13
restarted: 1
by what it has stored: errno:13
stopped: inactive
by what stays: errno:13
started again: active
removed: errno:111
";

/// Long enough for a machine that is busy with other tests.
const PATIENCE: &str = "60";

#[test]
fn the_unit_starts_judges_restarts_and_stops_under_systemd() {
    let host = Host::bare("under_systemd");
    let folder = tempfile::tempdir().expect("a folder can be made");
    let output = Command::new("timeout")
        .arg(PATIENCE)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/boot"))
        .env("CGROUP", host.root().path())
        .env("BINARIES", client_binary().parent().expect("it is in one"))
        .env("FOLDER", folder.path())
        .stdin(Stdio::null())
        .output()
        .expect("timeout is installed");
    let read = |name| std::fs::read_to_string(folder.path().join(name)).unwrap_or_default();
    assert_eq!(
        read("said"),
        EXPECTED,
        "{}{}",
        read("complained"),
        String::from_utf8_lossy(&output.stderr)
    );
}
