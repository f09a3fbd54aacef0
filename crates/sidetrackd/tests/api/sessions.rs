//! Tests of sessions, which end with their clients, and of dynamic objects, which are deleted with
//! their session.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use sidetrack_api::client::Session;
use sidetrack_api::v1;
use sidetrack_policy::Code;

use super::client::{ClientCalls, add_two_objects, assert_refused};
use super::example::{filter, key, service};
use super::harness::{Daemon, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn closing_a_dynamic_session_deletes_its_objects_in_one_commit() {
    let daemon = Daemon::start().await;
    let (mut client, session) = daemon.session().await;
    client.try_add_filter(&session, filter(2)).await.unwrap();
    let (mut client, dynamic) = daemon.dynamic_session().await;
    add_two_objects(&mut client, &dynamic).await;
    let generation = daemon.data_path.generation();
    assert_eq!(daemon.data_path.in_force(), [1, 2]);
    drop(dynamic);
    wait_until("the session ends", async || {
        daemon.state().await.sessions.len() == 1
    })
    .await;
    wait_until("its filter is deleted", async || {
        daemon.data_path.in_force() == [2]
    })
    .await;
    assert_eq!(daemon.data_path.generation(), generation + 1);
    assert_eq!(daemon.state().await.sublayers, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_a_session_that_is_not_dynamic_stay() {
    let daemon = Daemon::start().await;
    let (mut client, session) = daemon.session().await;
    client.try_add_filter(&session, filter(1)).await.unwrap();
    drop((client, session));
    wait_until("the session ends", async || {
        daemon.state().await.sessions.is_empty()
    })
    .await;
    assert_eq!(daemon.data_path.in_force(), [1]);
}

/// Waits until the child process has a session, and returns its id.
fn session_of(child: &mut std::process::Child) -> u64 {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut lines = lines.map_while(Result::ok);
    let line = lines.find_map(|line| line.strip_prefix("session ").map(str::to_owned));
    line.expect("the child has a session").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_clients_session_ends_with_its_transaction_and_objects() {
    let daemon = Daemon::start().await;
    let mut child = daemon.spawn_client("write-in-dynamic-session");
    session_of(&mut child);
    assert_eq!(daemon.data_path.in_force(), [1]);
    let generation = daemon.data_path.generation();
    let state = daemon.state().await;
    assert!(state.sessions[0].in_transaction && state.writer.is_some());
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("its filter is deleted", async || {
        daemon.data_path.in_force().is_empty()
    })
    .await;
    assert_eq!(daemon.data_path.generation(), generation + 1);
    let (mut client, session) = daemon.session().await;
    client.try_add_filter(&session, filter(1)).await.unwrap();
    assert!(daemon.state().await.writer.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_processs_session_is_treated_as_unknown() {
    let daemon = Daemon::start().await;
    let mut child = daemon.spawn_client("write-in-dynamic-session");
    let session_id = session_of(&mut child);
    let mut client = daemon.client().await;
    let commit = client.commit(v1::CommitRequest { session_id }).await;
    assert_refused(commit, Code::SessionAborted);
    let request = v1::DeleteRequest {
        session_id,
        key: key(1),
    };
    assert_refused(client.delete_filter(request).await, Code::SessionAborted);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dynamic_session_adds_only_dynamic_objects_and_deletes_only_its_own() {
    let daemon = Daemon::start().await;
    let (mut client, session) = daemon.dynamic_session().await;
    let persistent = v1::Filter {
        flags: v1::Flag::Persistent as u32,
        ..filter(1)
    };
    assert_refused(
        client.try_add_filter(&session, persistent).await,
        Code::DynamicSessionInProgress,
    );
    client.try_add_filter(&session, filter(1)).await.unwrap();
    let (mut other, theirs) = daemon.dynamic_session().await;
    let request = v1::DeleteRequest {
        session_id: theirs.id(),
        key: key(1),
    };
    assert_refused(other.delete_filter(request).await, Code::WrongSession);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writers_commit_does_not_restore_objects_of_an_ended_session() {
    let daemon = Daemon::start().await;
    let (mut other, dynamic) = daemon.dynamic_session().await;
    add_two_objects(&mut other, &dynamic).await;
    let (mut client, session) = daemon.session().await;
    client.begin(&session, false).await.unwrap();
    client.try_add_filter(&session, filter(2)).await.unwrap();
    drop(dynamic);
    wait_until("its filter is deleted", async || {
        daemon.data_path.in_force().is_empty()
    })
    .await;
    client.commit_transaction(&session).await.unwrap();
    assert_eq!(daemon.data_path.in_force(), [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_deletion_of_an_ended_sessions_objects_is_retried() {
    let daemon = Daemon::start().await;
    let (mut client, dynamic) = daemon.dynamic_session().await;
    add_two_objects(&mut client, &dynamic).await;
    daemon.data_path.recorded().refuse = Some(Code::OutOfBounds);
    drop(dynamic);
    // No client makes a call: the committer tries again by itself.
    wait_until("its filter is deleted", async || {
        daemon.data_path.in_force().is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_does_not_wait_for_the_writer() {
    let daemon = Daemon::start().await;
    let (mut writer, writing) = daemon.session().await;
    let (mut client, dynamic) = daemon.dynamic_session().await;
    client.try_add_filter(&dynamic, filter(1)).await.unwrap();
    writer.begin(&writing, false).await.unwrap();
    let request = v1::AddFilterRequest {
        session_id: dynamic.id(),
        filter: Some(filter(2)),
    };
    let mut waiting = client.clone();
    let waiting = tokio::spawn(async move { waiting.add_filter(request).await });
    wait_until("it waits", async || {
        daemon.state().await.writers_waiting == 1
    })
    .await;
    drop(dynamic);
    assert_refused(waiting.await.unwrap(), Code::SessionAborted);
    wait_until("its filter is deleted", async || {
        daemon.data_path.in_force().is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_can_only_be_registered_by_its_session() {
    let daemon = Daemon::start().await;
    let (mut client, session) = daemon.dynamic_session().await;
    let request = v1::AddServiceRequest {
        session_id: session.id(),
        service: Some(service(1)),
    };
    client.add_service(request).await.unwrap();
    let by_name = |session: &Session, name: &str| v1::RegisterServiceRequest {
        session_id: session.id(),
        service: Some(v1::register_service_request::Service::Name(name.into())),
    };
    let registered = client.register_service(by_name(&session, "proxy 1")).await;
    let registered = registered.unwrap().into_inner();
    assert_eq!(registered.credentials.len(), 40);
    assert_eq!(registered.credentials_hex.len(), 80);
    let pid = std::process::id().to_ne_bytes();
    assert_eq!(registered.credentials[16..20], pid);
    let unknown = client.register_service(by_name(&session, "proxy 2")).await;
    assert_refused(unknown, Code::CalloutNotFound);
    let (mut other, theirs) = daemon.dynamic_session().await;
    let wrong = other.register_service(by_name(&theirs, "proxy 1")).await;
    assert_refused(wrong, Code::WrongSession);
    let request = v1::GetRequest {
        session_id: 0,
        key: key(1),
    };
    let listening = client.get_service(request).await.unwrap().into_inner();
    assert!(listening.listening);
    let tcp = v1::Listeners {
        tcp_v4: 1,
        ..Default::default()
    };
    assert_eq!(listening.listeners, Some(tcp));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_daemon_notifies_its_sessions() {
    let daemon = Daemon::start().await;
    let (_client, mut session) = daemon.session().await;
    let event = tokio::spawn(async move { session.event().await });
    let daemon = daemon.restart("a boot").await;
    let event = tokio::time::timeout(Duration::from_secs(10), event).await;
    // The event Stopping, or the end of the stream: the client learns of the stop either way.
    let event = event.expect("in time").unwrap();
    assert!(
        !matches!(event, Ok(Some(v1::session_event::Event::Opened(_)))),
        "{event:?}"
    );
    drop(daemon);
}
