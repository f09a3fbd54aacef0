//! Sidetrack's engine: the kernel side, loaded and attached, with its services and filters.
//!
//! ```text
//! Engine::open ── load ── attach ── Engine ── add_service ── set_policy
//!  (OpenEngine)   (LoadedEngine)      │
//!                                     └─ drop, or the process's end: everything is gone
//! ```
//!
//! ```no_run
//! use sidetrack_engine::{Cgroup, Config, Engine, Filter, ServiceSpec};
//!
//! # fn main() -> Result<(), sidetrack_engine::Error> {
//! let scope = Cgroup::at("/sys/fs/cgroup/browsers".as_ref())?;
//! let proxies = Cgroup::at("/sys/fs/cgroup/proxies".as_ref())?;
//! let mut engine = Engine::open(&scope, Config::default())?.load()?.attach()?;
//! let service = engine.add_service(&ServiceSpec::new("inspect"), &proxies)?;
//! engine.set_policy(&[Filter::redirect_all(service.number)])?;
//! // service.credentials go to the proxy, which marks its listener with them.
//! # Ok(())
//! # }
//! ```
//!
//! No daemon, no async, no files read but the kernel's own. The process needs CAP_BPF,
//! CAP_NET_ADMIN and CAP_PERFMON (root has them).
//!
//! Modules: [`cgroup`] finds and makes cgroups; [`filter`] is the policy's vocabulary and its
//! lowering; [`service`] names services; [`event`] and [`counter`] are what the kernel reports;
//! [`legacy`] finds the sockets of proxies that know nothing of us; [`host`] says what a host lacks.
#![deny(unsafe_code)]

pub mod cgroup;
pub mod cost;
pub mod counter;
mod engine;
mod error;
pub mod event;
pub mod filter;
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
mod skeleton {
    include!(concat!(env!("OUT_DIR"), "/sidetrack.skel.rs"));

    pub mod namespace {
        include!(concat!(env!("OUT_DIR"), "/namespace.skel.rs"));
    }
}
#[allow(unsafe_code)]
mod sys;

/// The kernel side's object file, for tests that hold the ABI's mirror to its BTF.
#[doc(hidden)]
pub const OBJECT: &str = concat!(env!("OUT_DIR"), "/sidetrack.bpf.o");

pub use cgroup::Cgroup;
pub use engine::{
    Classification, Committed, Config, Engine, FlowEntry, LoadedEngine, OpenEngine, Table,
    pinned_programs, pins_at, remove_pins,
};
pub use error::Error;
pub use filter::Filter;
pub use path::Paths;
pub use service::{RecordsMode, Service, ServiceSpec};
pub use sidetrack_policy::{Absent, Context};
