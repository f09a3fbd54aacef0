//! Tests of a restarted daemon: what it loads from the store, and how it reconciles the kernel with
//! it.

use sidetrack_api::client::{Client, Session};
use sidetrack_api::v1;

use super::client::ClientCalls;
use super::example::filter;
use super::harness::{Daemon, LONG_GRACE_SECONDS, grace, wait_until};

/// Returns a filter with a flag.
fn with_flag(number: u128, flag: v1::Flag) -> v1::Filter {
    v1::Filter {
        flags: flag as u32,
        ..filter(number)
    }
}

/// Starts a daemon and adds a filter of each lifetime. Also returns the session of the dynamic
/// filter, which must last until the daemon stops.
async fn daemon_with_all_lifetimes() -> (Daemon, (Client, Session)) {
    let daemon = Daemon::start().await;
    let (mut client, session) = daemon.session().await;
    for given in [
        with_flag(1, v1::Flag::Persistent),
        with_flag(2, v1::Flag::BootTime),
        filter(3),
    ] {
        client.try_add_filter(&session, given).await.unwrap();
    }
    let (mut client, session) = daemon.dynamic_session().await;
    client.try_add_filter(&session, filter(4)).await.unwrap();
    (daemon, (client, session))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_loads_all_objects_and_dynamic_ones_end_after_the_grace_time() {
    let (daemon, _dynamic) = daemon_with_all_lifetimes().await;
    // Boot-time filters are stored, but not in force.
    assert_eq!(daemon.data_path.in_force(), [1, 3, 4]);
    let daemon = daemon
        .restart_with("a boot", grace(LONG_GRACE_SECONDS))
        .await;
    assert_eq!(daemon.data_path.in_force(), [1, 3, 4]);
    assert_eq!(daemon.state().await.filters, 4);
    let daemon = daemon.restart_with("a boot", grace(0)).await;
    wait_until(
        "the dynamic filter is deleted, since no client resumes its session",
        async || daemon.data_path.in_force() == [1, 3],
    )
    .await;
    assert!(
        daemon.data_path.recorded().boots.len() <= 1,
        "boot-time filters were applied without a restart of the host"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_committed_if_store_and_kernel_agree() {
    let daemon = Daemon::start().await;
    let (mut client, session) = daemon.session().await;
    client.try_add_filter(&session, filter(1)).await.unwrap();
    drop((client, session));
    let generation = daemon.data_path.generation();
    let daemon = daemon.restart("a boot").await;
    assert_eq!(daemon.state().await.generation, generation);
    assert!(daemon.state().await.notes.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_policy_that_differs_is_mended_and_reported() {
    let daemon = Daemon::start().await;
    let (mut client, session) = daemon.session().await;
    client.try_add_filter(&session, filter(1)).await.unwrap();
    drop((client, session));
    daemon.data_path.recorded().commits.push(vec![7]);
    let daemon = daemon.restart("a boot").await;
    assert_eq!(daemon.data_path.in_force(), [1]);
    assert!(daemon.state().await.notes[0].contains("mended"));
    let mut client = daemon.client().await;
    let request = v1::StreamEventsRequest {
        kinds: vec![v1::EventKind::Mended.into()],
        ..Default::default()
    };
    let mut events = client.stream_events(request).await.unwrap().into_inner();
    assert!(events.message().await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot_boot_time_filters_apply_first_and_static_ones_are_gone() {
    let (daemon, _dynamic) = daemon_with_all_lifetimes().await;
    let daemon = daemon.restart("another boot").await;
    assert_eq!(daemon.data_path.recorded().boots, [vec![2]]);
    assert_eq!(daemon.data_path.recorded().commits, [vec![1]]);
    assert_eq!(daemon.state().await.filters, 2);
    let daemon = daemon.restart("a third boot").await;
    assert_eq!(daemon.data_path.recorded().boots, [vec![2]]);
}
