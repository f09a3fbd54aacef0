//! A name with addresses of both families, of which only IPv4 works: clients must fall back to it. And
//! a port at which nobody listens, in the words of each language.

use std::fs;
use std::path::Path;
use std::process::Command;

use e2e::comparison::{Comparison, Row, same};
use e2e::run::shared_folder;
use e2e::{FarHost, HttpOrigin, netns, programs};

use crate::server::Server;
use crate::{file, prepare};

/// A name whose IPv6 address refuses.
const HOSTS: &str = "::1 two.test\n127.0.0.1 two.test\n";

/// Starts an origin at IPv4 only, and returns it with its URL.
fn start_origin() -> (HttpOrigin, String) {
    netns::enter();
    netns::set_hosts(HOSTS);
    let origin = HttpOrigin::start();
    let url = format!("http://two.test:{}/", origin.address.port());
    (origin, url)
}

/// A client that tries ten times, and then connects to a dead port.
fn assert_falls_back(command: &str) {
    let (origin, url) = start_origin();
    let comparison = Comparison::of(&format!(
        "row fallback {command} 10 {url}
         row 'dead port' {command} 1 http://127.0.0.1:9/
         row 'dead port over IPv6' {command} 1 'http://[::1]:9/'"
    ));
    comparison.assert_rows(&[
        same("fallback", "10 of 10"),
        same("dead port", "refused"),
        same("dead port over IPv6", "refused"),
    ]);
    assert_eq!(origin.accepted(), 40, "none reached the origin twice");
}

#[test]
#[ignore = "make test-clients runs it"]
fn go() {
    programs::require(&[("go", "golang-go")]);
    let folder = shared_folder();
    let program = folder.path().join("fetch");
    prepare(
        Command::new("go")
            .args(["build", "-o"])
            .args([program.as_os_str(), file("fetch.go").as_ref()])
            .env("GOCACHE", folder.path().join("cache"))
            .env("CGO_ENABLED", "0")
            .env("GO111MODULE", "off"),
    );
    assert_falls_back(&program.display().to_string());
}

#[test]
#[ignore = "make test-clients runs it"]
fn java() {
    programs::require(&[
        ("java", "default-jre-headless"),
        ("javac", "default-jdk-headless"),
    ]);
    let folder = shared_folder();
    let classes = folder.path().display().to_string();
    prepare(Command::new("javac").args(["-d", &classes, &file("Fetch.java")]));
    // Otherwise Java puts IPv4 addresses first.
    let order = "-Djava.net.preferIPv6Addresses=system";
    assert_falls_back(&format!("java {order} -cp {classes} Fetch"));
}

#[test]
#[ignore = "make test-clients runs it"]
fn node() {
    programs::require(&[("node", "nodejs")]);
    assert_falls_back(&format!("node {}", file("fetch.mjs")));
}

#[test]
#[ignore = "make test-clients runs it"]
fn chromium() {
    programs::require(&[("chromium", "chromium")]);
    let (_origin, url) = start_origin();
    let home = shared_folder();
    let home = home.path().display();
    let comparison = Comparison::of(&format!(
        "export HOME={home}
         browse() {{
             timeout 20 chromium --headless --no-sandbox --disable-gpu --disable-background-networking \\
                 --no-first-run --user-data-dir=\"$(mktemp -d -p {home})\" --dump-dom \"$1\" 2>/dev/null
         }}
         works() {{ browse \"$1\" | grep -q origin; }}
         row fallback tries 3 works {url}
         row 'dead port' tries 2 works http://127.0.0.1:4321/"
    ));
    comparison.assert_rows(&[same("fallback", "3 of 3"), same("dead port", "0 of 2")]);
}

#[test]
#[ignore = "make test-clients runs it"]
fn git() {
    programs::require(&[("git", "git")]);
    netns::enter();
    netns::set_hosts(HOSTS);
    let folder = shared_folder();
    make_repository(folder.path());
    let served = folder.path().join("served.git");
    let mut command = Command::new("python3");
    command.args(["-m", "http.server", "--bind", "127.0.0.1", "8080"]);
    let _server = Server::start(command.current_dir(served), "127.0.0.1:8080");
    let clones = folder.path().display();
    let comparison = Comparison::of(&format!(
        "clone() {{
             local to; to=$(mktemp -d -p {clones}); GIT_TERMINAL_PROMPT=0 git clone \"$1\" \"$to\"
         }}
         row fallback tries 5 clone http://two.test:8080/
         row 'dead port' tries 2 clone http://two.test:9/"
    ));
    comparison.assert_rows(&[same("fallback", "5 of 5"), same("dead port", "0 of 2")]);
}

/// Makes a repository with one commit, for a server that only has files.
fn make_repository(folder: &Path) {
    let script = "git init -q work && cd work && echo a >a && git add a &&
        git -c user.name=x -c user.email=x@example.com commit -q -m a && cd .. &&
        git clone -q --bare work served.git && cd served.git && git update-server-info";
    prepare(
        Command::new("bash")
            .args(["-c", script])
            .current_dir(folder),
    );
}

#[test]
#[ignore = "make test-clients runs it"]
fn ssh() {
    programs::require(&[("ssh", "openssh-client"), ("ssh-keygen", "openssh-client")]);
    netns::enter();
    let _far = black_hole();
    netns::set_hosts(&format!(
        "{HOSTS}fd81::1 silent.test\n127.0.0.1 silent.test\n"
    ));
    let folder = shared_folder();
    let _server = start_sshd(folder.path());
    let key = folder.path().join("key");
    let options = "-F none -o BatchMode=yes -o UserKnownHostsFile=/dev/null \
                   -o StrictHostKeyChecking=no -o PreferredAuthentications=publickey";
    let ssh = format!("ssh {options} -i {}", key.display());
    let comparison = Comparison::of(&format!(
        "row fallback tries 5 {ssh} -p 2222 two.test true
         row 'IPv6 does not answer' timed 1000 3000 {ssh} -p 2222 -o ConnectTimeout=1 silent.test true
         row 'dead port' {ssh} -p 9 two.test true"
    ));
    let rows: [Row; 3] = [
        same("fallback", "5 of 5"),
        same("IPv6 does not answer", "exit 0 in time"),
        same(
            "dead port",
            "ssh: connect to host two.test port 9: Connection refused",
        ),
    ];
    comparison.assert_rows(&rows);
}

/// Joins a host that drops what is sent to fd81::/64.
fn black_hole() -> FarHost {
    let far = FarHost::start();
    netns::ip(&format!("route add fd81::/64 via {}", FarHost::FAR[1]));
    far.inside(|| netns::ip("route add blackhole fd81::/64"));
    far
}

/// Starts sshd at IPv4 only, for the user and the key of this folder. The mount namespace is the
/// test's.
fn start_sshd(folder: &Path) -> Server {
    const SSHD: &str = "/usr/sbin/sshd";
    assert!(Path::new(SSHD).exists(), "apt-get install openssh-server");
    for name in ["key", "host"] {
        let path = folder.join(name);
        prepare(
            Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(&path),
        );
    }
    let path = folder.display();
    let configuration = format!(
        "Port 2222\nListenAddress 127.0.0.1\nHostKey {path}/host\nAuthorizedKeysFile {path}/key.pub\n\
         StrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\nMaxStartups 100\n"
    );
    fs::write(folder.join("sshd_config"), configuration).expect("the configuration is written");
    // sshd wants this folder to be root's alone.
    prepare(Command::new("sh").args(["-c", "mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd"]));
    let mut command = Command::new(SSHD);
    command.args(["-D", "-f"]).arg(folder.join("sshd_config"));
    Server::start(&mut command, "127.0.0.1:2222")
}
