//! Sidetrack's built-in inspecting proxy: reads a connection's first bytes, decides by the rules,
//! relays, and writes one line for each connection.
//!
//! It knows of the kernel side only what the SDK, `sidetrack`, offers to any proxy.
//!
//! ```no_run
//! use sidetrack_proxy::{Rules, Server, Settings};
//! use std::future::pending;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let mut settings = Settings::default();
//! settings.rules = Rules::new(vec!["*.example.com".parse()?], vec![]);
//! let server = Server::bind(&sidetrack::Service::from_env()?, settings)?;
//! server.run(pending(), |line| println!("{line}")).await?;
//! # Ok(())
//! # }
//! ```
//!
//! What happens to a connection:
//!
//! ```text
//! Server::run ── Loop ── sniff ── Rules::decide ── Flow::connect_nonblocking ── Direction ── FlowLine
//! ```
//!
//! Of datagrams, [`dns`] reads queries and responses, [`sniff::quic`] a client's first packets, and
//! [`names`] remembers which name an address was asked for by.
//!
//! Datagrams have a loop of their own, see [`datagrams`].
//!
//! Modules: [`sniff`](mod@sniff) reads first bytes, [`rules`] decides, [`relay`](mod@relay) moves
//! bytes, [`connection`] does all that for one connection, [`connections`] for all of a thread,
//! [`serve`](mod@serve) for all of a service. The process must ignore SIGPIPE, as Rust programs do unless told otherwise.
#![forbid(unsafe_code)]

pub mod busy_poll;
pub mod close_reason;
pub mod connection;
pub mod connections;
pub mod datagrams;
pub mod dns;
pub mod line;
pub mod names;
pub mod relay;
pub mod rules;
pub mod serve;
pub mod settings;
pub mod sniff;

pub use line::FlowLine;
pub use rules::{Pattern, PatternError, Rules};
pub use serve::{Server, serve};
pub use settings::Settings;
