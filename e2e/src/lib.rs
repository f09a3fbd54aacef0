//! The harness of the system tests.
//!
//! A test states its topology, acts, and checks the outcome:
//!
//! ```no_run
//! let mut host = e2e::Host::new("a_test");
//! let service = host.service("inspect");
//! let _proxy = host.answer(&service);
//! host.redirect_all(&[&service]);
//! let report = host.client(&["connect", "10.1.2.3:80"]).json();
//! assert_eq!(report["reply"], "10.1.2.3:80");
//! ```
//!
//! [`Host`] has an engine, and a cgroup that is named after the test. Below it, `program` is for the
//! clients, and `service` for the proxies. All of it is removed on drop.
//!
//! Each test needs its own process, as nextest gives it, because a test moves its process between
//! cgroups.
#![deny(unsafe_code)]

mod any_address;
mod api;
mod bpffs;
mod client;
pub mod comparison;
mod daemon;
mod datagram;
mod dnsmasq;
pub mod exchange;
mod far_host;
mod follower;
mod host;
mod http;
pub mod netns;
mod pended;
pub mod policy;
mod process;
pub mod programs;
mod proxy;
mod quic;
#[allow(unsafe_code)]
pub mod sys;
pub mod wait;

pub use any_address::AnyAddressOrigin;
pub use api::Api;
pub use bpffs::Bpffs;
pub use client::{Client, Outcome, client_binary};
pub use daemon::Daemon;
pub use datagram::{EchoOrigin, RunningDatagramProxy};
pub use dnsmasq::Dnsmasq;
pub use far_host::FarHost;
pub use follower::Follower;
pub use host::Host;
pub use http::HttpOrigin;
pub use pended::{PendedDescriptors, relay_pending};
pub use process::{Process, send_signal};
pub use proxy::{
    Origin, RunningProxy, copy_both_ways, listen_marked, listen_shared, listen_unmarked, mark,
    mark_by_hex, sdk_service,
};
pub use quic::QuicOrigin;
pub mod run;
