//! How deep the mounted hierarchy's root really is.
//!
//! In a namespace of cgroups, as containers have, all paths begin at the namespace's root. The kernel's own
//! numbers do not: a cgroup's level is counted from the root of all.

use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path};
use std::sync::OnceLock;

use super::{failed, path_of};
use crate::{Error, namespace};

/// The inode of the root of all.
const ROOT_INODE: u64 = 1;

/// The level of the root of what is mounted at `mount`.
///
/// Errors, in a namespace only: [`Error::Kernel`], [`Error::Bpf`], without the privilege to ask the kernel.
pub(super) fn of_mount(mount: &Path) -> Result<u32, Error> {
    static KNOWN: OnceLock<u32> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(*known);
    }
    let inode = std::fs::metadata(mount)
        .map_err(failed("open", mount))?
        .ino();
    let level = match inode {
        ROOT_INODE => 0,
        _ => namespace::cgroup_level()?.saturating_add_signed(-depth(&path_of(None)?)),
    };
    Ok(*KNOWN.get_or_init(|| level))
}

/// How far below the namespace's root a path of `/proc/PID/cgroup` leads; one that leads out of it is above.
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
