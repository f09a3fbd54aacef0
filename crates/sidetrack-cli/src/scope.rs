//! The cgroups of one `run`, and how those of a dead one are known.
//!
//! A run's cgroup lies below the one it was started in, so that limits set there hold, and so that a
//! run within a run is noticed:
//!
//! ```text
//! sidetrack.run.PID.START/
//!     program/      the command and its children
//!     service-1/    the first proxy, and so on
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sidetrack_engine::{Cgroup, cgroup};

use crate::reaper::Reaper;

const PREFIX: &str = "sidetrack.run.";

/// The cgroups of this run. Removed on drop, with all processes in them.
pub(crate) struct Scope {
    pub(crate) root: Cgroup,
    pub(crate) program: Cgroup,
    reaper: Option<Reaper>,
}

impl Scope {
    /// Makes them, and a watcher that removes them if this process is killed.
    pub(crate) fn make() -> Result<Self> {
        let base = Cgroup::of_process(None)?;
        let pid = std::process::id();
        let name = format!(
            "{PREFIX}{pid}.{}",
            started(pid).context("read this process's start")?
        );
        let root = base.make(&name)?;
        let reaper = Reaper::watch(root.path());
        let program = root.make("program");
        let scope = |program, reaper| Self {
            program,
            root,
            reaper,
        };
        match (program, reaper) {
            (Ok(program), Ok(reaper)) => Ok(scope(program, Some(reaper))),
            (Err(error), _) => {
                let _ = std::fs::remove_dir(base.path().join(name));
                Err(error.into())
            }
            (Ok(program), Err(error)) => {
                drop(scope(program, None));
                Err(error)
            }
        }
    }

    /// A cgroup for one proxy.
    pub(crate) fn service(&self, index: usize) -> Result<Cgroup> {
        Ok(self.root.make(&format!("service-{}", index + 1))?)
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        clear(&self.root);
        if let Some(reaper) = self.reaper.take() {
            reaper.dismiss();
        }
    }
}

/// Ends what is left in a cgroup, and removes it.
pub(crate) fn clear(root: &Cgroup) {
    if root.is_populated() {
        let _ = root.kill();
    }
    if let Err(error) = root.remove() {
        eprintln!("sidetrack: {error}; `sidetrack doctor --clean` tries again");
    }
}

/// The cgroups of runs whose process is gone, and of those that are still at work.
pub(crate) fn found() -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let mount = cgroup::mount_point()?;
    let is_run = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(PREFIX))
    };
    let runs = cgroup::below(&mount).into_iter().filter(is_run);
    Ok(runs.partition(|path| !is_alive(path)))
}

fn is_alive(path: &Path) -> bool {
    let numbers = path
        .file_name()
        .and_then(|name| name.to_str()?.strip_prefix(PREFIX)?.split_once('.'));
    let Some((pid, start)) = numbers else {
        return false;
    };
    pid.parse()
        .ok()
        .and_then(started)
        .map(|now| now.to_string())
        == Some(start.to_owned())
}

/// When a process started, in hundredths of a second since boot; `None` if there is none.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything; the start is the 20th field after it.
    let fields = &stat[stat.rfind(')')? + 1..];
    fields.split_whitespace().nth(19)?.parse().ok()
}
