//! SYNs that no client has sent, to a listener that holds connects. None of them may open or disturb a
//! flow, and all are counted.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::thread;

use e2e::{Host, netns, wait};
use sidetrack::Listener;
use sidetrack_engine::counter::Counter;

use crate::packet::{RawSender, Sniffer, Syn};
use crate::{is_full, numbers, start};

/// A source that no program uses.
const SPOOFED: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 0);

/// Number of SYNs of each kind.
fn count() -> u32 {
    match is_full() {
        true => 20_000,
        false => 2_000,
    }
}

/// A service that pends, whose proxy answers each connect, and the target of its IPv4 listener.
fn answering(test: &str) -> (Host, u16) {
    let mut host = start(test);
    let (service, sdk) = host.pended_service("pended");
    let listener = Listener::bind(&sdk).expect("the listener is marked");
    let addresses = listener.addresses().expect("the listener is bound");
    host.redirect_all(&[&service]);
    thread::spawn(move || numbers::answer_each(&listener));
    (host, addresses[0].port())
}

/// A raw socket outside of the scope. Inside, it would be a sender of the service.
fn attacker(host: &Host) -> RawSender {
    host.leave_scope();
    let attacker = RawSender::new();
    host.enter_service_cgroup();
    attacker
}

/// The number-th of the addresses that flows' targets have: 127.1.0.0 to 127.127.255.255.
fn target(number: u32, port: u16) -> SocketAddrV4 {
    let [_, a, b, c] = number.wrapping_mul(0x9e37_79b9).to_be_bytes();
    SocketAddrV4::new(Ipv4Addr::new(127, 1 + a % 127, b, c), port)
}

/// The number-th spoofed source.
fn source(number: u32) -> SocketAddrV4 {
    let address = Ipv4Addr::from_bits(SPOOFED.to_bits() + number % 65_536);
    SocketAddrV4::new(address, 1024 + (number % 60_000) as u16)
}

/// A load of one thread, for a client next to an attack.
fn normal_clients(host: &Host) -> serde_json::Value {
    let arguments = ["storm", "--threads", "1", "--count", "200"];
    let report = host.client(&arguments).json();
    assert_eq!(report["good"], 200, "{report}");
    report
}

/// Sends SYNs in a thread while a normal client connects, and checks that it is not disturbed, and that
/// this number of SYNs is counted as forged.
fn attack(host: &Host, forged: u32, send: impl FnOnce() + Send) {
    let forged = u64::from(forged);
    let report = thread::scope(|scope| {
        scope.spawn(send);
        normal_clients(host)
    });
    let longest = report["longest_ms"].as_u64().expect("a number");
    assert!(
        longest < 1000,
        "a client had to send its SYN again: {report}"
    );
    assert_eq!(host.count(Counter::Pended), 200, "only the client's own");
    assert_eq!(host.count(Counter::Completed), 200, "only the client's own");
    // A CPU drops packets if more than net.core.netdev_max_backlog wait for it.
    wait::until("the SYNs are counted", || {
        host.count(Counter::SynsForged) >= forged - forged / 20
    });
    assert!(host.count(Counter::SynsForged) <= forged);
    wait::until("no flow is left", || host.flow_count() == 0);
}

#[test]
fn storm_of_spoofed_syns_is_dropped_and_counted() {
    let (host, port) = answering("attack_spoofed");
    let attacker = attacker(&host);
    attack(&host, count(), || {
        for number in 0..count() {
            attacker.send(&Syn::new(source(number), target(number, port)));
        }
    });
}

#[test]
fn storm_of_syns_with_data_is_dropped_and_counted() {
    let (host, port) = answering("attack_data");
    let attacker = attacker(&host);
    attack(&host, count(), || {
        for number in 0..count() {
            let data = vec![b'x'; 1 + number as usize % 1000];
            attacker.send(&Syn::new(source(number), target(number, port)).with_data(data));
        }
    });
}

#[test]
fn storm_of_syns_with_bad_checksums_is_dropped() {
    let (host, port) = answering("attack_checksums");
    let attacker = attacker(&host);
    let before = netns::protocol_counter("Tcp:", "InCsumErrors");
    attack(&host, 0, || {
        for number in 0..count() {
            attacker.send(&Syn::new(source(number), target(number, port)).with_bad_checksum());
        }
    });
    // The kernel itself drops them, before any program sees them.
    let expected = u64::from(count() - count() / 20);
    wait::until("the kernel has dropped them", || {
        netns::protocol_counter("Tcp:", "InCsumErrors") - before >= expected
    });
}

#[test]
fn storm_of_fragments_is_dropped_and_counted() {
    let (host, port) = answering("attack_fragments");
    let attacker = attacker(&host);
    attack(&host, count() - count() / 20, || {
        for number in 0..count() {
            let syn = Syn::new(source(number), target(number, port)).with_data(vec![b'x'; 64]);
            let [first, second] = syn.fragments(number as u16);
            attacker.send_bytes(&first, syn.target());
            // Of some SYNs the rest never comes. Of many, the kernel would not keep the first part.
            if number % 20 != 0 {
                attacker.send_bytes(&second, syn.target());
            }
        }
    });
}

#[test]
fn storm_of_syns_straight_to_the_listener_is_dropped_and_counted() {
    let (host, port) = answering("attack_straight");
    let attacker = attacker(&host);
    let listener = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    // They have no flow. If the kernel answered them, the accept queue would fill.
    attack(&host, count(), || {
        for number in 0..count() {
            attacker.send(&Syn::new(source(number), listener));
        }
    });
}

#[test]
fn a_held_connect_is_opened_by_no_syn_of_others() {
    let mut host = start("attack_held");
    let (service, sdk) = host.pended_service("pended");
    let listener = Listener::bind(&sdk).expect("the listener is marked");
    host.redirect_all(&[&service]);
    let attacker = attacker(&host);
    let sniffer = Sniffer::new();
    let mut client = host.client(&["connect", "10.1.2.3:80"]);
    let pending = listener.pended().expect("the connect is held");
    let syn = sniffer.syn_to(listener.addresses().expect("it is bound")[0].port());

    // A replay is the client's own SYN: it is held again, and the flow stays one.
    for _ in 0..1000 {
        attacker.send(&syn);
    }
    assert_eq!(host.count(Counter::SynsForged), 0);
    // Other sequence numbers are not the client's.
    for number in 1..=1000 {
        attacker.send(&syn.with_sequence(syn.sequence().wrapping_add(number)));
    }
    assert_eq!(host.count(Counter::SynsForged), 1000);
    assert!(listener.try_pended().expect("notices are read").is_none());
    assert_eq!((host.count(Counter::Pended), host.flow_count()), (1, 1));
    assert_eq!(host.count(Counter::Completed), 0);
    assert!(client.child().try_wait().expect("it runs").is_none());

    drop(pending.accept().expect("the client is accepted"));
    assert_eq!(client.json()["ok"], true);
    // After the end, the SYN opens nothing either.
    wait::until("the flow has ended", || host.flow_count() == 0);
    attacker.send(&syn);
    assert!(listener.try_pended().expect("notices are read").is_none());
    let nothing = listener.try_accept(0).expect("the listener is open");
    assert!(nothing.is_none(), "{nothing:?}");
    assert_eq!((host.count(Counter::Pended), host.flow_count()), (1, 0));
}
