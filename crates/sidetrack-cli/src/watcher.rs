//! The watcher: a process that cleans up after a `run` that was killed by SIGKILL. Its name in `ps` is
//! `sidetrack-reaper`, unless systemd started it.
//!
//! It reads from a pipe that the run holds open: first a line with the path of the run's cgroup, then the
//! word [`DONE`]. If the pipe closes without that word, the run was killed. The watcher then kills all
//! processes in the run's cgroup, because nothing would inspect their connections any more, and removes the
//! cgroup.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::setsid;
use sidetrack_abi::text::Printable;
use sidetrack_engine::{Cgroup, network};

/// What the run writes to the pipe when it has cleaned up itself.
const DONE: &[u8] = b"done";
/// What the watcher prints when it runs.
const READY: &[u8] = b"ready";
/// How long another program may take to start the watcher.
const START_MAX: Duration = Duration::from_secs(5);

/// A running watcher process.
pub(crate) struct Watcher {
    child: Child,
}

impl Watcher {
    /// Starts a watcher.
    pub(crate) fn start() -> Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("sidetrack-reaper");
        Self::spawn(command)
    }

    /// Starts a watcher by another program, which becomes the watcher by exec. The command must end with the
    /// path of this program.
    ///
    /// # Errors
    ///
    /// The other program failed, or took longer than [`START_MAX`].
    pub(crate) fn start_by(mut command: Command) -> Result<Self> {
        command.stderr(Stdio::null());
        let mut watcher = Self::spawn(command)?;
        let output = watcher.child.stdout.take();
        let ready = await_ready(output.context("standard output is not piped")?);
        if ready.is_err() {
            let _ = watcher.child.kill(); // it fails if the program has ended already
            let _ = watcher.child.wait();
        }
        ready.map(|()| watcher)
    }

    fn spawn(mut command: Command) -> Result<Self> {
        let child = command
            .arg("reap")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0) // so that Ctrl-C does not reach it
            .spawn()
            .context("cannot start the watcher process")?;
        Ok(Self { child })
    }

    /// The process id of the watcher.
    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Lets the watcher clean up this cgroup, if this process is killed.
    pub(crate) fn guard(&mut self, cgroup: &Path) -> Result<()> {
        let line = [cgroup.as_os_str().as_bytes(), b"\n"].concat();
        let mut pipe = self.child.stdin.as_ref().context("the pipe is closed")?;
        pipe.write_all(&line).context("the watcher process is gone")
    }

    /// Notifies the watcher that the run has cleaned up itself, and waits for its end.
    pub(crate) fn dismiss(mut self) {
        if let Some(mut pipe) = self.child.stdin.take() {
            let _ = pipe.write_all(DONE); // it fails if the watcher is gone already
        }
        let _ = self.child.wait();
    }
}

/// Waits until a watcher prints that it runs.
fn await_ready(mut output: ChildStdout) -> Result<()> {
    let limit = Timespec::try_from(START_MAX).context("the limit is representable")?;
    let mut descriptors = [PollFd::new(&output, PollFlags::IN)];
    if poll(&mut descriptors, Some(&limit))? == 0 {
        bail!("the watcher process does not start");
    }
    let mut message = [0; READY.len()];
    output.read_exact(&mut message)?;
    Ok(())
}

/// The hidden subcommand `reap`: the watcher process itself.
pub(crate) fn watch() -> Result<ExitCode> {
    let _ = setsid(); // so that closing the terminal does not reach it
    // It fails if this watcher is not waited for, or if the run is gone, which the next read shows.
    let _ = io::stdout()
        .write_all(READY)
        .and_then(|()| io::stdout().flush());
    let mut message = Vec::new();
    io::stdin()
        .read_to_end(&mut message)
        .context("cannot wait for the end of the run")?;
    if let Some(path) = unfinished(&message)
        && let Ok(cgroup) = Cgroup::at(path)
    {
        kill_and_remove(&cgroup);
        // The run's process is gone, so the addresses of its engine are left over too.
        let _ = network::clear_left_over();
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the path of the cgroup, from all that a run has written, if the run has not cleaned it up.
fn unfinished(message: &[u8]) -> Option<&Path> {
    let end = message.iter().position(|&byte| byte == b'\n')?;
    let (path, rest) = message.split_at(end);
    (&rest[1..] != DONE).then(|| Path::new(OsStr::from_bytes(path)))
}

/// Kills the processes that are left in a cgroup, and removes it.
pub(crate) fn kill_and_remove(root: &Cgroup) {
    // A process that was just being started may enter after the others were killed.
    let remove = || {
        if root.is_populated() {
            let _ = root.kill();
        }
        root.remove()
    };
    if let Err(error) = remove().or_else(|_| remove()) {
        eprintln!(
            "sidetrack: {}; try again with `sidetrack doctor --clean`",
            Printable(error)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_run_that_was_killed_leaves_a_cgroup_to_clean_up() {
        assert_eq!(unfinished(b""), None);
        assert_eq!(unfinished(b"done"), None);
        assert_eq!(unfinished(b"/cgroup/a b\ndone"), None);
        let killed = Some(Path::new("/cgroup/a b"));
        assert_eq!(unfinished(b"/cgroup/a b\n"), killed);
        assert_eq!(unfinished(b"/cgroup/a b\ndon"), killed);
    }
}
