//! Connects that are held until the origin has answered, compared with accepting first; and what the
//! proxies that hold them cost the traffic of others.

use super::all;
use crate::chart::BarGroup;
use crate::comparison::{Comparison, ContestGoal, CostOf};
use crate::contest::{ContestEntry, Readings};
use crate::contest_plan::ContestPlan;
use crate::relay::contestant::Contestant::{
    self, Accepted, Direct, NextToAccepted, NextToPended, Pended,
};
use crate::relay::workload::Workload::{self, Closing, Keeping, Refused, Up};

const PROXIES: [Contestant; 3] = [Direct, Accepted(1), Pended(1)];
const CLIENTS: [Workload; 4] = [Closing(1), Closing(16), Closing(64), Closing(256)];
/// The numbers of hops of refused connects.
const HOPS: [u32; 3] = [1, 2, 4];
/// The most that a hop may add to a refused connect, in nanoseconds.
const REFUSED_MAX: f64 = 100_000.0;
const BYSTANDERS: [Contestant; 3] = [Direct, NextToAccepted, NextToPended];
const REQUESTS: Workload = Keeping(16);
const THROUGHPUT: Workload = Up(1);

pub(super) fn plan(quick: bool) -> ContestPlan {
    let mut comparisons = Vec::new();
    comparisons.extend([(1, 1.5), (16, 1.25), (64, 1.0)].map(first_byte));
    comparisons.extend([16, 256].map(rate));
    comparisons.push(cpu("cpu", "the proxy"));
    comparisons.push(cpu("total", "clients, proxy and origin"));
    comparisons.extend(HOPS.map(refused));
    comparisons.extend(bystanders());
    ContestPlan {
        name: "pended",
        title: "Pended connects",
        entries: entries(if quick { 400 } else { 700 }),
        comparisons,
        groups,
    }
}

fn entries(milliseconds: u64) -> Vec<ContestEntry> {
    let refused: Vec<Contestant> = std::iter::once(Direct)
        .chain(
            HOPS.into_iter()
                .flat_map(|hops| [Accepted(hops), Pended(hops)]),
        )
        .collect();
    let mut entries = all(&PROXIES, &CLIENTS, milliseconds);
    entries.extend(all(&refused, &[Refused], milliseconds));
    entries.extend(all(&BYSTANDERS, &[THROUGHPUT, REQUESTS], milliseconds));
    // The direct contestant under this traffic is among the proxies' entries.
    entries.extend(all(&BYSTANDERS[1..], &[Closing(16)], milliseconds));
    entries
}

fn first_byte((clients, goal): (u32, f64)) -> Comparison {
    Comparison {
        name: format!("first byte of a pended connection, {}", in_words(clients)),
        workload: Closing(clients),
        measure: "first",
        ..over_accepted("ns", ContestGoal::AtMost(goal))
    }
}

fn rate(clients: u32) -> Comparison {
    Comparison {
        name: format!("pended connections a second, {clients} clients"),
        workload: Closing(clients),
        measure: "rate",
        ..over_accepted("1/s", ContestGoal::AtLeast(0.9))
    }
}

/// A proxy that pends does a part of the kernel's work that is otherwise the client's: the handshake.
fn cpu(measure: &'static str, whose: &str) -> Comparison {
    Comparison {
        name: format!("CPU time of {whose} for a pended connection, 16 clients"),
        measure,
        ..over_accepted("ns", ContestGoal::LessReported)
    }
}

fn refused(hops: u32) -> Comparison {
    let path = match hops {
        1 => "a single hop".to_owned(),
        _ => format!("each of {hops} hops"),
    };
    Comparison {
        name: format!("refused connect, what {path} adds; accepted: until the client is reset"),
        subject: Pended(hops),
        workload: Refused,
        measure: "p50",
        peers: vec![Accepted(hops)],
        cost_of: CostOf::Hop,
        ..over_accepted("ns", ContestGoal::Below(REFUSED_MAX))
    }
}

/// A comparison of one proxy that pends with one that accepts, under 16 clients.
fn over_accepted(unit: &'static str, goal: ContestGoal) -> Comparison {
    Comparison {
        name: String::new(),
        unit,
        subject: Pended(1),
        workload: Closing(16),
        measure: "rate",
        peers: vec![Accepted(1)],
        cost_of: CostOf::Path,
        limit: Some(Direct),
        goal,
    }
}

fn bystanders() -> Vec<Comparison> {
    let next_to = |what: &str, workload, measure, unit, peer, goal| Comparison {
        name: match peer {
            NextToAccepted => {
                format!("{what} next to 8 proxies that hold connects, or that accept them")
            }
            _ => format!("{what} next to 8 proxies that hold connects"),
        },
        subject: NextToPended,
        workload,
        measure,
        peers: vec![peer],
        ..over_accepted(unit, goal)
    };
    let throughput = |peer, goal| next_to("throughput", THROUGHPUT, "gbit", "Gbit/s", peer, goal);
    let requests = |peer, goal| next_to("requests a second", REQUESTS, "rate", "1/s", peer, goal);
    let connections = |peer, goal| {
        next_to(
            "connections a second",
            Closing(16),
            "rate",
            "1/s",
            peer,
            goal,
        )
    };
    // Other work on the machine disturbs rates more than it disturbs the CPU time.
    let time = |what: &str, workload| {
        let what = format!("CPU time of {what}");
        next_to(
            &what,
            workload,
            "total",
            "ns",
            Direct,
            ContestGoal::LessReported,
        )
    };
    let (goal, report) = (ContestGoal::AtLeast(0.98), ContestGoal::MoreReported);
    vec![
        throughput(Direct, goal),
        requests(Direct, goal),
        connections(Direct, report),
        time("a GiB", THROUGHPUT),
        time("a request", REQUESTS),
        time("a connection", Closing(16)),
        throughput(NextToAccepted, report),
        requests(NextToAccepted, report),
        connections(NextToAccepted, report),
    ]
}

fn in_words(clients: u32) -> String {
    match clients {
        1 => "1 client".to_owned(),
        _ => format!("{clients} clients"),
    }
}

fn groups(readings: &Readings) -> Vec<BarGroup> {
    let first_byte = |clients: u32| {
        let head = format!("Time to the first byte, µs, {}", in_words(clients));
        BarGroup::of(readings, &head, Closing(clients), "first", 1e-3)
    };
    let mut groups = Vec::from([1, 16, 64].map(first_byte));
    for (head, workload, measure, scale) in [
        (
            "Connections per second, 256 clients",
            Closing(256),
            "rate",
            1.0,
        ),
        (
            "Time until a client knows that it is refused, µs",
            Refused,
            "p50",
            1e-3,
        ),
        (
            "Requests per second in kept connections of others",
            REQUESTS,
            "rate",
            1.0,
        ),
        (
            "Throughput of a stream of others, Gbit/s",
            THROUGHPUT,
            "gbit",
            1.0,
        ),
    ] {
        groups.push(BarGroup::of(readings, head, workload, measure, scale));
    }
    groups
}
