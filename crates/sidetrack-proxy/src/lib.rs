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
//! If the client's connect is held, and the address decides, the way to the origin comes first:
//!
//! ```text
//! ConnectionLoop ── Rules::decide_by_address ── Pending::connect_nonblocking ── complete ── Direction ── FlowLine
//! ```
//!
//! The modules, each above those that it uses:
//!
//! ```text
//!   serve                      all event loops of a service, and its flow lines
//!   connections   datagrams    the connections of one thread; all UDP flows
//!   connection                 one connection, or one held client
//!   relay   reactor            bytes between two sockets; the event loop of a thread
//!   line   outcome   upstream  the flow line; what became of a flow; the way to its origin
//!   names   settings   rules   names of addresses, from DNS; settings; what is allowed
//!   sniff   dns                the client's first bytes, in TCP and QUIC; DNS in datagrams
//! ```
//!
//! The process must ignore SIGPIPE. Rust programs do so by default.
#![forbid(unsafe_code)]

pub mod close_reason;
pub mod connection;
pub mod connections;
pub mod datagrams;
pub mod dns;
pub mod line;
pub mod names;
pub mod outcome;
pub mod reactor;
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
