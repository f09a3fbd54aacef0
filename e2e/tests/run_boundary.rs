//! What a command of `sidetrack run` cannot do: write where its user could not, leave the run unnoticed, and
//! harm a proxy of another user.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use e2e::run::{Run, all_runs, is_gone, shared_folder, sidetrack};
use e2e::{EchoOrigin, Host, Origin, client_binary, wait};
use sidetrack_engine::Cgroup;
use tempfile::NamedTempFile;

/// The user `daemon`, which each host has, as the one who called sudo.
const USER: u32 = 1;
/// Another user that each host has.
const PROXY_USER: (&str, u32) = ("bin", 2);

/// A path as text.
fn text(path: &Path) -> &str {
    path.to_str().expect("the path is UTF-8")
}

// ---- Files ------------------------------------------------------------------------------------

/// Runs `sidetrack run --json FILE -- true` under sudo.
fn write_flows_to(file: &Path) -> Output {
    Command::new(sidetrack())
        .args(["run", "--json", text(file), "--", "true"])
        .env("SUDO_UID", USER.to_string())
        .output()
        .expect("the run starts")
}

#[test]
fn json_file_is_opened_as_the_user_who_called_sudo() {
    let folder = shared_folder();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("precious"), "kept").expect("the file is written");
    fs::set_permissions(path("precious"), fs::Permissions::from_mode(0o600))
        .expect("the permissions are set");
    fs::create_dir(path("closed")).expect("the folder is made");
    fs::set_permissions(path("closed"), fs::Permissions::from_mode(0o700))
        .expect("the permissions are set");
    symlink(path("precious"), path("to-precious")).expect("the link is made");
    symlink(path("closed/new"), path("to-new")).expect("the link is made");
    for name in ["precious", "to-precious", "to-new", "closed/new"] {
        let refused = write_flows_to(&path(name));
        let stderr = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{name}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{name}: {stderr}");
        assert!(stderr.contains("daemon cannot write"), "{name}: {stderr}");
    }
    let kept = fs::read_to_string(path("precious")).expect("the file is there");
    assert_eq!(kept, "kept");
    assert!(!path("closed/new").exists());

    let written = write_flows_to(&path("flows"));
    assert_eq!(written.status.code(), Some(0), "{written:?}");
    let flows = fs::metadata(path("flows")).expect("the file is made");
    assert_eq!((flows.uid(), flows.gid()), (USER, USER));
}

// ---- Cgroups ----------------------------------------------------------------------------------

/// A cgroup that belongs to a user, as in a desktop session or a rootless container.
fn delegated(above: &Cgroup, name: &str) -> Cgroup {
    let cgroup = above.make(name).expect("the cgroup is made");
    for file in [
        "",
        "cgroup.procs",
        "cgroup.threads",
        "cgroup.subtree_control",
    ] {
        chown(cgroup.path().join(file), Some(USER), Some(USER)).expect("the owner is set");
    }
    cgroup
}

/// A run of a script in bash. `sidetrack` is started in this cgroup.
fn run_from(cgroup: &Cgroup, options: &[&str], script: &str) -> Run {
    let client = client_binary();
    Run::with_wrapper(
        &[text(&client), "exec", "--"],
        options,
        &["bash", "-c", script],
    )
    .env("CLIENT_CGROUP", text(cgroup.path()))
}

/// A command for bash that moves the shell to a cgroup.
fn enter(cgroup: &Cgroup) -> String {
    format!("echo $$ > {}/cgroup.procs", text(cgroup.path()))
}

/// A command for bash that connects to an origin.
fn connect(origin: &Origin) -> String {
    let (ip, port) = (origin.address.ip(), origin.address.port());
    format!("(: > /dev/tcp/{ip}/{port})")
}

#[test]
fn command_cannot_leave_for_a_cgroup_of_its_user() {
    let host = Host::without_engine("run_delegated");
    let origin = Origin::start("127.0.0.1:0");
    let session = delegated(host.root(), "session");
    let caller = delegated(&session, "caller");
    let elsewhere = delegated(&session, "elsewhere");
    let script = format!("{} && echo left; {}", enter(&elsewhere), connect(&origin));
    let ended = run_from(&caller, &[], &script)
        .env("SUDO_UID", &USER.to_string())
        .wait();
    assert_eq!(ended.outcome.stdout, "", "{ended:?}");
    assert!(
        ended.outcome.stderr.contains("Permission denied"),
        "{ended:?}"
    );
    assert_eq!(ended.flows.len(), 1, "{ended:?}");
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn run_from_a_cgroup_of_its_user_is_above_it_and_that_of_root_below() {
    let host = Host::without_engine("run_placement");
    let session = delegated(host.root(), "session");
    let caller = delegated(&session, "caller");
    for (user, above) in [(USER, host.root()), (0, &caller)] {
        let mut started = run_from(&caller, &[], "read line")
            .env("SUDO_UID", &user.to_string())
            .start();
        assert_eq!(started.cgroup().parent(), Some(above.path()), "{user}");
        started.processes("program");
        started.send_line("end");
        started.child().wait().expect("the run ends");
    }
}

#[test]
fn departure_is_reported_and_counted() {
    let host = Host::without_engine("run_departure");
    let origin = Origin::start("127.0.0.1:0");
    // A child of the command leaves, and has a child itself. The command stays.
    let script = format!(
        "bash -c 'echo $$; {}; {}'; {}",
        enter(host.root()),
        connect(&origin),
        connect(&origin)
    );
    let ended = Run::new(&[], &["bash", "-c", &script]).wait();
    assert_eq!(ended.outcome.code, Some(0), "{ended:?}");
    let stderr = &ended.outcome.stderr;
    let pid = ended.outcome.stdout.trim();
    let expected = format!(
        "process {pid} (bash) left the run for the cgroup {}: its connections are not inspected",
        text(host.root().path())
    );
    assert_eq!(stderr.matches(&expected).count(), 1, "{ended:?}");
    assert_eq!(stderr.matches("left the run for").count(), 1, "{ended:?}");
    assert!(stderr.contains("1 process left the run"), "{ended:?}");
    assert_eq!((ended.flows.len(), origin.accepted()), (1, 2), "{ended:?}");
}

#[test]
fn strict_run_kills_a_process_that_moves_itself() {
    let host = Host::without_engine("run_strict");
    let origin = Origin::start("127.0.0.1:0");
    let script = format!("{}; {}; echo alive", enter(host.root()), connect(&origin));
    let ended = Run::new(&["--strict"], &["bash", "-c", &script]).wait();
    assert_eq!(ended.outcome.code, Some(128 + 9), "{ended:?}");
    assert_eq!(ended.outcome.stdout, "");
    assert_eq!(origin.accepted(), 0);
    assert!(ended.outcome.stderr.contains("and was killed"), "{ended:?}");
    assert!(
        ended
            .outcome
            .stderr
            .contains("1 process killed for leaving"),
        "{ended:?}"
    );
}

#[test]
fn strict_run_kills_a_process_that_another_one_moves() {
    let host = Host::without_engine("run_strict_moved");
    let started = Run::new(&["--strict"], &["sleep", "1000"]).start();
    let command = started.processes("program")[0];
    wait::until("the command is executed", || {
        let name = fs::read_to_string(format!("/proc/{command}/comm"));
        name.is_ok_and(|name| name == "sleep\n")
    });
    host.root().add(command).expect("the process is moved");
    let ended = started.wait();
    assert_eq!(ended.outcome.code, Some(128 + 9), "{ended:?}");
    assert!(ended.outcome.stderr.contains("(sleep)"), "{ended:?}");
}

/// A program for Python that makes a child in the cgroup of its first argument, and waits for it. The child
/// sleeps.
const BORN_ELSEWHERE: &str = r#"
import ctypes, os, sys, time
CLONE3, CLONE_INTO_CGROUP, SIGCHLD = 435, 0x200000000, 17
cgroup = os.open(sys.argv[1], os.O_RDONLY)
arguments = (ctypes.c_uint64 * 11)(CLONE_INTO_CGROUP, 0, 0, 0, SIGCHLD, 0, 0, 0, 0, 0, cgroup)
child = ctypes.CDLL(None).syscall(CLONE3, arguments, ctypes.sizeof(arguments))
if child == 0:
    time.sleep(1000 if sys.argv[2] == "--strict" else 0)
    os._exit(0)
print(child, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"#;

#[test]
fn process_that_is_born_elsewhere_is_a_departure() {
    let host = Host::without_engine("run_born");
    for (option, code) in [("--on-absent=block", 0), ("--strict", -9)] {
        let cgroup = text(host.root().path());
        let command = ["python3", "-c", BORN_ELSEWHERE, cgroup, option];
        let ended = Run::new(&[option], &command).wait();
        let stdout: Vec<&str> = ended.outcome.stdout.split_whitespace().collect();
        let [pid, status] = stdout[..] else {
            panic!("{ended:?}");
        };
        assert_eq!(status, code.to_string(), "{ended:?}");
        let expected = format!("process {pid} (python3) left the run for the cgroup {cgroup}");
        assert!(ended.outcome.stderr.contains(&expected), "{ended:?}");
    }
}

#[test]
fn children_of_a_process_that_left_do_not_survive_a_strict_run() {
    let host = Host::without_engine("run_strict_children");
    // The process that leaves is killed only after its child was made, if the kernel cannot kill it itself.
    let script = format!("{}; sleep 1000 & sleep 1000", enter(host.root()));
    let ended = Run::new(&["--strict"], &["bash", "-c", &script]).wait();
    assert_eq!(ended.outcome.code, Some(128 + 9), "{ended:?}");
    wait::until("no process of the run is left", || {
        !host.root().is_populated()
    });
}

// ---- Proxies ----------------------------------------------------------------------------------

/// A script for bash that tries to read the environment of the first proxy, and to kill it. It prints what it
/// could do.
const HARM_PROXY: &str = r#"
own=$(sed -n s/^0:://p /proc/self/cgroup)
for pid in $(cat "$CGROUPS${own%/program}/service-1/cgroup.procs"); do
	[ -n "$(tr -d '\0' < /proc/$pid/environ)" ] && echo read
	kill -KILL $pid && echo killed
done 2> /dev/null
exit 0
"#;

fn harm_proxy(via: &str, options: &[&str]) -> String {
    let mount = sidetrack_engine::cgroup::mount_point().expect("cgroup v2 is mounted");
    let options = [&["--via", via], options].concat();
    let ended = Run::new(&options, &["bash", "-c", HARM_PROXY])
        .env("SUDO_UID", &USER.to_string())
        .env("CGROUPS", text(&mount))
        .wait();
    assert_eq!(ended.outcome.code, Some(0), "{ended:?}");
    ended.outcome.stdout
}

/// A copy of the test's proxy where every user can execute it.
fn proxy_for_all(folder: &Path) -> PathBuf {
    let copy = folder.join("proxy");
    fs::copy(client_binary().with_file_name("proxy"), &copy).expect("the program is copied");
    copy
}

/// The processes that the command leaves behind are ended before the programs in the kernel are removed.
#[test]
fn what_the_command_leaves_behind_sends_nothing_uninspected() {
    let origin = EchoOrigin::start("127.0.0.1:0");
    let port = origin.address.port();
    let script =
        format!("while :; do echo x > /dev/udp/127.0.0.1/{port}; done 2> /dev/null & sleep 0.2");
    for _ in 0..5 {
        let ended = Run::new(&["-q", "--deny", "127.0.0.0/8"], &["bash", "-c", &script]).wait();
        assert_eq!(ended.outcome.code, Some(0), "{ended:?}");
    }
    assert_eq!(origin.datagrams(), 0);
}

#[test]
fn rules_without_a_proxy_that_applies_them_are_refused() {
    for rule in ["--deny", "--allow"] {
        let ended = Run::new(&["--via", "tcp://127.0.0.1:9", rule, "*"], &["true"]).wait();
        assert_eq!(ended.outcome.code, Some(2), "{ended:?}");
        assert!(ended.outcome.stderr.contains("--via inspect"), "{ended:?}");
    }
}

/// Adds a group with this member to `/etc/group`, for the programs that this thread starts.
fn add_group(group: &str, member: &str) {
    let mount = |arguments: &[&str]| {
        let status = Command::new("mount").args(arguments).status();
        assert!(
            status.expect("mount is installed").success(),
            "{arguments:?}"
        );
    };
    e2e::sys::unshare_mounts().expect("the test runs as root");
    mount(&["--make-rprivate", "/"]);
    let mut file = NamedTempFile::new().expect("a temporary file");
    let groups = fs::read_to_string("/etc/group").expect("the file exists");
    writeln!(file, "{groups}{group}:x:64999:{member}").expect("the file is written");
    let everyone = fs::Permissions::from_mode(0o644);
    fs::set_permissions(file.path(), everyone).expect("the file is this process's");
    mount(&["--bind", text(file.path()), "/etc/group"]);
}

/// Under sudo, the caller chooses only among users that root has put into a group.
#[test]
fn proxy_user_under_sudo_is_one_that_root_allows() {
    let run = |name: &str| {
        Run::new(&["-q", "--proxy-user", name], &["true"])
            .env("SUDO_UID", &USER.to_string())
            .wait()
    };
    let (name, _) = PROXY_USER;
    for name in ["root", name] {
        let ended = run(name);
        assert_eq!(ended.outcome.code, Some(2), "{ended:?}");
        assert!(
            ended
                .outcome
                .stderr
                .contains("in the group sidetrack-proxy"),
            "{ended:?}"
        );
    }
    add_group("sidetrack-proxy", &format!("root,{name}"));
    assert_eq!(run(name).outcome.code, Some(0));
    assert_eq!(run("root").outcome.code, Some(2));
}

#[test]
fn command_cannot_harm_a_proxy_of_another_user() {
    add_group("sidetrack-proxy", PROXY_USER.0);
    let folder = shared_folder();
    let exec = format!("exec:{} answer", text(&proxy_for_all(folder.path())));
    let (name, _) = PROXY_USER;
    for via in ["inspect", &exec] {
        // As the same user it can, except that it cannot read what has a capability that it lacks.
        let harmed = harm_proxy(via, &[]);
        assert!(harmed.contains("killed"), "{via}: {harmed}");
        assert_eq!(harmed.contains("read"), via != "inspect", "{via}: {harmed}");
        let harmed = harm_proxy(via, &["--proxy-user", name]);
        assert!(
            !harmed.contains("read") && !harmed.contains("killed"),
            "{via}: {harmed}"
        );
    }
}

#[test]
fn proxies_of_another_user_inspect_as_before() {
    let origin = Origin::start("127.0.0.1:0");
    let (name, uid) = PROXY_USER;
    add_group("sidetrack-proxy", name);
    let script = format!("{}; read line", connect(&origin));
    let mut started = Run::new(&["--proxy-user", name], &["bash", "-c", &script])
        .env("SUDO_UID", &USER.to_string())
        .start();
    let proxy = started.processes("service-1")[0];
    wait::until("the proxy has changed its user", || {
        fs::read_to_string(format!("/proc/{proxy}/status"))
            .is_ok_and(|status| status.contains(&format!("Uid:\t{uid}\t{uid}")))
    });
    started.send_line("end");
    let ended = started.wait();
    assert_eq!((ended.flows.len(), origin.accepted()), (1, 1), "{ended:?}");
    assert_eq!(ended.flows[0]["program"]["uid"], USER, "{ended:?}");
    wait::until("the proxy is gone", || is_gone(proxy));
}

#[test]
fn unknown_proxy_user_is_one_sentence() {
    let ended = Run::new(&["--proxy-user", "no-such-user"], &["true"]).wait();
    assert_eq!(ended.outcome.code, Some(2));
    assert_eq!(
        ended.outcome.stderr,
        "sidetrack: --proxy-user: there is no user no-such-user\n"
    );
    assert!(all_runs().iter().all(|path| path.exists()));
}
