//! The cgroups of one `run`, and how left-over cgroups of killed runs are found.
//!
//! The command must not be able to leave its cgroup, since nothing inspects it elsewhere. So the cgroup of a
//! run is below one to which the command's user cannot write: where systemd runs, below a unit of the
//! system's manager ([`scope_unit`]), elsewhere below a cgroup that [`placement`] chooses. The limits of the
//! cgroup in which the run was started are kept ([`limits`]). The name contains the process id and the
//! start time of the run:
//!
//! ```text
//! sidetrack.run.PID.START/
//!     program/      the command and its children
//!     service-1/    the first proxy, and so on
//! ```

mod limits;
mod placement;
mod scope_unit;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use procfs::process::Process;
use sidetrack_engine::{Cgroup, Error, cgroup, host};

use crate::user::User;
use crate::watcher::{Watcher, kill_and_remove};

pub(crate) use self::limits::LostLimit;

/// The beginning of the name of every run's cgroup.
const NAME_PREFIX: &str = "sidetrack.run.";

/// The cgroups of this run. Dropping it kills all processes in them and removes them.
pub(crate) struct RunCgroup {
    /// The scope of the run's engine.
    pub(crate) root: Cgroup,
    /// The cgroup of the command and its children.
    pub(crate) program: Cgroup,
    /// The limits of the caller's cgroup that do not hold for the run.
    pub(crate) lost_limits: Vec<LostLimit>,
    /// Removes the cgroups if this process is killed. `None` after it has been dismissed.
    watcher: Option<Watcher>,
}

impl RunCgroup {
    /// Creates the cgroups for a command of this user (`None`: root), and starts a watcher that removes them
    /// if this process is killed.
    ///
    /// # Errors
    ///
    /// Among others [`Error::AlreadyAttached`]: this process is in the scope of another engine, which the
    /// command would leave.
    pub(crate) fn create(user: Option<&User>) -> Result<Self> {
        let caller = Cgroup::of_process(None)?;
        if host::is_classified(&caller)? {
            return Err(Error::AlreadyAttached(caller.path().to_owned()).into());
        }
        let pid = std::process::id();
        let start = start_time(pid).context("cannot read the start time of this process")?;
        let (base, mut watcher) = match scope_unit::start(pid, start, caller.path()) {
            Some((scope, watcher)) => (scope, watcher),
            None => {
                let base = placement::choose(&caller, user)?;
                let watcher = Watcher::start()?;
                keep_out_of_reach(&caller, &base, &watcher);
                (base, watcher)
            }
        };
        let name = format!("{NAME_PREFIX}{pid}.{start}.{}", pid_namespace()?);
        let root = base.make(&name)?;
        let made = watcher
            .guard(root.path())
            .and_then(|()| Ok(root.make("program")?));
        match made {
            Ok(program) => Ok(Self {
                lost_limits: limits::keep(caller.path(), root.path()),
                root,
                program,
                watcher: Some(watcher),
            }),
            Err(error) => {
                kill_and_remove(&root);
                watcher.dismiss();
                Err(error)
            }
        }
    }

    /// Creates the cgroup for the proxy with this index in the chain.
    pub(crate) fn service(&self, index: usize) -> Result<Cgroup> {
        Ok(self.root.make(&format!("service-{}", index + 1))?)
    }
}

/// Moves this process and the watcher out of a cgroup that the command's user may own: the user could end both
/// at once with its `cgroup.kill`, and nothing would inspect or end the command.
fn keep_out_of_reach(caller: &Cgroup, base: &Cgroup, watcher: &Watcher) {
    if caller.path() == base.path() {
        return;
    }
    for pid in [watcher.pid().cast_unsigned(), std::process::id()] {
        // It fails where controllers are enabled for the cgroups below `base`; then they stay.
        let _ = base.add(pid);
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
/// start time. Also true if that cannot be found out, because the process is in another PID namespace.
fn is_alive(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let numbers = name.and_then(|name| name.strip_prefix(NAME_PREFIX));
    let mut numbers = numbers.unwrap_or_default().splitn(3, '.');
    let (pid, start) = (numbers.next(), numbers.next());
    let is_elsewhere = numbers
        .next()
        .is_some_and(|namespace| pid_namespace().is_ok_and(|own| namespace != own.to_string()));
    is_elsewhere || {
        let started = pid.and_then(|pid| start_time(pid.parse().ok()?));
        started.is_some() && started == start.and_then(|start| start.parse().ok())
    }
}

/// Returns the inode number of this process's PID namespace.
fn pid_namespace() -> Result<u64> {
    let namespace = std::fs::metadata("/proc/self/ns/pid");
    Ok(namespace
        .context("cannot find the PID namespace of this process")?
        .ino())
}

/// Returns when a process started, in hundredths of a second since boot; `None` if there is no such
/// process.
fn start_time(pid: u32) -> Option<u64> {
    let process = Process::new(i32::try_from(pid).ok()?).ok()?;
    Some(process.stat().ok()?.starttime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_is_alive_while_its_process_is_or_if_it_is_in_another_namespace() {
        let pid = std::process::id();
        let start = start_time(pid).unwrap();
        let own = pid_namespace().unwrap();
        let alive = |name: String| is_alive(&Path::new("/cgroup").join(name));
        assert!(alive(format!("sidetrack.run.{pid}.{start}.{own}")));
        assert!(!alive(format!("sidetrack.run.{pid}.{}.{own}", start + 1)));
        assert!(alive(format!("sidetrack.run.{pid}.{}.1", start + 1)));
        assert!(!alive(format!("sidetrack.run.{pid}.{}", start + 1)));
        assert!(!alive("sidetrack.run.x".to_owned()));
    }
}
