//! The watcher: a process that cleans up after a `run` that was killed by SIGKILL. Its name in `ps` is
//! `sidetrack-reaper`.
//!
//! It reads from a pipe that the run holds open. If the pipe closes without the word [`DONE`], the
//! run was killed. The watcher then kills all processes in the run's cgroup, because nothing would
//! inspect their connections any more, and removes the cgroup.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context, Result};
use rustix::process::setsid;
use sidetrack_abi::text::Printable;
use sidetrack_engine::{Cgroup, network};

use crate::args;

/// What the run writes to the pipe when it has cleaned up itself.
const DONE: &[u8] = b"done";

/// A running watcher process.
pub(crate) struct Watcher {
    child: Child,
}

impl Watcher {
    /// Starts a watcher for the cgroup of this run.
    pub(crate) fn start(cgroup: &Path) -> Result<Self> {
        let child = Command::new("/proc/self/exe")
            .arg0("sidetrack-reaper")
            .args(["reap", "--cgroup"])
            .arg(cgroup)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0) // so that Ctrl-C does not reach it
            .spawn()
            .context("cannot start the watcher process")?;
        Ok(Self { child })
    }

    /// Notifies the watcher that the run has cleaned up itself, and waits for its end.
    pub(crate) fn dismiss(mut self) {
        if let Some(mut pipe) = self.child.stdin.take() {
            let _ = pipe.write_all(DONE); // it fails if the watcher is gone already
        }
        let _ = self.child.wait();
    }
}

/// The hidden subcommand `reap`: the watcher process itself.
pub(crate) fn watch(options: &args::ReapArgs) -> Result<ExitCode> {
    let _ = setsid(); // so that closing the terminal does not reach it
    let mut message = Vec::new();
    io::stdin()
        .read_to_end(&mut message)
        .context("cannot wait for the end of the run")?;
    if message != DONE
        && let Ok(cgroup) = Cgroup::at(&options.cgroup)
    {
        kill_and_remove(&cgroup);
        // The run's process is gone, so the addresses of its engine are left over too.
        let _ = network::clear_left_over();
    }
    Ok(ExitCode::SUCCESS)
}

/// Kills the processes that are left in a cgroup, and removes it.
pub(crate) fn kill_and_remove(root: &Cgroup) {
    if root.is_populated() {
        let _ = root.kill();
    }
    if let Err(error) = root.remove() {
        eprintln!(
            "sidetrack: {}; try again with `sidetrack doctor --clean`",
            Printable(error)
        );
    }
}
