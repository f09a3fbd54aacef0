//! The SDK on Windows. It uses the three control codes of the Windows Filtering Platform
//! (docs/wfp.md, 1) and, for datagrams, control data (docs/wfp.md, 2).
//!
//! The driver that redirects is not part of Sidetrack; this is only the proxy's side. The driver
//! and the proxy agree on the layout of the redirect context. `windows/context.rs` knows
//! Sidetrack's automatic context and the layout of Microsoft's samples; `Flow::query_with` takes a
//! function for any other layout.

// On other systems only the platform-independent parts are built, for their tests.
#![cfg_attr(not(windows), allow(dead_code, unreachable_pub))]

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
pub use context::ParsedContext;
#[cfg(windows)]
pub use datagram::{Datagram, DatagramListener, send_first};
#[cfg(windows)]
pub use flow::{Flow, Program, Records, State, query, set_records};
#[cfg(windows)]
pub use listener::{Connection, Listener};
#[cfg(windows)]
pub use service::{LISTEN_VARIABLE, Service};
