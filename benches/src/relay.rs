//! Whole relays: a redirector, a proxy, and the traffic through both, in the namespace of a worker.
//!
//! ```text
//! worker ── RelaySetup::open(contestant) ── cgroups, proxy on its CPU, redirector
//!   └─ Workload::run ── load ── RelaySetup::check (check.rs): the counters prove that all connections took this path
//! ```

mod check;
pub(crate) mod contestant;
mod held;
mod minimal;
mod proxy;
pub(crate) mod setup;
pub(crate) mod usage;
pub(crate) mod worker;
pub(crate) mod workload;

pub(crate) use minimal::MinimalRelayTraffic;
pub(crate) use minimal::run as run_minimal;
pub(crate) use proxy::MITMDUMP;
