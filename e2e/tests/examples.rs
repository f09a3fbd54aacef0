//! The examples of the SDK, and `sidetrack demo`.

use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::run::{Run, sidetrack};
use e2e::{EchoOrigin, Origin, netns};

fn repository() -> PathBuf {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_folder
        .parent()
        .expect("e2e is in the repository")
        .to_owned()
}

fn example(name: &str) -> String {
    let built = sidetrack().with_file_name("examples").join(name);
    format!("exec:{}", built.display())
}

/// A connection goes through the example and then through inspect, which shows that the example has set
/// the records.
fn relays_with_records(via: &str) {
    let origin = Origin::start("127.0.0.1:0");
    let script = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{}; echo hi >&3; head -c 9 <&3",
        origin.address.port()
    );
    let ended = Run::new(
        &["--via", via, "--via", "inspect"],
        &["bash", "-c", &script],
    )
    .wait();
    assert_eq!(ended.outcome.stdout, "originhi\n", "{ended:?}");
    assert_eq!(origin.accepted(), 1);
    assert_eq!(ended.flows.len(), 1);
    assert_eq!(ended.flows[0]["chain"].as_array().map(Vec::len), Some(2));
    assert_eq!(ended.flows[0]["program"]["comm"], "bash");
    let wanted = format!("-> {}", origin.address);
    assert!(ended.outcome.stderr.contains(&wanted), "{ended:?}");
}

#[test]
fn rust_example_passthrough_relays_with_records() {
    relays_with_records(&example("passthrough"));
}

#[test]
fn rust_example_datagrams_relays_with_records() {
    netns::enter();
    let origin = EchoOrigin::start("127.0.0.1:0");
    let port = origin.address.port();
    let script = format!("exec 3<>/dev/udp/127.0.0.1/{port}; echo hi >&3; head -n 1 <&3");
    let vias = ["--via", &example("datagrams"), "--via", "inspect"];
    let ended = Run::new(&vias, &["bash", "-c", &script]).wait();
    assert_eq!(ended.outcome.stdout, "hi\n", "{ended:?}");
    assert_eq!(ended.flows.len(), 1);
    assert_eq!(ended.flows[0]["chain"].as_array().map(Vec::len), Some(2));
    let wanted = format!("-> {}", origin.address);
    assert!(ended.outcome.stderr.contains(&wanted), "{ended:?}");
}

#[test]
fn python_example_relays_with_records() {
    let script = repository().join("crates/sidetrack/examples/proxy.py");
    relays_with_records(&format!("exec:python3 {}", script.display()));
}

#[test]
fn c_example_relays_with_records() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    relays_with_records(&c_example(&folder, "proxy"));
}

/// Builds a C example in this folder, which is made readable for proxies.
fn c_example(folder: &tempfile::TempDir, name: &str) -> String {
    std::fs::set_permissions(
        folder.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .expect("the permissions are set");
    let program = folder.path().join(name);
    let built = Command::new("cc")
        .args(["-Wall", "-Wextra", "-Werror", "-I", "bpf", "-o"])
        .arg(&program)
        .arg(format!("crates/sidetrack/examples/{name}.c"))
        .current_dir(repository())
        .status();
    assert!(built.expect("cc is installed").success());
    format!("exec:{}", program.display())
}

/// A program's connect through the example to a port at which nothing listens is refused.
fn refuses_a_dead_port(via: &str) {
    let script = "exec 3<>/dev/tcp/127.0.0.1/1";
    let ended = Run::new(&["--via", via], &["bash", "-c", script]).wait();
    let stderr = &ended.outcome.stderr;
    assert!(stderr.contains("Connection refused"), "{ended:?}");
}

#[test]
fn rust_example_pended_relays_and_refuses() {
    relays_with_records(&example("pended"));
    refuses_a_dead_port(&example("pended"));
}

#[test]
fn rust_example_pended_loop_relays_and_refuses() {
    relays_with_records(&example("pended_loop"));
    refuses_a_dead_port(&example("pended_loop"));
}

#[test]
fn c_example_pended_relays_and_refuses() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let via = c_example(&folder, "pended");
    relays_with_records(&via);
    refuses_a_dead_port(&via);
}

#[test]
fn async_rust_example_echo_answers_with_the_destination() {
    let script = "exec 3<>/dev/tcp/192.0.2.1/7; echo hi >&3; head -n 2 <&3";
    let ended = Run::new(&["--via", &example("echo")], &["bash", "-c", script]).wait();
    assert_eq!(
        ended.outcome.stdout, "you wanted 192.0.2.1:7\nhi\n",
        "{ended:?}"
    );
}

#[test]
fn demo_succeeds() {
    let output = Command::new(sidetrack())
        .arg("demo")
        .env("NO_COLOR", "1")
        .output();
    let output = output.expect("the demo runs");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}");
    assert!(stdout.contains("All steps passed"), "{stdout}");
}

#[test]
fn readme_quotes_the_example_passthrough() {
    let page = std::fs::read_to_string(repository().join("README.md")).expect("README.md exists");
    let source = repository().join("crates/sidetrack/examples/passthrough.rs");
    let source = std::fs::read_to_string(source).expect("the example exists");
    let code = source.find("use std::net").expect("the code starts so");
    let code = &source[code..];
    assert!(page.contains(code));
}
