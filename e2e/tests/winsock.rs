//! The Winsock library in C programs: its contract case by case, and a proxy for Windows as part of
//! a chain.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use e2e::policy::{redirect_tcp, redirect_udp};
use e2e::run::{Run, sidetrack};
use e2e::{Host, Origin, netns};
use sidetrack_engine::{RedirectContext, RegisteredService};
use sidetrack_policy::redirect::Redirect;
use sidetrack_winsock as _; // so that cargo builds the library
use tempfile::TempDir;

/// The library's folder in the repository.
fn sources() -> PathBuf {
    let this = Path::new(env!("CARGO_MANIFEST_DIR"));
    this.with_file_name("crates").join("sidetrack-winsock")
}

/// The folder of the library: the one in which cargo has built it for this test, or the folder of
/// the repository that the environment variable SIDETRACK_WINSOCK_LIBRARY names, which is for
/// measurements.
fn library_folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("SIDETRACK_WINSOCK_LIBRARY") {
        return sources().join("../..").join(folder);
    }
    let test = std::env::current_exe().expect("the test's executable has a path");
    test.parent().expect("the test is in a folder").to_owned()
}

/// The way in which a program is linked with the library.
#[derive(Clone, Copy)]
enum Link {
    Shared,
    Static,
    /// Static, with AddressSanitizer, which checks how the library accesses the program's memory.
    Sanitized,
}

/// Compiles a C program, and links it with the library. Returns its path.
fn compile(folder: &TempDir, headers: &str, files: &[PathBuf], link: Link) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let readable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), readable).expect("the permissions are set");
    let program = folder.path().join("program");
    let library = library_folder();
    let mut command = Command::new("cc");
    command
        .args(["-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror"])
        .arg("-I")
        .arg(sources().join("include"))
        .arg("-I")
        .arg(sources().join(headers))
        .arg("-o")
        .arg(&program)
        .args(files);
    match link {
        Link::Shared => command
            .arg(library.join("libsidetrack_winsock.so"))
            .arg(format!("-Wl,-rpath,{}", library.display())),
        Link::Static => command.arg(library.join("libsidetrack_winsock.a")),
        Link::Sanitized => command
            .args(["-fsanitize=address", "-fno-omit-frame-pointer"])
            .arg(library.join("libsidetrack_winsock.a")),
    };
    if std::env::var_os("SIDETRACK_WINSOCK_TSAN").is_some() {
        let replacements = sources().join("tests/thread-sanitizer.c");
        command
            .args(["-fsanitize=thread", "-fno-builtin"])
            .arg(replacements);
    }
    let built = command.args(["-lgcc_s", "-lm", "-lpthread"]).status();
    assert!(built.expect("cc is installed").success());
    program
}

/// The C files in a folder of the library's `tests`.
fn files(program: &str) -> Vec<PathBuf> {
    let folder = sources().join("tests").join(program);
    let entries = std::fs::read_dir(folder).expect("the folder exists");
    let paths = entries.map(|entry| entry.expect("the folder is readable").path());
    paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "c"))
        .collect()
}

/// A redirect for one of the ports in `crates/sidetrack-winsock/tests/conformance/harness.h`.
fn port(service: &RegisteredService, port: u16, context: RedirectContext) -> Redirect {
    redirect_tcp(service).ports(port..=port).context(context)
}

/// Runs the program as a service's proxy. It must succeed. Returns the lines of its standard output.
fn run_as_proxy(test: &str, program: &Path, arguments: &[&str]) -> Vec<String> {
    netns::enter();
    let mut host = Host::new(test);
    let service = host.service("windows");
    let thirty_two = || RedirectContext::Fixed(b"0123456789abcdef0123456789ABCDEF".to_vec());
    host.set_policy([
        port(&service, 1000, RedirectContext::None),
        port(&service, 1001, RedirectContext::Auto),
        port(&service, 1002, RedirectContext::Fixed(vec![7; 2])),
        port(&service, 1009, RedirectContext::None),
        port(&service, 1032, thirty_two()),
        port(&service, 4000, RedirectContext::Fixed(vec![7; 4000])),
        redirect_udp(&service)
            .ports(5300..=5300)
            .context(thirty_two()),
    ]);
    let mut child = Command::new(program)
        .args(arguments)
        .env(sidetrack::LISTEN_VARIABLE, service.credentials_hex())
        .env("PROGRAM_CGROUP", host.program_cgroup.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let stdout = child.stdout.take().expect("standard output is piped");
    let mut lines = BufReader::new(stdout).lines();
    let mut output = Vec::new();
    while let Some(Ok(line)) = lines.next() {
        if line == "stop the engine" {
            drop(host.engine.take());
            let stdin = child.stdin.as_mut().expect("standard input is piped");
            writeln!(stdin, "stopped").expect("the program reads its standard input");
            continue;
        }
        println!("{line}");
        output.push(line);
    }
    let status = child.wait().expect("the program ends");
    assert!(status.success(), "{status}: {}", output.join("\n"));
    output
}

/// Asserts that the output has one line for each case of docs/wfp.md, 8.1 to 8.4, 8.7, 8.8 and 8.10.
fn assert_each_case_is_reported(output: &[String]) {
    let odd = |number: &u32| number % 2 == 1;
    for number in (1..=59).chain(105..=129).chain([153]).filter(odd) {
        let start = format!("case {number}: ");
        let lines = output.iter().filter(|line| line.starts_with(&start));
        assert_eq!(lines.count(), 1, "case {number}");
    }
}

#[test]
fn conformance() {
    let folder = TempDir::new().expect("a temporary folder");
    let program = compile(&folder, "include", &files("conformance"), Link::Shared);
    assert_each_case_is_reported(&run_as_proxy("winsock_conformance", &program, &[]));
}

#[test]
fn conformance_under_address_sanitizer() {
    let folder = TempDir::new().expect("a temporary folder");
    let program = compile(&folder, "include", &files("conformance"), Link::Sanitized);
    assert_each_case_is_reported(&run_as_proxy("winsock_sanitized", &program, &[]));
}

/// Makes 100,000 calls, or 1,000,000 if the environment variable SIDETRACK_SOAK is set.
#[test]
fn each_overlapped_call_of_a_storm_completes_once() {
    let folder = TempDir::new().expect("a temporary folder");
    let program = compile(&folder, "include", &files("stress"), Link::Static);
    let calls = match std::env::var_os("SIDETRACK_SOAK") {
        Some(_) => "1000000",
        None => "100000",
    };
    run_as_proxy("winsock_stress", &program, &[calls]);
}

/// It also prints measurements, which are meaningful only for a release build (docs/winsock.md).
#[test]
fn query_allocates_nothing() {
    let folder = TempDir::new().expect("a temporary folder");
    let program = compile(&folder, "include", &files("cost"), Link::Static);
    run_as_proxy("winsock_cost", &program, &[]);
}

/// A proxy in C, written for Windows, and one in Rust. Both see the connection, whichever is first.
fn chained(c_is_first: bool) {
    let folder = TempDir::new().expect("a temporary folder");
    let source = sources().join("examples/inspect.c");
    let inspect = compile(&folder, "include/windows", &[source], Link::Static);
    let passthrough = sidetrack().with_file_name("examples").join("passthrough");
    let mut vias = [&inspect, &passthrough].map(|program| format!("exec:{}", program.display()));
    if !c_is_first {
        vias.reverse();
    }
    for address in ["127.0.0.1:0", "[::1]:0"] {
        run_through_both_proxies(&vias, &Origin::start(address));
    }
}

fn run_through_both_proxies(vias: &[String; 2], origin: &Origin) {
    let script = format!(
        "exec 3<>/dev/tcp/{}/{}; echo hi >&3; head -c 9 <&3",
        origin.address.ip(),
        origin.address.port()
    );
    let options = ["--via", &vias[0], "--via", &vias[1], "--via", "inspect"];
    let ended = Run::new(&options, &["bash", "-c", &script]).wait();
    assert_eq!(ended.outcome.stdout, "originhi\n", "{ended:?}");
    assert_eq!(origin.accepted(), 1);
    assert_eq!(ended.flows[0]["chain"].as_array().map(Vec::len), Some(3));
    let wanted = format!("-> {}", origin.address);
    let lines = ended.outcome.stderr.matches(&wanted).count();
    assert_eq!(lines, 2, "{ended:?}");
    let first_words = format!("{wanted} hi.");
    assert!(ended.outcome.stderr.contains(&first_words), "{ended:?}");
}

#[test]
fn proxy_from_windows_before_one_in_rust() {
    chained(true);
}

#[test]
fn proxy_from_windows_behind_one_in_rust() {
    chained(false);
}
