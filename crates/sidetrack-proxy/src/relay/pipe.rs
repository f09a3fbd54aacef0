//! Pipes, through which the kernel moves bytes from one connection to another.

use std::os::fd::OwnedFd;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};
use rustix::process::{Resource, getrlimit};

/// The size asked for a pipe, in bytes. The kernel gives users that have many pipes less.
pub const PIPE_SIZE: usize = 256 * 1024;
/// Empty pipes that a loop keeps for the next direction that wants one.
pub const SPARE_MAX: usize = 32;

/// Empty or filled; open pipes are counted.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(super) read: OwnedFd,
    pub(super) write: OwnedFd,
    pub(super) size: usize,
}

/// The pipes that nobody uses just now.
#[derive(Debug, Default)]
pub(crate) struct Pipes(Vec<Pipe>);

impl Pipes {
    /// None if there are enough of them, or no descriptors: then copying does as well.
    pub(super) fn borrow(&mut self) -> Option<Pipe> {
        self.0.pop().or_else(Pipe::new)
    }

    /// Takes an empty one back.
    pub(super) fn give_back(&mut self, pipe: Pipe) {
        if self.0.len() < SPARE_MAX {
            self.0.push(pipe);
        }
    }
}

/// Pipes that are open in this process.
static OPEN: AtomicUsize = AtomicUsize::new(0);

impl Pipe {
    fn new() -> Option<Self> {
        static LIMIT: LazyLock<usize> = LazyLock::new(|| pipes_max(descriptors()));
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()?;
        let count = OPEN.fetch_add(1, Ordering::Relaxed);
        let mut pipe = Self {
            read,
            write,
            size: 0,
        };
        if count >= *LIMIT {
            return None;
        }
        let _ = fcntl_setpipe_size(&pipe.write, PIPE_SIZE); // a user of many pipes gets less
        pipe.size = fcntl_getpipe_size(&pipe.write).ok()?;
        Some(pipe)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
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
