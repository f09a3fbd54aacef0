//! The level of the root of the mounted hierarchy.
//!
//! In a cgroup namespace, as containers have, all paths begin at the root of the namespace. The kernel counts a
//! cgroup's level from the root of the whole hierarchy.

use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path};
use std::sync::OnceLock;

use super::{failed, path_of};
use crate::{Error, namespace};

/// The inode of the root of the whole hierarchy.
const ROOT_INODE: u64 = 1;

/// The level of the cgroup that is mounted at `mount`.
///
/// Errors: [`Error::Cgroup`]; in a cgroup namespace, without the privilege to load programs, [`Error::Kernel`] or
/// [`Error::Bpf`].
pub(super) fn of_mount(mount: &Path) -> Result<u32, Error> {
    static LEVEL: OnceLock<u32> = OnceLock::new();
    if let Some(level) = LEVEL.get() {
        return Ok(*level);
    }
    let inode = std::fs::metadata(mount)
        .map_err(failed("open", mount))?
        .ino();
    let level = match inode {
        ROOT_INODE => 0,
        _ => namespace::cgroup_level()?.saturating_add_signed(-depth(&path_of(None)?)),
    };
    Ok(*LEVEL.get_or_init(|| level))
}

/// How many levels a path of `/proc/PID/cgroup` leads below the root of the namespace; negative if it leads out
/// of the namespace.
fn depth(path: &Path) -> i32 {
    path.components()
        .map(|component| match component {
            Component::Normal(_) => 1,
            Component::ParentDir => -1,
            _ => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_may_lead_out_of_the_namespace() {
        assert_eq!(depth(Path::new("/")), 0);
        assert_eq!(depth(Path::new("/system.slice/a.service")), 2);
        assert_eq!(depth(Path::new("/..")), -1);
        assert_eq!(depth(Path::new("/../../b")), -1);
    }
}
