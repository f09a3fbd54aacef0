//! A worker's own cgroups. Every case has them, so that all sockets lie equally deep.

use anyhow::Result;
use sidetrack_engine::Cgroup;

const PREFIX: &str = "bench-";

/// `scope` with `program` and `service` below it, and `outside` beside it. Gone on drop.
pub(crate) struct Hierarchy {
    /// What an engine is attached to.
    pub(crate) scope: Cgroup,
    service: Cgroup,
    program: Cgroup,
    outside: Cgroup,
    base: Cgroup,
    before: Cgroup,
}

impl Hierarchy {
    /// Makes them, named after this process.
    pub(crate) fn make() -> Result<Self> {
        let before = Cgroup::of_process(None)?;
        let base = Cgroup::root()?.make(&format!("{PREFIX}{}", std::process::id()))?;
        let scope = base.make("scope")?;
        Ok(Self {
            service: scope.make("service")?,
            program: scope.make("program")?,
            // As deep as `program` is.
            outside: base.make("other")?.make("outside")?,
            scope,
            base,
            before,
        })
    }

    /// Where proxies make their listeners.
    pub(crate) fn service(&self) -> &Cgroup {
        &self.service
    }

    /// From now on this process makes its sockets as a proxy does.
    pub(crate) fn enter_service(&self) -> Result<()> {
        enter(&self.service)
    }

    /// From now on this process makes its sockets as a program in the scope does.
    pub(crate) fn enter_program(&self) -> Result<()> {
        enter(&self.program)
    }

    /// From now on this process makes its sockets outside the scope.
    pub(crate) fn enter_outside(&self) -> Result<()> {
        enter(&self.outside)
    }
}

impl Drop for Hierarchy {
    fn drop(&mut self) {
        let _ = enter(&self.before);
        let _ = self.base.kill(); // what proxies have forked
        if let Err(error) = self.base.remove() {
            eprintln!("a cgroup of the benchmark stays: {error}");
        }
    }
}

/// Removes what a worker that was killed has left, its proxies included.
pub(crate) fn remove_left(worker: u32) -> Result<()> {
    let path = Cgroup::root()?.path().join(format!("{PREFIX}{worker}"));
    if path.exists() {
        let left = Cgroup::at(&path)?;
        left.kill()?;
        left.remove()?;
    }
    Ok(())
}

/// Removes what runs that were killed have left.
pub(crate) fn remove_all_left() -> Result<()> {
    let entries = std::fs::read_dir(Cgroup::root()?.path())?;
    for name in entries.flatten().map(|entry| entry.file_name()) {
        let worker = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.parse().ok());
        if let Some(worker) = worker
            && !std::path::Path::new(&format!("/proc/{worker}")).exists()
        {
            remove_left(worker)?;
        }
    }
    Ok(())
}

fn enter(cgroup: &Cgroup) -> Result<()> {
    Ok(cgroup.add(std::process::id())?)
}
