//! The cgroups of a worker. Every case uses the same ones, so that the sockets of all cases are
//! equally deep in the hierarchy.

use anyhow::Result;
use sidetrack_engine::Cgroup;

/// The first part of the name of a worker's cgroup; its process id follows.
const PREFIX: &str = "bench-";

/// The cgroup `scope` with `program` and `service` below it, and `other/outside` next to it. All
/// are removed on drop.
pub(crate) struct Hierarchy {
    /// The cgroup that an engine is attached to.
    pub(crate) scope: Cgroup,
    service: Cgroup,
    program: Cgroup,
    outside: Cgroup,
    base: Cgroup,
    /// The cgroup that this process was in before.
    previous: Cgroup,
}

impl Hierarchy {
    /// Creates the cgroups; the process id is a part of their name.
    pub(crate) fn make() -> Result<Self> {
        let previous = Cgroup::of_process(None)?;
        let base = Cgroup::root()?.make(&format!("{PREFIX}{}", std::process::id()))?;
        let scope = base.make("scope")?;
        Ok(Self {
            service: scope.make("service")?,
            program: scope.make("program")?,
            // `outside` is as deep as `program`.
            outside: base.make("other")?.make("outside")?,
            scope,
            base,
            previous,
        })
    }

    /// The cgroup in which proxies create their listeners.
    pub(crate) fn service(&self) -> &Cgroup {
        &self.service
    }

    /// Moves this process to where a proxy runs: its new sockets are a proxy's.
    pub(crate) fn enter_service(&self) -> Result<()> {
        enter(&self.service)
    }

    /// Moves this process into the scope: its new sockets are those of a program there.
    pub(crate) fn enter_program(&self) -> Result<()> {
        enter(&self.program)
    }

    /// Moves this process out of the scope: its new sockets are not subject to the policy.
    pub(crate) fn enter_outside(&self) -> Result<()> {
        enter(&self.outside)
    }
}

impl Drop for Hierarchy {
    fn drop(&mut self) {
        let _ = enter(&self.previous);
        let _ = self.base.kill(); // processes that proxies forked
        if let Err(error) = self.base.remove() {
            eprintln!("a cgroup of the benchmark cannot be removed: {error}");
        }
    }
}

/// Removes the cgroups of a worker that was killed, and ends its proxies.
pub(crate) fn remove_leftovers(worker: u32) -> Result<()> {
    let path = Cgroup::root()?.path().join(format!("{PREFIX}{worker}"));
    if path.exists() {
        let leftover = Cgroup::at(&path)?;
        leftover.kill()?;
        leftover.remove()?;
    }
    Ok(())
}

/// Removes the cgroups of all workers that no longer exist.
pub(crate) fn remove_all_leftovers() -> Result<()> {
    let entries = std::fs::read_dir(Cgroup::root()?.path())?;
    for name in entries.flatten().map(|entry| entry.file_name()) {
        let worker = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.parse().ok());
        if let Some(worker) = worker
            && !std::path::Path::new(&format!("/proc/{worker}")).exists()
        {
            remove_leftovers(worker)?;
        }
    }
    Ok(())
}

fn enter(cgroup: &Cgroup) -> Result<()> {
    Ok(cgroup.add(std::process::id())?)
}
