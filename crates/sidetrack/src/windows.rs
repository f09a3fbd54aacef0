//! The same on Windows, by the three control codes of the Windows Filtering Platform (spec 1) and, for datagrams, by
//! control data (spec 2).
//!
//! Somebody else's driver redirects here; this is the proxy's side only. What a context looks like is between the driver
//! and the proxy: `windows/context.rs` knows Sidetrack's own automatic one and that of Microsoft's samples, and
//! `Flow::query_with` takes any other.

#![cfg_attr(not(windows), allow(dead_code, unreachable_pub))] // there, only what needs no Windows is built, for its tests

mod context;
#[cfg(windows)]
mod datagram;
#[cfg(windows)]
mod flow;
#[cfg(windows)]
mod listener;
mod query;
#[cfg(windows)]
mod service;
#[cfg(windows)]
#[allow(unsafe_code)]
mod sys;

#[cfg(windows)]
pub use context::Told;
#[cfg(windows)]
pub use datagram::{Datagram, DatagramListener, send_first};
#[cfg(windows)]
pub use flow::{Flow, Program, Records, State, query, set_records};
#[cfg(windows)]
pub use listener::{Connection, Listener};
#[cfg(windows)]
pub use service::{LISTEN_VARIABLE, Service};
