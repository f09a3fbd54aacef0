//! Tests of a daemon whose store is not the one that the policy in force comes from.

use std::fs;

use sidetrack_api::client::{Client, Session};
use sidetrack_api::v1;
use sidetrackd::committer::OnMismatch;
use sidetrackd::{Error, Mismatch};

use super::client::ClientCalls;
use super::example::{filter, policy};
use super::harness::Daemon;

/// Starts a daemon, adds filters 1 and 2 in two commits, and stops it. `copy` is a copy of the store
/// from between the two.
async fn stopped_daemon() -> Daemon {
    let mut daemon = Daemon::start().await;
    let (mut client, session) = daemon.session().await;
    for number in [1, 2] {
        if number == 2 {
            fs::copy(daemon.store(), daemon.store().with_extension("copy")).unwrap();
        }
        client
            .try_add_filter(&session, filter(number))
            .await
            .unwrap();
    }
    drop((client, session));
    daemon.stop().await;
    daemon
}

async fn refusal(daemon: &mut Daemon, on_mismatch: OnMismatch) -> String {
    let error = daemon.start_again(on_mismatch).await.err().unwrap();
    assert!(matches!(error, Error::Mismatch(_)), "{error:?}");
    assert_eq!(daemon.data_path.in_force(), [1, 2], "nothing was changed");
    error.with_sources()
}

async fn apply(
    client: &mut Client,
    session: &Session,
    filters: Vec<v1::Filter>,
) -> Option<tonic::Code> {
    let applied = client.try_apply(session, policy(filters)).await;
    applied.err().map(|status| status.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_store_is_refused_unless_an_option_says_what_to_do() {
    let mut daemon = stopped_daemon().await;
    fs::remove_file(daemon.store()).unwrap();
    let text = refusal(&mut daemon, OnMismatch::Refuse).await;
    for part in ["is empty", "2 filters", "--adopt-kernel", "--start-empty"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    // The refused start has created a store, which is not taken for the lost one either.
    refusal(&mut daemon, OnMismatch::Refuse).await;
    refusal(&mut daemon, OnMismatch::StartStored).await;
    daemon.start_again(OnMismatch::StartEmpty).await.unwrap();
    assert_eq!(daemon.data_path.in_force(), [0; 0]);
    daemon.stop().await;
    daemon.start_again(OnMismatch::Refuse).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_policy_stays_until_a_whole_policy_replaces_it() {
    let mut daemon = stopped_daemon().await;
    fs::remove_file(daemon.store()).unwrap();
    daemon.start_again(OnMismatch::AdoptKernel).await.unwrap();
    for _ in 0..2 {
        assert_eq!(daemon.data_path.in_force(), [1, 2]);
        let state = daemon.state().await;
        assert_eq!(state.generation, daemon.data_path.generation());
        assert!(state.notes[0].contains("2 filters"), "{:?}", state.notes);
        let (mut client, session) = daemon.session().await;
        let added = client.try_add_filter(&session, filter(3)).await;
        assert_eq!(added.unwrap_err().code(), tonic::Code::FailedPrecondition);
        // A policy without filters would leave the adopted ones in force.
        let applied = apply(&mut client, &session, Vec::new()).await;
        assert_eq!(applied, Some(tonic::Code::FailedPrecondition));
        drop((client, session));
        assert_eq!(daemon.data_path.in_force(), [1, 2]);
        // The adoption is remembered, so the next start needs no option.
        daemon.stop().await;
        daemon.start_again(OnMismatch::Refuse).await.unwrap();
    }
    let (mut client, session) = daemon.session().await;
    assert_eq!(apply(&mut client, &session, vec![filter(5)]).await, None);
    assert_eq!(daemon.data_path.in_force(), [5]);
    assert!(daemon.state().await.notes.is_empty());
    client.try_add_filter(&session, filter(6)).await.unwrap();
    drop((client, session));
    daemon.stop().await;
    daemon.start_again(OnMismatch::Refuse).await.unwrap();
    assert_eq!(daemon.data_path.in_force(), [5, 6]);
}

/// The daemon ended between the store's commit and the kernel's.
#[tokio::test(flavor = "multi_thread")]
async fn the_policy_that_replaces_an_adopted_one_survives_a_crash() {
    let mut daemon = stopped_daemon().await;
    fs::remove_file(daemon.store()).unwrap();
    daemon.start_again(OnMismatch::AdoptKernel).await.unwrap();
    let (commits, source) = {
        let recorded = daemon.data_path.recorded();
        (recorded.commits.clone(), recorded.source)
    };
    let (mut client, session) = daemon.session().await;
    assert_eq!(apply(&mut client, &session, vec![filter(5)]).await, None);
    drop((client, session));
    daemon.stop().await;
    {
        let mut recorded = daemon.data_path.recorded();
        (recorded.commits, recorded.source) = (commits, source);
    }
    daemon.start_again(OnMismatch::Refuse).await.unwrap();
    assert_eq!(daemon.data_path.in_force(), [5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_the_store_is_refused() {
    let mut daemon = stopped_daemon().await;
    fs::copy(daemon.store().with_extension("copy"), daemon.store()).unwrap();
    for on_mismatch in [
        OnMismatch::Refuse,
        OnMismatch::AdoptKernel,
        OnMismatch::StartEmpty,
    ] {
        let text = refusal(&mut daemon, on_mismatch).await;
        assert!(text.contains("older"), "{text}");
        assert!(text.contains("--start-stored"), "{text}");
    }
    daemon.start_again(OnMismatch::StartStored).await.unwrap();
    assert_eq!(daemon.data_path.in_force(), [1]);
    daemon.stop().await;
    daemon.start_again(OnMismatch::Refuse).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_another_host_is_refused() {
    let mut daemon = stopped_daemon().await;
    let mut other = Daemon::start().await;
    let (mut client, session) = other.session().await;
    client.try_add_filter(&session, filter(7)).await.unwrap();
    drop((client, session));
    other.stop().await;
    fs::copy(other.store(), daemon.store()).unwrap();
    let text = refusal(&mut daemon, OnMismatch::Refuse).await;
    assert!(text.contains("comes from"), "{text}");
    // What an earlier version pinned has no source: then only an empty store is refused.
    daemon.data_path.recorded().source = Default::default();
    daemon.start_again(OnMismatch::Refuse).await.unwrap();
    assert_eq!(daemon.data_path.in_force(), [7]);
    daemon.stop().await;
    daemon.data_path.recorded().source = Default::default();
    fs::remove_file(daemon.store()).unwrap();
    let refused = daemon.start_again(OnMismatch::Refuse).await.err().unwrap();
    assert!(matches!(refused, Error::Mismatch(Mismatch::Empty { .. })));
}

/// If no filter is in force, nothing can be lost.
#[tokio::test(flavor = "multi_thread")]
async fn without_filters_in_force_any_store_is_accepted() {
    let mut daemon = Daemon::start().await;
    daemon.stop().await;
    fs::remove_file(daemon.store()).unwrap();
    daemon.start_again(OnMismatch::Refuse).await.unwrap();
}
