//! Transactions: explicit and implicit, read-only, one writer, and one who sleeps.

use std::time::{Duration, Instant};

use sidetrack_api::v1::{self, session_event};
use sidetrack_policy::Code;

use super::harness::{ClientCalls, Daemon, assert_refused, filter, key};
use crate::Config;
use crate::config::Limits;

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
async fn a_transaction_is_in_force_whole_or_not_at_all() {
    let daemon = Daemon::start().await;
    let (mut client, session) = daemon.session().await;
    let begun = client.begin(&session, false).await.unwrap();
    for number in 1..=3 {
        client
            .try_add_filter(&session, filter(number))
            .await
            .unwrap();
    }
    // A failing call does not spoil it.
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
async fn a_commit_that_the_kernel_refuses_is_taken_back_in_the_store() {
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
async fn who_waits_for_a_sleeping_writer_is_told_in_time() {
    let daemon = Daemon::start().await;
    let (mut sleeper, asleep) = daemon.session().await;
    sleeper.begin(&asleep, false).await.unwrap();
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
    // Reading waits for nobody.
    assert!(client.filters(session.id()).await.is_empty());
    client.begin(&session, true).await.unwrap();
    client.abort_transaction(&session).await.unwrap();
    sleeper.abort_transaction(&asleep).await.unwrap();
    client.try_add_filter(&session, filter(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_are_served_in_their_order() {
    let daemon = Daemon::start().await;
    let (mut first, holding) = daemon.session().await;
    first.begin(&holding, false).await.unwrap();
    let mut waiting = Vec::new();
    for number in 1..=3u128 {
        let (mut client, session) = daemon.session().await;
        let wait = async move { client.try_add_filter(&session, filter(number)).await };
        waiting.push(tokio::spawn(wait));
        let count = number as u32;
        super::harness::wait_until("it waits", async || {
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
async fn a_transaction_held_too_long_is_taken_away() {
    let config = Config {
        limits: Limits {
            transaction_hold_seconds: 1,
            ..Limits::default()
        },
        ..Config::default()
    };
    let daemon = Daemon::start_with(config).await;
    let (mut sleeper, mut asleep) = daemon.session().await;
    sleeper.begin(&asleep, false).await.unwrap();
    sleeper.try_add_filter(&asleep, filter(1)).await.unwrap();
    let (mut client, session) = daemon.session().await;
    // It waits in vain at first.
    client.try_add_filter(&session, filter(2)).await.unwrap();
    assert_eq!(daemon.data_path.in_force(), [2]);
    let event = asleep.event().await.unwrap();
    assert!(matches!(
        event,
        Some(session_event::Event::TransactionAborted(_))
    ));
    let request = v1::DeleteRequest {
        session_id: asleep.id(),
        key: key(2),
    };
    assert_refused(sleeper.delete_filter(request).await, Code::TxnAborted);
    assert_refused(
        sleeper.commit_transaction(&asleep).await,
        Code::NoTxnInProgress,
    );
    // A later transaction is not taken for the one before.
    sleeper.begin(&asleep, false).await.unwrap();
    sleeper.try_add_filter(&asleep, filter(3)).await.unwrap();
    sleeper.commit_transaction(&asleep).await.unwrap();
    assert_eq!(daemon.data_path.in_force(), [2, 3]);
}
