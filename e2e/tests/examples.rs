//! The examples do what they say, and the demo.

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

/// curl through the example, then through inspect: the example has set the records.
fn passes_on(via: &str) {
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
fn passthrough_in_rust() {
    passes_on(&example("passthrough"));
}

#[test]
fn datagrams_in_rust() {
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
fn proxy_in_python() {
    let script = repository().join("crates/sidetrack/examples/proxy.py");
    passes_on(&format!("exec:python3 {}", script.display()));
}

#[test]
fn proxy_in_c() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    std::fs::set_permissions(
        folder.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .expect("it is ours");
    let program = folder.path().join("proxy");
    let built = Command::new("cc")
        .args(["-Wall", "-Wextra", "-Werror", "-I", "bpf", "-o"])
        .arg(&program)
        .arg("crates/sidetrack/examples/proxy.c")
        .current_dir(repository())
        .status();
    assert!(built.expect("cc is there").success());
    passes_on(&format!("exec:{}", program.display()));
}

#[test]
fn echo_in_async_rust() {
    let script = "exec 3<>/dev/tcp/192.0.2.1/7; echo hi >&3; head -n 2 <&3";
    let ended = Run::new(&["--via", &example("echo")], &["bash", "-c", script]).wait();
    assert_eq!(
        ended.outcome.stdout, "you wanted 192.0.2.1:7\nhi\n",
        "{ended:?}"
    );
}

#[test]
fn demo_is_as_it_should_be() {
    let output = Command::new(sidetrack())
        .arg("demo")
        .env("NO_COLOR", "1")
        .output();
    let output = output.expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("All steps passed"), "{said}");
}

#[test]
fn readme_shows_the_example_as_it_is() {
    let page = std::fs::read_to_string(repository().join("README.md")).expect("it is there");
    let source = repository().join("crates/sidetrack/examples/passthrough.rs");
    let source = std::fs::read_to_string(source).expect("it is there");
    let code = &source[source.find("use std::net").expect("it begins so")..];
    assert!(page.contains(code));
}
