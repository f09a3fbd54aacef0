//! Whole relays: a redirector, a proxy, and the traffic through both, in a worker's own namespace.
//!
//! ```text
//! worker ── Arena::open(contestant) ── namespace, cgroups, proxy on its CPU, redirector
//!   └─ Workload::run ── load ── Arena::check: the counters say that all of it went this way
//! ```

pub(crate) mod arena;
pub(crate) mod contestant;
mod minimal;
mod peer;
pub(crate) mod usage;
pub(crate) mod worker;
pub(crate) mod workload;

pub(crate) use minimal::Kind as MinimalKind;
pub(crate) use minimal::run as run_minimal;
pub(crate) use peer::MITMDUMP;
