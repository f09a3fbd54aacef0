//! Datagrams of sockets that are bound to an address, a port or a device; of every size; and those
//! that are not redirected.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use e2e::policy::both_families;
use e2e::{Host, netns, wait};
use sidetrack_engine::counter::Counter;
use sidetrack_engine::{Config, RegisteredService};
use sidetrack_policy::{Action, Condition, Field, LayerKind, Value};

fn echoing(test: &str) -> (Host, RegisteredService) {
    echoing_with(test, Config::default())
}

fn echoing_with(test: &str, config: Config) -> (Host, RegisteredService) {
    netns::enter();
    let mut host = Host::with_config(test, config);
    let service = host.service("inspect");
    host.echo_datagrams(&service);
    host.redirect_datagrams(&[&service]);
    (host, service)
}

#[test]
fn datagrams_from_a_bound_source_are_redirected() {
    let (host, _) = echoing("datagram_bound");
    let _device = netns::veth("wan");
    netns::ip("address add 192.0.2.7/24 dev wan");
    netns::ip("address add 2001:db8::7/64 dev wan nodad");
    for (to, source) in [
        ("10.1.2.3:53", "192.0.2.7:4000"),
        ("10.1.2.3:53", "127.0.0.9:4000"),
        ("10.1.2.3:53", "0.0.0.0:4000"),
        ("[fd00::1]:53", "[2001:db8::7]:4000"),
        ("[fd00::1]:53", "[::1]:4000"),
        ("[fd00::1]:53", "[::]:4000"),
    ] {
        for extra in [&[][..], &["--connected"]] {
            let report = host
                .client(&[&["datagrams", to, "--bind", source], extra].concat())
                .json();
            assert_eq!(report["reply"], to, "{source}: {report}");
            assert_eq!(report["from"], to, "{source}: {report}");
        }
    }
    assert_eq!(host.count(Counter::DatagramsForged), 0);
}

/// The kernel chooses the route before it runs the sendmsg hook. So the first send is interrupted,
/// and the program sends again. The connect hook runs before the route is chosen. The proxy sees
/// the device.
#[test]
fn socket_bound_to_a_device_is_redirected() {
    netns::enter();
    let mut host = Host::new("datagram_device");
    let service = host.service("inspect");
    let proxy = host.echo_datagrams(&service);
    host.redirect_datagrams(&[&service]);
    let device = netns::veth("wan");
    netns::ip("address add 192.0.2.7/24 dev wan");
    for extra in [&[][..], &["--connected"]] {
        let report = host
            .client(&[&["datagrams", "192.0.2.9:53", "--device", "wan"], extra].concat())
            .json();
        assert_eq!(report["reply"], "192.0.2.9:53", "{report}");
    }
    assert_eq!(host.count(Counter::DatagramsUnrouted), 1);
    let interfaces: Vec<_> = proxy
        .flows()
        .iter()
        .map(|flow| flow.bound_interface())
        .collect();
    assert_eq!(interfaces, [Some(device); 2]);
    host.client(&["datagrams", "192.0.2.9:53"]).json();
    assert_eq!(proxy.flows()[2].bound_interface(), None);
}

/// A socket that received the first datagram from a peer is a server's. Its answers to that peer
/// are not redirected, whether it connects for them or not. Its datagrams to other addresses are.
#[test]
fn servers_answers_are_not_redirected() {
    let (host, _) = echoing("datagram_server");
    let script = "
import socket, sys
v6 = ':' in sys.argv[1]
server = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
server.settimeout(15)
server.bind((sys.argv[1], 0))
print(server.getsockname()[1], flush=True)
for _ in range(2):
    data, peer = server.recvfrom(100)
    server.sendto(data, peer)
elsewhere = (('::ffff:' if v6 else '') + '10.1.2.3', 53)
server.sendto(b'own', elsewhere)
data, peer = server.recvfrom(100)
assert (data, peer[:2]) == (b'own', elsewhere), (data, peer)
print(0, flush=True)
data, peer = server.recvfrom(100)
server.connect(peer)
server.send(data)
assert server.getpeername() == peer
";
    for (bind, ip) in [("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("::", "::1")] {
        let mut server = host.run(&["python3", "-c", script, bind]);
        let port = server.json_line().as_u64().expect("a port") as u16;
        host.leave_scope();
        let peers = [(); 2].map(|()| UdpSocket::bind((ip, 0)).unwrap());
        host.enter_service_cgroup();
        for (round, peer) in [&peers[0], &peers[0], &peers[1]].into_iter().enumerate() {
            if round == 2 {
                server.json_line(); // the server has sent a datagram elsewhere
            }
            peer.set_read_timeout(Some(Duration::from_secs(15)))
                .unwrap();
            peer.connect((ip, port)).unwrap();
            peer.send(b"question").unwrap();
            let mut buffer = [0; 16];
            let length = peer.recv(&mut buffer).expect("the server answers");
            assert_eq!(&buffer[..length], b"question");
        }
        let outcome = server.wait();
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    }
    assert_eq!(host.count(Counter::Redirected), 3);
}

#[test]
fn datagrams_of_every_size_arrive_whole() {
    let (host, _) = echoing("datagram_sizes");
    for mtu in ["65536", "1500"] {
        netns::ip(&format!("link set lo mtu {mtu}")); // with 1500, large datagrams are fragmented
        for to in ["10.1.2.3:53", "[fd00::1]:53"] {
            for size in ["0", "1", "1472", "65507"] {
                let report = host.client(&["datagrams", to, "--size", size]).json();
                assert_eq!(report["length"].to_string(), size, "{report}");
            }
        }
    }
    let report = host
        .client(&["datagrams", "10.1.2.3:53", "--size", "65508"])
        .json();
    assert_eq!(report["errno"], libc::EMSGSIZE, "{report}");
}

#[test]
fn send_to_port_0_fails_as_without_sidetrack() {
    let (host, _) = echoing("datagram_port_0");
    let report = host.client(&["datagrams", "10.1.2.3:0"]).json();
    assert_eq!(report["errno"], libc::EINVAL, "{report}");
    assert_eq!(host.count(Counter::Redirected), 0);
}

#[test]
fn segments_of_one_send_arrive_as_separate_datagrams() {
    let (host, _) = echoing("datagram_segments");
    // With option 103 (UDP_SEGMENT) one call sends ten datagrams. Option 104 (UDP_GRO) and
    // MSG_CONFIRM must make no difference.
    let script = "
import socket
for family, to in ((socket.AF_INET, ('10.1.2.3', 53)), (socket.AF_INET6, ('fd00::1', 53))):
    client = socket.socket(family, socket.SOCK_DGRAM)
    client.settimeout(15)
    client.setsockopt(17, 103, 100)
    client.sendto(bytes(1000), to)
    got = [client.recvfrom(2000) for _ in range(10)]
    assert all(len(data) == 100 and source[:2] == to for data, source in got), got
    client.setsockopt(17, 104, 1)
    client.sendto(b'x', socket.MSG_CONFIRM, to)
    assert client.recvfrom(10)[0] == b'x'
";
    let outcome = host.run(&["python3", "-c", script]).wait();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}

#[test]
fn multicast_is_not_redirected_unless_a_filter_names_the_group() {
    let (mut host, service) = echoing("datagram_groups");
    netns::ip("route add 224.0.0.0/4 dev lo");
    let receiver = UdpSocket::bind("0.0.0.0:5353").unwrap();
    let group = Ipv4Addr::new(224, 0, 0, 251);
    receiver
        .join_multicast_v4(&group, &Ipv4Addr::LOCALHOST)
        .unwrap();
    receiver
        .set_read_timeout(Some(Duration::from_secs(15)))
        .unwrap();
    let report = host
        .client(&["datagrams", "224.0.0.251:5353", "--no-reply"])
        .json();
    assert_eq!(report["ok"], true, "{report}");
    let mut buffer = [0; 64];
    let length = receiver.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"224.0.0.251:5353");
    assert_eq!(host.count(Counter::Redirected), 0);

    let named = Condition::equal(
        Field::RemoteAddress,
        Value::Prefix("224.0.0.0/4".parse().unwrap()),
    );
    let key = host
        .engine()
        .services()
        .find(|(number, _)| *number == service.number)
        .unwrap()
        .1
        .key;
    let filters = both_families(
        LayerKind::ConnectRedirect,
        1,
        Action::Redirect(key),
        &[named],
    );
    host.commit(&filters[..1], &[]);
    let report = host.client(&["datagrams", "224.0.0.251:5353"]).json();
    assert_eq!(report["reply"], "224.0.0.251:5353", "{report}");
    assert_eq!(report["from"], "224.0.0.251:5353", "{report}");
}

#[test]
fn idle_flow_ends_and_the_next_datagram_makes_a_new_one() {
    let idle = Duration::from_millis(300);
    let config = Config {
        idle,
        ..Config::default()
    };
    let (mut host, _) = echoing_with("datagram_idle", config);
    let to = "10.1.2.3:53";
    let mut client = host.client(&["datagrams", to, "--stepwise", "--times", "3"]);
    for round in 1..=3 {
        client.send_line("");
        assert_eq!(client.json_line()["reply"], to);
        assert_eq!(host.count(Counter::Redirected), round);
        wait::until("the flow is idle", || open_flows(&mut host) == 0);
    }
    // A connected socket keeps its flow.
    let mut client = host.client(&["datagrams", to, "--stepwise", "--connected", "--times", "2"]);
    client.send_line("");
    assert_eq!(client.json_line()["reply"], to);
    let started = std::time::Instant::now();
    wait::until("the idle time-out has passed", || {
        started.elapsed() > 3 * idle
    });
    assert_eq!(open_flows(&mut host), 1);
    client.wait();
    wait::until("the flow of the closed socket has ended", || {
        open_flows(&mut host) == 0
    });
}

fn open_flows(host: &mut Host) -> usize {
    let flows = host.engine().flows().expect("the flows are readable");
    flows.iter().filter(|flow| !flow.closed).count()
}

#[test]
fn flows_of_a_closed_socket_end() {
    let (mut host, _) = echoing("datagram_closed");
    let many = ["spray", "--destinations", "50", "--first", "10.0.0.1:53"];
    assert_eq!(host.client(&many).json()["answered"], 50);
    wait::until("all flows have ended", || open_flows(&mut host) == 0);
    assert_eq!(host.count(Counter::Redirected), 50);
}

#[test]
fn datagrams_beyond_the_limit_of_flows_are_refused_and_counted() {
    let config = Config {
        flows_max: 64,
        ..Config::default()
    };
    let (host, _) = echoing_with("datagram_full", config);
    let many = ["flood", "--datagrams", "1000000", "--first", "10.0.0.1:53"];
    let report = host.client(&many).json();
    let sent = report["sent"].as_u64().unwrap();
    assert_eq!(sent, 64, "{report}");
    assert_eq!(report["refused"], 1_000_000 - sent, "{report}");
    assert_eq!(report["errno"], libc::ENOBUFS, "{report}");
    assert_eq!(host.count(Counter::FlowsFull), 1_000_000 - sent);
    // The client's socket is closed, so there is room again, and none of its flows is mistaken for
    // a new one.
    let again = ["spray", "--destinations", "64", "--first", "10.0.0.1:53"];
    let report = host.client(&again).json();
    assert_eq!(
        (&report["answered"], &report["mixed_up"]),
        (&64.into(), &0.into())
    );
}
