//! Tests of dynamic sessions that outlive their daemon, and of clients that resume them.

use sidetrack_api::client::Session;
use sidetrack_api::v1;
use sidetrack_policy::Code;

use super::client::{ClientCalls, assert_refused};
use super::example::{filter, key, sublayer};
use super::harness::{Daemon, LONG_GRACE_SECONDS, grace, wait_until};

/// Returns the options that resume a session.
fn resume(session: u64) -> v1::SessionOptions {
    v1::SessionOptions {
        name: "again".into(),
        dynamic: true,
        resume_session_id: session,
        ..Default::default()
    }
}

/// Returns a restarted daemon and the id of a session from before the restart, which has a sublayer
/// and a filter in it.
async fn restarted(seconds: u64) -> (Daemon, u64) {
    let daemon = Daemon::start_with(grace(seconds)).await;
    let (mut client, session) = daemon.dynamic_session().await;
    let request = v1::AddSublayerRequest {
        session_id: session.id(),
        sublayer: Some(sublayer(1)),
    };
    client.add_sublayer(request).await.unwrap();
    let own = v1::Filter {
        sublayer: key(1),
        ..filter(1)
    };
    client.try_add_filter(&session, own).await.unwrap();
    (daemon.restart("a boot").await, session.id())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_session_keeps_its_id_and_objects_without_a_commit() {
    let (daemon, id) = restarted(LONG_GRACE_SECONDS).await;
    let generation = daemon.data_path.generation();
    let state = daemon.state().await;
    assert!(state.notes.is_empty(), "store and kernel agree");
    let waiting = &state.sessions[0];
    assert!(waiting.waiting && waiting.dynamic, "{waiting:?}");
    assert_eq!((waiting.session_id, waiting.objects), (id, 2));
    let (mut client, session) = daemon.session_with(resume(id)).await;
    assert_eq!(session.id(), id);
    let state = daemon.state().await;
    assert!(!state.sessions[0].waiting && state.sessions.len() == 1);
    assert_eq!(daemon.data_path.generation(), generation);
    client.try_add_filter(&session, filter(2)).await.unwrap();
    drop(session);
    wait_until("its old and its new objects are deleted", async || {
        daemon.data_path.in_force().is_empty()
    })
    .await;
    assert_eq!(daemon.data_path.generation(), generation + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_waiting_session_can_be_resumed_and_only_once() {
    let (daemon, id) = restarted(LONG_GRACE_SECONDS).await;
    let mut client = daemon.client().await;
    for wrong in [id ^ 1, 1] {
        assert_refused(
            client.open_session(resume(wrong)).await,
            Code::SessionAborted,
        );
    }
    let fixed = v1::SessionOptions {
        dynamic: false,
        ..resume(id)
    };
    assert_refused(client.open_session(fixed).await, Code::InvalidParameter);
    let _session = Session::open(&mut client, resume(id)).await.unwrap();
    assert_refused(client.open_session(resume(id)).await, Code::SessionAborted);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_no_client_resumes_end_in_one_commit_with_events() {
    let daemon = Daemon::start_with(grace(LONG_GRACE_SECONDS)).await;
    let (mut first_client, first) = daemon.dynamic_session().await;
    first_client
        .try_add_filter(&first, filter(1))
        .await
        .unwrap();
    let (mut second_client, second) = daemon.dynamic_session().await;
    second_client
        .try_add_filter(&second, filter(2))
        .await
        .unwrap();
    let generation = daemon.data_path.generation();
    let daemon = daemon.restart_with("a boot", grace(0)).await;
    wait_until("both sessions end", async || {
        daemon.data_path.in_force().is_empty()
    })
    .await;
    assert_eq!(
        daemon.data_path.generation(),
        generation + 1,
        "in one commit"
    );
    assert_refused(try_resume(&daemon, first.id()).await, Code::SessionAborted);
    let mut events = Vec::new();
    wait_until("both sessions have an event", async || {
        events = session_ended_events(&daemon).await;
        events.len() == 2
    })
    .await;
    for session in [first.id(), second.id()] {
        let event = events.iter().find(|event| event.session_id == session);
        let message = &event.unwrap().message;
        assert!(message.contains("and 1 object with it"), "{message}");
    }
    let daemon = daemon.restart("a boot").await;
    assert_eq!(
        daemon.state().await.filters,
        0,
        "they are deleted from the store too"
    );
}

/// Tries to resume a session.
async fn try_resume(daemon: &Daemon, session: u64) -> Result<(), tonic::Status> {
    let mut client = daemon.client().await;
    client.open_session(resume(session)).await.map(drop)
}

/// Returns the events of ended sessions.
async fn session_ended_events(daemon: &Daemon) -> Vec<v1::Event> {
    let mut client = daemon.client().await;
    let request = v1::StreamEventsRequest {
        kinds: vec![v1::EventKind::SessionEnded.into()],
        ..Default::default()
    };
    let mut stream = client.stream_events(request).await.unwrap().into_inner();
    let mut events = Vec::new();
    while let Some(event) = stream.message().await.unwrap() {
        events.push(event);
    }
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot_there_is_nothing_to_resume() {
    let (daemon, id) = restarted(LONG_GRACE_SECONDS).await;
    let daemon = daemon.restart("another boot").await;
    assert_eq!(daemon.state().await.filters, 0);
    assert_refused(try_resume(&daemon, id).await, Code::SessionAborted);
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_a_client_that_closes_because_the_daemon_stops_are_kept() {
    let daemon = Daemon::start_with(grace(LONG_GRACE_SECONDS)).await;
    let (mut client, mut session) = daemon.dynamic_session().await;
    client.try_add_filter(&session, filter(1)).await.unwrap();
    let id = session.id();
    let closes = tokio::spawn(async move {
        let _ = session.event().await;
        drop((client, session));
    });
    let daemon = daemon.restart("a boot").await;
    closes.await.unwrap();
    assert_eq!(daemon.data_path.in_force(), [1]);
    assert!(try_resume(&daemon, id).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_wait_for_their_clients_count_towards_the_limit() {
    let mut config = grace(LONG_GRACE_SECONDS);
    config.limits.sessions = 1;
    let daemon = Daemon::start_with(config).await;
    let (mut client, session) = daemon.dynamic_session().await;
    client.try_add_filter(&session, filter(1)).await.unwrap();
    let daemon = daemon.restart("a boot").await;
    let mut client = daemon.client().await;
    let refusal = client.open_session(v1::SessionOptions::default()).await;
    assert_eq!(refusal.unwrap_err().code(), tonic::Code::ResourceExhausted);
    Session::open(&mut client, resume(session.id()))
        .await
        .unwrap();
}
