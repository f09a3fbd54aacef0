//! Sidetrack's built-in inspecting proxy. It reads the first bytes of each connection, decides by the
//! rules whether the connection may go on, relays it, and writes one line when it has ended.
//!
//! It uses the kernel side only through the SDK, `sidetrack`, as any other proxy can.
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
//! The path of a connection:
//!
//! ```text
//! Server::run ── ConnectionLoop ── sniff ── Rules::decide ── Flow::connect_nonblocking ── Direction ── FlowLine
//! ```
//!
//! Modules for TCP: [`sniff`](mod@sniff) reads the first bytes, [`rules`] decides,
//! [`relay`](mod@relay) moves bytes, [`connection`] does all that for one connection,
//! [`connections`] for the connections of one thread, and [`serve`](mod@serve) for all connections
//! of a service.
//!
//! Modules for UDP: [`datagrams`] relays all flows in one separate event loop, [`dns`] reads
//! queries and responses, [`sniff::quic`] reads a client's first packets, and [`names`] remembers
//! the name for which DNS last returned an address.
//!
//! The process must ignore SIGPIPE. Rust programs do so by default.
#![forbid(unsafe_code)]

pub mod busy_poll;
pub mod close_reason;
pub mod connection;
pub mod connections;
pub mod datagrams;
pub mod dns;
pub mod line;
pub mod names;
pub mod outcome;
pub mod relay;
pub mod rules;
pub mod seen;
pub mod serve;
pub mod settings;
pub mod sniff;
pub mod upstream;

pub use line::FlowLine;
pub use rules::{Pattern, PatternError, Rules};
pub use serve::{Server, serve};
pub use settings::Settings;
