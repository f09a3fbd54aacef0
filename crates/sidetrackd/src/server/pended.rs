//! The second socket, from which proxies get the descriptors for pended connects. The protocol is in
//! `sidetrack_api::pended`.
//!
//! gRPC cannot carry descriptors, so this is a separate socket. Every user may connect: the
//! credentials decide, as they do for the socket option LISTEN.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use sidetrack_abi::kernel::Listen;
use sidetrack_api::pended::{Answer, CREDENTIALS_SIZE, DESCRIPTORS_MAX};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tracing::{debug, warn};
use zerocopy::transmute;

use crate::access::Peer;
use crate::committer::Handle;
use crate::data_path::{PendedDescriptors, PendedRefusal};
use crate::error::with_sources;
use crate::quota::Portion;

/// Quota of clients that are served at a time. Each is served within milliseconds, so that the rest
/// is closed at once, and asks again.
pub const PENDED_CLIENTS_MAX: usize = 64;
/// How long the credentials may take to arrive, and the answer to leave.
pub const PENDED_CLIENT_TIME_MAX: Duration = Duration::from_secs(2);

/// Answers a client, and closes its connection.
pub(super) async fn serve(
    stream: std::os::unix::net::UnixStream,
    peer: Peer,
    portion: Portion,
    committer: Handle,
) {
    let _portion = portion;
    let answered = match UnixStream::from_std(stream) {
        Ok(stream) => answer(stream, &peer, &committer).await,
        Err(error) => Err(error),
    };
    if let Err(error) = answered {
        let Peer { pid, uid, .. } = peer;
        debug!("process {pid} of user {uid} gets no descriptors: {error}");
    }
}

/// Errors: the kernel's; the client was too slow; the daemon is stopping.
async fn answer(mut stream: UnixStream, peer: &Peer, committer: &Handle) -> io::Result<()> {
    let mut credentials = [0; CREDENTIALS_SIZE];
    timeout(PENDED_CLIENT_TIME_MAX, stream.read_exact(&mut credentials)).await??;
    let listen: Listen = transmute!(credentials);
    // The time that the committer takes is not the client's fault, so there is no limit for it.
    let found = committer
        .run(peer.uid, move |committer| {
            committer.data_path().pended_descriptors(&listen)
        })
        .await
        .map_err(io::Error::other)?;
    let answer = match &found {
        Ok(_) => Answer::Descriptors,
        Err(PendedRefusal::Accepted) => Answer::Accepted,
        Err(PendedRefusal::Credentials) => Answer::BadCredentials,
        Err(PendedRefusal::Unavailable(_)) => Answer::Unavailable,
    };
    debug!(
        "process {} of user {} asked for descriptors: {answer:?}",
        peer.pid, peer.uid
    );
    if let Err(PendedRefusal::Unavailable(error)) = &found {
        warn!("connects cannot be pended: {}", with_sources(error));
    }
    let send = || send(stream.as_fd(), answer, found.as_ref().ok());
    timeout(
        PENDED_CLIENT_TIME_MAX,
        stream.async_io(Interest::WRITABLE, send),
    )
    .await?
}

/// Sends the answer, with the descriptors if there are any.
fn send(
    socket: BorrowedFd<'_>,
    answer: Answer,
    descriptors: Option<&PendedDescriptors>,
) -> io::Result<()> {
    let descriptors: Vec<_> = descriptors.into_iter().flat_map(in_order).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        let fits = ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        debug_assert!(fits, "the buffer has room for all descriptors");
    }
    let byte = [answer as u8];
    let bytes = [IoSlice::new(&byte)];
    sendmsg(socket, &bytes, &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The ring buffer, the IPv4 sender, and the IPv6 sender if there is one.
fn in_order(descriptors: &PendedDescriptors) -> impl Iterator<Item = BorrowedFd<'_>> {
    let PendedDescriptors {
        ring,
        sender4,
        sender6,
    } = descriptors;
    [Some(ring), Some(sender4), sender6.as_ref()]
        .into_iter()
        .flatten()
        .map(AsFd::as_fd)
}
