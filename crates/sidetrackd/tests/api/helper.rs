//! The program `sidetrackd-test-helper`. The tests of this folder use it for work that needs a separate
//! process: one that is killed, runs as another user, or uses memory that the test must not count.
//!
//! The test reads what the program prints. If a call has an unexpected result, the program panics.

#[allow(dead_code, reason = "the tests use the rest")]
mod client;
mod commits;
#[allow(dead_code, reason = "the tests use the rest")]
mod example;
mod hostile;
#[allow(dead_code, reason = "the tests use the rest")]
mod user;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use sidetrack_api::client::{Client, Session, connect};
use sidetrack_api::v1;
use sidetrack_policy::set::Author;
use sidetrack_policy::{Action, Code, Filter, Identity, LayerKind, Lifetime, Objects, Uuid};
use sidetrackd::store::Store;

use self::client::{AS_EXPECTED, ClientCalls, add_two_objects, assert_refused};
use self::commits::{BOOT, commit_number, filter_count};
use self::example::{condition, filter, key, policy, provider, service};

/// What to do, and the daemon's socket or the store's file.
#[derive(Parser)]
enum Job {
    /// Write commits to a store, and print the number of each after it is written, until killed.
    Commit { store: PathBuf },
    /// Open a dynamic session, add objects to it, and print its id. The session and a writing
    /// transaction stay open until standard input ends.
    WriteInDynamicSession { socket: PathBuf },
    /// Make more calls than the daemon admits, and print how many it refused. The calls stay in
    /// progress until standard input ends.
    Flood { socket: PathBuf },
    /// Change objects as a user of the group that may write, and try to change another user's.
    ChangeAsVendor { socket: PathBuf },
    /// Make calls as a user without permissions.
    AskAsStranger { socket: PathBuf },
    /// Make random calls for a number of seconds.
    Attack {
        socket: PathBuf,
        seed: u64,
        seconds: u64,
    },
}

#[tokio::main]
async fn main() {
    match Job::parse() {
        Job::Commit { store } => commit(&store),
        Job::WriteInDynamicSession { socket } => {
            write_in_dynamic_session(open(&socket).await).await
        }
        Job::Flood { socket } => flood(&socket).await,
        Job::ChangeAsVendor { socket } => change_as_vendor(open(&socket).await).await,
        Job::AskAsStranger { socket } => ask_as_stranger(open(&socket).await).await,
        Job::Attack {
            socket,
            seed,
            seconds,
        } => {
            let time = Duration::from_secs(seconds);
            let (answered, all) = hostile::attack(&socket, seed, time).await;
            println!("{answered} of {all} calls were answered with OK");
        }
    }
}

async fn open(socket: &Path) -> Client {
    connect(Some(socket)).await.unwrap()
}

fn commit(path: &Path) {
    let mut store = Store::open(path).unwrap();
    store.begin_boot(BOOT).unwrap();
    let objects: Objects = store.load(BOOT, &|_| true).unwrap().objects;
    let last = commit_number(&objects).unwrap_or(0);
    for n in last + 1.. {
        store.write(&nth_policy(n)).unwrap();
        println!("committed {n}");
    }
}

/// Returns the policy of the nth commit.
fn nth_policy(n: u64) -> Objects {
    let mut objects = Objects::default();
    let layer = LayerKind::ConnectRedirect.both()[0];
    for key in 1..=filter_count(n) {
        let filter = Filter {
            identity: Identity {
                key: Uuid::from_u128(key),
                name: "rule".into(),
                description: n.to_string(),
            },
            lifetime: Lifetime::Persistent,
            ..Filter::new("", layer, Action::Block)
        };
        objects.add(filter, &Author::default(), Uuid::nil).unwrap();
    }
    objects
}

async fn write_in_dynamic_session(mut client: Client) {
    let options = v1::SessionOptions {
        dynamic: true,
        ..Default::default()
    };
    let session = Session::open(&mut client, options).await.unwrap();
    add_two_objects(&mut client, &session).await;
    client.begin(&session, false).await.unwrap();
    client.try_add_filter(&session, filter(3)).await.unwrap();
    println!("session {}", session.id());
    wait_for_end_of_input();
}

async fn flood(socket: &Path) {
    let app = |n: usize| v1::value::Kind::Path(format!("/{}", "x".repeat(4000 + n)));
    let large = v1::Filter {
        conditions: (0..90)
            .map(|n| condition(v1::Field::App, 0, app(n)))
            .collect(),
        ..filter(1)
    };
    let mut refusals = 0;
    let mut sessions = Vec::new();
    for _ in 0..32 {
        let mut client = open(socket).await;
        let options = v1::SessionOptions::default();
        let session = Session::open(&mut client, options).await.unwrap();
        sessions.push((client, session));
    }
    for (client, session) in &sessions {
        let session_id = session.id();
        let calls = (0..40).map(|_| {
            let mut client = client.clone();
            let request = v1::AddFilterRequest {
                session_id,
                filter: Some(large.clone()),
            };
            tokio::spawn(async move { client.add_filter(request).await.map(drop) })
        });
        let calls: Vec<_> = calls.collect();
        // Calls that wait for the write lock stay in progress.
        for call in calls {
            let wait = Duration::from_millis(20);
            if let Ok(Ok(Err(status))) = tokio::time::timeout(wait, call).await {
                assert_eq!(status.code(), tonic::Code::ResourceExhausted);
                refusals += 1;
            }
        }
    }
    println!("refused {refusals}");
    wait_for_end_of_input();
}

async fn change_as_vendor(mut client: Client) {
    let session = Session::open(&mut client, v1::SessionOptions::default())
        .await
        .unwrap();
    let session_id = session.id();
    let own = v1::AddProviderRequest {
        session_id,
        provider: Some(provider(2)),
    };
    client.add_provider(own).await.unwrap();
    let filter_of = |number, provider| v1::Filter {
        provider,
        ..filter(number)
    };
    client
        .try_add_filter(&session, filter_of(2, key(2)))
        .await
        .unwrap();
    let wrong = Code::WrongSession;
    assert_refused(
        client
            .try_add_filter(&session, filter_of(3, Vec::new()))
            .await,
        wrong,
    );
    assert_refused(
        client.try_add_filter(&session, filter_of(3, key(1))).await,
        wrong,
    );
    let delete = |number| v1::DeleteRequest {
        session_id,
        key: key(number),
    };
    assert_refused(client.delete_filter(delete(1)).await, wrong);
    assert_refused(client.delete_provider(delete(1)).await, wrong);
    let foreign = policy(vec![filter_of(4, key(1))]);
    assert_refused(client.try_apply(&session, foreign).await, wrong);
    let of_root = v1::RegisterServiceRequest {
        session_id,
        service: Some(v1::register_service_request::Service::Name(
            "proxy 1".into(),
        )),
    };
    assert_refused(client.register_service(of_root).await, wrong);
    let squatter = v1::Service {
        name: "proxy 1".into(),
        provider: key(2),
        records_bound: true,
        ..service(2)
    };
    let squat = v1::AddServiceRequest {
        session_id,
        service: Some(squatter),
    };
    client.add_service(squat).await.unwrap();
    println!("{AS_EXPECTED}");
}

async fn ask_as_stranger(mut client: Client) {
    client.version(v1::VersionRequest {}).await.unwrap();
    let denied = Some(tonic::Code::PermissionDenied);
    let code = |status: Option<tonic::Status>| status.map(|status| status.code());
    let state = client.get_state(v1::GetStateRequest {}).await;
    assert_eq!(code(state.err()), denied);
    let session = client.open_session(v1::SessionOptions::default()).await;
    assert_eq!(code(session.err()), denied);
    let request = v1::ApplyPolicyRequest::default();
    let applied = client.apply_policy(request).await;
    assert_eq!(code(applied.err()), denied);
    println!("{AS_EXPECTED}");
}

/// Blocks this thread until standard input ends: when the test closes it, or ends without having
/// killed this process. The other threads keep the connections open.
fn wait_for_end_of_input() {
    tokio::task::block_in_place(|| std::io::stdin().read_to_end(&mut Vec::new()).unwrap());
}
