//! Sessions end with their clients, and take along what is dynamic.

use std::io::{BufRead, BufReader, Write};
use std::time::Duration;

use sidetrack_api::client::{self, Session};
use sidetrack_api::v1;
use sidetrack_policy::Code;

use super::harness::{
    ClientCalls, Daemon, assert_refused, client_process_socket, filter, key, service, sublayer,
    wait_until,
};

const CHILD: &str = "tests::sessions::a_client_with_a_dynamic_session";

async fn add_two_objects(client: &mut client::Client, session: &Session) {
    let request = v1::AddSublayerRequest {
        session_id: session.id(),
        sublayer: Some(sublayer(1)),
    };
    client.add_sublayer(request).await.unwrap();
    let own = v1::Filter {
        sublayer: key(1),
        ..filter(1)
    };
    client.try_add_filter(session, own).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_dynamic_session_takes_its_objects_in_one_commit() {
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
    wait_until("its filter goes", async || {
        daemon.data_path.in_force() == [2]
    })
    .await;
    assert_eq!(daemon.data_path.generation(), generation + 1);
    assert_eq!(daemon.state().await.sublayers, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_not_dynamic_leaves_its_objects() {
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

#[tokio::test]
#[ignore = "other tests run it, and kill it"]
async fn a_client_with_a_dynamic_session() {
    let Some(socket) = client_process_socket() else {
        return;
    };
    let mut client = client::connect(Some(&socket)).await.unwrap();
    let options = v1::SessionOptions {
        dynamic: true,
        ..Default::default()
    };
    let session = Session::open(&mut client, options).await.unwrap();
    add_two_objects(&mut client, &session).await;
    client.begin(&session, false).await.unwrap();
    client.try_add_filter(&session, filter(3)).await.unwrap();
    println!("\nsession {}", session.id());
    std::io::stdout().flush().unwrap();
    std::future::pending::<()>().await;
}

/// The child's session, once it has one.
fn session_of(child: &mut std::process::Child) -> u64 {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut lines = lines.map_while(Result::ok);
    let line = lines.find_map(|line| line.strip_prefix("session ").map(str::to_owned));
    line.expect("the child has a session").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_clients_session_ends_with_its_transaction_and_objects() {
    let daemon = Daemon::start().await;
    let mut child = daemon.spawn_client(CHILD);
    session_of(&mut child);
    assert_eq!(daemon.data_path.in_force(), [1]);
    let generation = daemon.data_path.generation();
    let state = daemon.state().await;
    assert!(state.sessions[0].in_transaction && state.writer.is_some());
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("its filter goes", async || {
        daemon.data_path.in_force().is_empty()
    })
    .await;
    assert_eq!(daemon.data_path.generation(), generation + 1);
    let (mut client, session) = daemon.session().await;
    client.try_add_filter(&session, filter(1)).await.unwrap();
    assert!(daemon.state().await.writer.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_processs_session_is_as_if_it_were_not_there() {
    let daemon = Daemon::start().await;
    let mut child = daemon.spawn_client(CHILD);
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
async fn a_dynamic_session_adds_nothing_that_stays_and_touches_nobody_elses() {
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
async fn a_session_that_ends_under_a_writer_is_not_put_back_by_its_commit() {
    let daemon = Daemon::start().await;
    let (mut theirs, dynamic) = daemon.dynamic_session().await;
    add_two_objects(&mut theirs, &dynamic).await;
    let (mut client, session) = daemon.session().await;
    client.begin(&session, false).await.unwrap();
    client.try_add_filter(&session, filter(2)).await.unwrap();
    drop(dynamic);
    wait_until("its filter goes", async || {
        daemon.data_path.in_force().is_empty()
    })
    .await;
    client.commit_transaction(&session).await.unwrap();
    assert_eq!(daemon.data_path.in_force(), [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_an_ended_session_that_the_kernel_would_not_drop_go_later() {
    let daemon = Daemon::start().await;
    let (mut client, dynamic) = daemon.dynamic_session().await;
    add_two_objects(&mut client, &dynamic).await;
    daemon.data_path.recorded().refuse = Some(Code::OutOfBounds);
    drop(dynamic);
    // Nobody calls: the committer tries again by itself.
    wait_until("its filter goes", async || {
        daemon.data_path.in_force().is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_waits_for_nobody() {
    let daemon = Daemon::start().await;
    let (mut sleeper, asleep) = daemon.session().await;
    let (mut client, dynamic) = daemon.dynamic_session().await;
    client.try_add_filter(&dynamic, filter(1)).await.unwrap();
    sleeper.begin(&asleep, false).await.unwrap();
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
    wait_until("its filter goes", async || {
        daemon.data_path.in_force().is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_registered_by_its_session() {
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
    let nobody = client.register_service(by_name(&session, "proxy 2")).await;
    assert_refused(nobody, Code::CalloutNotFound);
    let (mut other, theirs) = daemon.dynamic_session().await;
    let wrong = other.register_service(by_name(&theirs, "proxy 1")).await;
    assert_refused(wrong, Code::WrongSession);
    let request = v1::GetRequest {
        session_id: 0,
        key: key(1),
    };
    let listening = client.get_service(request).await.unwrap().into_inner();
    assert!(listening.listening);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_daemon_tells_its_sessions() {
    let daemon = Daemon::start().await;
    let (_client, mut session) = daemon.session().await;
    let told = tokio::spawn(async move { session.event().await });
    let daemon = daemon.restart("a boot").await;
    let told = tokio::time::timeout(Duration::from_secs(10), told).await;
    // Told, or cut off: it knows either way.
    let told = told.expect("in time").unwrap();
    assert!(
        !matches!(told, Ok(Some(v1::session_event::Event::Opened(_)))),
        "{told:?}"
    );
    drop(daemon);
}
