//! The Winsock library, as C programs have it: its contract case by case, and a proxy brought from Windows in a chain.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use e2e::run::{Run, sidetrack};
use e2e::{Host, Origin, netns};
use sidetrack_engine::{Filter, RedirectContext};
use sidetrack_winsock as _; // so that it is built
use tempfile::TempDir;

/// The library's folder in the repository.
fn sources() -> PathBuf {
    let this = Path::new(env!("CARGO_MANIFEST_DIR"));
    this.with_file_name("crates").join("sidetrack-winsock")
}

/// Where cargo has put the library for this test, or where in the repository SIDETRACK_WINSOCK_LIBRARY says: for figures.
fn library_folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("SIDETRACK_WINSOCK_LIBRARY") {
        return sources().join("../..").join(folder);
    }
    let test = std::env::current_exe().expect("a test has a path");
    test.parent().expect("it is in a folder").to_owned()
}

/// How a program takes the library.
#[derive(Clone, Copy)]
enum Link {
    Shared,
    Static,
    /// Static, and the program under AddressSanitizer: it watches what the library does with the program's memory.
    Sanitized,
}

/// Compiles a C program.
fn compile(folder: &TempDir, headers: &str, files: &[PathBuf], link: Link) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let everybody = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), everybody).expect("it is ours");
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
        let stand_in = sources().join("tests/thread-sanitizer.c");
        command
            .args(["-fsanitize=thread", "-fno-builtin"])
            .arg(stand_in);
    }
    let built = command.args(["-lgcc_s", "-lm", "-lpthread"]).status();
    assert!(built.expect("cc is there").success());
    program
}

/// The C files of a folder of `tests`.
fn files(program: &str) -> Vec<PathBuf> {
    let folder = sources().join("tests").join(program);
    let entries = std::fs::read_dir(folder).expect("it is there");
    let paths = entries.map(|entry| entry.expect("it can be read").path());
    paths
        .filter(|path| path.extension().is_some_and(|end| end == "c"))
        .collect()
}

/// A filter for one port of `tests/conformance/harness.h`.
fn port(service: u32, port: u16, context: RedirectContext) -> Filter {
    Filter {
        ports: Some((port, port)),
        context,
        ..Filter::redirect_all(service)
    }
}

/// Runs the program as a service's proxy; it must end well. What it says, line by line.
fn run_as_proxy(test: &str, program: &Path, arguments: &[&str]) -> Vec<String> {
    netns::enter();
    let mut host = Host::new(test);
    let service = host.service("windows");
    let thirty_two = || RedirectContext::Fixed(b"0123456789abcdef0123456789ABCDEF".to_vec());
    host.set_policy(&[
        port(service.number, 1000, RedirectContext::None),
        port(service.number, 1001, RedirectContext::Auto),
        port(service.number, 1002, RedirectContext::Fixed(vec![7; 2])),
        port(service.number, 1009, RedirectContext::None),
        port(service.number, 1032, thirty_two()),
        port(service.number, 4000, RedirectContext::Fixed(vec![7; 4000])),
        Filter {
            ports: Some((5300, 5300)),
            context: thirty_two(),
            ..Filter::redirect_datagrams(service.number)
        },
    ]);
    let mut child = Command::new(program)
        .args(arguments)
        .env(sidetrack::LISTEN_VARIABLE, service.credentials_hex())
        .env("PROGRAM_CGROUP", host.program.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut said = Vec::new();
    while let Some(Ok(line)) = lines.next() {
        if line == "stop the engine" {
            drop(host.engine.take());
            let stdin = child.stdin.as_mut().expect("it is piped");
            writeln!(stdin, "stopped").expect("it listens");
            continue;
        }
        println!("{line}");
        said.push(line);
    }
    let ended = child.wait().expect("it ends");
    assert!(ended.success(), "{ended}: {}", said.join("\n"));
    said
}

/// The odd-numbered cases of spec 8.1 to 8.4, 8.7, 8.8 and 8.10.
fn each_case_is_told(said: &[String]) {
    let odd = |number: &u32| number % 2 == 1;
    for number in (1..=59).chain(105..=129).chain([153]).filter(odd) {
        let begins = format!("case {number}: ");
        let told = said.iter().filter(|line| line.starts_with(&begins)).count();
        assert_eq!(told, 1, "case {number}");
    }
}

#[test]
fn conformance() {
    let folder = TempDir::new().expect("a folder can be made");
    let program = compile(&folder, "include", &files("conformance"), Link::Shared);
    each_case_is_told(&run_as_proxy("winsock_conformance", &program, &[]));
}

#[test]
fn conformance_under_address_sanitizer() {
    let folder = TempDir::new().expect("a folder can be made");
    let program = compile(&folder, "include", &files("conformance"), Link::Sanitized);
    each_case_is_told(&run_as_proxy("winsock_sanitized", &program, &[]));
}

/// 1,000,000 calls with SIDETRACK_SOAK=1.
#[test]
fn each_overlapped_call_of_a_storm_completes_once() {
    let folder = TempDir::new().expect("a folder can be made");
    let program = compile(&folder, "include", &files("stress"), Link::Static);
    let calls = match std::env::var_os("SIDETRACK_SOAK") {
        Some(_) => "1000000",
        None => "100000",
    };
    run_as_proxy("winsock_stress", &program, &[calls]);
}

/// Prints the figures; they mean something with a release build: see docs/winsock.md.
#[test]
fn query_allocates_nothing() {
    let folder = TempDir::new().expect("a folder can be made");
    let program = compile(&folder, "include", &files("cost"), Link::Static);
    run_as_proxy("winsock_cost", &program, &[]);
}

/// A proxy in C, as for Windows, and one in Rust: both see the connection, whichever is first.
fn chained(c_is_first: bool) {
    let folder = TempDir::new().expect("a folder can be made");
    let source = sources().join("examples/inspect.c");
    let inspect = compile(&folder, "include/windows", &[source], Link::Static);
    let passthrough = sidetrack().with_file_name("examples").join("passthrough");
    let mut vias = [&inspect, &passthrough].map(|program| format!("exec:{}", program.display()));
    if !c_is_first {
        vias.reverse();
    }
    for address in ["127.0.0.1:0", "[::1]:0"] {
        through(&vias, &Origin::start(address));
    }
}

fn through(vias: &[String; 2], origin: &Origin) {
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
    let told = ended.outcome.stderr.matches(&wanted).count();
    assert_eq!(told, 2, "{ended:?}");
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
