//! Tests of transactions: explicit, implicit and read-only ones, the order of writers, and
//! transactions held too long.

use std::time::{Duration, Instant};

use sidetrack_api::config::{Config, Limits};
use sidetrack_api::v1::{self, session_event};
use sidetrack_policy::Code;

use super::client::{ClientCalls, assert_refused};
use super::example::{filter, key};
use super::harness::Daemon;

#[tokio::test(flavor = "multi_thread")]
async fn case_145_begin_twice_and_commit_without_begin() {
    let daemon = Daemon::start().await;
    let (mut client, session) = daemon.session().await;
    assert_refused(
        client.commit_transaction(&session).await,
        Code::NoTxnInProgress,
    );
    assert_refused(
        client.abort_transaction(&session).await,
        Code::NoTxnInProgress,
    );
    client.begin(&session, false).await.unwrap();
    assert_refused(client.begin(&session, false).await, Code::TxnInProgress);
    assert_refused(client.begin(&session, true).await, Code::TxnInProgress);
    client.commit_transaction(&session).await.unwrap();
    assert_refused(
        client.commit_transaction(&session).await,
        Code::NoTxnInProgress,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn case_147_a_read_only_transaction_changes_nothing_and_sees_one_state() {
    let daemon = Daemon::start().await;
    let (mut client, session) = daemon.session().await;
    client.begin(&session, true).await.unwrap();
    assert_refused(
        client.try_add_filter(&session, filter(1)).await,
        Code::IncompatibleTxn,
    );
    let (mut other, theirs) = daemon.session().await;
    other.try_add_filter(&theirs, filter(1)).await.unwrap();
    assert!(client.filters(session.id()).await.is_empty());
    assert_eq!(client.filters(0).await.len(), 1);
    client.commit_transaction(&session).await.unwrap();
    assert_eq!(client.filters(session.id()).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_takes_effect_as_a_whole_or_not_at_all() {
    let daemon = Daemon::start().await;
    let (mut client, session) = daemon.session().await;
    let begun = client.begin(&session, false).await.unwrap();
    for number in 1..=3 {
        client
            .try_add_filter(&session, filter(number))
            .await
            .unwrap();
    }
    // The transaction continues after a call that fails.
    let again = client.try_add_filter(&session, filter(1)).await;
    assert_refused(again, Code::AlreadyExists);
    assert_eq!(client.filters(session.id()).await.len(), 3);
    assert!(client.filters(0).await.is_empty());
    assert!(daemon.data_path.in_force().is_empty());
    let committed = client.commit_transaction(&session).await.unwrap();
    assert_eq!(committed, begun + 1);
    assert_eq!(daemon.data_path.in_force(), [1, 2, 3]);
    client.begin(&session, false).await.unwrap();
    client.try_add_filter(&session, filter(4)).await.unwrap();
    client.abort_transaction(&session).await.unwrap();
    assert_eq!(daemon.data_path.in_force(), [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_the_kernel_refuses_is_undone_in_the_store() {
    let daemon = Daemon::start().await;
    let (mut client, session) = daemon.session().await;
    client.try_add_filter(&session, filter(1)).await.unwrap();
    client.begin(&session, false).await.unwrap();
    client.try_add_filter(&session, filter(2)).await.unwrap();
    daemon.data_path.recorded().refuse = Some(Code::OutOfBounds);
    assert_refused(client.commit_transaction(&session).await, Code::OutOfBounds);
    assert_refused(
        client.commit_transaction(&session).await,
        Code::NoTxnInProgress,
    );
    assert_eq!(client.filters(0).await.len(), 1);
    drop((client, session));
    let daemon = daemon.restart("a boot").await;
    assert_eq!(daemon.client().await.filters(0).await.len(), 1);
    assert_eq!(daemon.state().await.notes, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_an_idle_writer_times_out() {
    let daemon = Daemon::start().await;
    let (mut idle, holding) = daemon.session().await;
    idle.begin(&holding, false).await.unwrap();
    let options = v1::SessionOptions {
        txn_wait_timeout_ms: Some(50),
        ..Default::default()
    };
    let (mut client, session) = daemon.session_with(options).await;
    assert_refused(client.begin(&session, false).await, Code::Timeout);
    let began = Instant::now();
    assert_refused(
        client.try_add_filter(&session, filter(1)).await,
        Code::Timeout,
    );
    assert!(began.elapsed() >= Duration::from_millis(50));
    // Reading does not wait for the writer.
    assert!(client.filters(session.id()).await.is_empty());
    client.begin(&session, true).await.unwrap();
    client.abort_transaction(&session).await.unwrap();
    idle.abort_transaction(&holding).await.unwrap();
    client.try_add_filter(&session, filter(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_are_served_in_the_order_of_their_calls() {
    let daemon = Daemon::start().await;
    let (mut first, holding) = daemon.session().await;
    first.begin(&holding, false).await.unwrap();
    let mut waiting = Vec::new();
    for number in 1..=3u128 {
        let (mut client, session) = daemon.session().await;
        let wait = async move { client.try_add_filter(&session, filter(number)).await };
        waiting.push(tokio::spawn(wait));
        let count = number as u32;
        super::harness::wait_until("its call waits", async || {
            daemon.state().await.writers_waiting == count
        })
        .await;
    }
    first.abort_transaction(&holding).await.unwrap();
    for each in waiting {
        each.await.unwrap().unwrap();
    }
    let commits = daemon.data_path.recorded().commits.clone();
    assert_eq!(commits[1..], [vec![1], vec![1, 2], vec![1, 2, 3]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_held_too_long_is_aborted() {
    let config = Config {
        limits: Limits {
            transaction_hold_seconds: 1,
            ..Limits::default()
        },
        ..Config::default()
    };
    let daemon = Daemon::start_with(config).await;
    let (mut idle, mut holding) = daemon.session().await;
    idle.begin(&holding, false).await.unwrap();
    idle.try_add_filter(&holding, filter(1)).await.unwrap();
    let (mut client, session) = daemon.session().await;
    // This call waits until the other session's transaction is aborted.
    client.try_add_filter(&session, filter(2)).await.unwrap();
    assert_eq!(daemon.data_path.in_force(), [2]);
    let event = holding.event().await.unwrap();
    assert!(matches!(
        event,
        Some(session_event::Event::TransactionAborted(_))
    ));
    let request = v1::DeleteRequest {
        session_id: holding.id(),
        key: key(2),
    };
    assert_refused(idle.delete_filter(request).await, Code::TxnAborted);
    assert_refused(
        idle.commit_transaction(&holding).await,
        Code::NoTxnInProgress,
    );
    // A later transaction of the session is not aborted in place of the earlier one.
    idle.begin(&holding, false).await.unwrap();
    idle.try_add_filter(&holding, filter(3)).await.unwrap();
    idle.commit_transaction(&holding).await.unwrap();
    assert_eq!(daemon.data_path.in_force(), [2, 3]);
}
