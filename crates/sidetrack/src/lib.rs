//! Sidetrack for proxy authors.
//!
//! A proxy that the kernel diverts connections to asks the accepted socket itself where the
//! connection was going, and goes on with the redirect records set, so that the next proxy sees the
//! connection too, and none sees it twice.
//!
//! ```no_run
//! use sidetrack::{Listener, Service};
//! use std::{io, thread};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let listener = Listener::bind(&Service::from_env()?)?;
//! loop {
//!     let (stream, flow) = listener.accept()?.into_parts();
//!     thread::spawn(move || -> Result<(), sidetrack::Error> {
//!         println!("{} -> {}", flow.program().comm, flow.original_destination());
//!         let origin = flow.connect()?; // the records are set first; they cannot be forgotten
//!         # let _ = (stream, origin);
//!         // ... relay between `stream` and `origin` ...
//!         Ok(())
//!     });
//! }
//! # }
//! ```
//!
//! What happens when:
//!
//! ```text
//! Service::from_env ── Listener::bind ── accept ── Flow ── connect / outgoing
//!  (the secret)         (LISTEN option)   (INFO option)      (RECORDS option, then connect)
//! ```
//!
//! Needed at run time: the listener must have been made in a cgroup where the engine attached its
//! service side (`sidetrack run --via exec:…` sees to that). No privilege and no libbpf are needed.
//!
//! Modules: [`tokio`] has the same for async programs; `daemon` (with the feature of that name) registers a
//! service with `sidetrackd`. Everything else is at the root.
//!
//! On Windows the same names do the same by the control codes; see `windows.rs` and docs/windows.md for what differs.
#![deny(unsafe_code)]

#[cfg(all(unix, feature = "daemon"))]
pub mod daemon;
#[cfg(unix)]
mod datagram;
mod error;
#[cfg(unix)]
mod flow;
#[cfg(unix)]
mod listener;
#[cfg(unix)]
mod outgoing;
#[cfg(unix)]
mod service;
#[cfg(unix)]
#[allow(unsafe_code)]
mod sys;
#[cfg(all(unix, feature = "tokio"))]
pub mod tokio;
#[cfg(any(windows, test))] // what it decides is tested everywhere
mod windows;

#[cfg(unix)]
pub use datagram::{Batch, Datagram, DatagramListener, Unreachable};
pub use error::Error;
#[cfg(unix)]
pub use flow::{Comm, Flow, Program, Records, State, query};
#[cfg(unix)]
pub use listener::{Connection, Listener};
#[cfg(unix)]
pub use outgoing::set_records;
#[cfg(unix)]
pub use service::{LISTEN_VARIABLE, NAME_VARIABLE, Service};
#[cfg(windows)]
pub use windows::*;
