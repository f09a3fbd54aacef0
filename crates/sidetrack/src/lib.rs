//! The Sidetrack SDK: the library for programs that receive redirected connections.
//!
//! Sidetrack redirects connections of programs to a local *service*: a proxy with a listening
//! socket. A proxy that uses this crate
//!
//! 1. listens for its service ([`Listener::bind`]),
//! 2. accepts a connection together with its [`Flow`]: the original destination, the program that
//!    connected, the redirect context and the redirect records ([`Listener::accept`]),
//! 3. connects to the original destination with the redirect records set on the outgoing socket
//!    ([`Flow::connect`]), and
//! 4. copies bytes between the two sockets.
//!
//! The records link the outgoing connection to the flow. With them, the kernel side redirects the
//! outgoing connection to the next service of the chain, and never to the same service twice.
//!
//! # Example
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
//!         let origin = flow.connect()?; // sets the records before it connects
//!         # let _ = (stream, origin);
//!         // ... copy bytes between `stream` and `origin` ...
//!         Ok(())
//!     });
//! }
//! # }
//! ```
//!
//! # How the parts work together
//!
//! Each step of a proxy uses one socket option of the level `SOL_SIDETRACK`. The options are
//! described in docs/proxies.md, their values in bpf/sidetrack.h.
//!
//! ```text
//! Service::from_env ── Listener::bind ── accept ── Flow ── connect / outgoing
//!  (credentials)        (LISTEN option)   (INFO option)      (RECORDS option, then connect)
//! ```
//!
//! With [`Service::pended`], a proxy connects onward first, and its client's connect then succeeds
//! or fails like its own ([`Listener::pended`], docs/pended.md).
//!
//! UDP works the same way: [`DatagramListener`] receives the datagrams of all flows, and
//! [`Flow::connect_datagrams`] opens an outgoing socket for one flow (docs/datagrams.md).
//!
//! # Requirements
//!
//! The listener must be created in a cgroup to which the engine has attached its service side.
//! `sidetrack run --via exec:…` starts proxies in such a cgroup; a registration with the daemon
//! makes the proxy's own cgroup one. No privilege and no libbpf are needed, with one exception:
//! [`DatagramListener::report`] needs CAP_NET_RAW.
//!
//! # Modules and features
//!
//! - The crate root has the blocking and non-blocking API.
//! - [`tokio`] (feature `tokio`, on by default) has the same types for async programs.
//! - `daemon` (feature `daemon`, off by default) registers a service with `sidetrackd`.
//!
//! # Windows
//!
//! On Windows, the types of the same names use the control codes and control data of the Windows
//! Filtering Platform (docs/wfp.md, 1 and 2). docs/windows.md lists the differences.
#![deny(unsafe_code)]

#[cfg(unix)]
mod connection;
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
mod pended;
#[cfg(unix)]
mod service;
#[cfg(unix)]
#[allow(unsafe_code)]
mod sys;
#[cfg(all(unix, feature = "tokio"))]
pub mod tokio;
#[cfg(any(windows, test))] // its platform-independent parts are tested on every platform
mod windows;

#[cfg(unix)]
pub use connection::Connection;
#[cfg(unix)]
pub use datagram::{Batch, Datagram, DatagramListener, Unreachable, send_all};
pub use error::Error;
#[cfg(unix)]
pub use flow::{Comm, Flow, Program, Records, State, query};
#[cfg(unix)]
pub use listener::Listener;
#[cfg(unix)]
pub use outgoing::set_records;
#[cfg(unix)]
pub use pended::{Notice, Pending, WhyAccepted};
#[cfg(unix)]
pub use service::{LISTEN_VARIABLE, NAME_VARIABLE, PENDED_VARIABLE, Service};
pub use sidetrack_abi::text::Printable;
#[cfg(windows)]
pub use windows::*;
