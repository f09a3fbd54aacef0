//! The daemon's API: the contract's messages, a client, and the way to and from policy's types.
//!
//! The contract is `proto/sidetrack.proto`; docs/daemon.md explains it.
#![forbid(unsafe_code)]

pub mod client;
mod condition;
mod error;
mod object;

pub use client::{Client, Session};
pub use error::{CODE_METADATA, NAME_METADATA, policy_error, status};
pub use object::{address, endpoint, key, key_bytes, socket_address};

/// What `proto/sidetrack.proto` says, as Rust.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("sidetrack.v1");
}

/// The contract's descriptor, for reflection.
pub const DESCRIPTOR: &[u8] = tonic::include_file_descriptor_set!("sidetrack");

/// Where the daemon listens, unless it is told otherwise.
pub const SOCKET: &str = "/run/sidetrack/sidetrackd.sock";
/// The variable that tells clients another place than [`SOCKET`].
pub const SOCKET_VARIABLE: &str = "SIDETRACK_SOCKET";
/// Bytes of a message, either way.
pub const MESSAGE_SIZE_MAX: usize = 64 << 20;
/// The version of the API.
pub const API_VERSION: u32 = 1;
