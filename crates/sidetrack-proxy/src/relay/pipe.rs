//! Pipes, through which `splice` moves bytes from one connection to another.

use std::os::fd::OwnedFd;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};
use rustix::process::{Resource, getrlimit};

/// The size requested for a pipe, in bytes. A user who has many pipes gets smaller ones from the
/// kernel.
pub const PIPE_SIZE: usize = 256 * 1024;
/// The number of empty pipes that an event loop keeps for later use.
pub const SPARE_MAX: usize = 32;

/// A pipe, empty or filled. The process counts its open pipes.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(super) read: OwnedFd,
    pub(super) write: OwnedFd,
    /// Its capacity in bytes, as the kernel has set it.
    pub(super) size: usize,
}

/// The empty pipes of an event loop that no direction uses.
#[derive(Debug, Default)]
pub(crate) struct Pipes(Vec<Pipe>);

impl Pipes {
    /// Takes an empty pipe. Returns `None` if the process has its limit of pipes or no descriptors
    /// left; the caller copies instead.
    pub(super) fn borrow(&mut self) -> Option<Pipe> {
        self.0.pop().or_else(Pipe::new)
    }

    /// Takes back an empty pipe.
    pub(super) fn give_back(&mut self, pipe: Pipe) {
        if self.0.len() < SPARE_MAX {
            self.0.push(pipe);
        }
    }
}

/// The number of open pipes in this process.
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
        let _ = fcntl_setpipe_size(&pipe.write, PIPE_SIZE); // for a user of many pipes it fails or gives less
        pipe.size = fcntl_getpipe_size(&pipe.write).ok()?;
        Some(pipe)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The process's limit of open descriptors.
pub(crate) fn descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| limit as usize)
}

/// How many pipes a process with this limit of descriptors may have: a sixteenth of the descriptors
/// is for pipes, and each takes two. A direction that finds none copies.
pub(crate) fn pipes_max(descriptors: usize) -> usize {
    descriptors / 16 / 2
}
