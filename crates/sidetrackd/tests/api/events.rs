//! Tests of events, state, flows and explanations.

use sidetrack_api::v1;
use sidetrack_engine::event::EventKind;
use sidetrack_policy::Code;
use sidetrackd::data_path::{ConnectionEvent, NewEvents};
use tonic::Streaming;

use super::client::{ClientCalls, assert_refused};
use super::example::{filter, key, service};
use super::fake_data_path::{connection_event, flow};
use super::harness::{Daemon, wait_until};

/// Returns the next event of a stream.
async fn next_event(events: &mut Streaming<v1::Event>) -> v1::Event {
    let next = tokio::time::timeout(std::time::Duration::from_secs(10), events.message());
    next.await.expect("in time").unwrap().expect("an event")
}

#[tokio::test(flavor = "multi_thread")]
async fn events_can_be_followed_and_are_kept() {
    let daemon = Daemon::start().await;
    let mut reader = daemon.client().await;
    let request = v1::StreamEventsRequest {
        follow: true,
        ..Default::default()
    };
    let mut events = reader.stream_events(request).await.unwrap().into_inner();
    let (mut client, session) = daemon.dynamic_session().await;
    let id = client.try_add_filter(&session, filter(1)).await.unwrap();
    let opened = next_event(&mut events).await;
    assert_eq!(opened.kind(), v1::EventKind::SessionOpened);
    assert_eq!(opened.pid, std::process::id());
    assert_eq!(
        next_event(&mut events).await.kind(),
        v1::EventKind::PolicyCommitted
    );
    let mut blocked = connection_event(EventKind::Blocked, id, "worker-1");
    blocked.event.executable = "curl".into();
    blocked.event.flow_id = 5;
    daemon.data_path.recorded().events.events.push(blocked);
    let blocked = next_event(&mut events).await;
    assert_eq!(blocked.kind(), v1::EventKind::ClassifyBlock);
    assert_eq!(
        (blocked.filter.as_str(), blocked.filter_key),
        ("rule 1", key(1))
    );
    assert_eq!(
        (
            blocked.comm.as_str(),
            blocked.executable.as_str(),
            blocked.flow_id
        ),
        ("worker-1", "curl", 5)
    );
    let program = "connection between curl [1] and 192.0.2.1:443";
    assert!(blocked.message.starts_with(program), "{}", blocked.message);
    drop(session);
    assert_eq!(
        next_event(&mut events).await.kind(),
        v1::EventKind::PolicyCommitted
    );
    let ended = next_event(&mut events).await;
    assert_eq!(ended.kind(), v1::EventKind::SessionEnded);
    let request = v1::StreamEventsRequest {
        follow: false,
        backlog: false,
        kinds: vec![v1::EventKind::SessionEnded.into()],
    };
    let mut kept = reader.stream_events(request).await.unwrap().into_inner();
    assert_eq!(next_event(&mut kept).await, ended);
    assert_eq!(kept.message().await.unwrap(), None);
    let request = v1::StreamEventsRequest {
        kinds: vec![99],
        ..Default::default()
    };
    assert_refused(reader.stream_events(request).await, Code::InvalidEnumerator);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_too_slow_receives_the_number_of_missed_events() {
    let daemon = Daemon::start().await;
    let mut reader = daemon.client().await;
    let request = v1::StreamEventsRequest {
        follow: true,
        ..Default::default()
    };
    let mut events = reader.stream_events(request).await.unwrap().into_inner();
    let count = 50_000;
    let event = connection_event(EventKind::Inspected, 0, &"x".repeat(1000));
    // The reader misses the report of the lost ones too, and gets their number nevertheless.
    let first = NewEvents {
        events: vec![event.clone(); 10],
        lost: LOST,
    };
    put_events(&daemon, first).await;
    let rest = NewEvents {
        events: vec![event; count],
        lost: 0,
    };
    put_events(&daemon, rest).await;
    let all = 10 + LOST + count as u64;
    let mut received = 0;
    let mut missed = 0;
    while received + missed < all {
        let event = next_event(&mut events).await;
        match event.kind() {
            v1::EventKind::Missed => missed += event.missed,
            _ => received += 1,
        }
    }
    assert!(missed > LOST, "{missed}");
    assert_eq!(received + missed, all);
}

/// A number of events that the kernel's ring buffer loses.
const LOST: u64 = 123_456;

/// Sets the data path's events, and waits until the daemon has logged them.
async fn put_events(daemon: &Daemon, events: NewEvents) {
    daemon.data_path.recorded().events = events;
    wait_until("the data path's events are taken", async || {
        daemon.data_path.recorded().events == NewEvents::default()
    })
    .await;
    // The same thread logs them, and then answers this call.
    let mut client = daemon.client().await;
    client.get_state(v1::GetStateRequest {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_all_kinds_receive_the_number_of_events_that_the_kernel_lost() {
    let daemon = Daemon::start().await;
    let mut reader = daemon.client().await;
    let request = v1::StreamEventsRequest {
        follow: true,
        backlog: false,
        kinds: vec![v1::EventKind::Mended.into()],
    };
    let mut events = reader.stream_events(request).await.unwrap().into_inner();
    let event = connection_event(EventKind::Blocked, 0, "curl");
    let new = |events: &[ConnectionEvent], lost| NewEvents {
        events: events.to_vec(),
        lost,
    };
    put_events(&daemon, new(&[event.clone(), event.clone()], LOST)).await;
    put_events(&daemon, new(&[], 1)).await;
    let missed = next_event(&mut events).await;
    assert_eq!(
        (missed.kind(), missed.missed),
        (v1::EventKind::Missed, LOST)
    );
    assert_eq!(
        missed.message,
        "123456 events lost, because the kernel's ring buffer was full"
    );
    let one = next_event(&mut events).await;
    assert_eq!((one.kind(), one.missed), (v1::EventKind::Missed, 1));
    assert!(one.message.starts_with("1 event lost"), "{}", one.message);
    assert_eq!(one.sequence, missed.sequence + 1);
    // Kept events have them in their place, and the lost ones have numbers.
    put_events(&daemon, new(&[event], 0)).await;
    let kept = v1::StreamEventsRequest {
        kinds: vec![v1::EventKind::ClassifyBlock.into()],
        ..Default::default()
    };
    let mut kept = reader.stream_events(kept).await.unwrap().into_inner();
    let mut all = Vec::new();
    while let Some(event) = kept.message().await.unwrap() {
        all.push((event.kind(), event.missed, event.sequence));
    }
    let (blocked, missed) = (v1::EventKind::ClassifyBlock, v1::EventKind::Missed);
    let first = all[0].2;
    assert_eq!(
        all,
        [
            (blocked, 0, first),
            (blocked, 0, first + 1),
            (missed, LOST, first + 1 + LOST),
            (missed, 1, first + 2 + LOST),
            (blocked, 0, first + 3 + LOST),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_explained_as_absent_for_the_protocol_that_it_does_not_listen_for() {
    let daemon = Daemon::start().await;
    let (mut client, session) = daemon.session().await;
    let request = v1::AddServiceRequest {
        session_id: session.id(),
        service: Some(service(1)),
    };
    client.add_service(request).await.unwrap();
    let redirect = |number, layer: v1::Layer| v1::Filter {
        layer: layer.into(),
        action: v1::Action::Redirect.into(),
        service: key(1),
        ..filter(number)
    };
    for (number, layer) in [
        (1, v1::Layer::ConnectRedirectV4),
        (2, v1::Layer::ConnectRedirectV6),
    ] {
        let filter = redirect(number, layer);
        client.try_add_filter(&session, filter).await.unwrap();
    }
    let v4 = std::net::SocketAddr::from(([192, 0, 2, 1], 443));
    let v6 = "[2001:db8::1]:443".parse().unwrap();
    // The service of the test's data path listens over TCP and IPv4 only.
    for (remote, protocol, blocked) in [
        (v4, 6, false),
        (v4, 17, true),
        (v6, 6, true),
        (v6, 17, true),
    ] {
        let connection = v1::Connection {
            remote: Some(sidetrack_api::endpoint(remote)),
            protocol,
            ..Default::default()
        };
        let request = v1::ExplainRequest {
            subject: Some(v1::explain_request::Subject::Connection(connection)),
            layer: 0,
        };
        let response = client.explain(request).await.unwrap().into_inner();
        let is_blocked = response.verdict() == v1::Verdict::Block;
        assert_eq!(is_blocked, blocked, "{remote} {protocol}: {response:?}");
        assert_eq!(response.chain.is_empty(), blocked);
        assert_eq!(response.steps[0].service.is_empty(), blocked);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn state_and_flows_are_reported() {
    let daemon = Daemon::start().await;
    let options = v1::SessionOptions {
        name: "a product".into(),
        dynamic: true,
        ..Default::default()
    };
    let (mut client, session) = daemon.session_with(options).await;
    client.try_add_filter(&session, filter(1)).await.unwrap();
    client.begin(&session, false).await.unwrap();
    daemon.data_path.recorded().flows = vec![flow(2, true), flow(1, false)];
    let state = daemon.state().await;
    assert_eq!((state.filters, state.sublayers), (1, 1));
    assert_eq!(state.generation, daemon.data_path.generation());
    assert_eq!(state.counters[0].value, 7);
    assert_eq!(state.sessions[0].name, "a product");
    assert_eq!(state.sessions[0].objects, 1);
    assert_eq!(state.writer.unwrap().session_id, session.id());
    let mut flows = async |closed| {
        let response = client.list_flows(v1::ListFlowsRequest { closed }).await;
        let mut messages = response.unwrap().into_inner();
        messages.message().await.unwrap().unwrap().flows
    };
    let live = flows(false).await;
    assert_eq!(live.len(), 1);
    assert_eq!(live[0].filter, "rule 1");
    assert_eq!(flows(true).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_valid_connection_is_explained_and_others_are_refused() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    let good = v1::Connection {
        remote: Some(sidetrack_api::endpoint(([192, 0, 2, 1], 443).into())),
        ..Default::default()
    };
    let request = |connection, layer| v1::ExplainRequest {
        subject: Some(v1::explain_request::Subject::Connection(connection)),
        layer,
    };
    let response = client.explain(request(good.clone(), 0)).await.unwrap();
    assert_eq!(response.get_ref().generation, daemon.data_path.generation());
    let nowhere = v1::Connection::default();
    assert_refused(client.explain(request(nowhere, 0)).await, Code::NullPointer);
    assert_refused(
        client.explain(request(good.clone(), 99)).await,
        Code::LayerNotFound,
    );
    let icmp = v1::Connection {
        protocol: 1,
        ..good.clone()
    };
    assert_refused(client.explain(request(icmp, 0)).await, Code::OutOfBounds);
    let local = v1::Connection {
        local: Some(v1::Endpoint::default()),
        ..good
    };
    assert_refused(
        client.explain(request(local, 0)).await,
        Code::ZeroLengthArray,
    );
}
