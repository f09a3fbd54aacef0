//! The topics: what can be measured separately, as in `bench rate` or `bench stream`.

mod chain;
mod datagram;
mod idle;
mod latency;
mod legacy;
mod pended;
mod rate;
mod stream;

use anyhow::Result;
use clap::ValueEnum;

use crate::contest::{ContestEntry, Readings};
use crate::relay::contestant::Contestant;
use crate::relay::workload::Workload;
use crate::rounds::rounds;
use crate::{connect, policy, report, send, winsock};

/// A part of the run with its own figures, page and chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Topic {
    /// What a connection costs that is redirected, only classified, or neither; without a proxy.
    Connect,
    /// Connections per second through redirector and proxy, and their CPU time.
    Rate,
    /// Latency of a connection with one request, at a fixed rate.
    Latency,
    /// Throughput of streams, and their CPU time.
    Stream,
    /// Memory of idle connections.
    Idle,
    /// Chains of 1 to 8 services.
    Chain,
    /// An unmodified HAProxy behind Sidetrack, and behind nftables.
    Legacy,
    /// Connects that are held until the origin has answered, compared with accepting first.
    Pended,
    /// Latency and rate of UDP datagrams.
    Datagram,
    /// What `sendto` costs if the datagram is diverted, only classified, or neither.
    Send,
    /// What `WSAIoctl` costs compared with the socket option below it.
    Winsock,
    /// How long a large policy takes to apply, and how long a commit delays connections.
    Policy,
}

impl Topic {
    /// Measures the topic, and writes its results to docs/bench/.
    pub(crate) fn run(self, quick: bool) -> Result<()> {
        let plan = match self {
            Self::Connect => return connect::plan::run(quick),
            Self::Send => return send::run(quick),
            Self::Winsock => return winsock::run(quick),
            Self::Policy => return policy::run(quick),
            Self::Rate => rate::plan(quick),
            Self::Latency => latency::plan(quick),
            Self::Stream => stream::plan(quick),
            Self::Idle => idle::plan(quick),
            Self::Chain => chain::plan(quick),
            Self::Legacy => legacy::plan(quick),
            Self::Pended => pended::plan(quick),
            Self::Datagram => datagram::plan(quick),
        };
        // Memory hardly differs from round to round, and takes long to become stable.
        let rounds = rounds(quick || self == Self::Idle);
        let readings = Readings::take(plan.name, &plan.entries, rounds);
        report::write(&plan, &readings)
    }
}

/// Entries for each of these contestants under each of these workloads.
fn all(contestants: &[Contestant], workloads: &[Workload], milliseconds: u64) -> Vec<ContestEntry> {
    let each = |workload: &Workload| {
        let workload = *workload;
        contestants.iter().map(move |contestant| ContestEntry {
            contestant: *contestant,
            workload,
            milliseconds,
        })
    };
    workloads.iter().flat_map(each).collect()
}
