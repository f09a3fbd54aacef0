//! The second socket, from which proxies get the descriptors for pended connects.

use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use sidetrack_abi::kernel::{ABI_VERSION, Listen};
use sidetrack_api::pended::{Answer, DESCRIPTORS_MAX};
use sidetrackd::quota::PARTS;
use sidetrackd::server::{PENDED_CLIENT_TIME_MAX, PENDED_CLIENTS_MAX};
use zerocopy::IntoBytes;

use super::fake_data_path::{ACCEPTS, CANNOT_PEND, PENDS, PENDS_IPV4, SECRET};
use super::harness::{Daemon, wait_until};
use super::user::{STRANGER, connect_as};

/// How long the tests wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(20);

fn socket(daemon: &Daemon) -> PathBuf {
    sidetrack_api::pended::socket(&daemon.socket)
}

fn credentials(service: u32) -> Listen {
    Listen {
        version: ABI_VERSION,
        service,
        engine_id: 1,
        secret: SECRET,
    }
}

/// What a client receives: `None` if the daemon closes the connection.
fn receive(stream: &UnixStream) -> Option<(Answer, Vec<OwnedFd>)> {
    stream.set_read_timeout(Some(ANSWER_MAX)).unwrap();
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [IoSliceMut::new(&mut byte)];
    let received = recvmsg(stream, &mut bytes, &mut ancillary, RecvFlags::CMSG_CLOEXEC);
    match received {
        Ok(received) if received.bytes == 1 => {}
        Ok(_) | Err(Errno::CONNRESET) => return None,
        Err(error) => panic!("{error}"),
    }
    let rights = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptors = rights.flatten().collect();
    Some((Answer::from_byte(byte[0]).unwrap(), descriptors))
}

/// Asks as a user, and returns the answer with the contents of the files that came with it.
fn ask_as(daemon: &Daemon, uid: u32, listen: &Listen) -> (Answer, Vec<String>) {
    let mut stream = connect_as(&socket(daemon), uid, uid);
    stream.write_all(listen.as_bytes()).unwrap();
    let (answer, descriptors) = receive(&stream).unwrap();
    let contents = descriptors.into_iter().map(|descriptor| {
        let mut text = String::new();
        File::from(descriptor).read_to_string(&mut text).unwrap();
        text
    });
    let contents = contents.collect();
    assert!(receive(&stream).is_none(), "the daemon closes");
    (answer, contents)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_credentials_of_a_service_that_pends_give_its_descriptors() {
    let daemon = Daemon::start().await;
    for uid in [0, STRANGER] {
        let all = ask_as(&daemon, uid, &credentials(PENDS));
        let expected = ["ring", "sender4", "sender6"].map(String::from);
        assert_eq!(all, (Answer::Descriptors, expected.to_vec()));
    }
    let without_ipv6 = ask_as(&daemon, 0, &credentials(PENDS_IPV4));
    let expected = ["ring", "sender4"].map(String::from);
    assert_eq!(without_ipv6, (Answer::Descriptors, expected.to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_clients_get_the_reason_and_no_descriptors() {
    let daemon = Daemon::start().await;
    let wrong = Listen {
        secret: [8; 16],
        ..credentials(PENDS)
    };
    for (listen, answer) in [
        (credentials(ACCEPTS), Answer::Accepted),
        (wrong, Answer::BadCredentials),
        (credentials(9), Answer::BadCredentials),
        (credentials(CANNOT_PEND), Answer::Unavailable),
    ] {
        assert_eq!(ask_as(&daemon, STRANGER, &listen), (answer, Vec::new()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_too_little_is_left() {
    let daemon = Daemon::start().await;
    let began = Instant::now();
    let silent = connect_as(&socket(&daemon), 0, 0);
    let mut slow = connect_as(&socket(&daemon), STRANGER, STRANGER);
    slow.write_all(&credentials(PENDS).as_bytes()[..31])
        .unwrap();
    let mut gone = connect_as(&socket(&daemon), STRANGER, STRANGER);
    gone.write_all(&[1]).unwrap();
    drop(gone);
    // Others are served in the meantime.
    let (answer, _) = ask_as(&daemon, 0, &credentials(PENDS));
    assert_eq!(answer, Answer::Descriptors);
    assert!(began.elapsed() < PENDED_CLIENT_TIME_MAX);
    for stream in [silent, slow] {
        let left = tokio::task::block_in_place(|| receive(&stream).is_none());
        assert!(left && began.elapsed() >= PENDED_CLIENT_TIME_MAX);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_user_does_not_keep_the_others_out() {
    let daemon = Daemon::start().await;
    let share = PENDED_CLIENTS_MAX / PARTS;
    let began = Instant::now();
    let silent: Vec<_> = (0..share)
        .map(|_| connect_as(&socket(&daemon), STRANGER, STRANGER))
        .collect();
    let further = connect_as(&socket(&daemon), STRANGER, STRANGER);
    assert!(receive(&further).is_none());
    assert!(
        began.elapsed() < PENDED_CLIENT_TIME_MAX,
        "it is closed at once"
    );
    for uid in [0, STRANGER - 1] {
        let (answer, _) = ask_as(&daemon, uid, &credentials(ACCEPTS));
        assert_eq!(answer, Answer::Accepted);
    }
    // The places of those that have left are free again.
    drop(silent);
    wait_until("the user is served", async || {
        let mut stream = connect_as(&socket(&daemon), STRANGER, STRANGER);
        // It fails if the daemon has closed the connection already.
        let _ = stream.write_all(credentials(ACCEPTS).as_bytes());
        receive(&stream).is_some()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_next_to_the_apis_with_its_permissions() {
    let daemon = Daemon::start().await;
    let api = std::fs::metadata(&daemon.socket).unwrap();
    let pended = std::fs::metadata(socket(&daemon)).unwrap();
    assert_eq!(socket(&daemon).parent(), daemon.socket.parent());
    assert_eq!(
        (pended.mode(), pended.uid(), pended.gid()),
        (api.mode(), api.uid(), api.gid())
    );
    // What a daemon has left is replaced by the next one.
    let daemon = daemon.restart("a boot").await;
    let (answer, _) = ask_as(&daemon, 0, &credentials(ACCEPTS));
    assert_eq!(answer, Answer::Accepted);
}
