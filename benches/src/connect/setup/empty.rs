//! eBPF programs that do nothing: what it costs that any program is attached at the hooks that
//! Sidetrack uses.

use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context as _, Result};

use super::{ConnectSetup, PORT, listen};
use crate::connect::sys::{self, Hook};
use crate::hierarchy::Hierarchy;

/// The client connects to a listener outside the scope of programs that do nothing.
pub(crate) struct Empty {
    listener: TcpListener,
    _programs: Vec<OwnedFd>,
    _hierarchy: Hierarchy,
}

impl Empty {
    /// A sockops program is attached, but not to the client's cgroup.
    pub(crate) fn open_elsewhere() -> Result<Self> {
        Self::open(&[Hook::Sockops], Hierarchy::enter_outside)
    }

    /// A sockops and a connect program are attached to the client's cgroup.
    pub(crate) fn open_in_scope() -> Result<Self> {
        let hooks = [Hook::Sockops, Hook::Connect4];
        Self::open(&hooks, Hierarchy::enter_program)
    }

    fn open(hooks: &[Hook], enter: impl Fn(&Hierarchy) -> Result<()>) -> Result<Self> {
        let hierarchy = Hierarchy::make()?;
        let programs = hooks
            .iter()
            .map(|&hook| sys::attach_empty(hook, hierarchy.scope.as_fd()))
            .collect::<Result<_, _>>()
            .context("attach an empty program")?;
        hierarchy.enter_outside()?;
        let listener = listen(PORT, None)?;
        enter(&hierarchy)?;
        Ok(Self {
            listener,
            _programs: programs,
            _hierarchy: hierarchy,
        })
    }
}

impl ConnectSetup for Empty {
    fn listener(&self) -> &TcpListener {
        &self.listener
    }

    fn check(&self, _made: u64) -> Result<()> {
        Ok(()) // nothing could divert them
    }
}
