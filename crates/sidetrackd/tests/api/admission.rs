//! Tests of what happens to a call before it is decoded.

use prost::Message;
use prost_types::FileDescriptorSet;
use sidetrack_api::v1;
use sidetrack_policy::Code;
use sidetrack_policy::set::FILTERS_MAX;
use sidetrackd::server::{ARRIVAL_MAX, POLICY_SIZE_MAX};
use tokio_stream::{once, pending};

use super::client::{ClientCalls, assert_refused};
use super::example::{filter, policy};
use super::harness::{Daemon, peak_memory, reset_peak_memory, wait_until};
use super::user::{STRANGER, call, channel_as, client_as, connect_as, group_writes};

/// Bytes that are no message: half of a key.
const MALFORMED: &[u8] = &[0xff];
/// How much memory, in bytes, may grow while the requests are refused: the bytes of a request of 20
/// MiB and of 60 requests of 1 MB, in the client and in the daemon.
const REFUSED_BYTES_MAX: u64 = 200 << 20;

/// Returns the names of the API's calls.
fn calls() -> Vec<String> {
    let descriptor = FileDescriptorSet::decode(sidetrack_api::DESCRIPTOR).unwrap();
    let services = descriptor.file.into_iter().flat_map(|file| file.service);
    let methods = services.flat_map(|service| service.method);
    methods.map(|method| method.name().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_to_a_call_is_checked_before_its_message() {
    let daemon = Daemon::start().await;
    let stranger = channel_as(&daemon.socket, STRANGER, STRANGER)
        .await
        .unwrap();
    let root = channel_as(&daemon.socket, 0, 0).await.unwrap();
    let mut refused = 0;
    for name in calls() {
        let as_root = call(&root, &name, once(MALFORMED.to_vec())).await;
        assert_eq!(
            as_root.unwrap_err().code(),
            tonic::Code::InvalidArgument,
            "{name}"
        );
        let as_stranger = call(&stranger, &name, once(MALFORMED.to_vec())).await;
        let expected = match name.as_str() {
            "Version" => tonic::Code::InvalidArgument,
            _ => tonic::Code::PermissionDenied,
        };
        assert_eq!(as_stranger.unwrap_err().code(), expected, "{name}");
        refused += 1;
    }
    assert!(refused > 20);
    let unknown = call(&stranger, "Unknown", once(MALFORMED.to_vec())).await;
    assert_eq!(unknown.unwrap_err().code(), tonic::Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_a_call_are_counted_before_they_are_decoded() {
    let daemon = Daemon::start().await;
    let root = channel_as(&daemon.socket, 0, 0).await.unwrap();
    let stranger = channel_as(&daemon.socket, STRANGER, STRANGER)
        .await
        .unwrap();
    // 10,485,760 empty filters.
    let filters = [7 << 3 | 2, 0].repeat(10 << 20);
    assert!(filters.len() / 2 > FILTERS_MAX);
    reset_peak_memory();
    let before = peak_memory();
    let denied = call(&stranger, "ApplyPolicy", once(filters.clone())).await;
    assert_eq!(denied.unwrap_err().code(), tonic::Code::PermissionDenied);
    let result = call(&root, "ApplyPolicy", once(filters)).await;
    assert_refused(result, Code::OutOfBounds);
    // A filter with 500,000 empty conditions.
    let conditions = [11 << 3 | 2, 0].repeat(500_000);
    let mut request = vec![2 << 3 | 2];
    prost::encoding::encode_varint(conditions.len() as u64, &mut request);
    request.extend(conditions);
    let calls: Vec<_> = (0..60)
        .map(|_| {
            let (root, request) = (root.clone(), request.clone());
            tokio::spawn(async move { call(&root, "AddFilter", once(request)).await })
        })
        .collect();
    for call in calls {
        // Some are refused because all calls in memory have too many bytes.
        let status = call.await.unwrap().unwrap_err();
        if status.code() != tonic::Code::ResourceExhausted {
            assert_refused::<()>(Err(status), Code::OutOfBounds);
        }
    }
    let grown = peak_memory() - before;
    println!("{} MiB more", grown >> 20);
    assert!(grown < REFUSED_BYTES_MAX, "{grown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_of_a_user_has_a_smaller_limit_than_roots() {
    let (config, group) = group_writes();
    let daemon = Daemon::start_with(config).await;
    let mut user = client_as(&daemon.socket, STRANGER, group).await;
    let huge = v1::ApplyPolicyRequest {
        owner: "x".repeat(POLICY_SIZE_MAX),
        ..Default::default()
    };
    let status = user.apply_policy(huge.clone()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::OutOfRange);
    // Root's is read, and refused because there is no such session.
    let mut root = daemon.client().await;
    assert_refused(root.apply_policy(huge).await, Code::NullPointer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_does_not_arrive_keeps_neither_root_nor_other_users_waiting() {
    let (config, group) = group_writes();
    let daemon = Daemon::start_with(config).await;
    let slow = channel_as(&daemon.socket, STRANGER, group).await.unwrap();
    let began = std::time::Instant::now();
    let slow = tokio::spawn(async move { call(&slow, "ApplyPolicy", pending()).await });
    let (mut root, session) = daemon.session().await;
    let applied = root.try_apply(&session, policy(vec![filter(1)])).await;
    assert_eq!(applied.unwrap().added, 1);
    assert!(!slow.is_finished());
    let status = slow.await.unwrap().unwrap_err();
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    assert!(began.elapsed() >= ARRIVAL_MAX);
    // The turn of the other users is free again.
    let mut user = client_as(&daemon.socket, STRANGER - 1, group).await;
    let result = user.apply_policy(v1::ApplyPolicyRequest::default()).await;
    assert_refused(result, Code::NullPointer);
}

/// What gRPC's C core sends for two calls of `Version` on one connection: the second one refers to
/// the header fields of the first.
fn calls_of_the_c_core() -> Vec<u8> {
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let header = [0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream];
        [&header, payload].concat()
    };
    let first = b"@\x05:path\x1f/sidetrack.v1.Sidetrack/Version\
        @\n:authority\x16run%2Fsd%2Fdaemon.sock\x83\x86@\x0ccontent-type\x10application/grpc\
        @\x02te\x08trailers";
    let second = b"\xc1\xc0\x83\x86\xbf\xbe";
    let empty_message = [0; 5];
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, &[]),
        frame(1, 4, 1, first),
        frame(0, 1, 1, &empty_message),
        frame(1, 4, 3, second),
        frame(0, 1, 3, &empty_message),
    ]
    .concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_the_c_core_are_answered() {
    use std::io::{Read, Write};
    let daemon = Daemon::start().await;
    let mut stream = connect_as(&daemon.socket, STRANGER, STRANGER);
    stream
        .set_read_timeout(Some(std::time::Duration::from_millis(100)))
        .unwrap();
    stream.write_all(&calls_of_the_c_core()).unwrap();
    let mut answer = Vec::new();
    let version = env!("CARGO_PKG_VERSION").as_bytes();
    wait_until("both calls are answered", async || {
        let mut bytes = [0; 4096];
        if let Ok(count) = stream.read(&mut bytes) {
            answer.extend_from_slice(&bytes[..count]);
        }
        let answers = answer
            .windows(version.len())
            .filter(|part| *part == version);
        answers.count() == 2
    })
    .await;
}
