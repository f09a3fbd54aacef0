//! Sidetrack's daemon. Its parts, from the outside in:
//!
//! - [`server`]: the API's calls, over a Unix socket; [`access`]: who may make them.
//! - [`session`] and [`transaction`]: who changes what, and when.
//! - [`committer`]: the one thread that owns policy, store and data path, and commits.
//! - [`store`]: what survives; [`data_path`]: what the committer asks of the kernel side.
#![deny(unsafe_code)]

pub mod access;
pub mod committer;
pub mod config;
pub mod data_path;
mod error;
pub mod event;
pub mod server;
pub mod session;
pub mod store;
#[allow(unsafe_code)]
mod sys;
pub mod systemd;
pub mod transaction;

pub use config::Config;
pub use error::Error;

#[cfg(test)]
mod tests;
