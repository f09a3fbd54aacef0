//! Pended connects with the SDK: the client's connect ends as the proxy says, and when it says it.

use std::io::{self, Write};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use e2e::{Client, Host, Origin, relay_pending, wait};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use sidetrack::{Error, Listener, Notice, Pending, WhyAccepted};
use sidetrack_engine::RegisteredService;
use sidetrack_engine::counter::Counter;

/// A port at which nothing listens.
const DEAD: &str = "127.0.0.1:1";

/// A service that pends, its listener, and a policy that redirects all connections to it.
fn pended(test: &str) -> (Host, RegisteredService, Listener) {
    let mut host = Host::new(test);
    let (service, sdk) = host.pended_service("pended");
    let listener = Listener::bind(&sdk).expect("the listener is marked");
    assert!(listener.is_pended(), "{:?}", listener.why_accepted());
    host.redirect_all(&[&service]);
    (host, service, listener)
}

/// Starts a proxy that relays, with the origin's error if there is one.
fn relay_pended(listener: Listener) {
    thread::spawn(move || {
        loop {
            let pending = listener.pended().expect("a connect is held");
            thread::spawn(move || relay_pending(pending));
        }
    });
}

/// Accepts a client, and sends it the address that it asked for.
fn accept_and_answer(pending: Pending) {
    let destination = pending.original_destination().to_string();
    let mut stream = pending.accept().expect("the client is accepted");
    stream
        .write_all(destination.as_bytes())
        .expect("the client reads");
}

/// The ways in which a client connects, with an address that they connect to.
const WAYS: [(&str, &[&str]); 6] = [
    ("127.0.0.1:0", &[]),
    ("127.0.0.1:0", &["--nonblocking"]),
    ("127.0.0.1:0", &["--mapped"]),
    ("127.0.0.1:0", &["--mapped", "--nonblocking"]),
    ("[::1]:0", &[]),
    ("[::1]:0", &["--nonblocking"]),
];

fn client(host: &Host, to: &str, way: &[&str]) -> Client {
    let mut arguments = vec!["connect", to];
    arguments.extend(way);
    host.client(&arguments)
}

#[test]
fn a_connect_that_is_completed_succeeds() {
    let (host, _, listener) = pended("pended_completed");
    relay_pended(listener);
    for (number, (address, way)) in WAYS.iter().enumerate() {
        let origin = Origin::start(address);
        let way = [way, &["--send", "x"][..]].concat();
        let report = client(&host, &origin.address.to_string(), &way).json();
        assert_eq!(report["reply"], "originx", "{way:?}: {report}");
        assert_eq!(origin.accepted(), 1);
        assert_eq!(host.count(Counter::Completed), number as u64 + 1);
    }
    assert_eq!(host.count(Counter::Pended), WAYS.len() as u64);
    assert_eq!(host.count(Counter::SenderRefused), 0);
}

#[test]
fn a_held_connect_waits_and_is_one_flow_although_its_syn_is_sent_again() {
    let (host, _, listener) = pended("pended_held");
    let mut client = host.client(&["connect", "10.1.2.3:80"]);
    let pending = listener.pended().expect("the connect is held");
    assert_eq!(pending.original_destination().to_string(), "10.1.2.3:80");
    let flow = pending.flow().expect("the flow is known");
    assert_eq!(flow.original_destination().to_string(), "10.1.2.3:80");
    assert_eq!(flow.program().comm.to_string(), "client");
    assert_eq!(flow.chain().collect::<Vec<_>>(), ["pended"]);
    assert_eq!(flow.id(), pending.flow_id());
    assert!(!pending.is_gone());
    assert!(pending.deadline() > Instant::now() + Duration::from_secs(60));

    await_notice(&listener, "the SYN is sent again");
    assert!(listener.try_pended().expect("notices are read").is_none());
    assert!(client.child().try_wait().expect("it runs").is_none());

    let mut stream = pending.accept().expect("the client is accepted");
    stream.write_all(b"late").expect("the client reads");
    drop(stream);
    let report = client.json();
    assert_eq!(
        (&report["ok"], &report["reply"]),
        (&true.into(), &"late".into())
    );
    assert_eq!(host.count(Counter::Pended), 1);
}

/// Waits until a notice can be read.
fn await_notice(listener: &Listener, what: &str) {
    let descriptor = listener.pended_fd().expect("the listener pends");
    let mut waited = [PollFd::new(&descriptor, PollFlags::IN)];
    let left = Timespec::try_from(wait::DEADLINE).expect("it is short");
    assert_eq!(poll(&mut waited, Some(&left)), Ok(1), "{what}");
}

#[test]
fn a_refused_connect_has_the_error_of_the_onward_connect() {
    let (host, _, listener) = pended("pended_refused");
    let cases = [
        (libc::ECONNREFUSED, libc::ECONNREFUSED, libc::ECONNREFUSED),
        (libc::ECONNRESET, libc::ECONNREFUSED, libc::ECONNREFUSED),
        (libc::ENETUNREACH, libc::ENETUNREACH, libc::ENETUNREACH),
        (libc::EHOSTUNREACH, libc::EHOSTUNREACH, libc::EHOSTUNREACH),
        (libc::EACCES, libc::EHOSTUNREACH, libc::EACCES), // no code of ICMPv4 gives EACCES
    ];
    for (error, v4, v6) in cases {
        for (address, way) in WAYS {
            let (to, expected) = match address.starts_with('[') {
                true => ("[fd00::1]:80", v6),
                false => ("10.1.2.3:80", v4),
            };
            let client = client(&host, to, way);
            let pending = listener.pended().expect("the connect is held");
            let refused = pending.refuse(&io::Error::from_raw_os_error(error));
            refused.expect("the refusal is sent");
            let report = client.json();
            assert_eq!(report["errno"], expected, "{error} {to} {way:?}: {report}");
        }
    }
    assert_eq!(host.count(Counter::SenderRefused), 0);
    wait::until("no flow is left", || host.flow_count() == 0);
}

#[test]
fn a_connect_to_a_dead_port_is_refused_at_once() {
    let (host, _, listener) = pended("pended_dead");
    relay_pended(listener);
    for way in [&[][..], &["--nonblocking"]] {
        let report = client(&host, DEAD, way).json();
        assert_eq!(report["errno"], libc::ECONNREFUSED, "{report}");
    }
    let report = host.connect("[::1]:1");
    assert_eq!(report["errno"], libc::ECONNREFUSED, "{report}");
}

#[test]
fn after_a_time_out_nothing_is_sent_and_the_client_waits() {
    let (host, _, listener) = pended("pended_silence");
    let client = host.run(&["timeout", "2", "bash", "-c", "exec 3<>/dev/tcp/10.1.2.3/80"]);
    let pending = listener.pended().expect("the connect is held");
    let silence = pending.refuse(&io::Error::from_raw_os_error(libc::ETIMEDOUT));
    silence.expect("nothing is to be sent");
    while host.count(Counter::PendedEnded) == 0 {
        await_notice(&listener, "the SYN is sent again, then the client is gone");
        assert!(listener.try_pended().expect("notices are read").is_none());
    }
    assert_eq!(client.wait().code, Some(124), "timeout has ended it");
}

#[test]
fn a_dropped_connect_is_refused() {
    let (host, _, listener) = pended("pended_dropped");
    for (address, way) in WAYS {
        let client = client(&host, address.replace(":0", ":80").as_str(), way);
        drop(listener.pended().expect("the connect is held"));
        assert_eq!(client.json()["errno"], libc::ECONNREFUSED);
    }
}

#[test]
fn a_client_that_is_gone_is_noticed() {
    let (host, _, listener) = pended("pended_gone");
    let client = host.client(&["connect", "10.1.2.3:80"]);
    let pending = listener.pended().expect("the connect is held");
    client.kill();
    await_notice(&listener, "the client is gone");
    let notice = listener.try_pended().expect("notices are read");
    assert!(matches!(notice, Some(Notice::Gone(id)) if id == pending.flow_id()));
    assert!(pending.is_gone());
    assert!(matches!(pending.accept(), Err(Error::ClientGone)));

    let client = host.client(&["connect", "10.1.2.3:80"]);
    let pending = listener.pended().expect("the connect is held");
    client.kill();
    wait::until("the kernel has noticed", || {
        host.count(Counter::PendedEnded) == 2
    });
    assert!(!pending.is_gone(), "the notice is unread");
    assert!(matches!(pending.accept(), Err(Error::ClientGone)));
}

#[test]
fn what_a_removed_service_holds_is_reset() {
    let (mut host, service, listener) = pended("pended_removed");
    for to in ["10.1.2.3:80", "[fd00::9]:80"] {
        let client = host.client(&["connect", to]);
        let pending = listener.pended().expect("the connect is held");
        if to.starts_with('[') {
            host.commit(&[], &[]);
            let removed = host.engine().remove_service(service.number);
            removed.expect("no filter needs the service");
        } else {
            drop(pending);
        }
        let report = client.json();
        assert_eq!(
            report["errno"],
            Errno::CONNREFUSED.raw_os_error(),
            "{to}: {report}"
        );
    }
}

#[test]
fn accept_of_a_listener_that_pends_completes_by_itself() {
    let (host, _, listener) = pended("pended_accept");
    thread::spawn(move || {
        loop {
            let (mut stream, flow) = listener.accept().expect("accept works").into_parts();
            let destination = flow.original_destination().to_string();
            stream
                .write_all(destination.as_bytes())
                .expect("the client reads");
        }
    });
    for (to, way) in [
        ("10.1.2.3:80", &[][..]),
        ("10.1.2.3:80", &["--mapped"]),
        ("[fd00::1]:80", &[]),
    ] {
        let report = client(&host, to, way).json();
        assert_eq!(report["reply"], to, "{way:?}: {report}");
    }
    let storm = host
        .client(&["storm", "--threads", "20", "--count", "100"])
        .json();
    assert_eq!(storm["good"], 2000, "{storm}");
}

#[test]
fn accept_on_several_threads_loses_and_mixes_nothing() {
    let (host, _, listener) = pended("pended_threads");
    let listener = std::sync::Arc::new(listener);
    for _ in 0..8 {
        let listener = std::sync::Arc::clone(&listener);
        thread::spawn(move || {
            loop {
                let (mut stream, flow) = listener.accept().expect("accept works").into_parts();
                let destination = flow.original_destination().to_string();
                let _ = stream.write_all(destination.as_bytes());
            }
        });
    }
    let storm = host
        .client(&["storm", "--threads", "50", "--count", "100"])
        .json();
    assert_eq!(storm["good"], 5000, "{storm}");
}

#[test]
fn complete_on_several_threads_gives_each_its_client() {
    let (host, _, listener) = pended("pended_complete_threads");
    thread::spawn(move || {
        let (sender, receiver) = mpsc::channel::<Pending>();
        let receiver = std::sync::Arc::new(std::sync::Mutex::new(receiver));
        for _ in 0..8 {
            let receiver = std::sync::Arc::clone(&receiver);
            thread::spawn(move || {
                loop {
                    let received = receiver.lock().expect("no holder panics").recv();
                    let Ok(pending) = received else { return };
                    let destination = pending.original_destination().to_string();
                    let mut stream = pending.accept().expect("the client is accepted");
                    let _ = stream.write_all(destination.as_bytes());
                }
            });
        }
        loop {
            sender
                .send(listener.pended().expect("a connect is held"))
                .expect("threads run");
        }
    });
    let storm = host
        .client(&["storm", "--threads", "50", "--count", "100"])
        .json();
    assert_eq!(storm["good"], 5000, "{storm}");
}

#[test]
fn ten_thousand_connects_are_held_at_once() {
    const COUNT: usize = 10_000;
    let (host, _, listener) = pended("pended_many");
    let client = host.client(&["many", "--count", &COUNT.to_string()]);
    let held: Vec<Pending> = (0..COUNT)
        .map(|_| listener.pended().expect("a connect is held"))
        .collect();
    assert_eq!(host.flow_count(), COUNT as u64);
    for pending in held {
        accept_and_answer(pending);
    }
    let report = client.json();
    assert_eq!(report["good"], COUNT, "{report}");
}

/// The client's second SYN, one second after the first, meets the completion of its flow.
#[test]
fn flows_that_are_completed_while_their_syns_are_sent_again_are_delivered_once() {
    const COUNT: usize = 2000;
    let (host, _, listener) = pended("pended_again");
    let client = host.client(&["many", "--count", &COUNT.to_string()]);
    let held: Vec<Pending> = (0..COUNT)
        .map(|_| listener.pended().expect("a connect is held"))
        .collect();
    for pending in held {
        while pending.age() < Duration::from_millis(1010) {
            thread::yield_now();
        }
        accept_and_answer(pending);
    }
    let report = client.json();
    assert_eq!(report["good"], COUNT, "{report}");
    let further = listener.try_pended().expect("notices are read");
    assert!(further.is_none(), "{further:?}");
    assert_eq!(host.count(Counter::Pended), COUNT as u64);
    assert_eq!(host.count(Counter::Completed), COUNT as u64);
}

#[test]
fn connects_whose_notices_are_lost_are_held_by_their_next_syn() {
    const COUNT: usize = 14_000; // more than the ring buffer has room for
    let (host, _, listener) = pended("pended_lost");
    let client = host.client(&["many", "--count", &COUNT.to_string()]);
    wait::until("the ring buffer is full", || {
        host.count(Counter::NoticesLost) > 0
    });
    for _ in 0..COUNT {
        let pending = listener.pended().expect("a connect is held");
        accept_and_answer(pending);
    }
    let report = client.json();
    assert_eq!(report["good"], COUNT, "{report}");
}

#[test]
fn an_event_loop_completes_without_waiting() {
    let (host, _, listener) = pended("pended_loop");
    let client = host.client(&["connect", "10.1.2.3:80"]);
    await_notice(&listener, "the connect is held");
    let Ok(Some(Notice::Pending(pending))) = listener.try_pended() else {
        panic!("the connect is held");
    };
    let chain: Vec<_> = pending
        .flow()
        .expect("the flow is known")
        .chain()
        .map(str::to_owned)
        .collect();
    let id = pending.complete_nonblocking().expect("it is completed");
    let mut connection = None;
    wait::until("the client is accepted", || {
        connection = listener.try_accept(0).expect("accept works");
        connection.is_some()
    });
    let (mut stream, flow) = connection.expect("it was accepted").into_parts();
    assert_eq!(
        (flow.id(), flow.chain().collect::<Vec<_>>()),
        (id, chain.iter().map(String::as_str).collect())
    );
    stream.write_all(b"looped").expect("there is room");
    drop(stream);
    assert_eq!(client.json()["reply"], "looped");
    assert!(listener.try_pended().expect("notices are read").is_none());
}

#[test]
fn fast_open_clients_connect_and_their_data_arrive() {
    let (host, _, listener) = pended("pended_fast_open");
    relay_pended(listener);
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let origin = Origin::start(address);
        let to = origin.address.to_string();
        for way in [&["--fastopen", ""][..], &["--fastopen-connect"]] {
            let way = [way, &["--send", "x"][..]].concat();
            for _ in 0..2 {
                let report = client(&host, &to, &way).json();
                assert_eq!(report["reply"], "originx", "{way:?}: {report}");
            }
        }
    }
}

#[test]
fn two_services_in_a_chain_pend_and_the_error_comes_through_both() {
    let mut host = Host::new("pended_chain");
    let (first, first_sdk) = host.pended_service("first");
    let (second, second_sdk) = host.pended_service("second");
    relay_pended(Listener::bind(&first_sdk).expect("the listener is marked"));
    relay_pended(Listener::bind(&second_sdk).expect("the listener is marked"));
    host.redirect_all(&[&first, &second]);
    for (address, way) in WAYS {
        let origin = Origin::start(address);
        let way = [way, &["--send", "x"][..]].concat();
        let to = origin.address.to_string();
        let report = client(&host, &to, &way).json();
        assert_eq!(report["reply"], "originx", "{way:?}: {report}");
        let dead = address.replace(":0", ":1");
        let report = client(&host, &dead, &way).json();
        assert_eq!(report["errno"], libc::ECONNREFUSED, "{way:?}: {report}");
    }
    assert_eq!(host.count(Counter::Pended), 4 * WAYS.len() as u64);
}

#[test]
fn a_listener_that_may_not_pend_accepts_and_says_why() {
    let mut host = Host::new("pended_not_allowed");
    let (_, pended) = host.pended_service("pended");
    let accepting = host.service("accepting");
    let sdk = e2e::sdk_service(&accepting).pended();
    let listener = Listener::bind(&sdk).expect("the listener is marked");
    assert_eq!(listener.why_accepted(), Some(WhyAccepted::NoDescriptors));
    assert!(matches!(listener.pended(), Err(Error::NotPended)));
    drop((listener, pended));
    let ring = host.engine().ring(accepting.number).expect("it is read");
    assert_eq!(ring, None);
}

/// Relays, with the origin's error if there is one. To port 9, it waits until the client is gone.
async fn relay_async(pending: Pending, gone: mpsc::Sender<u64>) {
    if pending.original_destination().port() == 9 {
        pending.gone().await;
        gone.send(pending.flow_id()).expect("the test waits");
        return;
    }
    match pending.connect_async().await {
        Ok(mut origin) => {
            let client = pending.complete_async(&origin).await;
            let mut client = client.expect("the client is accepted");
            let _ = tokio::io::copy_bidirectional(&mut client, &mut origin).await;
        }
        Err(Error::System { source, .. }) => {
            pending.refuse(&source).expect("the refusal is sent");
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn async_tasks_complete_refuse_and_notice_that_a_client_is_gone() {
    let mut host = Host::new("pended_async");
    let (service, sdk) = host.pended_service("pended");
    host.redirect_all(&[&service]);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("the runtime starts");
    let (gone, is_gone) = mpsc::channel();
    let listener = {
        let _runtime = runtime.enter();
        sidetrack::tokio::Listener::bind(&sdk).expect("the listener is marked")
    };
    runtime.spawn(async move {
        loop {
            let pending = listener.pended().await.expect("a connect is held");
            tokio::spawn(relay_async(pending, gone.clone()));
        }
    });
    for (address, way) in WAYS {
        let origin = Origin::start(address);
        let way = [way, &["--send", "x"][..]].concat();
        let report = client(&host, &origin.address.to_string(), &way).json();
        assert_eq!(report["reply"], "originx", "{way:?}: {report}");
        let report = client(&host, &address.replace(":0", ":1"), &way).json();
        assert_eq!(report["errno"], libc::ECONNREFUSED, "{way:?}: {report}");
    }
    let client = host.client(&["connect", "10.1.2.3:9"]);
    wait::until("the connect is held", || host.count(Counter::Pended) == 13);
    client.kill();
    is_gone
        .recv_timeout(wait::DEADLINE)
        .expect("the task notices it");
}

#[test]
fn async_accept_completes_by_itself() {
    let mut host = Host::new("pended_async_accept");
    let (service, sdk) = host.pended_service("pended");
    host.redirect_all(&[&service]);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("the runtime starts");
    let listener = {
        let _runtime = runtime.enter();
        std::sync::Arc::new(sidetrack::tokio::Listener::bind(&sdk).expect("the listener is marked"))
    };
    for _ in 0..4 {
        let listener = std::sync::Arc::clone(&listener);
        runtime.spawn(async move {
            loop {
                let (mut stream, flow) = listener.accept().await.expect("accept works");
                let destination = flow.original_destination().to_string();
                let _ =
                    tokio::io::AsyncWriteExt::write_all(&mut stream, destination.as_bytes()).await;
            }
        });
    }
    let storm = host
        .client(&["storm", "--threads", "50", "--count", "100"])
        .json();
    assert_eq!(storm["good"], 5000, "{storm}");
}
