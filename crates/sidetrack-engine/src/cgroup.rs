//! Cgroups: folders of the cgroup v2 hierarchy, wherever it is mounted.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use procfs::process::{MountInfo, Process};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::Error;

mod level;

/// How long [`Cgroup::remove`] waits for processes to end.
const REMOVE_WAIT_MAX: Duration = Duration::from_secs(5);
/// How often [`Cgroup::wait_empty`] checks without a notification from the kernel.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// An open cgroup (v2).
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    folder: File,
    id: u64,
    /// Where the hierarchy is mounted.
    mount: PathBuf,
}

impl Cgroup {
    /// The root of the mounted hierarchy. Errors: [`Error::NoCgroup2`].
    pub fn root() -> Result<Self, Error> {
        Self::at(&mount_point()?)
    }

    /// The cgroup at a path. Errors: [`Error::NotACgroup`], [`Error::Cgroup`].
    pub fn at(path: &Path) -> Result<Self, Error> {
        let mount = mount_point()?;
        if !path.starts_with(&mount) {
            let path = path.to_owned();
            return Err(Error::NotACgroup { path, mount });
        }
        let folder = File::open(path).map_err(failed("open", path))?;
        // The kernel numbers cgroups by the inode of their folder.
        let id = folder.metadata().map_err(failed("open", path))?.ino();
        Ok(Self {
            path: path.to_owned(),
            folder,
            id,
            mount,
        })
    }

    /// The cgroup of a process; with `None`, that of this process. Errors: [`Error::NoCgroup2`], [`Error::System`].
    pub fn of_process(pid: Option<i32>) -> Result<Self, Error> {
        let below = path_of(pid)?;
        Self::at(&mount_point()?.join(below.strip_prefix("/").unwrap_or(&below)))
    }

    /// Makes a cgroup directly below this one. Errors: [`Error::Cgroup`].
    pub fn make(&self, name: &str) -> Result<Self, Error> {
        let path = self.path.join(name);
        fs::create_dir(&path).map_err(failed("make", &path))?;
        Self::at(&path)
    }

    /// Moves a process here. Sockets that it makes from now on belong to this cgroup; those that it has stay
    /// in theirs. Errors: [`Error::Cgroup`].
    pub fn add(&self, pid: u32) -> Result<(), Error> {
        fs::write(self.path.join("cgroup.procs"), pid.to_string())
            .map_err(failed("move a process to", &self.path))
    }

    /// Whether there is a process in this cgroup or below it.
    pub fn is_populated(&self) -> bool {
        fs::read_to_string(self.path.join("cgroup.events"))
            .is_ok_and(|events| events.contains("populated 1"))
    }

    /// Ends every process in this cgroup and below it with SIGKILL. Errors: [`Error::Cgroup`].
    pub fn kill(&self) -> Result<(), Error> {
        fs::write(self.path.join("cgroup.kill"), "1")
            .map_err(failed("end the processes of", &self.path))
    }

    /// Waits until there is no process in this cgroup or below it, but no longer than `limit`. Returns whether
    /// there is none.
    pub fn wait_empty(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let Ok(events) = File::open(self.path.join("cgroup.events")) else {
            return true;
        };
        while self.is_populated() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let wait = left.min(CHECK_INTERVAL);
            let wait = Timespec {
                tv_sec: 0,
                tv_nsec: wait.as_nanos() as i64,
            };
            // The kernel notifies of a change by POLLPRI; a lost notification costs one interval.
            let _ = poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&wait));
        }
        true
    }

    /// Removes this cgroup and all below it. Waits up to 5 s for their processes to end.
    ///
    /// Errors: [`Error::Cgroup`].
    pub fn remove(&self) -> Result<(), Error> {
        self.wait_empty(REMOVE_WAIT_MAX);
        remove_tree(&self.path).map_err(failed("remove", &self.path))
    }

    /// Whether the other cgroup is this one, or is below it.
    pub fn contains(&self, other: &Self) -> bool {
        other.path.starts_with(&self.path)
    }

    /// Its path in the mounted hierarchy.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its id in the kernel.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its level. The root of the hierarchy has 0, even where a cgroup namespace hides it.
    ///
    /// Errors: in a cgroup namespace, without the privilege to load programs, [`Error::Kernel`] or
    /// [`Error::Bpf`].
    pub fn level(&self) -> Result<u32, Error> {
        let below = self.path.strip_prefix(&self.mount);
        let below = below.map_or(0, |below| below.components().count());
        Ok(level::of_mount(&self.mount)? + below as u32)
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}

/// The path of a process's cgroup, from the root of the cgroup namespace; with `None`, of this process.
fn path_of(pid: Option<i32>) -> Result<PathBuf, Error> {
    let process = match pid {
        Some(pid) => Process::new(pid),
        None => Process::myself(),
    };
    let groups = process
        .and_then(|process| process.cgroups())
        .map_err(|error| Error::system("read the process's cgroup")(to_io(error)))?;
    let group = groups
        .into_iter()
        .find(|group| group.hierarchy == 0)
        .ok_or(Error::NoCgroup2)?;
    Ok(group.pathname.into())
}

/// Where cgroup v2 is mounted: often `/sys/fs/cgroup`, on hybrid hosts a folder below it.
///
/// Errors: [`Error::NoCgroup2`], [`Error::System`].
pub fn mount_point() -> Result<PathBuf, Error> {
    let mounts = Process::myself()
        .and_then(|process| process.mountinfo())
        .map_err(|error| Error::system("read /proc/self/mountinfo")(to_io(error)))?;
    mounts
        .into_iter()
        .filter(|mount: &MountInfo| mount.fs_type == "cgroup2" && mount.root == "/")
        .map(|mount| mount.mount_point)
        .next()
        .ok_or(Error::NoCgroup2)
}

/// All cgroups below a folder, without the folder itself, the deepest first.
pub fn below(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(below(&entry.path()));
            found.push(entry.path());
        }
    }
    found
}

/// The paths of all cgroups, by their ids. Those outside of the cgroup namespace have none.
///
/// Errors: [`Error::NoCgroup2`].
pub fn by_id() -> Result<HashMap<u64, PathBuf>, Error> {
    let root = mount_point()?;
    let mut paths = below(&root);
    paths.push(root);
    Ok(paths
        .into_iter()
        .filter_map(|path| Some((fs::metadata(&path).ok()?.ino(), path)))
        .collect())
}

fn remove_tree(path: &Path) -> io::Result<()> {
    for child in below(path) {
        fs::remove_dir(child)?;
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Cgroup { what, path, source }
}

pub(crate) fn to_io(error: procfs::ProcError) -> io::Error {
    match error {
        procfs::ProcError::Io(error, _) => error,
        other => io::Error::other(other),
    }
}
