//! The command `sidetrack run`: what its user sees, and what is left after its end.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::thread;

use e2e::run::{Run, all_runs, is_gone};
use e2e::{Origin, send_signal, wait};
use rustix::process::Signal;

/// The client program with these arguments, as a command for `run`.
fn client(arguments: &[&str]) -> Vec<String> {
    let path = std::env::current_exe().expect("the test's executable has a path");
    let folder = path.ancestors().nth(2).expect("target/PROFILE/deps");
    let client = folder.join("client").display().to_string();
    let arguments = arguments.iter().map(|&argument| argument.to_owned());
    [client].into_iter().chain(arguments).collect()
}

fn run(options: &[&str], command: &[String]) -> e2e::run::FinishedRun {
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    Run::new(options, &command).wait()
}

#[test]
fn exit_code_and_streams_are_the_commands_own() {
    let ended = Run::new(&[], &["sh", "-c", "cat; echo oops >&2; exit 42"]).wait_with_input(b"in");
    assert_eq!(ended.outcome.code, Some(42));
    assert_eq!(ended.outcome.stdout, "in");
    assert!(ended.outcome.stderr.starts_with("oops\n"), "{ended:?}");
    let killed = Run::new(&["--quiet"], &["sh", "-c", "kill -KILL $$"]).wait();
    assert_eq!(killed.outcome.code, Some(128 + 9));
    assert_eq!(killed.outcome.stderr, "");
}

#[test]
fn signals_are_passed_on() {
    for (signal, name) in [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::USR1, "USR1"),
    ] {
        // A trap runs between two commands of the script. So the commands are short, for 20 seconds
        // at most.
        let script = format!(
            "trap 'echo got {name}; exit 7' {name}; echo ready; \
             until [ $SECONDS -ge 20 ]; do sleep 0.05; done; exit 124"
        );
        let mut started = Run::new(&[], &["bash", "-c", &script]).start();
        let mut ready = [0; 6];
        let output = started
            .child()
            .stdout
            .as_mut()
            .expect("standard output is piped");
        output
            .read_exact(&mut ready)
            .expect("the script prints \"ready\"");
        send_signal(started.pid(), signal);
        let ended = started.wait();
        assert_eq!(ended.outcome.code, Some(7), "{ended:?}");
        assert_eq!(ended.outcome.stdout, format!("got {name}\n"));
    }
}

#[test]
fn flow_lines_have_program_destination_request_and_chain() {
    let origin = Origin::start("127.0.0.1:0");
    let to = origin.address.to_string();
    let request = "GET /a?b HTTP/1.1\r\nHost: shop.example\r\n\r\n";
    let command = client(&["connect", &to, "--send", request]);
    let ended = run(&["--via", "inspect:one", "--via", "inspect:two"], &command);
    assert_eq!(ended.outcome.code, Some(0), "{ended:?}");
    assert_eq!(origin.accepted(), 1);
    assert_eq!(ended.flows.len(), 2);
    for flow in &ended.flows {
        assert_eq!(flow["destination"], to);
        assert_eq!(flow["program"]["comm"], "client");
        assert_eq!(flow["program"]["executable"], command[0]);
        assert_eq!(flow["program"]["uid"], 0);
        assert_eq!(flow["seen"]["kind"], "http");
        assert_eq!(flow["seen"]["host"], "shop.example");
        assert_eq!(flow["seen"]["path"], "/a?b");
        assert_eq!(flow["verdict"], "allow");
        assert_eq!(flow["bytes_up"], request.len());
        assert_eq!(flow["bytes_down"], request.len() + "origin".len());
        assert_eq!(flow["origin_id"], ended.flows[0]["origin_id"]);
    }
    let of = |service| ended.flows.iter().find(|flow| flow["service"] == service);
    assert_eq!(of("one").unwrap()["chain"], serde_json::json!(["one"]));
    assert_eq!(
        of("two").unwrap()["chain"],
        serde_json::json!(["one", "two"])
    );
    let lines: Vec<_> = ended.outcome.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "one connection and the summary: {lines:?}");
    assert!(lines[0].contains("one → two"), "{lines:?}");
}

#[test]
fn server_that_speaks_first_does_not_hang() {
    let origin = Origin::start("[::1]:0");
    let mut started = {
        let command = client(&[
            "connect",
            &origin.address.to_string(),
            "--hold",
            "--send",
            "",
        ]);
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        Run::new(&[], &command).start()
    };
    let mut report = [0; 64];
    let output = started
        .child()
        .stdout
        .as_mut()
        .expect("standard output is piped");
    let length = output.read(&mut report).expect("the client reports");
    assert!(String::from_utf8_lossy(&report[..length]).contains("\"ok\":true"));
    started.send_line("close");
    let ended = started.wait();
    assert_eq!(ended.flows[0]["seen"]["kind"], "silent", "{ended:?}");
}

#[test]
fn denied_host_is_refused_and_the_origin_sees_nothing() {
    let origin = Origin::start("127.0.0.1:0");
    let url = format!("http://{}/", origin.address);
    let ended = Run::new(
        &["--deny", "*.ads.example"],
        &["curl", "-sS", "-m", "10", "-H", "Host: x.ads.example", &url],
    )
    .wait();
    assert_eq!(origin.accepted(), 0);
    assert!(ended.outcome.stdout.contains("denied"), "{ended:?}");
    assert_eq!(ended.flows[0]["verdict"], "deny");
    assert_eq!(ended.flows[0]["rule"], "deny *.ads.example");
}

#[test]
fn a_gibibyte_passes_unchanged() {
    const SIZE: usize = 1 << 30;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("the listener is bound");
    // A block of 1 MiB and 13 bytes that does not repeat within itself, so that a lost, doubled or
    // swapped piece changes the checksum.
    let block: Vec<u8> = (0_u32..)
        .flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_be_bytes())
        .take((1 << 20) + 13)
        .collect();
    let sent = block.clone();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the client connects");
        let mut left = SIZE;
        while left > 0 {
            let piece = &sent[..left.min(sent.len())];
            stream.write_all(piece).expect("the client reads");
            left -= piece.len();
        }
        stream
            .shutdown(Shutdown::Write)
            .expect("the connection is open");
        stream
            .read_to_end(&mut Vec::new())
            .expect("the client closes");
    });
    let script = format!(
        "exec 3<>/dev/tcp/{}/{}; sha256sum <&3",
        address.ip(),
        address.port()
    );
    let ended = Run::new(
        &["--via", "inspect:a", "--via", "inspect:b"],
        &["bash", "-c", &script],
    )
    .wait();
    server.join().expect("the server has ended");
    assert_eq!(
        ended.outcome.stdout.split(' ').next(),
        Some(checksum(&block, SIZE).as_str())
    );
    assert_eq!(ended.flows[0]["bytes_down"], SIZE);
}

/// The SHA-256 checksum of this number of bytes, which repeat the block.
fn checksum(block: &[u8], size: usize) -> String {
    let mut child = Command::new("sha256sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("sha256sum starts");
    let mut stdin = child.stdin.take().expect("standard input is piped");
    let mut left = size;
    while left > 0 {
        let piece = &block[..left.min(block.len())];
        stdin
            .write_all(piece)
            .expect("sha256sum reads its standard input");
        left -= piece.len();
    }
    drop(stdin);
    let output = child.wait_with_output().expect("sha256sum ends");
    String::from_utf8_lossy(&output.stdout)[..64].to_owned()
}

#[test]
fn killed_proxy_is_absent_for_the_next_connect() {
    let origin = Origin::start("127.0.0.1:0");
    let to = origin.address.to_string();
    for (on_absent, answer) in [("block", "Connection refused"), ("permit", "\"ok\":true")] {
        let client = client(&["connect", &to, "--send", "x"]).join(" ");
        let script = format!("read line; {client}; read line; exec {client}");
        let mut started = Run::new(&["--on-absent", on_absent], &["sh", "-c", &script]).start();
        started.processes("program");
        let proxy = started.processes("service-1")[0];
        send_signal(proxy, Signal::KILL);
        wait::until("the proxy is gone", || is_gone(proxy));
        started.send_line("connect");
        started.await_stderr("has ended");
        started.send_line("connect again, and exit");
        let ended = started.wait();
        let count = |text: &str, word| text.matches(word).count();
        assert_eq!(
            count(&ended.outcome.stdout, answer),
            2,
            "{on_absent}: {ended:?}"
        );
        assert_eq!(count(&ended.outcome.stderr, "has ended"), 1, "{ended:?}");
        assert_eq!(
            count(&ended.outcome.stderr, "not listening"),
            2,
            "{ended:?}"
        );
    }
    assert_eq!(origin.accepted(), 2);
}

#[test]
fn killed_run_leaves_nothing_behind() {
    let started = Run::new(&[], &["sleep", "1000"]).start();
    let cgroup = started.cgroup();
    let command = started.processes("program");
    send_signal(started.pid(), Signal::KILL);
    let ended = started.wait();
    assert_eq!(ended.outcome.code, None);
    wait::until("the cgroup is gone", || !cgroup.exists());
    assert!(is_gone(command[0]));
}

#[test]
fn doctor_finds_and_removes_a_cgroup_whose_watcher_was_killed_too() {
    let mut started = Run::new(&[], &["sleep", "1000"]).start();
    let cgroup = started.cgroup();
    started.processes("program");
    for pid in children(started.pid(), "sidetrack-reaper")
        .into_iter()
        .chain([started.pid()])
    {
        send_signal(pid, Signal::KILL);
    }
    started.child().wait().expect("the run has ended"); // its command still runs
    let doctor = |options: &[&str]| {
        let output = Command::new(e2e::run::sidetrack())
            .arg("doctor")
            .args(options)
            .output();
        let output = output.expect("doctor runs");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let (code, findings) = doctor(&[]);
    assert_eq!(code, Some(1), "{findings}");
    assert!(findings.contains("no  left-over cgroups"), "{findings}");
    assert!(findings.contains("doctor --clean"), "{findings}");
    assert!(cgroup.exists());
    doctor(&["--clean"]);
    assert!(!cgroup.exists());
}

/// The process ids of a process's children whose command line starts with this name.
fn children(of: u32, named: &str) -> Vec<u32> {
    let list =
        std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    list.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .filter(|pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.starts_with(named.as_bytes())
        })
        .collect()
}

#[test]
fn background_processes_end_with_the_command() {
    let ended = Run::new(&[], &["sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"]).wait();
    assert!(
        ended.outcome.stderr.contains("left processes behind"),
        "{ended:?}"
    );
    let left = ended.outcome.stdout.trim().parse().expect("a process id");
    wait::until("the process is gone", || is_gone(left));
}

#[test]
fn bad_input_is_one_sentence_and_exit_code_2_and_leaves_nothing() {
    let free = format!("tcp://127.0.0.1:{}", e2e::run::free_port());
    let long = format!("inspect:{}", "x".repeat(40));
    let cases: [(&[&str], &[&str], &str); 9] = [
        (
            &["--via", "inspekt"],
            &["true"],
            "none of inspect, inspect:NAME",
        ),
        (&["--via", &free], &["true"], "start the proxy first"),
        (
            &["--via", "exec:false"],
            &["true"],
            "ended before it was ready",
        ),
        (
            &["--via", "exec:/no/such"],
            &["true"],
            "ended before it was ready",
        ),
        (&["--via", &long], &["true"], "1 to 31 bytes"),
        (&["--deny", "exa mple"], &["true"], "column 4"),
        (&["--deny", "10.0.0.0/33"], &["true"], "column"),
        (
            &[],
            &["no-such-command"],
            "command not found: no-such-command",
        ),
        (&[], &["/etc/passwd"], "not a program that can be run"),
    ];
    for (options, command, message) in cases {
        let started = Run::new(options, command).start();
        let pid = started.pid();
        let ended = started.wait();
        assert_eq!(
            ended.outcome.code,
            Some(2),
            "{options:?} {command:?}: {ended:?}"
        );
        assert!(
            ended.outcome.stderr.contains(message),
            "{options:?}: {}",
            ended.outcome.stderr
        );
        assert!(!ended.outcome.stderr.contains("panicked"));
        let cgroup = format!("sidetrack.run.{pid}.");
        assert!(
            !all_runs()
                .iter()
                .any(|path| path.to_string_lossy().contains(&cgroup))
        );
    }
}

#[test]
fn run_within_a_run_is_refused() {
    let sidetrack = e2e::run::sidetrack();
    let sidetrack = sidetrack.to_str().expect("the path is UTF-8");
    let ended = Run::new(&[], &[sidetrack, "run", "--", "true"]).wait();
    assert_eq!(ended.outcome.code, Some(2));
    assert!(
        ended.outcome.stderr.contains("another Sidetrack engine"),
        "{ended:?}"
    );
}

#[test]
fn run_without_privilege_is_refused_with_a_hint() {
    // Another user may not be able to read the folder in which the program was built, so it is copied.
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::set_permissions(
        folder.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .expect("the permissions are set");
    let copy = folder.path().join("sidetrack");
    std::fs::copy(e2e::run::sidetrack(), &copy).expect("the program is copied");
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--clear-groups", "--inh-caps=-all"])
        .arg(&copy)
        .args(["run", "--", "true"])
        .output()
        .expect("setpriv is installed");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(output.status.signal(), None);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("use sudo"), "{stderr}");
}

#[test]
fn run_as_root_of_a_user_namespace_is_refused_with_a_reason() {
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user"])
        .arg(e2e::run::sidetrack())
        .args(["run", "--", "true"])
        .output()
        .expect("unshare is installed");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("user namespace"), "{stderr}");
}

#[test]
fn under_sudo_the_command_runs_as_the_invoking_user() {
    let ended = Run::new(
        &[],
        &[
            "sh",
            "-c",
            "id -u; id -g; echo $HOME; echo ${SIDETRACK_LISTEN-none}",
        ],
    )
    .env("SUDO_UID", "1")
    .wait();
    assert_eq!(ended.outcome.stdout, "1\n1\n/usr/sbin\nnone\n", "{ended:?}");
}
