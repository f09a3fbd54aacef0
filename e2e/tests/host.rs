//! Hosts that lack something: one plain sentence, exit code 2, and `doctor` says the same.

use std::path::Path;
use std::process::{Command, Output};

use e2e::run::sidetrack;

/// In a mount namespace of its own, after `before` was done to it.
fn on_a_host(before: &str, arguments: &str) -> Output {
    let script = format!("{before} && exec {} {arguments}", sidetrack().display());
    Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .output()
        .expect("unshare is there")
}

fn refuses(before: &str, said: &str, found: &str) {
    let run = on_a_host(before, "run -- true");
    let complaint = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(2), "{complaint}");
    assert_eq!(complaint.lines().count(), 1, "{complaint}");
    assert!(complaint.contains(said), "{complaint}");
    let doctor = on_a_host(before, "doctor");
    let findings = String::from_utf8_lossy(&doctor.stdout);
    assert_eq!(doctor.status.code(), Some(1), "{findings}");
    assert!(
        findings
            .lines()
            .any(|line| line.starts_with("no") && line.contains(found))
    );
}

#[test]
fn without_cgroup2() {
    let mount = sidetrack_engine::cgroup::mount_point().expect("cgroup v2 is mounted");
    let before = format!("umount -l {}", mount.display());
    refuses(&before, "no cgroup v2 file system is mounted", "cgroup v2");
}

#[test]
fn without_btf() {
    let before = "mount -t tmpfs none /sys/kernel/btf";
    refuses(before, "has no BTF", "BTF");
}

#[test]
fn doctor_says_all_as_json() {
    let output = Command::new(sidetrack())
        .args(["doctor", "--json"])
        .output();
    let output = output.expect("it runs");
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    let findings = findings.as_array().expect("it is a list");
    assert!(findings.len() >= 6);
    for finding in findings {
        assert!(
            finding["what"].is_string() && finding["found"].is_string(),
            "{finding}"
        );
        assert!(finding["good"].is_boolean(), "{finding}");
    }
}

#[test]
fn doctor_without_privilege_still_answers() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), readable).expect("it is ours");
    let copy = folder.path().join("sidetrack");
    std::fs::copy(sidetrack(), &copy).expect("it can be copied");
    let output = as_nobody(&copy);
    let findings = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{findings}");
    assert!(findings.contains("no  privilege"), "{findings}");
}

fn as_nobody(program: &Path) -> Output {
    Command::new("setpriv")
        .args(["--reuid=65534", "--clear-groups", "--inh-caps=-all"])
        .arg(program)
        .arg("doctor")
        .output()
        .expect("it runs")
}
