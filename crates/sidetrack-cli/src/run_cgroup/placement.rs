//! Where the cgroup of a run is made if systemd does not make it: the deepest cgroup that the command cannot
//! leave for another one.
//!
//! To move a process, a user must be able to write to `cgroup.procs` of the destination, and of the deepest
//! cgroup that contains both the destination and the process (cgroups(7), "Delegation containment"). So if a
//! user can write neither to the cgroup that contains the run's, nor to any above it, the user cannot move
//! the command out of the run's cgroup, whatever other cgroups it owns.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};
use sidetrack_engine::{Cgroup, cgroup};

use crate::user::User;

/// Permission to write, in a file's mode.
const WRITE: u32 = 2;

/// Returns the cgroup for a run of this user's command: the caller's, or the deepest one above it that suits.
/// A command of root (`None`) can leave any cgroup, so for it the caller's is as good as any other.
pub(super) fn choose(caller: &Cgroup, user: Option<&User>) -> Result<Cgroup> {
    let mount = cgroup::mount_point()?;
    let Some(user) = user else {
        return Ok(Cgroup::at(caller.path())?);
    };
    let mut levels: Vec<&Path> = caller.path().ancestors().collect();
    levels.retain(|level| level.starts_with(&mount));
    levels.reverse();
    let mut chosen = None;
    for level in levels {
        if can_move_into(user, level)? {
            break;
        }
        chosen = Some(level);
    }
    let chosen = chosen.with_context(|| {
        format!(
            "{} can write to the root of the cgroups, so the command could leave its cgroup",
            user.name.display()
        )
    })?;
    Ok(Cgroup::at(chosen)?)
}

/// Returns true if the user may write to `cgroup.procs` of a cgroup, or become able to as its owner.
fn can_move_into(user: &User, cgroup: &Path) -> Result<bool> {
    let file = cgroup.join("cgroup.procs");
    let metadata =
        fs::metadata(&file).with_context(|| format!("cannot inspect {}", file.display()))?;
    let (owner, group, mode) = (metadata.uid(), metadata.gid(), metadata.mode());
    Ok(owner == user.id() || user.has_access(owner, group, mode, WRITE))
}
