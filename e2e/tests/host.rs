//! Hosts that lack something that Sidetrack needs: `run` fails with one sentence and exit code 2,
//! and `doctor` has a finding.

use std::path::Path;
use std::process::{Command, Output};

use e2e::run::sidetrack;

/// Runs `sidetrack ARGUMENTS` in a new mount namespace, after a shell command that changes the mounts.
fn with_mounts(change: &str, arguments: &str) -> Output {
    let script = format!("{change} && exec {} {arguments}", sidetrack().display());
    Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .output()
        .expect("unshare is installed")
}

/// After this change of the mounts, `run` must fail with a message that contains `message`, and
/// `doctor` must have a negative finding that contains `finding`.
fn assert_reported(change: &str, message: &str, finding: &str) {
    let run = with_mounts(change, "run -- true");
    let stderr = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(2), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains(message), "{stderr}");
    let doctor = with_mounts(change, "doctor");
    let findings = String::from_utf8_lossy(&doctor.stdout);
    assert_eq!(doctor.status.code(), Some(1), "{findings}");
    assert!(
        findings
            .lines()
            .any(|line| line.starts_with("no") && line.contains(finding))
    );
}

#[test]
fn missing_cgroup2_is_reported() {
    let mount = sidetrack_engine::cgroup::mount_point().expect("cgroup v2 is mounted");
    let change = format!("umount -l {}", mount.display());
    assert_reported(&change, "no cgroup v2 file system is mounted", "cgroup v2");
}

#[test]
fn missing_btf_is_reported() {
    let change = "mount -t tmpfs none /sys/kernel/btf";
    assert_reported(change, "has no BTF", "BTF");
}

#[test]
fn doctor_prints_its_findings_as_json() {
    let output = Command::new(sidetrack())
        .args(["doctor", "--json"])
        .output();
    let output = output.expect("doctor runs");
    let findings: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("the output is JSON");
    let findings = findings.as_array().expect("the findings are an array");
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
fn doctor_without_privilege_prints_its_findings() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), readable).expect("the permissions are set");
    let copy = folder.path().join("sidetrack");
    std::fs::copy(sidetrack(), &copy).expect("the program is copied");
    let output = doctor_without_privilege(&copy);
    let findings = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{findings}");
    assert!(findings.contains("no  privilege"), "{findings}");
}

fn doctor_without_privilege(program: &Path) -> Output {
    Command::new("setpriv")
        .args(["--reuid=65534", "--clear-groups", "--inh-caps=-all"])
        .arg(program)
        .arg("doctor")
        .output()
        .expect("setpriv is installed")
}
