//! Tests that no user keeps root or other users out, whatever it takes.

use std::time::{Duration, Instant};

use sidetrack_api::client::Session;
use sidetrack_api::config::{Config, Limits};
use sidetrack_api::v1;
use sidetrack_policy::Code;
use sidetrackd::quota::PARTS;
use sidetrackd::server::{CALLS_MAX, STREAMS_MAX};

use super::client::{ClientCalls, assert_refused};
use super::example::{filter, key, policy, provider};
use super::fake_data_path::flow;
use super::harness::{Daemon, peak_memory, reset_peak_memory, wait_until};
use super::user::{STRANGER, channel_as, client_as, connect_as, group_writes};

/// User ids of `count` users.
fn users(count: usize) -> impl Iterator<Item = u32> {
    (20_000..).take(count)
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_do_not_keep_root_out_and_are_closed() {
    let limits = Limits {
        connections: 8 * PARTS,
        ..Limits::default()
    };
    let config = Config {
        limits,
        ..Config::default()
    };
    let daemon = Daemon::start_with(config).await;
    let mut streams = Vec::new();
    for uid in users(PARTS) {
        streams.extend((0..20).map(|_| connect_as(&daemon.socket, uid, uid)));
    }
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut root = daemon.client().await;
        root.version(v1::VersionRequest {}).await.unwrap();
        clients.push(root);
    }
    for stream in &streams {
        stream.set_nonblocking(true).unwrap();
    }
    let is_open = |stream: &std::os::unix::net::UnixStream| {
        let mut byte = [0];
        let read = std::io::Read::read(&mut &*stream, &mut byte);
        // Until the client's preface arrives, the server may send its settings.
        !matches!(read, Ok(0))
            && read.as_ref().err().map(std::io::Error::kind)
                != Some(std::io::ErrorKind::ConnectionReset)
    };
    let open = || streams.iter().filter(|stream| is_open(stream)).count();
    // Each has its share, all of them leave the reserve, and the others were refused.
    wait_until("the connections beyond the bounds are closed", async || {
        open() == 7 * 8
    })
    .await;
    wait_until(
        "the others are closed because they make no call",
        async || open() == 0,
    )
    .await;
    // Root's are not closed.
    for root in &mut clients {
        root.version(v1::VersionRequest {}).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_user_has_its_share_of_the_sessions_and_root_its_reserve() {
    let (config, _) = group_writes();
    let limits = Limits {
        sessions: 2 * PARTS,
        ..Limits::default()
    };
    let daemon = Daemon::start_with(Config { limits, ..config }).await;
    let mut open = Vec::new();
    let mut refused = 0;
    for uid in users(PARTS) {
        let mut client = client_as(&daemon.socket, uid, uid).await;
        for _ in 0..3 {
            match client.open_session(v1::SessionOptions::default()).await {
                Ok(session) => open.push(session),
                Err(status) => {
                    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
                    refused += 1;
                }
            }
        }
    }
    assert_eq!((open.len(), refused), (2 * (PARTS - 1), PARTS + 2));
    let sessions = [daemon.session().await, daemon.session().await];
    assert_eq!(daemon.state().await.sessions.len(), 2 * PARTS);
    drop(sessions);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_transaction_is_aborted_when_root_waits_to_write() {
    let (config, group) = group_writes();
    let daemon = Daemon::start_with(config).await;
    let mut user = client_as(&daemon.socket, STRANGER, group).await;
    let mut holding = Session::open(&mut user, v1::SessionOptions::default())
        .await
        .unwrap();
    user.begin(&holding, false).await.unwrap();
    let (mut root, session) = daemon.session().await;
    root.try_apply(&session, policy(vec![filter(1)]))
        .await
        .unwrap();
    assert_eq!(daemon.data_path.in_force(), [1]);
    let event = holding.event().await.unwrap();
    use v1::session_event::Event;
    assert!(matches!(event, Some(Event::TransactionAborted(_))));
    let refusal = user.commit_transaction(&holding).await.unwrap_err();
    assert!(refusal.message().contains("root waited"), "{refusal}");
    assert_refused(Err::<(), _>(refusal), Code::TxnAborted);
    // The session can begin another one, and root's own transactions are not aborted.
    user.begin(&holding, false).await.unwrap();
    user.commit_transaction(&holding).await.unwrap();
    let (mut other, held_by_root) = daemon.session().await;
    other.begin(&held_by_root, false).await.unwrap();
    let options = v1::SessionOptions {
        txn_wait_timeout_ms: Some(50),
        ..Default::default()
    };
    let (mut root, waits) = daemon.session_with(options).await;
    assert_refused(root.try_add_filter(&waits, filter(2)).await, Code::Timeout);
    other.commit_transaction(&held_by_root).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_waiting_writers_root_is_first_and_the_others_follow_in_turn() {
    let (config, group) = group_writes();
    let daemon = Daemon::start_with(config).await;
    let (mut first, holding) = daemon.session().await;
    first.begin(&holding, false).await.unwrap();
    let mut waiting = Vec::new();
    // The keys of the objects are in the order of the calls: two of one user, one of another, one
    // of root.
    for (number, uid) in [(1, 20_001), (2, 20_001), (3, 20_002), (4, 0)] {
        let mut client = client_as(&daemon.socket, uid, group).await;
        let session = Session::open(&mut client, v1::SessionOptions::default())
            .await
            .unwrap();
        waiting.push(tokio::spawn(async move {
            let session_id = session.id();
            let own = v1::AddProviderRequest {
                session_id,
                provider: Some(provider(number)),
            };
            client.add_provider(own).await.unwrap();
            session
        }));
        wait_until("its call waits", async || {
            u128::from(daemon.state().await.writers_waiting) == number
        })
        .await;
    }
    let mut events = first
        .stream_events(v1::StreamEventsRequest {
            follow: true,
            kinds: vec![v1::EventKind::PolicyCommitted.into()],
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();
    first.abort_transaction(&holding).await.unwrap();
    let mut order = Vec::new();
    for _ in 0..4 {
        events.message().await.unwrap().unwrap();
        let objects = provider_keys(&mut first).await;
        order.push(objects);
    }
    for each in waiting {
        each.await.unwrap();
    }
    // A later commit may have happened before the list was read, so each list contains at least
    // what must be there by then.
    for (index, expected) in [4, 1, 3, 2].into_iter().enumerate() {
        assert!(
            order[index].contains(&key(expected)),
            "{expected} at {index}"
        );
    }
}

async fn provider_keys(client: &mut sidetrack_api::Client) -> Vec<Vec<u8>> {
    let mut list = client
        .list_providers(v1::ListRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut keys = Vec::new();
    while let Some(message) = list.message().await.unwrap() {
        keys.extend(message.providers.into_iter().map(|provider| provider.key));
    }
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_leaves_no_task() {
    let daemon = Daemon::start().await;
    let (mut client, session) = daemon.session().await;
    client.begin(&session, false).await.unwrap();
    client.abort_transaction(&session).await.unwrap();
    let before = daemon.tasks();
    for number in 0..100 {
        client.begin(&session, false).await.unwrap();
        match number % 2 {
            0 => client.abort_transaction(&session).await.unwrap(),
            _ => drop(client.commit_transaction(&session).await.unwrap()),
        }
    }
    wait_until("the tasks of the transactions have ended", async || {
        daemon.tasks() <= before + 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_in_progress_have_shares() {
    let (config, group) = group_writes();
    let daemon = Daemon::start_with(config).await;
    let (mut root, holding) = daemon.session().await;
    root.begin(&holding, false).await.unwrap();
    let mut user = client_as(&daemon.socket, STRANGER, group).await;
    let session = Session::open(&mut user, v1::SessionOptions::default())
        .await
        .unwrap();
    let session_id = session.id();
    let share = CALLS_MAX / PARTS;
    let mut waiting = tokio::task::JoinSet::new();
    for number in 0..share as u128 + 5 {
        let mut user = user.clone();
        let request = v1::AddFilterRequest {
            session_id,
            filter: Some(filter(number + 1)),
        };
        waiting.spawn(async move { user.add_filter(request).await.map(drop) });
    }
    // The calls that are admitted wait for the write lock, or for the session's first call, which
    // does.
    let exhausted = Some(tonic::Code::ResourceExhausted);
    for _ in 0..5 {
        let call = waiting.join_next().await.unwrap().unwrap();
        assert_eq!(call.err().map(|status| status.code()), exhausted);
    }
    let version = user.version(v1::VersionRequest {}).await;
    assert_eq!(version.err().map(|status| status.code()), exhausted);
    let mut other = client_as(&daemon.socket, STRANGER - 1, group).await;
    other.version(v1::VersionRequest {}).await.unwrap();
    root.version(v1::VersionRequest {}).await.unwrap();
    root.abort_transaction(&holding).await.unwrap();
    while let Some(call) = waiting.join_next().await {
        // An object without a provider belongs to root.
        assert_refused(call.unwrap(), Code::WrongSession);
    }
    user.version(v1::VersionRequest {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_are_read_from_the_data_path_when_the_client_reads_them() {
    let (config, _) = group_writes();
    let daemon = Daemon::start_with(config).await;
    let count = 5000;
    daemon.data_path.recorded().flows = (1..=count).rev().map(|id| flow(id, false)).collect();
    let share = STREAMS_MAX / PARTS;
    let request = v1::ListFlowsRequest { closed: true };
    let channel = channel_as(&daemon.socket, STRANGER, STRANGER)
        .await
        .unwrap();
    let mut user = sidetrack_api::Client::new(channel);
    let mut lists = Vec::new();
    for _ in 0..share {
        lists.push(user.list_flows(request).await.unwrap().into_inner());
    }
    let refused = user.list_flows(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    // Root reads all flows while those lists wait.
    let mut root = daemon.client().await;
    let mut list = root.list_flows(request).await.unwrap().into_inner();
    let mut ids = Vec::new();
    while let Some(message) = list.message().await.unwrap() {
        ids.extend(message.flows.into_iter().map(|flow| flow.id));
    }
    assert_eq!(ids, (1..=count).collect::<Vec<_>>());
    // The others have been read as far as the connection's window allows.
    let read = daemon.data_path.recorded().flows_read as u64 - count;
    println!("{read} flows were read for {share} lists that are not read");
    assert!(read < share as u64 * count / 4, "{read}");
    drop(lists);
    wait_until("their portions are free again", async || {
        user.list_flows(request).await.is_ok()
    })
    .await;
}

/// How long the hostile clients attack. With the environment variable SIDETRACK_ATTACK_SECONDS it is
/// another time.
const ATTACK_SECONDS: u64 = 5;
/// The most memory, in bytes, that the daemon may take while they do.
const ATTACKED_BYTES_MAX: u64 = 256 << 20;

/// Runs this test's process as the daemon, and the clients in others: a member of the group that
/// may write, a user who may read, and one without rights.
#[tokio::test(flavor = "multi_thread")]
async fn root_is_served_and_memory_is_bounded_whatever_other_users_call() {
    let (config, group) = group_writes();
    let daemon = Daemon::start_with(config).await;
    daemon.data_path.recorded().flows = (1..=5000).map(|id| flow(id, false)).collect();
    let seconds = std::env::var("SIDETRACK_ATTACK_SECONDS").ok();
    let seconds = seconds.map_or(ATTACK_SECONDS, |text| text.parse().unwrap());
    let seed = std::process::id();
    println!("seed {seed}");
    reset_peak_memory();
    let mut attackers = Vec::new();
    for (number, gid) in [(1, group), (2, group), (3, STRANGER)] {
        let mut command = daemon.client_as("attack", 20_000 + number, gid);
        command
            .arg((seed + number).to_string())
            .arg(seconds.to_string());
        attackers.push(
            command
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap(),
        );
    }
    let (mut root, session) = daemon.session().await;
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut served, mut longest) = (0u128, Duration::ZERO);
    while Instant::now() < end {
        let began = Instant::now();
        let own = filter((1 << 100) | (served % 2));
        let applied = root.try_apply(&session, policy(vec![own])).await.unwrap();
        assert_eq!(applied.added, 1);
        root.get_state(v1::GetStateRequest {}).await.unwrap();
        longest = longest.max(began.elapsed());
        served += 1;
    }
    let peak = peak_memory();
    println!(
        "{served} calls of root, the longest {longest:?}; {} MiB",
        peak >> 20
    );
    for attacker in attackers {
        let output = attacker.wait_with_output().unwrap();
        print!("{}", String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success());
    }
    assert!(served > 0 && peak < ATTACKED_BYTES_MAX, "{peak}");
}
