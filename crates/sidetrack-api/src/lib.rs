//! The daemon's API: its messages, a client, and conversions from and to the types of
//! `sidetrack_policy`.
//!
//! `proto/sidetrack.proto` defines the API, and docs/daemon.md explains it. With the feature `config`
//! there is also the reader of the daemon's configuration.
//!
//! ```no_run
//! use sidetrack_api::{Session, client, v1};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let mut client = client::connect(None).await?;
//! let session = Session::open(&mut client, v1::SessionOptions::default()).await?;
//! let request = v1::ApplyPolicyRequest {
//!     session_id: session.id(),
//!     owner: "acme".into(),
//!     dry_run: true,
//!     ..Default::default()
//! };
//! let applied = client.apply_policy(request).await?.into_inner();
//! println!("{} objects would be removed", applied.removed);
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod client;
pub mod codec;
mod condition;
#[cfg(feature = "config")]
pub mod config;
pub mod count;
mod error;
mod object;
pub mod pended;

pub use client::{Client, Session};
pub use error::{CODE_METADATA, NAME_METADATA, policy_error, status};
pub use object::{address, endpoint, key, key_bytes, socket_address};

/// The messages, the client and the server that are generated from `proto/sidetrack.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("sidetrack.v1");
}

/// The API's file descriptor set, for gRPC reflection.
pub const DESCRIPTOR: &[u8] = tonic::include_file_descriptor_set!("sidetrack");

/// Default path of the daemon's Unix socket.
pub const SOCKET: &str = "/run/sidetrack/sidetrackd.sock";
/// Name of the environment variable by which clients use another path than [`SOCKET`].
pub const SOCKET_VARIABLE: &str = "SIDETRACK_SOCKET";
/// Greatest size of a message in either direction, in bytes.
pub const MESSAGE_SIZE_MAX: usize = 64 << 20;
/// The version of the API.
pub const API_VERSION: u32 = 1;
