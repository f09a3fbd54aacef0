//! What became of each exchange, by the client's report and the proxies' flow lines.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use e2e::exchange::{self, Exchange, Protocol};
use serde::Deserialize;

use super::disturbance::Disturbance;
use super::{Chaos, SERVICES};

/// How long after the client's end of an exchange its flow line may be written, in milliseconds.
/// A connection's line is written at its end.
const LINE_AFTER_STREAM: u64 = 500;
/// The same for UDP, where the end is the proxy's idle time-out, of one second.
const LINE_AFTER_DATAGRAM: u64 = 2_500;

/// Number of exchanges that a failure names.
const REPORTED_MAX: usize = 5;

#[derive(Default)]
pub(super) struct Account {
    disturbances: BTreeMap<Disturbance, u32>,
    /// When proxies were killed, by service, in milliseconds since 1970.
    kills: [Vec<u64>; 2],
    exchanges: Vec<Exchange>,
    /// Number of flow lines for each destination, by service.
    lines: [HashMap<SocketAddr, u32>; 2],
}

/// The part of a flow line that is needed here.
#[derive(Deserialize)]
struct Line {
    service: String,
    destination: SocketAddr,
}

impl Account {
    pub(super) fn note(&mut self, disturbance: Disturbance) {
        *self.disturbances.entry(disturbance).or_default() += 1;
    }

    /// Notes that the proxy of this service is killed now.
    pub(super) fn note_kill(&mut self, service: usize) {
        self.kills[service].push(exchange::now());
    }

    /// Reads the client's report and all flow lines.
    pub(super) fn read(&mut self, chaos: &Chaos, report: &Path) {
        self.exchanges = json_lines(report);
        for (service, name) in SERVICES.iter().enumerate() {
            for line in json_lines::<Line>(&chaos.lines(service)) {
                assert_eq!(line.service, *name);
                *self.lines[service].entry(line.destination).or_default() += 1;
            }
        }
    }

    /// Prints what happened. `lost` is the number of connections that the kernel counted as lost
    /// with their proxy.
    pub(super) fn print(&self, lost: u64) {
        let mut failures: BTreeMap<&str, u32> = BTreeMap::new();
        for exchange in &self.exchanges {
            let result = exchange.failure.as_deref().unwrap_or("served");
            *failures.entry(result).or_default() += 1;
        }
        println!("disturbances: {:?}", self.disturbances);
        println!("exchanges: {} {failures:?}", self.exchanges.len());
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            println!(
                "{protocol:?}: {} served lines missing",
                self.missing(protocol).count()
            );
        }
        println!("connections lost with their proxy, by the kernel: {lost}");
    }

    /// Checks what must hold.
    pub(super) fn check(&self, lost: u64) {
        let served = self
            .exchanges
            .iter()
            .filter(|exchange| exchange.was_served());
        assert!(
            served.count() * 2 > self.exchanges.len() && !self.exchanges.is_empty(),
            "more than half of the exchanges are served"
        );
        let twice = self.lines.iter().flatten().find(|(_, count)| **count > 1);
        assert_eq!(twice, None, "inspected twice");
        let unexplained: Vec<_> = [Protocol::Tcp, Protocol::Udp]
            .into_iter()
            .flat_map(|protocol| self.missing(protocol))
            .filter(|(service, exchange)| !self.was_killed(*service, exchange))
            .take(REPORTED_MAX)
            .collect();
        assert!(
            unexplained.is_empty(),
            "neither a line nor a killed proxy: {unexplained:?}"
        );
        let missing = self.missing(Protocol::Tcp).count() as u64;
        assert!(
            missing <= lost,
            "{missing} lines are missing, {lost} were lost with their proxy"
        );
    }

    /// The exchanges that were served, but have no line of a service, each with the service.
    fn missing(&self, protocol: Protocol) -> impl Iterator<Item = (usize, &Exchange)> {
        let served = self
            .exchanges
            .iter()
            .filter(move |exchange| exchange.protocol == protocol && exchange.was_served());
        served.flat_map(|exchange| {
            let services = (0..SERVICES.len())
                .filter(|service| !self.lines[*service].contains_key(&exchange.to));
            services.map(move |service| (service, exchange))
        })
    }

    /// Returns whether the service's proxy was killed between an exchange's begin and the time at which
    /// its line had to be written.
    fn was_killed(&self, service: usize, exchange: &Exchange) -> bool {
        let until = exchange.ended
            + match exchange.protocol {
                Protocol::Tcp => LINE_AFTER_STREAM,
                Protocol::Udp => LINE_AFTER_DATAGRAM,
            };
        let mut kills = self.kills[service].iter();
        kills.any(|kill| (exchange.began..=until).contains(kill))
    }
}

fn json_lines<T: for<'a> Deserialize<'a>>(path: &Path) -> Vec<T> {
    let text = fs::read_to_string(path).expect("the file exists");
    let parse = |line: &str| {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
    };
    text.lines().map(parse).collect()
}
