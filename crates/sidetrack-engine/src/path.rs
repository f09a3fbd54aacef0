//! Looks up the files and cgroups that the paths of a policy name on this host.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use sidetrack_policy::field_values::{CgroupId, FileId, Host};

use crate::{Cgroup, Error, cgroup};

/// Looks up each path at the time of the call.
pub struct Paths {
    cgroups: PathBuf,
}

impl Paths {
    /// Finds where cgroups are mounted. Errors: [`Error::NoCgroup2`].
    pub fn new() -> Result<Self, Error> {
        Ok(Self {
            cgroups: cgroup::mount_point()?,
        })
    }
}

impl Host for Paths {
    fn file(&self, path: &str) -> Option<FileId> {
        let found = fs::metadata(path).ok()?;
        let (major, minor) = (
            rustix::fs::major(found.dev()),
            rustix::fs::minor(found.dev()),
        );
        Some(FileId {
            device: major << 20 | minor,
            inode: found.ino(),
        })
    }

    fn cgroup(&self, path: &str) -> Option<CgroupId> {
        let found = Cgroup::at(&self.cgroups.join(path.trim_matches('/'))).ok()?;
        Some(CgroupId {
            id: found.id(),
            level: found.level().ok()?,
        })
    }
}
