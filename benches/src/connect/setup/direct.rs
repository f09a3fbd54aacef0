//! No program is attached, and no rule is loaded.

use std::net::TcpListener;

use anyhow::Result;

use super::{ConnectSetup, PORT, listen};
use crate::hierarchy::Hierarchy;

/// The client connects to a listener, and nothing is in between.
pub(crate) struct Direct {
    listener: TcpListener,
    _hierarchy: Hierarchy,
}

impl Direct {
    /// Opens the listener, in cgroups that are as deep as those of the other cases.
    pub(crate) fn open() -> Result<Self> {
        let hierarchy = Hierarchy::make()?;
        hierarchy.enter_program()?;
        Ok(Self {
            listener: listen(PORT, None)?,
            _hierarchy: hierarchy,
        })
    }
}

impl ConnectSetup for Direct {
    fn listener(&self) -> &TcpListener {
        &self.listener
    }

    fn check(&self, _made: u64) -> Result<()> {
        Ok(()) // nothing could divert them
    }
}
