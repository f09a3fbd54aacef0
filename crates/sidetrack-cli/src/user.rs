//! Users of this host: the user who called sudo, as whom `run` opens files and starts the command, and the
//! user of the proxies.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result};
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};
use uzers::os::unix::UserExt;

/// The environment variable in which sudo passes the id of its caller. A process can only set it for a root
/// process if it is root itself.
const SUDO_UID_VARIABLE: &str = "SUDO_UID";

/// A user with its groups.
#[derive(Clone, Debug)]
pub(crate) struct User {
    id: Uid,
    /// Primary group.
    group: Gid,
    /// All groups, with the primary one.
    groups: Vec<Gid>,
    pub(crate) name: OsString,
    pub(crate) home: PathBuf,
}

impl User {
    /// Returns the user who called sudo; `None` without sudo, or if that user is root.
    pub(crate) fn invoking() -> Result<Option<Self>> {
        let id = env::var(SUDO_UID_VARIABLE)
            .ok()
            .and_then(|id| id.parse().ok());
        match id {
            Some(id) if id != 0 && rustix::process::geteuid().is_root() => {
                Self::of_id(id).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Finds a user by its numeric id.
    pub(crate) fn of_id(id: u32) -> Result<Self> {
        let user = uzers::get_user_by_uid(id);
        user.map(|user| Self::read(&user))
            .with_context(|| format!("there is no user with the id {id}"))
    }

    /// Finds a user by its name.
    pub(crate) fn named(name: &str) -> Result<Self> {
        let user = uzers::get_user_by_name(name);
        user.map(|user| Self::read(&user))
            .with_context(|| format!("there is no user {name}"))
    }

    fn read(user: &uzers::User) -> Self {
        let groups = user.groups().unwrap_or_default();
        Self {
            id: Uid::from_raw(user.uid()),
            group: Gid::from_raw(user.primary_group_id()),
            groups: groups
                .iter()
                .map(|group| Gid::from_raw(group.gid()))
                .collect(),
            name: user.name().to_owned(),
            home: user.home_dir().to_owned(),
        }
    }

    /// The numeric id.
    pub(crate) fn id(&self) -> u32 {
        self.id.as_raw()
    }

    /// Returns true if a file with this owner, group and mode grants the user `bit` (2 is writing).
    pub(crate) fn has_access(&self, owner: u32, group: u32, mode: u32, bit: u32) -> bool {
        let shift = match () {
            () if self.id.is_root() => return true,
            () if self.id() == owner => 6,
            () if self.is_member_of(group) => 3,
            () => 0,
        };
        mode >> shift & bit != 0
    }

    /// Returns true if the user is in the group of this name.
    pub(crate) fn is_in_group_named(&self, name: &str) -> bool {
        uzers::get_group_by_name(name).is_some_and(|group| self.is_member_of(group.gid()))
    }

    fn is_member_of(&self, group: u32) -> bool {
        let own = [self.group];
        let mut all = self.groups.iter().chain(&own);
        all.any(|one| one.as_raw() == group)
    }

    /// Changes the calling thread, and no other, to this user: id, groups and, as the kernel clears them,
    /// capabilities.
    pub(crate) fn assume(&self) -> io::Result<()> {
        set_thread_groups(&self.groups)?;
        set_thread_gid(self.group)?;
        Ok(set_thread_uid(self.id)?)
    }

    /// Creates a file, or truncates it, with the rights of this user only. So a symbolic link leads where the
    /// user could write anyway, and a new file belongs to the user.
    pub(crate) fn create_file(&self, path: &Path) -> io::Result<File> {
        // The kernel keeps credentials for each thread, so this thread is the only one that changes them.
        let create = || self.assume().and_then(|()| File::create(path));
        thread::scope(|scope| {
            let opened = scope.spawn(create).join();
            opened.expect("the thread does not panic")
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    /// The user `daemon`, which each host has, with the id 1.
    fn daemon() -> User {
        User::named("daemon").unwrap()
    }

    #[test]
    fn access_depends_on_owner_then_group_then_others() {
        let user = daemon();
        let (id, group) = (user.id(), user.group.as_raw());
        assert!(user.has_access(id, 0, 0o200, 2));
        assert!(!user.has_access(id, group, 0o022, 2), "the owner's bits");
        assert!(user.has_access(0, group, 0o020, 2));
        assert!(!user.has_access(0, group, 0o002, 2), "the group's bits");
        assert!(user.has_access(0, 0, 0o002, 2));
        assert!(!user.has_access(0, 0, 0o664, 2));
    }

    #[test]
    fn unknown_users_are_errors() {
        let error = User::named("no-such-user").unwrap_err();
        assert_eq!(error.to_string(), "there is no user no-such-user");
        assert!(User::of_id(u32::MAX - 1).is_err());
    }

    #[test]
    fn files_are_created_with_the_rights_of_the_user() {
        if !rustix::process::geteuid().is_root() {
            return; // only root can change to another user; `make test` is run as root
        }
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
        std::fs::write(path("precious"), "x").unwrap();
        std::fs::set_permissions(path("precious"), PermissionsExt::from_mode(0o600)).unwrap();
        symlink(path("precious"), path("link")).unwrap();
        for name in ["precious", "link"] {
            let refused = daemon().create_file(&path(name)).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{name}");
        }
        assert_eq!(std::fs::read_to_string(path("precious")).unwrap(), "x");
        daemon().create_file(&path("new")).unwrap();
        let new = std::fs::metadata(path("new")).unwrap();
        assert_eq!((new.uid(), new.gid()), (1, 1));
        assert!(
            rustix::process::geteuid().is_root(),
            "the other threads stay"
        );
    }
}
