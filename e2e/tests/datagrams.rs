//! Datagrams: they are redirected, answered and relayed.

use std::time::Duration;

use e2e::policy::{prefix, redirect_udp};
use e2e::{EchoOrigin, Host, netns, wait};
use sidetrack::Batch;
use sidetrack_engine::Cgroup;
use sidetrack_engine::counter::Counter;
use tokio::time::timeout;

#[test]
fn answer_of_the_proxy_seems_to_come_from_the_original_destination() {
    netns::enter();
    let mut host = Host::new("datagram");
    let service = host.service("inspect");
    let proxy = host.echo_datagrams(&service);
    host.redirect_datagrams(&[&service]);
    for to in ["10.1.2.3:53", "[fd00::1]:53"] {
        for arguments in [&["datagrams", to][..], &["datagrams", to, "--connected"]] {
            let report = host.client(arguments).json();
            assert_eq!(report["reply"], to, "{report}");
            assert_eq!(report["from"], to, "{report}");
            if arguments.len() == 3 {
                assert_eq!(report["peer"], to, "{report}");
            }
        }
    }
    let flows = proxy.flows();
    assert_eq!(flows.len(), 4);
    assert_eq!(host.count(Counter::Redirected), 4);
    assert_eq!(host.count(Counter::HandedOver), 4);
    assert!(flows.iter().all(|flow| flow.is_datagrams()));
    assert_eq!(flows[0].original_destination().to_string(), "10.1.2.3:53");
}

#[test]
fn ipv4_destination_of_an_ipv6_socket_is_redirected() {
    netns::enter();
    let mut host = Host::new("datagram_mapped");
    let service = host.service("inspect");
    let _proxy = host.echo_datagrams(&service);
    host.redirect_datagrams(&[&service]);
    for extra in [&[][..], &["--connected"]] {
        let report = host
            .client(&[&["datagrams", "10.1.2.3:53", "--mapped"], extra].concat())
            .json();
        assert_eq!(report["reply"], "10.1.2.3:53", "{report}");
        assert_eq!(report["from"], "[::ffff:10.1.2.3]:53", "{report}");
    }
}

#[tokio::test]
async fn async_listener_receives_and_answers() {
    netns::enter();
    let mut host = Host::new("datagram_tokio");
    let service = host.service("inspect");
    let listener = sidetrack::tokio::DatagramListener::bind(&e2e::sdk_service(&service)).unwrap();
    host.redirect_datagrams(&[&service]);
    let mut batch = Batch::new(8, 2048);
    for to in ["10.1.2.3:53", "[fd00::1]:53"] {
        // A receive that is dropped while it waits takes no datagram.
        let dropped = timeout(Duration::from_millis(1), listener.receive(&mut batch)).await;
        assert!(dropped.is_err());
        let client = host.client(&["datagrams", to, to, to]);
        let (mut answered, mut first) = (0, 0);
        while answered < 3 {
            let received = timeout(wait::DEADLINE, listener.receive(&mut batch)).await;
            received
                .expect("a datagram arrives in time")
                .expect("receive works");
            let answers: Vec<_> = (batch.iter())
                .map(|datagram| (&**datagram.flow(), datagram.payload()))
                .collect();
            assert_eq!(listener.answer_all(&answers).await.unwrap(), answers.len());
            answered += answers.len();
            first += batch.iter().filter(|datagram| datagram.is_first()).count();
        }
        assert_eq!((answered, first), (3, 1));
        for report in client.json().as_array().unwrap() {
            assert_eq!(
                (&report["reply"], &report["from"]),
                (&to.into(), &to.into())
            );
        }
    }
    let port = listener.addresses().unwrap()[0].port();
    host.leave_scope();
    let forger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    host.enter_service_cgroup();
    forger.send_to(b"forged", ("127.0.0.1", port)).unwrap();
    host.client(&["datagrams", "10.1.2.3:53", "--no-reply"])
        .json();
    let received = timeout(wait::DEADLINE, listener.receive(&mut batch)).await;
    received
        .expect("a datagram arrives in time")
        .expect("receive works");
    assert_eq!(
        batch.iter().next().unwrap().payload(),
        b"10.1.2.3:53",
        "the forged datagram is left out"
    );
    assert_eq!(listener.refused(), 1);
}

#[test]
fn three_proxies_in_a_chain_each_see_a_datagram_once() {
    netns::enter();
    netns::ip("address add 192.0.2.1/32 dev lo");
    netns::ip("address add 2001:db8::1/128 dev lo nodad");
    let mut host = Host::new("datagram_chain");
    host.leave_scope();
    let origins = ["192.0.2.1:0", "[2001:db8::1]:0"].map(EchoOrigin::start);
    host.enter_service_cgroup();
    let services = ["a", "b", "c"].map(|name| host.service(name));
    let proxies = services
        .each_ref()
        .map(|service| host.relay_datagrams(service));
    host.redirect_datagrams(&services.each_ref());
    for origin in &origins {
        let to = origin.address.to_string();
        for extra in [&[][..], &["--connected"]] {
            let report = host
                .client(&[&["datagrams", to.as_str(), "--text", "hello"], extra].concat())
                .json();
            assert_eq!(report["reply"], "hello", "{report}");
            assert_eq!(report["from"], to, "{report}");
        }
        assert_eq!(origin.datagrams(), 2);
    }
    for (index, proxy) in proxies.iter().enumerate() {
        let flows = proxy.flows();
        assert_eq!((flows.len(), proxy.datagrams()), (4, 4));
        assert!(flows.iter().all(|flow| flow.chain().len() == index + 1));
        assert!(
            flows
                .iter()
                .all(|flow| flow.program().comm.to_string() == "client")
        );
    }
}

#[test]
fn answers_from_10000_destinations_to_one_socket_are_not_mixed_up() {
    netns::enter();
    let mut host = Host::new("datagram_many_destinations");
    let service = host.service("inspect");
    let proxy = host.echo_datagrams(&service);
    host.redirect_datagrams(&[&service]);
    for first in ["10.0.0.1:53", "[fd00::1]:53"] {
        let report = host
            .client(&["spray", "--destinations", "10000", "--first", first])
            .json();
        assert_eq!(report["ok"], true, "{report}");
        assert_eq!(report["answered"], 10_000, "{report}");
    }
    assert_eq!(proxy.flows().len(), 20_000);
}

#[test]
fn answers_from_one_destination_to_1000_sockets_are_not_mixed_up() {
    netns::enter();
    let mut host = Host::new("datagram_many_sockets");
    let service = host.service("inspect");
    let proxy = host.echo_datagrams(&service);
    host.redirect_datagrams(&[&service]);
    for extra in [&[][..], &["--connected"]] {
        let report = host
            .client(
                &[
                    &["spray", "--sockets", "1000", "--first", "10.0.0.1:53"],
                    extra,
                ]
                .concat(),
            )
            .json();
        assert_eq!(report["ok"], true, "{report}");
        assert_eq!(report["answered"], 1000, "{report}");
    }
    assert_eq!(proxy.flows().len(), 2000);
}

#[test]
fn forged_datagrams_are_dropped_and_counted() {
    netns::enter();
    let mut host = Host::new("datagram_forged");
    let service = host.service("inspect");
    let proxy = host.echo_datagrams(&service);
    host.redirect_datagrams(&[&service]);
    let mut program = host.client(&["datagrams", "10.1.2.3:53", "--stepwise", "--times", "2"]);
    program.send_line("");
    assert_eq!(program.json_line()["reply"], "10.1.2.3:53");
    let flow = proxy.flows().remove(0);
    let port = proxy.listener.addresses().unwrap()[0].port();
    host.leave_scope(); // datagrams that are sent from outside of the scope are not redirected
    let outside = Cgroup::of_process(None).unwrap();
    let listener = format!("127.0.0.1:{port}");
    let report = host
        .client_in(
            &outside,
            &["forge", &listener, &flow.own_address().to_string()],
        )
        .json();
    assert_eq!(report["answers"], 0, "{report}");
    wait::until("both are counted", || {
        host.count(Counter::DatagramsForged) == 2
    });
    assert_eq!(proxy.listener.refused(), 2);
    program.send_line("");
    assert_eq!(program.json_line()["reply"], "10.1.2.3:53");
    assert_eq!(proxy.flows().len(), 1);
}

#[test]
fn on_absent_applies_to_each_datagram_while_the_proxy_is_absent() {
    netns::enter();
    let mut host = Host::new("datagram_absent");
    let service = host.service("inspect");
    host.redirect_datagrams(&[&service]);
    let report = host.client(&["datagrams", "10.1.2.3:53"]).json();
    assert_eq!(report["errno"], libc::ECONNREFUSED, "{report}");
    assert_eq!(host.count(Counter::AbsentBlocked), 1);

    // One socket sends to one destination while the proxy runs, is killed, and runs again.
    let mut client = host.client(&["datagrams", "10.1.2.3:53", "--stepwise", "--times", "3"]);
    let step = |client: &mut e2e::Client| {
        client.send_line("");
        client.json_line()
    };
    let proxy = host.proxy(&service, "echo-datagrams");
    assert_eq!(step(&mut client)["reply"], "10.1.2.3:53");
    proxy.kill();
    wait::until("the listener is gone", || {
        host.engine().listeners(&service).unwrap().udp() == (0, 0)
    });
    assert_eq!(step(&mut client)["errno"], libc::ECONNREFUSED);
    assert_eq!(host.count(Counter::AbsentBlocked), 2);
    let _again = host.proxy(&service, "echo-datagrams");
    assert_eq!(step(&mut client)["reply"], "10.1.2.3:53");
}

#[test]
fn connected_client_of_a_killed_proxy_is_refused() {
    netns::enter();
    let mut host = Host::new("datagram_died");
    let service = host.service("inspect");
    let proxy = host.proxy(&service, "echo-datagrams");
    host.redirect_datagrams(&[&service]);
    let arguments = [
        "datagrams",
        "10.1.2.3:53",
        "--connected",
        "--stepwise",
        "--times",
        "2",
    ];
    let mut client = host.client(&arguments);
    client.send_line("");
    assert_eq!(client.json_line()["reply"], "10.1.2.3:53");
    proxy.kill();
    wait::until("the listener is gone", || {
        host.engine().listeners(&service).unwrap().udp() == (0, 0)
    });
    client.send_line("");
    assert_eq!(client.json_line()["errno"], libc::ECONNREFUSED);
}

/// A verdict is cached for a socket and a destination, until the policy changes.
#[test]
fn new_policy_applies_to_datagrams_that_the_old_one_permitted() {
    netns::enter();
    let mut host = Host::new("datagram_new_policy");
    host.leave_scope();
    let origins = ["127.0.0.1:0"; 2].map(EchoOrigin::start);
    host.enter_service_cgroup();
    let service = host.service("inspect");
    let port = |index: usize| origins[index].address.port();
    let redirect_port = |port| redirect_udp(&service).ports(port..=port);
    host.set_policy([redirect_port(port(1))]);
    let to = [0, 1].map(|index: usize| origins[index].address.to_string());
    let arguments = ["datagrams", &to[0], &to[1], "--stepwise", "--times", "3"];
    let mut client = host.client(&arguments);
    let round = |client: &mut e2e::Client| {
        client.send_line("");
        [client.json_line(), client.json_line()]
    };
    for _ in 0..2 {
        let [direct, refused] = round(&mut client);
        assert_eq!(direct["reply"], to[0], "{direct}");
        assert_eq!(refused["errno"], libc::ECONNREFUSED, "{refused}");
    }
    host.set_policy([redirect_port(port(0))]);
    let [refused, direct] = round(&mut client);
    assert_eq!(direct["reply"], to[1], "{direct}");
    assert_eq!(refused["errno"], libc::ECONNREFUSED, "{refused}");
    assert_eq!(host.count(Counter::AbsentBlocked), 3);
}

/// An answer to a program's own datagram does not make the program a server, whether the filters
/// were searched for that datagram or not. So the next policy redirects it.
#[test]
fn client_that_has_sent_first_is_redirected_by_the_next_policy() {
    netns::enter();
    let mut host = Host::new("datagram_sent_first");
    host.leave_scope();
    let origin = EchoOrigin::start("127.0.0.1:0");
    host.enter_service_cgroup();
    let service = host.service("inspect");
    let proxy = host.echo_datagrams(&service);
    let to = origin.address.to_string();
    host.set_policy([redirect_udp(&service).remote(prefix("198.51.100.0/24"))]);
    let mut client = host.client(&["datagrams", &to, "--stepwise", "--times", "2"]);
    let step = |client: &mut e2e::Client| {
        client.send_line("");
        client.json_line()
    };
    assert_eq!(step(&mut client)["reply"], to);
    host.redirect_datagrams(&[&service]);
    assert_eq!(step(&mut client)["reply"], to);
    assert_eq!(origin.datagrams(), 1);
    assert_eq!(proxy.flows().len(), 1);
}
