//! The cgroups of one `run`, and how left-over cgroups of killed runs are found.
//!
//! The cgroup of a run is below the one in which the run was started, so that limits set there hold,
//! and so that a run within a run is detected. Its name contains the process id and the start time of
//! the run:
//!
//! ```text
//! sidetrack.run.PID.START/
//!     program/      the command and its children
//!     service-1/    the first proxy, and so on
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use procfs::process::Process;
use sidetrack_engine::{Cgroup, cgroup};

use crate::watcher::{Watcher, kill_and_remove};

/// The beginning of the name of every run's cgroup.
const NAME_PREFIX: &str = "sidetrack.run.";

/// The cgroups of this run. Dropping it kills all processes in them and removes them.
pub(crate) struct RunCgroup {
    /// The scope of the run's engine.
    pub(crate) root: Cgroup,
    /// The cgroup of the command and its children.
    pub(crate) program: Cgroup,
    /// Removes the cgroups if this process is killed. `None` if it could not be started, or has
    /// been dismissed.
    watcher: Option<Watcher>,
}

impl RunCgroup {
    /// Creates the cgroups, and starts a watcher that removes them if this process is killed.
    pub(crate) fn create() -> Result<Self> {
        let base = Cgroup::of_process(None)?;
        let pid = std::process::id();
        let name = format!(
            "{NAME_PREFIX}{pid}.{}",
            start_time(pid).context("cannot read the start time of this process")?
        );
        let root = base.make(&name)?;
        let watcher = Watcher::start(root.path());
        let program = root.make("program");
        let run_cgroup = |program, watcher| Self {
            program,
            root,
            watcher,
        };
        match (program, watcher) {
            (Ok(program), Ok(watcher)) => Ok(run_cgroup(program, Some(watcher))),
            (Err(error), _) => {
                let _ = std::fs::remove_dir(base.path().join(name));
                Err(error.into())
            }
            (Ok(program), Err(error)) => {
                drop(run_cgroup(program, None));
                Err(error)
            }
        }
    }

    /// Creates the cgroup for the proxy with this index in the chain.
    pub(crate) fn service(&self, index: usize) -> Result<Cgroup> {
        Ok(self.root.make(&format!("service-{}", index + 1))?)
    }
}

impl Drop for RunCgroup {
    fn drop(&mut self) {
        kill_and_remove(&self.root);
        if let Some(watcher) = self.watcher.take() {
            watcher.dismiss();
        }
    }
}

/// Returns the cgroups of runs whose process is gone, and those of runs that are still running.
pub(crate) fn find_all() -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let mount = cgroup::mount_point()?;
    let is_run = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(NAME_PREFIX))
    };
    let runs = cgroup::below(&mount).into_iter().filter(is_run);
    Ok(runs.partition(|path| !is_alive(path)))
}

/// Returns true if the process that the cgroup's name contains is still running: same id and same
/// start time.
fn is_alive(path: &Path) -> bool {
    let numbers = path
        .file_name()
        .and_then(|name| name.to_str()?.strip_prefix(NAME_PREFIX)?.split_once('.'));
    let Some((pid, start)) = numbers else {
        return false;
    };
    pid.parse()
        .ok()
        .and_then(start_time)
        .map(|time| time.to_string())
        == Some(start.to_owned())
}

/// Returns when a process started, in hundredths of a second since boot; `None` if there is no such
/// process.
fn start_time(pid: u32) -> Option<u64> {
    let process = Process::new(i32::try_from(pid).ok()?).ok()?;
    Some(process.stat().ok()?.starttime)
}
