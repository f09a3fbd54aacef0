//! What is measured of each topic: Sidetrack's own contestants, and one control.
//!
//! A probe is the command line of a worker. The base may be an older commit, so the workers'
//! command lines and the JSON that they print are an interface between commits: add to it, but
//! change nothing that exists. A probe that the base does not know is left out, and the guard
//! reports it.

use clap::ValueEnum as _;

use crate::connect::case::ConnectCase;
use crate::guard::decision::Better;
use crate::relay::contestant::Contestant;
use crate::relay::worker::RelayTask;
use crate::relay::workload::Workload;
use crate::send::SendCase;
use crate::topic::Topic;

/// Connections that a probe of `connect` makes.
const CONNECTIONS: u32 = 20_000;
/// For how many milliseconds all other relays are measured.
const MILLISECONDS: u64 = 500;
/// For how many milliseconds latency is measured, so that 60 connections lie above the 99th
/// percentile.
const LATENCY_MILLISECONDS: u64 = 1_500;

/// A worker that runs on both sides in each round.
pub(super) struct Probe {
    /// The topic to which its figures belong.
    pub(super) topic: Topic,
    /// The arguments with which the `bench` program of a side is called.
    pub(super) arguments: Vec<String>,
    /// What is taken from the JSON that the worker prints.
    pub(super) figures: Vec<ProbeFigure>,
    /// Whether no code of Sidetrack runs in it. A control that moves shows that the machine or the
    /// traffic generator moved.
    pub(super) is_control: bool,
}

/// A value in what a worker prints.
pub(super) struct ProbeFigure {
    /// The name in the table.
    pub(super) name: String,
    /// Where the value is, as a JSON pointer (RFC 6901).
    pub(super) pointer: &'static str,
    /// The unit of the value.
    pub(super) unit: &'static str,
    /// Which direction is an improvement.
    pub(super) better: Better,
}

/// The probes of these topics, in the order of a round.
pub(super) fn probes(topics: &[Topic]) -> Vec<Probe> {
    topics.iter().flat_map(|topic| of_topic(*topic)).collect()
}

fn of_topic(topic: Topic) -> Vec<Probe> {
    match topic {
        Topic::Connect => connect(),
        Topic::Rate => rate(),
        Topic::Latency => latency(),
        Topic::Stream => stream(),
        Topic::Idle => idle(),
        Topic::Chain => chain(),
        Topic::Legacy => legacy(),
        Topic::Pended => pended(),
        Topic::Datagram => datagram(),
        Topic::Send => send(),
        Topic::Winsock => winsock(),
        Topic::Policy => policy(),
    }
}

fn connect() -> Vec<Probe> {
    let probe = |case: ConnectCase, figures| {
        let connections = CONNECTIONS.to_string();
        Probe {
            topic: Topic::Connect,
            arguments: ["worker", case.name(), "time", &connections]
                .map(ToOwned::to_owned)
                .to_vec(),
            figures,
            is_control: case == ConnectCase::None,
        }
    };
    vec![
        probe(
            ConnectCase::None,
            vec![time("direct: connect to close", "/whole/p50")],
        ),
        probe(
            ConnectCase::Sidetrack,
            vec![
                time("redirected: connect, accept, query", "/asked/p50"),
                time("redirected: query alone", "/query/p50"),
                time("redirected: CPU time to close", "/cpu_ns"),
            ],
        ),
        probe(
            ConnectCase::Unmatched,
            vec![
                time("no filter matches: connect", "/connect/p50"),
                time("no filter matches: CPU time to close", "/cpu_ns"),
            ],
        ),
        probe(
            ConnectCase::Filters1000,
            vec![time(
                "none of 1,000 filters matches: connect",
                "/connect/p50",
            )],
        ),
        probe(
            ConnectCase::Outside,
            vec![time("outside the scope: connect", "/connect/p50")],
        ),
    ]
}

fn rate() -> Vec<Probe> {
    let probe = |contestant, workload, figures| relay(Topic::Rate, contestant, workload, figures);
    let sidetrack = |workload, figures| probe(Contestant::Sidetrack, workload, figures);
    vec![
        probe(
            Contestant::Direct,
            Workload::Closing(16),
            vec![rate_of("direct: connections per second, 16 clients")],
        ),
        sidetrack(
            Workload::Closing(1),
            vec![rate_of("connections per second, 1 client")],
        ),
        sidetrack(
            Workload::Closing(16),
            vec![
                rate_of("connections per second, 16 clients"),
                time("CPU time of the proxy for a connection", "/cpu"),
            ],
        ),
        sidetrack(
            Workload::Closing(256),
            vec![rate_of("connections per second, 256 clients")],
        ),
        sidetrack(
            Workload::Keeping(16),
            vec![
                rate_of("requests per second in kept connections"),
                time("CPU time of the proxy for a kept request", "/cpu"),
            ],
        ),
    ]
}

fn latency() -> Vec<Probe> {
    let probe = |contestant, figures| {
        let task = RelayTask {
            contestant,
            workload: Workload::Rated(4_000),
            milliseconds: LATENCY_MILLISECONDS,
        };
        relay_task(Topic::Latency, task, figures)
    };
    vec![
        probe(
            Contestant::Direct,
            vec![time("direct: 4,000 connections per second, p50", "/p50")],
        ),
        probe(
            Contestant::Sidetrack,
            vec![
                time("4,000 connections per second, p50", "/p50"),
                time("4,000 connections per second, p99", "/p99"),
            ],
        ),
    ]
}

fn stream() -> Vec<Probe> {
    let throughput = |what: &str| ProbeFigure {
        name: format!("throughput, {what}"),
        pointer: "/gbit",
        unit: "Gbit/s",
        better: Better::More,
    };
    let sidetrack = |workload, what: &str| {
        let cpu = time(&format!("CPU time of the proxy for a GiB, {what}"), "/cpu");
        let figures = vec![throughput(what), cpu];
        relay(Topic::Stream, Contestant::Sidetrack, workload, figures)
    };
    vec![
        relay(
            Topic::Stream,
            Contestant::Direct,
            Workload::Down(1),
            vec![throughput("direct, 1 stream down")],
        ),
        sidetrack(Workload::Up(1), "1 stream up"),
        sidetrack(Workload::Down(1), "1 stream down"),
        sidetrack(Workload::Down(32), "32 streams down"),
        sidetrack(Workload::Both(32), "32 streams both ways"),
    ]
}

fn idle() -> Vec<Probe> {
    let workload = Workload::Idle(1_000);
    let user = bytes("the proxy's memory for an idle connection", "/user");
    let kernel = bytes("the kernel's memory for an idle connection", "/kernel");
    let direct = bytes(
        "direct: the kernel's memory for an idle connection",
        "/kernel",
    );
    vec![
        relay(Topic::Idle, Contestant::Direct, workload, vec![direct]),
        relay(
            Topic::Idle,
            Contestant::Sidetrack,
            workload,
            vec![user, kernel],
        ),
    ]
}

fn chain() -> Vec<Probe> {
    let probe =
        |contestant, figures| relay(Topic::Chain, contestant, Workload::Closing(4), figures);
    let chain = |services: u32| {
        let rate = rate_of(&format!("chain of {services}: connections per second"));
        let cpu = format!("chain of {services}: CPU time of all proxies");
        probe(Contestant::Chain(services), vec![rate, time(&cpu, "/cpu")])
    };
    vec![
        probe(
            Contestant::Direct,
            vec![rate_of("direct: connections per second, 4 clients")],
        ),
        chain(2),
        chain(4),
        chain(8),
    ]
}

fn legacy() -> Vec<Probe> {
    let probe = |contestant, workload, name| {
        relay(Topic::Legacy, contestant, workload, vec![rate_of(name)])
    };
    let (closing, keeping) = (Workload::Closing(32), Workload::Keeping(32));
    vec![
        probe(
            Contestant::Direct,
            closing,
            "direct: connections per second, 32 clients",
        ),
        probe(
            Contestant::HaproxyBehind,
            closing,
            "HAProxy: connections per second, 32 clients",
        ),
        probe(
            Contestant::HaproxyBehind,
            keeping,
            "HAProxy: requests per second in kept connections",
        ),
    ]
}

fn pended() -> Vec<Probe> {
    let probe = |contestant, workload, figures| relay(Topic::Pended, contestant, workload, figures);
    let one = |workload, figures| probe(Contestant::Pended(1), workload, figures);
    let refused = |contestant, name| {
        let figure = time(&format!("refused connect, {name}, p50"), "/p50");
        probe(contestant, Workload::Refused, vec![figure])
    };
    vec![
        refused(Contestant::Direct, "direct"),
        refused(Contestant::Pended(1), "1 hop"),
        refused(Contestant::Pended(4), "4 hops"),
        one(
            Workload::Closing(1),
            vec![time("first byte, 1 client, p50", "/first")],
        ),
        one(
            Workload::Closing(16),
            vec![
                time("first byte, 16 clients, p50", "/first"),
                time("CPU time of the proxy for a connection", "/cpu"),
            ],
        ),
        one(
            Workload::Closing(256),
            vec![rate_of("connections per second, 256 clients")],
        ),
        probe(
            Contestant::NextToPended,
            Workload::Keeping(16),
            vec![rate_of(
                "bystander: requests per second in kept connections",
            )],
        ),
    ]
}

fn datagram() -> Vec<Probe> {
    let probe =
        |contestant, workload, figures| relay(Topic::Datagram, contestant, workload, figures);
    let sidetrack = |workload, figures| probe(Contestant::Sidetrack, workload, figures);
    let flood = |size: u32, what: &str| {
        let rate = rate_of(&format!("datagrams per second, {what} bytes"));
        let cpu = format!("CPU time of the proxy for a datagram, {what} bytes");
        sidetrack(Workload::Flood(size), vec![rate, time(&cpu, "/cpu")])
    };
    vec![
        probe(
            Contestant::Direct,
            Workload::Ask,
            vec![time("direct: request and response, p50", "/p50")],
        ),
        sidetrack(
            Workload::Ask,
            vec![time("request and response in one flow, p50", "/p50")],
        ),
        sidetrack(
            Workload::AskFresh,
            vec![time("request and response, a flow each, p50", "/p50")],
        ),
        flood(64, "64"),
        flood(1_400, "1,400"),
    ]
}

fn send() -> Vec<Probe> {
    let probe = |case: SendCase, what: &str| Probe {
        topic: Topic::Send,
        arguments: vec!["send-worker".to_owned(), case.name().to_owned()],
        figures: vec![
            time(&format!("{what}: sendto, one destination"), "/same"),
            time(&format!("{what}: sendto, new destinations"), "/fresh"),
        ],
        is_control: case == SendCase::Direct,
    };
    vec![
        probe(SendCase::Direct, "direct"),
        probe(SendCase::Unmatched, "no filter matches"),
        probe(SendCase::Matched, "diverted"),
    ]
}

fn winsock() -> Vec<Probe> {
    vec![Probe {
        topic: Topic::Winsock,
        arguments: vec!["winsock-worker".to_owned()],
        figures: vec![
            time("WSAIoctl(CONTEXT) on a redirected socket", "/ioctl"),
            time("getsockopt(CONTEXT) on a redirected socket", "/option"),
        ],
        is_control: false,
    }]
}

fn policy() -> Vec<Probe> {
    let probe = |measurement: &str, figures| Probe {
        topic: Topic::Policy,
        arguments: vec!["policy-worker".to_owned(), measurement.to_owned()],
        figures,
        is_control: false,
    };
    vec![
        probe(
            "apply",
            vec![
                time("apply of 100,000 filters", "/first"),
                time("apply of 100,000 filters, 1,000 changed", "/second"),
                bytes("the kernel's memory for a filter", "/bytes"),
            ],
        ),
        probe(
            "swaps",
            vec![time("connect while policies are swapped, p50", "/p50")],
        ),
    ]
}

fn relay(
    topic: Topic,
    contestant: Contestant,
    workload: Workload,
    figures: Vec<ProbeFigure>,
) -> Probe {
    let task = RelayTask {
        contestant,
        workload,
        milliseconds: MILLISECONDS,
    };
    relay_task(topic, task, figures)
}

fn relay_task(topic: Topic, task: RelayTask, figures: Vec<ProbeFigure>) -> Probe {
    let text = serde_json::to_string(&task).expect("a task has nothing that JSON cannot express");
    Probe {
        topic,
        arguments: vec!["relay-worker".to_owned(), text],
        figures,
        is_control: task.contestant == Contestant::Direct,
    }
}

fn time(name: &str, pointer: &'static str) -> ProbeFigure {
    ProbeFigure {
        name: name.to_owned(),
        pointer,
        unit: "ns",
        better: Better::Less,
    }
}

fn bytes(name: &str, pointer: &'static str) -> ProbeFigure {
    ProbeFigure {
        unit: "bytes",
        ..time(name, pointer)
    }
}

fn rate_of(name: &str) -> ProbeFigure {
    ProbeFigure {
        name: name.to_owned(),
        pointer: "/rate",
        unit: "/s",
        better: Better::More,
    }
}

impl Probe {
    /// The topic's name, as on the command line.
    pub(super) fn topic_name(&self) -> String {
        let value = self
            .topic
            .to_possible_value()
            .expect("no variant is hidden");
        value.get_name().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Other commits' workers are called with these. If this test fails, the guard can no longer
    /// compare with any commit before this one.
    #[test]
    fn the_command_lines_that_other_commits_understand() {
        let lines: BTreeSet<String> = probes(Topic::value_variants())
            .iter()
            .map(|probe| probe.arguments.join(" "))
            .collect();
        for line in [
            "worker sidetrack time 20000",
            "worker filters1000 time 20000",
            r#"relay-worker {"contestant":"sidetrack","workload":{"closing":16},"milliseconds":500}"#,
            r#"relay-worker {"contestant":{"chain":2},"workload":{"closing":4},"milliseconds":500}"#,
            r#"relay-worker {"contestant":{"pended":1},"workload":{"closing":16},"milliseconds":500}"#,
            r#"relay-worker {"contestant":{"pended":4},"workload":"refused","milliseconds":500}"#,
            r#"relay-worker {"contestant":"sidetrack","workload":"ask-fresh","milliseconds":500}"#,
            r#"relay-worker {"contestant":"haproxy-behind","workload":{"keeping":32},"milliseconds":500}"#,
            "send-worker matched",
            "winsock-worker",
            "policy-worker apply",
        ] {
            assert!(lines.contains(line), "{line} is not among {lines:#?}");
        }
    }

    #[test]
    fn each_figure_of_a_topic_has_a_different_name() {
        for topic in Topic::value_variants() {
            let probes = probes(&[*topic]);
            let figures = probes.iter().flat_map(|probe| &probe.figures);
            let mut names: Vec<&str> = figures.map(|figure| figure.name.as_str()).collect();
            let all = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), all, "{topic:?}: {names:?}");
        }
    }
}
