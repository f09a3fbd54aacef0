//! What an idle connection takes in the kernel.

use anyhow::Result;
use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};

use super::round;
use super::way::Way;
use crate::kernel_memory::settled;

/// Descriptors kept free for all but the connections.
const DESCRIPTORS_SPARE: u64 = 512;
/// Connections before the first reading.
const WARM_UP: u32 = 200;
/// What was held.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Held {
    /// Connections: what was asked for, or what the limit on descriptors allows.
    pub(crate) connections: u32,
    /// Kernel memory for each, both sockets included.
    pub(crate) bytes: f64,
}

/// Holds so many connections open at once, and reads the kernel's memory before and after.
pub(crate) fn hold(way: &dyn Way, wanted: u32) -> Result<Held> {
    let connections = wanted.min(descriptors() / 2);
    round::run(way, 0..WARM_UP)?;
    let before = settled()?;
    let held = (WARM_UP..WARM_UP + connections)
        .map(|number| round::open(way, number))
        .collect::<Result<Vec<_>>>()?;
    let after = settled()?;
    way.check((WARM_UP + connections).into())?;
    Ok(Held {
        connections: held.len() as u32,
        bytes: (after - before) / f64::from(connections),
    })
}

fn descriptors() -> u32 {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let usable = limit.saturating_sub(DESCRIPTORS_SPARE);
    u32::try_from(usable).unwrap_or(u32::MAX)
}
