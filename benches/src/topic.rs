//! What can be measured by itself: `bench rate`, `bench stream`, and so on.

mod chain;
mod datagram;
mod idle;
mod latency;
mod legacy;
mod rate;
mod stream;

use anyhow::Result;
use clap::ValueEnum;

use crate::comparison::Comparison;
use crate::contest::{Entry, Readings};
use crate::picture::Group;
use crate::relay::contestant::Contestant;
use crate::relay::workload::Workload;
use crate::{connect, policy, report, send, winsock};

/// Rounds for the record.
pub(crate) const ROUNDS: u32 = 7;
/// Rounds for a look.
pub(crate) const ROUNDS_QUICK: u32 = 3;

/// A part of the run, with figures, a table and a chart of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Topic {
    /// What a redirected connection takes without a proxy.
    Connect,
    /// Connections a second through redirector, proxy and origin.
    Rate,
    /// Latency at a fixed rate.
    Latency,
    /// Throughput, and what it takes.
    Stream,
    /// Memory of idle connections.
    Idle,
    /// Chains of services.
    Chain,
    /// An unmodified HAProxy behind Sidetrack.
    Legacy,
    /// UDP.
    Datagram,
    /// What a datagram's send takes.
    Send,
    /// The Winsock library.
    Winsock,
    /// Putting policies into force.
    Policy,
}

/// A topic that is a contest.
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) entries: Vec<Entry>,
    pub(crate) comparisons: Vec<Comparison>,
    /// Bars, from what was measured.
    pub(crate) groups: fn(&Readings) -> Vec<Group>,
}

impl Topic {
    /// Measures it, and writes it down.
    pub(crate) fn run(self, quick: bool) -> Result<()> {
        let rounds = if quick { ROUNDS_QUICK } else { ROUNDS };
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
            Self::Datagram => datagram::plan(quick),
        };
        // Memory hardly differs from round to round, and takes long to settle.
        let rounds = if self == Self::Idle {
            ROUNDS_QUICK
        } else {
            rounds
        };
        let readings = Readings::take(plan.name, &plan.entries, rounds);
        report::write(&plan, &readings)
    }
}

/// All of these contestants under all of these workloads.
fn all(contestants: &[Contestant], workloads: &[Workload], milliseconds: u64) -> Vec<Entry> {
    let each = |workload: &Workload| {
        let workload = *workload;
        contestants.iter().map(move |contestant| Entry {
            contestant: *contestant,
            workload,
            milliseconds,
        })
    };
    workloads.iter().flat_map(each).collect()
}
