//! The harness of the system tests.
//!
//! A test says its topology, acts, and looks at the outcome:
//!
//! ```no_run
//! let mut host = e2e::Host::new("a_test");
//! let service = host.service("inspect");
//! let answering = host.answer(&service);
//! host.redirect_all(&[&service]);
//! let seen = host.client(&["connect", "10.1.2.3:80"]).json();
//! assert_eq!(seen["reply"], "10.1.2.3:80");
//! # drop(answering);
//! ```
//!
//! [`Host`] has an engine and a cgroup of its own, named after the test: `program` below it for the
//! clients, `service` for the proxies that the test runs itself. All of it goes on drop.
//!
//! Each test is a process (nextest): it moves itself between cgroups.
#![deny(unsafe_code)]

mod api;
mod bpffs;
mod client;
mod daemon;
mod datagram;
mod dnsmasq;
mod host;
mod http;
pub mod netns;
pub mod policy;
mod process;
mod proxy;
mod quic;
#[allow(unsafe_code)]
pub mod sys;
pub mod wait;

pub use api::Api;
pub use bpffs::Bpffs;
pub use client::{Client, Outcome, client_binary};
pub use daemon::Daemon;
pub use datagram::{EchoOrigin, RunningDatagrams};
pub use dnsmasq::Dnsmasq;
pub use host::Host;
pub use http::HttpOrigin;
pub use process::Process;
pub use proxy::{
    Origin, Running, both_ways, listen_by_hand, listen_shared, listen_unmarked, mark, mark_by_hex,
    sdk,
};
pub use quic::QuicOrigin;
pub mod run;
