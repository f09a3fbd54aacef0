//! The kernel memory of an idle connection.

use anyhow::Result;
use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};

use super::round;
use super::setup::ConnectSetup;
use crate::kernel_memory::settled;

/// Descriptors that are kept free for everything but the connections.
const DESCRIPTORS_SPARE: u64 = 512;
/// Connections that are made before the first reading.
const WARM_UP: u32 = 200;

/// The kernel memory of connections that were open at the same time.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct HeldMemory {
    /// The number of connections: as many as wanted, or as the limit on descriptors allows.
    pub(crate) connections: u32,
    /// The kernel memory of one connection in bytes, including both sockets.
    pub(crate) bytes: f64,
}

/// Opens this number of connections, and reads the kernel's memory before and after.
pub(crate) fn measure(setup: &dyn ConnectSetup, wanted: u32) -> Result<HeldMemory> {
    let connections = wanted.min(descriptors() / 2);
    round::run(setup, 0..WARM_UP)?;
    let before = settled()?;
    let held = (WARM_UP..WARM_UP + connections)
        .map(|number| round::open(setup, number))
        .collect::<Result<Vec<_>>>()?;
    let after = settled()?;
    setup.check((WARM_UP + connections).into())?;
    Ok(HeldMemory {
        connections: held.len() as u32,
        bytes: (after - before) / f64::from(connections),
    })
}

fn descriptors() -> u32 {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let usable = limit.saturating_sub(DESCRIPTORS_SPARE);
    u32::try_from(usable).unwrap_or(u32::MAX)
}
