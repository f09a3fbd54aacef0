//! The watcher that cleans up after a `run` that was killed by SIGKILL.
//!
//! It holds one end of a pipe. The pipe's end without a word means that the run is gone: then it ends
//! all processes of the run's cgroup, lest they go on uninspected, and removes it.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context, Result};
use rustix::process::setsid;
use sidetrack_engine::{Cgroup, network};

use crate::{args, scope};

/// What the run says when it has cleaned up itself.
const DONE: &[u8] = b"done";

/// A watcher at work.
pub(crate) struct Reaper {
    child: Child,
}

impl Reaper {
    pub(crate) fn watch(cgroup: &Path) -> Result<Self> {
        let child = Command::new("/proc/self/exe")
            .arg0("sidetrack-reaper")
            .args(["reap", "--cgroup"])
            .arg(cgroup)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0) // a Ctrl-C is not for it
            .spawn()
            .context("start the watcher that cleans up")?;
        Ok(Self { child })
    }

    pub(crate) fn dismiss(mut self) {
        if let Some(mut pipe) = self.child.stdin.take() {
            let _ = pipe.write_all(DONE); // if it is gone already, all the better
        }
        let _ = self.child.wait();
    }
}

/// The watcher itself.
pub(crate) fn reap(options: &args::Reap) -> Result<ExitCode> {
    let _ = setsid(); // nor is a hang-up of the terminal
    let mut said = Vec::new();
    io::stdin()
        .read_to_end(&mut said)
        .context("wait for the run's end")?;
    if said != DONE
        && let Ok(cgroup) = Cgroup::at(&options.cgroup)
    {
        scope::clear(&cgroup);
        // The run's process is gone, so its addresses are left over too.
        let _ = network::clear_left_over();
    }
    Ok(ExitCode::SUCCESS)
}
