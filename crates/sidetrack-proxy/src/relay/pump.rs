//! One direction of a relay.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

use rustix::io::retry_on_intr;
use rustix::net::{RecvFlags, recv};
use rustix::pipe::{
    PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice,
};
use rustix::process::{Resource, getrlimit};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::half_close;
use crate::end::{How, Side};

/// The buffer of a direction that copies, in bytes; held only while there is something to pass on.
pub const COPY_SIZE: usize = 16 * 1024;
/// A direction over which more bytes went gets a pipe (two file descriptors) and no longer copies.
pub const SPLICE_AFTER_SIZE: u64 = 64 * 1024;
/// The size asked for a pipe, in bytes. The kernel gives users that have many pipes less.
pub const PIPE_SIZE: usize = 256 * 1024;

/// A connection, and whose it is, so that its errors can be told apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer<'a> {
    pub(crate) stream: &'a TcpStream,
    pub(crate) side: Side,
}

/// Moves bytes until `from` has no more, then half-closes `to`. Counts what `to` has taken.
pub(crate) async fn pump(
    from: Peer<'_>,
    to: Peer<'_>,
    count: &AtomicU64,
    ends: &AtomicU8,
) -> Result<(), How> {
    let mut pipe = None;
    let mut copy = true;
    loop {
        let moved = match &pipe {
            Some(pipe) => splice_chunk(from, to, pipe, count).await?,
            None => copy_chunk(from, to, count).await?,
        };
        if moved == 0 {
            return half_close(to, ends);
        }
        if copy && count.load(Ordering::Relaxed) > SPLICE_AFTER_SIZE {
            copy = false;
            pipe = Pipe::new(); // without one, copying does as well
        }
    }
}

thread_local! {
    /// Where every small read of a thread goes: who waits holds no buffer, and nobody allocates one.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; COPY_SIZE].into());
}

async fn copy_chunk(from: Peer<'_>, to: Peer<'_>, count: &AtomicU64) -> Result<usize, How> {
    let (read, rest) = with_chunk(from, |bytes| {
        let written = write_some(to, bytes, count)?;
        Ok((bytes.len(), bytes[written..].to_vec()))
    })
    .await?;
    if !rest.is_empty() {
        write_all(to, &rest, count).await?;
    }
    Ok(read)
}

/// Appends up to [`COPY_SIZE`] bytes; 0 at the end. Cancel safe.
pub(crate) async fn read_chunk(from: Peer<'_>, buffer: &mut Vec<u8>) -> Result<usize, How> {
    with_chunk(from, |bytes| {
        buffer.reserve_exact(bytes.len());
        buffer.extend_from_slice(bytes);
        Ok(bytes.len())
    })
    .await
}

/// Waits for bytes, and hands them over; none at the end.
async fn with_chunk<T>(
    from: Peer<'_>,
    mut take: impl FnMut(&[u8]) -> Result<T, How>,
) -> Result<T, How> {
    let fail = |error| How::of_error(from.side, &error);
    loop {
        from.stream.readable().await.map_err(fail)?;
        let taken = SCRATCH.with_borrow_mut(|scratch| match receive(from.stream, scratch) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            read => take(&scratch[..read.map_err(fail)?]).map(Some),
        });
        if let Some(taken) = taken? {
            return Ok(taken);
        }
    }
}

/// Reads once. What does not fill the room was all there is, so the next wait is for more, without a
/// call that finds nothing: the runtime is told as if there had been one.
fn receive(stream: &TcpStream, room: &mut [u8]) -> io::Result<usize> {
    let mut read = None;
    let done = stream.try_io(Interest::READABLE, || {
        let length = retry_on_intr(|| recv(stream, &mut *room, RecvFlags::empty()))?.0;
        read = Some(length);
        match length {
            0 => Ok(()),
            length if length == room.len() => Ok(()),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    });
    match read {
        Some(length) => Ok(length),
        None => done.map(|()| 0),
    }
}

/// Writes what there is room for.
fn write_some(to: Peer<'_>, bytes: &[u8], count: &AtomicU64) -> Result<usize, How> {
    if bytes.is_empty() {
        return Ok(0);
    }
    match to.stream.try_write(bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(How::of_error(to.side, &error)),
        Ok(written) => {
            count.fetch_add(written as u64, Ordering::Relaxed);
            Ok(written)
        }
    }
}

pub(crate) async fn write_all(
    to: Peer<'_>,
    mut bytes: &[u8],
    count: &AtomicU64,
) -> Result<(), How> {
    loop {
        bytes = &bytes[write_some(to, bytes, count)?..];
        if bytes.is_empty() {
            return Ok(());
        }
        let ready = to.stream.writable().await;
        ready.map_err(|error| How::of_error(to.side, &error))?;
    }
}

/// The process's limit, in descriptors.
pub(crate) fn descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| limit as usize)
}

/// How many pipes there may be in a process of so many descriptors: a sixteenth of those is for pipes.
/// Directions that find none copy.
pub(crate) fn pipes_max(descriptors: usize) -> usize {
    descriptors / 16 / 2
}

/// Pipes that are open in this process.
static PIPES: AtomicUsize = AtomicUsize::new(0);

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    size: usize,
}

impl Drop for Pipe {
    fn drop(&mut self) {
        PIPES.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pipe {
    /// None if there are enough of them, or no descriptors.
    fn new() -> Option<Self> {
        static MOST: LazyLock<usize> = LazyLock::new(|| pipes_max(descriptors()));
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()?;
        let count = PIPES.fetch_add(1, Ordering::Relaxed);
        let mut pipe = Self {
            read,
            write,
            size: 0,
        };
        if count >= *MOST {
            return None;
        }
        let _ = fcntl_setpipe_size(&pipe.write, PIPE_SIZE); // a user of many pipes gets less
        let size = fcntl_getpipe_size(&pipe.write).ok()?;
        pipe.size = size;
        Some(pipe)
    }
}

/// Fills the pipe once and empties it: so EAGAIN is always the socket's, never the pipe's.
async fn splice_chunk(
    from: Peer<'_>,
    to: Peer<'_>,
    pipe: &Pipe,
    count: &AtomicU64,
) -> Result<usize, How> {
    let filled = ready_splice(from, Interest::READABLE, || {
        splice(from.stream, None, &pipe.write, None, pipe.size, FLAGS)
    })
    .await?;
    let mut left = filled;
    while left > 0 {
        // Exactly what is left, lest the kernel holds back a segment for more to come.
        let moved = ready_splice(to, Interest::WRITABLE, || {
            splice(&pipe.read, None, to.stream, None, left, FLAGS)
        })
        .await?;
        if moved == 0 {
            return Err(How::Failed(to.side, io::ErrorKind::WriteZero)); // would spin
        }
        count.fetch_add(moved as u64, Ordering::Relaxed);
        left -= moved;
    }
    Ok(filled)
}

const FLAGS: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);

async fn ready_splice(
    peer: Peer<'_>,
    interest: Interest,
    splice: impl Fn() -> rustix::io::Result<usize>,
) -> Result<usize, How> {
    let splice = || Ok(retry_on_intr(&splice)?);
    let done = peer.stream.async_io(interest, splice).await;
    done.map_err(|error| How::of_error(peer.side, &error))
}
