//! Sidetrack's daemon, which manages policy: WFP calls this part the base filtering engine. Its
//! modules, from the API down to the kernel:
//!
//! - [`server`] answers the calls of the API on a Unix socket; [`access`] decides who may make
//!   them.
//! - [`session`] keeps the open sessions; [`transaction`] lets one of them write at a time.
//! - [`committer`] is the one thread that owns policy, store and data path, and commits changes.
//! - [`store`] keeps objects in a file; [`data_path`] is the committer's interface to the kernel
//!   side.
//! - [`quota`] gives each user a share of everything that is limited, and root a reserve; [`fair`]
//!   has the queues in which callers wait.
//! - [`event`] keeps the recent events, and sends new ones to the clients that follow them.
//! - [`systemd`] notifies systemd, and queries whether a unit is enabled.
#![deny(unsafe_code)]

pub mod access;
pub mod committer;
pub mod data_path;
mod error;
pub mod event;
pub mod fair;
pub mod quota;
pub mod server;
pub mod session;
pub mod store;
#[allow(unsafe_code)]
mod sys;
pub mod systemd;
pub mod transaction;

pub use error::{Error, Mismatch};
