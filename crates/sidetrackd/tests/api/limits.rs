//! Tests of the daemon's limits, and of clients that exceed them.

use std::time::Instant;

use sidetrack_api::config::{Config, Limits};
use sidetrack_api::v1;
use sidetrack_policy::Code;
use sidetrack_policy::set::{FILTERS_MAX, PROVIDERS_MAX, SERVICES_MAX, SUBLAYERS_MAX};
use sidetrackd::server::{CALLS_MAX, CHANGE_SIZE_MAX};

use super::client::{ClientCalls, assert_refused};
use super::example::{condition, filter, provider, service, sublayer};
use super::harness::{Daemon, peak_memory, reset_peak_memory};

/// The most memory, in bytes, that a client which floods the daemon may cost it: the calls in
/// progress, their decoding, and the buffers of the connections. The test measures the process in
/// which it runs, so no other test may run in that process at the same time.
const FLOOD_BYTES_MAX: u64 = 256 << 20;

fn policy() -> v1::ApplyPolicyRequest {
    v1::ApplyPolicyRequest {
        owner: "mine".into(),
        ..Default::default()
    }
}

/// Returns a filter with several conditions, as filters of real policies have.
fn mixed(number: u128) -> v1::Filter {
    use v1::value::Kind;
    let prefix = Kind::Prefix(v1::Prefix {
        address: vec![10, (number >> 16) as u8, (number >> 8) as u8, number as u8],
        length: 24 + (number % 9) as u32,
    });
    let port = Kind::Uint((number % 65_536) as u64);
    let app = Kind::Path(format!("/usr/bin/program-{}", number % 100));
    v1::Filter {
        conditions: vec![
            condition(v1::Field::RemoteAddress, 0, prefix),
            condition(v1::Field::RemotePort, 0, port),
            condition(v1::Field::App, 0, app),
        ],
        ..filter(number)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_filters_are_applied_and_one_more_is_refused() {
    let daemon = Daemon::start().await;
    let (mut client, session) = daemon.session().await;
    let full = v1::ApplyPolicyRequest {
        filters: (1..=FILTERS_MAX as u128).map(mixed).collect(),
        ..policy()
    };
    let began = Instant::now();
    let applied = client.try_apply(&session, full.clone()).await.unwrap();
    println!("applied {FILTERS_MAX} filters in {:?}", began.elapsed());
    assert_eq!(applied.added as usize, FILTERS_MAX);
    let one_more = client
        .try_add_filter(&session, filter(1 + FILTERS_MAX as u128))
        .await;
    assert_refused(one_more, Code::OutOfBounds);
    let mut more = full;
    more.filters.push(filter(1 + FILTERS_MAX as u128));
    assert_refused(client.try_apply(&session, more).await, Code::OutOfBounds);
    assert_eq!(daemon.data_path.in_force().len(), FILTERS_MAX);
    assert_eq!(daemon.state().await.generation, applied.generation);
    let began = Instant::now();
    let daemon = daemon.restart("a boot").await;
    println!("restarted in {:?}", began.elapsed());
    assert_eq!(daemon.state().await.filters as usize, FILTERS_MAX);
}

#[tokio::test(flavor = "multi_thread")]
async fn sublayers_services_and_providers_have_limits() {
    let daemon = Daemon::start().await;
    let (mut client, session) = daemon.session().await;
    // The universal sublayer counts too.
    let added_max = SUBLAYERS_MAX as u128 - 1;
    let full = v1::ApplyPolicyRequest {
        sublayers: (1..=added_max).map(sublayer).collect(),
        ..policy()
    };
    let mut more = full.clone();
    more.sublayers.push(sublayer(added_max + 1));
    let result = client.try_apply(&session, more).await;
    assert_refused(result, Code::TooManySublayers);
    assert_eq!(daemon.state().await.sublayers, 1);
    client.try_apply(&session, full).await.unwrap();
    let request = v1::AddSublayerRequest {
        session_id: session.id(),
        sublayer: Some(sublayer(added_max + 1)),
    };
    assert_refused(client.add_sublayer(request).await, Code::TooManySublayers);
    let services = v1::ApplyPolicyRequest {
        services: (0..=SERVICES_MAX as u128).map(|n| service(n + 1)).collect(),
        ..policy()
    };
    let result = client.try_apply(&session, services).await;
    assert_refused(result, Code::TooManyCallouts);
    let providers = v1::ApplyPolicyRequest {
        providers: (0..=PROVIDERS_MAX as u128)
            .map(|n| provider(n + 1))
            .collect(),
        ..policy()
    };
    assert_refused(
        client.try_apply(&session, providers).await,
        Code::OutOfBounds,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_and_their_options_have_limits() {
    let config = Config {
        limits: Limits {
            sessions: 2,
            ..Limits::default()
        },
        ..Config::default()
    };
    let daemon = Daemon::start_with(config).await;
    let open = [daemon.session().await, daemon.session().await];
    let mut client = daemon.client().await;
    let third = client.open_session(v1::SessionOptions::default()).await;
    let code = third.unwrap_err().code();
    assert_eq!(code, tonic::Code::ResourceExhausted);
    drop(open);
    super::harness::wait_until("the sessions have ended", async || {
        daemon.state().await.sessions.is_empty()
    })
    .await;
    let long = v1::SessionOptions {
        name: "x".repeat(257),
        ..Default::default()
    };
    assert_refused(client.open_session(long).await, Code::OutOfBounds);
    let patient = v1::SessionOptions {
        txn_wait_timeout_ms: Some(3_600_001),
        ..Default::default()
    };
    assert_refused(client.open_session(patient).await, Code::OutOfBounds);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_have_a_size_limit_and_policies_a_larger_one() {
    let daemon = Daemon::start().await;
    let (mut client, session) = daemon.session().await;
    let large = v1::Filter {
        description: "x".repeat(CHANGE_SIZE_MAX),
        ..filter(1)
    };
    let status = client
        .try_add_filter(&session, large.clone())
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::OutOfRange, "{status}");
    // Within a policy it is small enough to be read, and is then refused because of its
    // description.
    let one = v1::ApplyPolicyRequest {
        filters: vec![large],
        ..policy()
    };
    assert_refused(client.try_apply(&session, one).await, Code::OutOfBounds);
    let huge = v1::ApplyPolicyRequest {
        owner: "x".repeat(sidetrack_api::MESSAGE_SIZE_MAX),
        ..policy()
    };
    let status = client.try_apply(&session, huge).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::OutOfRange, "{status}");
    assert!(client.filters(0).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_refused_and_memory_is_bounded() {
    use std::io::{BufRead, BufReader};
    let daemon = Daemon::start().await;
    let (mut client, session) = daemon.session().await;
    client.begin(&session, false).await.unwrap();
    reset_peak_memory();
    let before = peak_memory();
    let mut child = daemon.spawn_client("flood");
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let refused = tokio::task::spawn_blocking(move || {
        let mut lines = lines.map_while(Result::ok);
        lines.find_map(|line| line.strip_prefix("refused ").map(str::to_owned))
    });
    let refused: usize = refused.await.unwrap().expect("it floods").parse().unwrap();
    let grown = peak_memory() - before;
    println!("{refused} calls refused, {} MiB more", grown >> 20);
    assert!(refused >= 32 * 40 - CALLS_MAX * 3 && grown < FLOOD_BYTES_MAX);
    // Other clients are served once the flood has ended, and the writing transaction has stayed
    // open.
    client.try_add_filter(&session, filter(2)).await.ok();
    child.kill().unwrap();
    child.wait().unwrap();
    super::harness::wait_until("calls are admitted again", async || {
        client.version(v1::VersionRequest {}).await.is_ok()
    })
    .await;
    client.abort_transaction(&session).await.unwrap();
}
