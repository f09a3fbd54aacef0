//! Nothing attached, no rule.

use std::net::TcpListener;

use anyhow::Result;

use super::{PORT, Way, listen};
use crate::hierarchy::Hierarchy;

/// Straight from the client to a listener.
pub(crate) struct Direct {
    listener: TcpListener,
    _hierarchy: Hierarchy,
}

impl Direct {
    /// In cgroups as deep as the other cases'.
    pub(crate) fn open() -> Result<Self> {
        let hierarchy = Hierarchy::make()?;
        hierarchy.enter_program()?;
        Ok(Self {
            listener: listen(PORT, None)?,
            _hierarchy: hierarchy,
        })
    }
}

impl Way for Direct {
    fn listener(&self) -> &TcpListener {
        &self.listener
    }

    fn check(&self, _made: u64) -> Result<()> {
        Ok(()) // nothing could have diverted them
    }
}
