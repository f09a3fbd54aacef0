//! Sidetrack's engine loads the kernel side, attaches it to cgroups, and controls its services and
//! policy.
//!
//! ```text
//! Engine::open ── load ── attach ── Engine ── add_service ── commit
//!  (OpenEngine)   (LoadedEngine)      │
//!                                     └─ dropped, or the process ends: everything is removed
//! ```
//!
//! ```no_run
//! use sidetrack_engine::{Cgroup, Config, Engine, ServiceSpec};
//! use sidetrack_policy::redirect::{Redirect, in_order};
//!
//! # fn main() -> Result<(), sidetrack_engine::Error> {
//! let scope = Cgroup::at("/sys/fs/cgroup/browsers".as_ref())?;
//! let proxies = Cgroup::at("/sys/fs/cgroup/proxies".as_ref())?;
//! let mut engine = Engine::open(&scope, Config::default())?.load()?.attach()?;
//! let service = engine.add_service(&ServiceSpec::new("inspect"), &proxies)?;
//! engine.commit(&in_order([Redirect::tcp(service.key)]), &[])?;
//! // The proxy gets `service.credentials()`, and marks its listener with them.
//! # Ok(())
//! # }
//! ```
//!
//! The crate needs no daemon and no async runtime, and reads only files of the kernel. The process
//! needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, which root has.
//!
//! The policy consists of the objects of `sidetrack-policy`, which defines what they mean.
//!
//! Modules: [`cgroup`] finds and makes cgroups; [`service`] describes services; [`event`] and
//! [`counter`] are what the kernel side reports; [`cost`] measures its run time; [`legacy`] finds the
//! sockets of legacy proxies; [`network`] finds IPv6 prefixes that ended engines have left; [`host`] finds
//! what a host lacks.
#![deny(unsafe_code)]

pub mod cgroup;
pub mod cost;
pub mod counter;
mod departure;
mod engine;
mod error;
pub mod event;
pub mod host;
pub mod legacy;
mod namespace;
pub mod network;
mod path;
pub mod service;
#[allow(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::undocumented_unsafe_blocks
)]
mod skeleton;
#[allow(unsafe_code)]
mod sys;

/// The object file of the kernel side, for tests that compare the ABI's mirror with its BTF.
#[doc(hidden)]
pub const OBJECT: &str = concat!(env!("OUT_DIR"), "/sidetrack.bpf.o");

pub use cgroup::Cgroup;
pub use departure::{Departure, DepartureWatch};
pub use engine::{
    Classification, Committed, Config, Engine, FlowEntry, LoadedEngine, MapUsage, OpenEngine,
    PendedDescriptors, PendedRefusal, PolicyInForce, Senders, check_pins, open_ring,
    pinned_programs, pins_at, remove_pins, senders_of,
};
pub use error::Error;
pub use path::Paths;
pub use service::{RegisteredService, ServiceSpec};
pub use sidetrack_policy::{Absent, ConnectMode, RecordsMode, RedirectContext};
