//! The threads that serve users other than root. They have a lower priority than root's, so that
//! the calls of other users do not delay root's.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};
use tracing::warn;

/// Number of threads that serve the calls of users other than root.
const THREADS: usize = 2;
/// Maximum number of further threads for calls that compute for long.
const BLOCKING_THREADS_MAX: usize = 16;
/// How much nicer these threads are than the daemon's other ones (nice(2)).
const NICENESS: i32 = 10;

/// The runtime of the users other than root. Its tasks end when it is dropped.
pub(super) struct OtherUsersRuntime {
    /// With it, tasks are started.
    pub(super) handle: Handle,
    runtime: Option<Runtime>,
}

impl OtherUsersRuntime {
    /// Errors: the kernel's.
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_name("other-users")
            .on_thread_start(lower_priority)
            .enable_all()
            .build()?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }
}

impl Drop for OtherUsersRuntime {
    fn drop(&mut self) {
        // The drop of a runtime waits for its threads, which an asynchronous task may not do.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Lowers the priority of the calling thread.
fn lower_priority() {
    // On Linux, a priority belongs to a thread, and "none" stands for the calling one.
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        warn!("cannot lower the priority of a thread: {error}");
    }
}
