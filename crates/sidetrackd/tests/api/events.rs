//! Tests of events, state, flows and explanations.

use sidetrack_api::v1;
use sidetrack_engine::event::EventKind;
use sidetrack_policy::Code;
use tonic::Streaming;

use super::client::{ClientCalls, assert_refused};
use super::example::{filter, key};
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
    let blocked = connection_event(EventKind::Blocked, id, "curl");
    daemon.data_path.recorded().events.push(blocked);
    let blocked = next_event(&mut events).await;
    assert_eq!(blocked.kind(), v1::EventKind::ClassifyBlock);
    assert_eq!(
        (blocked.filter.as_str(), blocked.filter_key),
        ("rule 1", key(1))
    );
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
    daemon.data_path.recorded().events = vec![event; count];
    wait_until("the data path's events are taken", async || {
        daemon.data_path.recorded().events.is_empty()
    })
    .await;
    let mut received = 0;
    let mut missed = 0;
    while received + missed < count as u64 {
        let event = next_event(&mut events).await;
        match event.kind() {
            v1::EventKind::Missed => missed += event.missed,
            _ => received += 1,
        }
    }
    assert!(missed > 0);
    assert_eq!(received + missed, count as u64);
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
