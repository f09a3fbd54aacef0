//! Filters of users that are neither root nor members of `access.host_group` apply to the connections
//! of these users only.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use e2e::policy::both_families;
use e2e::{Client, Daemon, Host, Origin, client_binary, wait};
use serde_json::Value;
use sidetrack_engine::counter::Counter;
use sidetrack_engine::event::EventKind;
use sidetrack_policy::{Action, Filter, LayerKind};

/// The user and the group of `nobody`.
const MEMBER: u32 = 65_534;
/// A user without any filters.
const OTHER: u32 = 65_533;

/// The user ids with which a program runs.
#[derive(Clone, Copy, Debug)]
struct Ids {
    real: u32,
    effective: u32,
}

/// The program runs with the rights of one user.
fn plain(uid: u32) -> Ids {
    Ids {
        real: uid,
        effective: uid,
    }
}

/// Who is not concerned by the filters of [`MEMBER`]. The third runs as a set-user-ID program of root
/// that the member has started, the fourth as a program of root that has taken the member's rights.
const OTHERS: [Ids; 4] = [
    Ids {
        real: 0,
        effective: 0,
    },
    Ids {
        real: OTHER,
        effective: OTHER,
    },
    Ids {
        real: MEMBER,
        effective: 0,
    },
    Ids {
        real: 0,
        effective: MEMBER,
    },
];

/// Starts a program in the cgroup for clients with these ids.
fn run_as(host: &Host, ids: Ids, program: &[&str]) -> Client {
    let (real, effective) = (ids.real.to_string(), ids.effective.to_string());
    let set = ["setpriv", "--ruid", &real, "--euid", &effective];
    host.run(&[&set[..], program].concat())
}

/// The report of the client program with these ids.
fn client_as(host: &Host, ids: Ids, arguments: &[&str]) -> Value {
    let client = client_binary().display().to_string();
    run_as(host, ids, &[&[client.as_str()], arguments].concat()).json()
}

/// Filters at both families of a layer that are restricted to [`MEMBER`].
fn restricted(kind: LayerKind, action: Action) -> [Filter; 2] {
    both_families(kind, 1, action, &[]).map(|filter| Filter {
        only_user: Some(MEMBER),
        ..filter
    })
}

/// Every way in which a program can be refused: the arguments of the client program.
fn attempts(to: &str) -> Vec<Vec<&str>> {
    let any = if to.starts_with('[') {
        "[::1]:0"
    } else {
        "127.0.0.1:0"
    };
    vec![
        vec!["connect", to, "--send", "x", "--bind", any],
        vec!["datagrams", to, "--bind", any, "--no-reply"],
        vec!["datagrams", to, "--bind", any, "--no-reply", "--connected"],
    ]
}

fn blocks_its_user_only(test: &str, address: &str) {
    let origin = Origin::start(address);
    let to = origin.address.to_string();
    let mut host = Host::new(test);
    for kind in [
        LayerKind::BindRedirect,
        LayerKind::ConnectRedirect,
        LayerKind::AuthConnect,
    ] {
        host.commit(&restricted(kind, Action::Block), &[]);
        for attempt in attempts(&to) {
            let report = client_as(&host, plain(MEMBER), &attempt);
            assert_eq!(report["errno"], libc::EACCES, "{kind:?} {attempt:?}");
            for ids in OTHERS {
                let report = client_as(&host, ids, &attempt);
                let errno = &report["errno"];
                assert!(errno.is_null(), "{kind:?} {ids:?} {attempt:?}: {report}");
            }
        }
    }
}

#[test]
fn a_restricted_block_refuses_programs_of_its_user_only_over_ipv4() {
    blocks_its_user_only("users4", "127.0.0.1:0");
}

#[test]
fn a_restricted_block_refuses_programs_of_its_user_only_over_ipv6() {
    blocks_its_user_only("users6", "[::1]:0");
}

/// A server of TCP and of UDP, which prints its ports. It ends when standard input does.
const SERVER: &str = "
import json, socket, sys, threading
tcp = socket.create_server(('127.0.0.1', 0))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(('127.0.0.1', 0))
def serve():
    while True:
        tcp.accept()[0].close()
threading.Thread(target=serve, daemon=True).start()
print(json.dumps([tcp.getsockname()[1], udp.getsockname()[1]]), flush=True)
sys.stdin.read()
";

/// Connects to the server, and sends a datagram to it, as root and from outside of its program.
fn visit(ports: &Value) {
    let address = |index: usize| {
        let port = ports[index].as_u64().expect("a port") as u16;
        SocketAddr::from(([127, 0, 0, 1], port))
    };
    let stream = TcpStream::connect(address(0)).expect("the server listens");
    let mut end = Vec::new();
    std::io::Read::read_to_end(&mut &stream, &mut end).expect("the server closes the connection");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    socket
        .send_to(b"x", address(1))
        .expect("the server has a socket");
}

#[test]
fn a_restricted_filter_matches_at_the_layers_of_sockets_of_its_user_only() {
    let mut host = Host::new("users_sockets");
    let kinds = [
        LayerKind::AuthRecvAccept,
        LayerKind::FlowEstablished,
        LayerKind::EndpointClosure,
    ];
    let filters = kinds.map(|kind| restricted(kind, Action::Inspect));
    host.commit(&filters.concat(), &[]);
    let serve = |host: &Host, ids| {
        let mut server = run_as(host, ids, &["/usr/bin/python3", "-c", SERVER]);
        visit(&server.json_line());
        server.wait();
    };
    for ids in OTHERS {
        serve(&host, ids);
        assert_eq!(host.count(Counter::Inspected), 0, "{ids:?}");
    }
    serve(&host, plain(MEMBER));
    // Each of the three layers, for the connection and for the datagram.
    wait::until("all layers were classified", || {
        host.count(Counter::Inspected) >= 6
    });
    let mut layers = std::collections::BTreeMap::new();
    let events = host.engine().events(Duration::from_millis(1));
    for event in events.expect("events are readable") {
        assert_eq!((event.kind, event.uid), (EventKind::Inspected, MEMBER));
        *layers
            .entry(event.layer.map(|layer| layer.kind))
            .or_insert(0) += 1;
    }
    for kind in kinds {
        assert_eq!(layers.get(&Some(kind)), Some(&2), "{kind:?}: {layers:?}");
    }
}

/// Runs `sidetrack ARGUMENTS` as a user, in the group of [`MEMBER`].
fn sidetrack_as(daemon: &Daemon, uid: u32, arguments: &[&str]) -> e2e::Outcome {
    let sidetrack = e2e::run::sidetrack();
    let (uid, gid) = (uid.to_string(), MEMBER.to_string());
    let output = std::process::Command::new("setpriv")
        .args(["--reuid", &uid, "--regid", &gid, "--clear-groups"])
        .arg(sidetrack)
        .args(arguments)
        .env("SIDETRACK_SOCKET", daemon.socket())
        .output();
    output.expect("setpriv starts").into()
}

/// A policy that redirects everything to a service without a proxy.
const POLICY: &str = "
provider = [{ name = 'mine' }]
service = [{ name = 'inspect', provider = 'mine', records_bound = true }]
filter = [{ name = 'all', provider = 'mine', layer = 'connect-redirect', protocol = 'tcp',
            action = { redirect = 'inspect' } }]
";

#[test]
fn a_member_redirects_and_names_nothing_of_other_users() {
    let origin = Origin::start("127.0.0.1:0");
    let host = Host::without_engine("users_daemon");
    let daemon = Daemon::attached_with(&host, "[access]\nwrite_group = \"nogroup\"\n");
    let policy = daemon
        .write_file("member.toml", POLICY)
        .display()
        .to_string();
    let applied = sidetrack_as(&daemon, MEMBER, &["apply", &policy]);
    assert_eq!(applied.code, Some(0), "{applied:?}");
    let to = origin.address.to_string();
    let attempt = ["connect", &to, "--send", "x"];
    let report = client_as(&host, plain(MEMBER), &attempt);
    assert_eq!(report["errno"], libc::ECONNREFUSED, "redirected: {report}");
    for ids in OTHERS {
        let report = client_as(&host, ids, &attempt);
        assert_eq!(report["reply"], "originx", "{ids:?}: {report}");
    }
    let root = daemon.write_file(
        "root.toml",
        "filter = [{ name = 'web', layer = 'connect-redirect', remote_port = 80,
          action = { redirect = 'inspect' } }]",
    );
    let refused = daemon.sidetrack(&["apply", &root.display().to_string()]);
    assert!(
        refused.stderr.contains("there is no service \"inspect\""),
        "root's name is not the member's service: {refused:?}"
    );
    let own = "service = [{ name = 'inspect' }]\n";
    let text = std::fs::read_to_string(&root).expect("the file was written");
    let root = daemon.write_file("root.toml", own.to_owned() + &text);
    let applied = daemon.sidetrack(&["apply", &root.display().to_string()]);
    assert_eq!(applied.code, Some(0), "{applied:?}");
    let other = sidetrack_as(&daemon, OTHER, &["filter", "rm", "all"]);
    assert_ne!(other.code, Some(0), "another member may not: {other:?}");
    let shown = daemon.sidetrack(&["filter", "ls", "--json"]);
    let filters: Value = serde_json::from_str(&shown.stdout).expect("JSON");
    for filter in filters.as_array().expect("a list") {
        let only_user = match filter["user"].as_u64() {
            Some(0) => Value::Null,
            user => user.into(),
        };
        assert_eq!(filter["only_user"], only_user, "{filter}");
    }
}
