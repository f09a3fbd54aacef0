//! Datagrams: diverted, asked about, answered, and led on.

use std::time::Duration;

use e2e::{EchoOrigin, Host, netns, wait};
use sidetrack::Batch;
use sidetrack_engine::counter::Counter;
use sidetrack_engine::{Cgroup, Filter};
use tokio::time::timeout;

#[test]
fn a_datagram_comes_back_as_from_where_it_went() {
    netns::enter();
    let mut host = Host::new("datagram");
    let service = host.service("inspect");
    let proxy = host.echo_datagrams(&service);
    host.redirect_datagrams(&[&service]);
    for to in ["10.1.2.3:53", "[fd00::1]:53"] {
        for form in [&["datagrams", to][..], &["datagrams", to, "--connected"]] {
            let told = host.client(form).json();
            assert_eq!(told["reply"], to, "{told}");
            assert_eq!(told["from"], to, "{told}");
            if form.len() == 3 {
                assert_eq!(told["peer"], to, "{told}");
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
fn an_ipv4_destination_of_an_ipv6_socket_works() {
    netns::enter();
    let mut host = Host::new("datagram_mapped");
    let service = host.service("inspect");
    let _proxy = host.echo_datagrams(&service);
    host.redirect_datagrams(&[&service]);
    for extra in [&[][..], &["--connected"]] {
        let told = host
            .client(&[&["datagrams", "10.1.2.3:53", "--mapped"], extra].concat())
            .json();
        assert_eq!(told["reply"], "10.1.2.3:53", "{told}");
        assert_eq!(told["from"], "[::ffff:10.1.2.3]:53", "{told}");
    }
}

#[tokio::test]
async fn the_async_listener_takes_and_answers() {
    netns::enter();
    let mut host = Host::new("datagram_tokio");
    let service = host.service("inspect");
    let listener = sidetrack::tokio::DatagramListener::bind(&e2e::sdk(&service)).unwrap();
    host.redirect_datagrams(&[&service]);
    let mut batch = Batch::new(8, 2048);
    for to in ["10.1.2.3:53", "[fd00::1]:53"] {
        // Dropped while it waits, it takes nothing.
        let nothing = timeout(Duration::from_millis(1), listener.receive(&mut batch)).await;
        assert!(nothing.is_err());
        let client = host.client(&["datagrams", to, to, to]);
        let (mut taken, mut first) = (0, 0);
        while taken < 3 {
            let received = timeout(wait::DEADLINE, listener.receive(&mut batch)).await;
            received.expect("in time").expect("receive works");
            let answers: Vec<_> = (batch.iter())
                .map(|one| (&**one.flow(), one.payload()))
                .collect();
            assert_eq!(listener.answer_all(&answers).await.unwrap(), answers.len());
            taken += answers.len();
            first += batch.iter().filter(|one| one.is_first()).count();
        }
        assert_eq!((taken, first), (3, 1));
        for told in client.json().as_array().unwrap() {
            assert_eq!((&told["reply"], &told["from"]), (&to.into(), &to.into()));
        }
    }
    let port = listener.addresses().unwrap()[0].port();
    host.leave();
    let forger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    host.enter_service();
    forger.send_to(b"forged", ("127.0.0.1", port)).unwrap();
    host.client(&["datagrams", "10.1.2.3:53", "--forget"])
        .json();
    let received = timeout(wait::DEADLINE, listener.receive(&mut batch)).await;
    received.expect("in time").expect("receive works");
    assert_eq!(
        batch.iter().next().unwrap().payload(),
        b"10.1.2.3:53",
        "what was forged is left out"
    );
    assert_eq!(listener.refused(), 1);
}

#[test]
fn three_proxies_in_a_chain_each_see_a_datagram_once() {
    netns::enter();
    netns::ip("address add 192.0.2.1/32 dev lo");
    netns::ip("address add 2001:db8::1/128 dev lo nodad");
    let mut host = Host::new("datagram_chain");
    host.leave();
    let origins = ["192.0.2.1:0", "[2001:db8::1]:0"].map(EchoOrigin::start);
    host.enter_service();
    let services = ["a", "b", "c"].map(|name| host.service(name));
    let proxies = services
        .each_ref()
        .map(|service| host.relay_datagrams(service));
    host.redirect_datagrams(&services.each_ref());
    for origin in &origins {
        let to = origin.address.to_string();
        for extra in [&[][..], &["--connected"]] {
            let told = host
                .client(&[&["datagrams", to.as_str(), "--text", "hello"], extra].concat())
                .json();
            assert_eq!(told["reply"], "hello", "{told}");
            assert_eq!(told["from"], to, "{told}");
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
fn one_socket_to_10000_destinations_crosses_nothing() {
    netns::enter();
    let mut host = Host::new("datagram_many_destinations");
    let service = host.service("inspect");
    let proxy = host.echo_datagrams(&service);
    host.redirect_datagrams(&[&service]);
    for first in ["10.0.0.1:53", "[fd00::1]:53"] {
        let told = host
            .client(&["spray", "--destinations", "10000", "--first", first])
            .json();
        assert_eq!(told["ok"], true, "{told}");
        assert_eq!(told["answered"], 10_000, "{told}");
    }
    assert_eq!(proxy.flows().len(), 20_000);
}

#[test]
fn a_thousand_sockets_to_one_destination_cross_nothing() {
    netns::enter();
    let mut host = Host::new("datagram_many_sockets");
    let service = host.service("inspect");
    let proxy = host.echo_datagrams(&service);
    host.redirect_datagrams(&[&service]);
    for extra in [&[][..], &["--connected"]] {
        let told = host
            .client(
                &[
                    &["spray", "--sockets", "1000", "--first", "10.0.0.1:53"],
                    extra,
                ]
                .concat(),
            )
            .json();
        assert_eq!(told["ok"], true, "{told}");
        assert_eq!(told["answered"], 1000, "{told}");
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
    program.tell("");
    assert_eq!(program.line()["reply"], "10.1.2.3:53");
    let flow = proxy.flows().remove(0);
    let port = proxy.listener.addresses().unwrap()[0].port();
    host.leave(); // nobody diverts what is sent from here
    let outside = Cgroup::of_process(None).unwrap();
    let straight = format!("127.0.0.1:{port}");
    let told = host
        .client_in(
            &outside,
            &["forge", &straight, &flow.own_address().to_string()],
        )
        .json();
    assert_eq!(told["answers"], 0, "{told}");
    wait::until("both are counted", || {
        host.count(Counter::DatagramsForged) == 2
    });
    assert_eq!(proxy.listener.refused(), 2);
    program.tell("");
    assert_eq!(program.line()["reply"], "10.1.2.3:53");
    assert_eq!(proxy.flows().len(), 1);
}

#[test]
fn an_absent_proxy_is_absent_from_the_next_datagram_on() {
    netns::enter();
    let mut host = Host::new("datagram_absent");
    let service = host.service("inspect");
    host.set_policy(&[Filter::redirect_datagrams(service.number)]);
    let told = host.client(&["datagrams", "10.1.2.3:53"]).json();
    assert_eq!(told["errno"], libc::ECONNREFUSED, "{told}");
    assert_eq!(host.count(Counter::AbsentBlocked), 1);

    // The same socket, to the same destination, while the proxy comes and goes.
    let mut client = host.client(&["datagrams", "10.1.2.3:53", "--stepwise", "--times", "3"]);
    let step = |client: &mut e2e::Client| {
        client.tell("");
        client.line()
    };
    let proxy = host.proxy(&service, "echo-datagrams");
    assert_eq!(step(&mut client)["reply"], "10.1.2.3:53");
    proxy.kill();
    wait::until("the listener is gone", || {
        host.engine().datagram_listeners(&service).unwrap() == (0, 0)
    });
    assert_eq!(step(&mut client)["errno"], libc::ECONNREFUSED);
    assert_eq!(host.count(Counter::AbsentBlocked), 2);
    let _again = host.proxy(&service, "echo-datagrams");
    assert_eq!(step(&mut client)["reply"], "10.1.2.3:53");
}

#[test]
fn a_connected_client_of_a_proxy_that_died_is_told_so() {
    netns::enter();
    let mut host = Host::new("datagram_died");
    let service = host.service("inspect");
    let proxy = host.proxy(&service, "echo-datagrams");
    host.redirect_datagrams(&[&service]);
    let form = [
        "datagrams",
        "10.1.2.3:53",
        "--connected",
        "--stepwise",
        "--times",
        "2",
    ];
    let mut client = host.client(&form);
    client.tell("");
    assert_eq!(client.line()["reply"], "10.1.2.3:53");
    proxy.kill();
    wait::until("the listener is gone", || {
        host.engine().datagram_listeners(&service).unwrap() == (0, 0)
    });
    client.tell("");
    assert_eq!(client.line()["errno"], libc::ECONNREFUSED);
}

/// What was let go once goes on without a judgement, until the policy or the destination is another.
#[test]
fn a_new_policy_judges_what_was_let_go_before() {
    netns::enter();
    let mut host = Host::new("datagram_passed");
    host.leave();
    let origins = ["127.0.0.1:0"; 2].map(EchoOrigin::start);
    host.enter_service();
    let service = host.service("inspect");
    let port = |at: usize| origins[at].address.port();
    let of_port = |port| Filter {
        ports: Some((port, port)),
        ..Filter::redirect_datagrams(service.number)
    };
    host.set_policy(&[of_port(port(1))]);
    let to = [0, 1].map(|at| origins[at].address.to_string());
    let form = ["datagrams", &to[0], &to[1], "--stepwise", "--times", "3"];
    let mut client = host.client(&form);
    let round = |client: &mut e2e::Client| {
        client.tell("");
        [client.line(), client.line()]
    };
    for _ in 0..2 {
        let [straight, refused] = round(&mut client);
        assert_eq!(straight["reply"], to[0], "{straight}");
        assert_eq!(refused["errno"], libc::ECONNREFUSED, "{refused}");
    }
    host.set_policy(&[of_port(port(0))]);
    let [refused, straight] = round(&mut client);
    assert_eq!(straight["reply"], to[1], "{straight}");
    assert_eq!(refused["errno"], libc::ECONNREFUSED, "{refused}");
    assert_eq!(host.count(Counter::AbsentBlocked), 3);
}

/// An answer to what a program sent makes it no server, whether a filter had been looked at or not.
#[test]
fn who_has_sent_first_is_diverted_by_the_next_policy() {
    netns::enter();
    let mut host = Host::new("datagram_sent_first");
    host.leave();
    let origin = EchoOrigin::start("127.0.0.1:0");
    host.enter_service();
    let service = host.service("inspect");
    let proxy = host.echo_datagrams(&service);
    let to = origin.address.to_string();
    host.set_policy(&[Filter {
        remote: Some("198.51.100.0/24".parse().unwrap()),
        ..Filter::redirect_datagrams(service.number)
    }]);
    let mut client = host.client(&["datagrams", &to, "--stepwise", "--times", "2"]);
    let step = |client: &mut e2e::Client| {
        client.tell("");
        client.line()
    };
    assert_eq!(step(&mut client)["reply"], to);
    host.redirect_datagrams(&[&service]);
    assert_eq!(step(&mut client)["reply"], to);
    assert_eq!(origin.datagrams(), 1);
    assert_eq!(proxy.flows().len(), 1);
}
