//! The scope unit of a run, where systemd runs: a cgroup that systemd leaves to Sidetrack (`Delegate=yes`),
//! whose name is `sidetrack-run-PID-START.scope`.
//!
//! The unit is one of the system's manager, and not of a user's, so no user can write to its cgroup. It is
//! started by `systemd-run`, which is part of systemd, needs no D-Bus daemon, and waits until the unit is
//! active. The first process of the unit is the watcher. systemd removes the unit after its last process.

use std::env;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use sidetrack_engine::{Cgroup, cgroup};

use crate::watcher::Watcher;

/// This folder exists where systemd is the system's manager: see sd_booted(3).
const BOOTED: &str = "/run/systemd/system";
/// The cgroup of the watcher in the unit. Only a cgroup without processes can have limits for those below it.
const WATCHER_CGROUP: &str = "watcher";

/// Starts the unit, in the slice of the caller, with the watcher in it. Returns `None` if systemd does not
/// run here, or does not start the unit.
pub(super) fn start(pid: u32, start_time: u64, caller: &Path) -> Option<(Cgroup, Watcher)> {
    if !is_booted() {
        return None;
    }
    let name = format!("sidetrack-run-{pid}-{start_time}.scope");
    let mut command = Command::new(systemd_run()?);
    command
        .args(["--scope", "--quiet", "--collect", "--no-ask-password"])
        .args(["--property=Delegate=yes", "--description=sidetrack run"])
        .arg(format!("--unit={name}"));
    if let Some(slice) = slice_of(caller) {
        command.arg(format!("--slice={slice}"));
    }
    command.arg("--").arg(env::current_exe().ok()?);
    let watcher = Watcher::start_by(command).ok()?;
    let Some(scope) = enter(&watcher, &name) else {
        watcher.dismiss();
        return None;
    };
    Some((scope, watcher))
}

/// Returns the path of `systemd-run`. PATH is not searched: sudo may leave the caller's, and this is run as root.
fn systemd_run() -> Option<PathBuf> {
    let folders = ["/usr/bin", "/bin", "/run/current-system/sw/bin"];
    let mut paths = folders
        .map(|folder| Path::new(folder).join("systemd-run"))
        .into_iter();
    paths.find(|path| path.exists())
}

/// Returns the cgroup of the unit, after the watcher has moved to a cgroup below it.
fn enter(watcher: &Watcher, name: &str) -> Option<Cgroup> {
    let scope = Cgroup::of_process(Some(watcher.pid())).ok()?;
    if scope.path().file_name()? != name {
        return None; // systemd keeps its units in another hierarchy
    }
    let below = scope.make(WATCHER_CGROUP).ok()?;
    below.add(watcher.pid().cast_unsigned()).ok()?;
    // So that a user who owns the caller's cgroup cannot end this process by its `cgroup.kill`.
    below.add(std::process::id()).ok()?;
    Some(scope)
}

/// Returns true if process 1 is systemd. In a container the folder may be the host's.
fn is_booted() -> bool {
    let first = fs::read_to_string("/proc/1/comm").unwrap_or_default();
    Path::new(BOOTED).is_dir() && first.trim_end() == "systemd"
}

/// Returns the slice that contains a cgroup: the deepest one of the system's manager. Slices below a service
/// belong to the manager of a user.
fn slice_of(cgroup: &Path) -> Option<String> {
    let mount = cgroup::mount_point().ok()?;
    deepest_slice(cgroup.strip_prefix(mount).ok()?)
}

fn deepest_slice(below_root: &Path) -> Option<String> {
    let names = below_root.components().map(Component::as_os_str);
    let mut slices = names.map_while(|name| {
        let path = PathBuf::from(name);
        let is_slice = path.extension().is_some_and(|kind| kind == "slice");
        is_slice.then(|| name.to_string_lossy().into_owned())
    });
    let first = slices.next();
    slices.last().or(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slice_is_the_deepest_one_of_the_systems_manager() {
        for (cgroup, slice) in [
            ("", None),
            ("init.scope", None),
            ("system.slice/sshd.service", Some("system.slice")),
            (
                "user.slice/user-1.slice/session-3.scope",
                Some("user-1.slice"),
            ),
            (
                "user.slice/user-1.slice/user@1.service/app.slice/x.scope",
                Some("user-1.slice"),
            ),
        ] {
            assert_eq!(deepest_slice(cgroup.as_ref()).as_deref(), slice, "{cgroup}");
        }
    }
}
