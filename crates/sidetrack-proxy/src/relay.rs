//! Relays bytes both ways between two connections.
//!
//! ```text
//!            ┌─ pump ──── bytes_up ───▶┐
//!   client ──┤                         ├── origin      each ends by its own half-close
//!            └◀── bytes_down ── pump ──┘
//! ```
//!
//! Small amounts are copied; after that a direction gets a pipe and the kernel moves the data
//! (`splice`). Each direction holds at most one pipe or one buffer, so a slow reader slows the
//! writer. An idle connection holds no buffer.
//!
//! A process that relays must ignore SIGPIPE, as Rust programs do: splicing to a closed connection
//! raises it, and has no flag against that.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use rustix::net::Shutdown;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::select;

use crate::end::{How, Side};

mod progress;
mod pump;

pub use progress::IDLE_CHECKS;
pub use pump::{COPY_SIZE, PIPE_SIZE, SPLICE_AFTER_SIZE};

pub(crate) use progress::Progress;
pub(crate) use pump::{Peer, descriptors, pipes_max, pump, read_chunk, write_all};

/// What a relay did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Bytes handed to the origin's connection.
    pub bytes_up: u64,
    /// Bytes handed to the client's connection.
    pub bytes_down: u64,
    /// Why it is over.
    pub how: How,
}

/// Relays until both sides have closed, one fails, or no byte went either way for `idle_timeout`
/// (or a little longer, see [`IDLE_CHECKS`]).
///
/// A half-close is passed on, and so is a reset: unless both sides closed, both connections end by
/// a reset; so too if this is dropped.
pub async fn relay(client: TcpStream, origin: TcpStream, idle_timeout: Duration) -> Ended {
    let progress = Progress::default();
    reset_on_close(&client);
    reset_on_close(&origin);
    let how = select! {
        biased;
        how = both_ways(&client, &origin, &progress) => how,
        () = progress.idle(idle_timeout) => How::Idle,
    };
    if how == How::Closed {
        end_well(&client);
        end_well(&origin);
    }
    progress.ended(how)
}

async fn both_ways(client: &TcpStream, origin: &TcpStream, progress: &Progress) -> How {
    let (client, origin) = (Peer::client(client), Peer::origin(origin));
    let up = pump(client, origin, &progress.up, &progress.ends);
    let down = pump(origin, client, &progress.down, &progress.ends);
    match tokio::try_join!(up, down) {
        Ok(((), ())) => How::Closed,
        Err(how) => how,
    }
}

/// Makes any end of this connection a reset, so that the peer does not take half of what was sent
/// for the whole. Set first, as a connection may end by being dropped.
pub(crate) fn reset_on_close(stream: &TcpStream) {
    linger(stream, Some(Duration::ZERO));
}

/// Undoes [`reset_on_close`]: what was sent is delivered still.
pub(crate) fn end_well(stream: &TcpStream) {
    linger(stream, None);
}

fn linger(stream: &TcpStream, time: Option<Duration>) {
    let _ = SockRef::from(stream).set_linger(time); // cannot fail on a TCP socket
}

/// Tells the peer that no more will come.
pub(crate) fn shutdown(peer: Peer<'_>) -> Result<(), How> {
    rustix::net::shutdown(peer.stream, Shutdown::Write)
        .map_err(|error| How::of_error(peer.side, &error.into()))
}

/// Passes on that one direction is over. After the second one both connections are closed, which says
/// the same, and spares a call.
pub(crate) fn half_close(to: Peer<'_>, ends: &AtomicU8) -> Result<(), How> {
    match ends.fetch_add(1, Ordering::Relaxed) {
        0 => shutdown(to),
        _ => Ok(()),
    }
}

impl<'a> Peer<'a> {
    pub(crate) fn client(stream: &'a TcpStream) -> Self {
        let side = Side::Client;
        Self { stream, side }
    }

    pub(crate) fn origin(stream: &'a TcpStream) -> Self {
        let side = Side::Origin;
        Self { stream, side }
    }
}
