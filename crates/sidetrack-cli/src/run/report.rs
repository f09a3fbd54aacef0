//! The output of a run: flows as they end, refused connections as they happen, and a summary.

mod merge;

use std::collections::HashSet;
use std::io::{self, Write};
use std::sync::mpsc::Receiver;
use std::time::Instant;

use sidetrack_abi::text::{Printable, count};
use sidetrack_engine::counter::{Counter, Counters};
use sidetrack_engine::event::{Event, EventKind};
use sidetrack_proxy::FlowLine;
use sidetrack_proxy::line::size;
use sidetrack_proxy::outcome::FlowVerdict;

use self::merge::LineMerger;
use super::event::RunEvent;
use super::proxies::Route;
use crate::format::json_line;
use crate::text_style::TextStyle;
use crate::via::Via;

/// Limit of the kernel events that are printed. Further ones are only counted in the summary.
const REPORTS_MAX: u32 = 20;

/// The counters of normal operation, which the summary does not print.
const NORMAL_COUNTERS: [Counter; 7] = [
    Counter::Redirected,
    Counter::HandedOver,
    Counter::Queried,
    Counter::Linked,
    Counter::Pended,
    Counter::Completed,
    Counter::PendedEnded,
];

/// Collects flow lines and events, and prints them.
///
/// A connection through three proxies is written as three JSON lines, one for each proxy, but
/// printed as one line: that of the outermost built-in proxy, with the whole chain.
pub(super) struct Report {
    /// The file of `--json`.
    json: Option<Box<dyn Write>>,
    quiet: bool,
    style: TextStyle,
    merger: LineMerger,
    /// The names of the proxies, for the summary.
    chain: String,
    /// Number of kernel events so far, except those of unsupported protocols.
    reports: u32,
    /// Whether events of the kernel were lost.
    has_lost_events: bool,
    /// The numbers of services with the protocols for which they have no listener.
    unsupported: HashSet<(u32, u8)>,
    /// Number of connections that continued without a service because it does not support their
    /// protocol.
    unsupported_events: u64,
    totals: Totals,
}

/// Sums over all flows, for the summary.
#[derive(Default)]
struct Totals {
    /// TCP connections.
    connections: u64,
    udp_flows: u64,
    /// Connections and UDP flows with the verdict deny.
    denied: u64,
    /// Connections and UDP flows with the verdict failed, without those given up.
    failed: u64,
    /// Connections whose program gave up its connect.
    given_up: u64,
    /// Bytes from the clients.
    bytes_up: u64,
    /// Bytes to the clients.
    bytes_down: u64,
}

impl Report {
    /// `json` is the open file of `--json`.
    pub(super) fn new(quiet: bool, vias: &[(String, Via)], json: Option<Box<dyn Write>>) -> Self {
        let names: Vec<&str> = vias.iter().map(|(name, _)| name.as_str()).collect();
        Self {
            json,
            quiet,
            style: TextStyle::stderr(),
            merger: LineMerger::new(vias),
            chain: names.join(" → "),
            reports: 0,
            has_lost_events: false,
            unsupported: HashSet::new(),
            unsupported_events: 0,
            totals: Totals::default(),
        }
    }

    /// Sets the routes. Connections that continue without a proxy because it does not support their
    /// protocol are not reported.
    pub(super) fn set_routes(&mut self, routes: &[Route<'_>]) {
        let unsupported = routes.iter().filter(|route| route.is_unsupported);
        self.unsupported = unsupported
            .map(|route| (route.service.number, route.protocol as u8))
            .collect();
    }

    /// Adds the flow line of a proxy: writes it as JSON, and prints the connection's line once it
    /// is complete.
    pub(super) fn add(&mut self, line: FlowLine) {
        if let Some(json) = &mut self.json
            && let Err(error) = write_json(json.as_mut(), &line)
        {
            self.json = None;
            self.warn(&format!(
                "cannot write to the --json file, no further flows are written: {error}"
            ));
        }
        if let Some(line) = self.merger.add(line, Instant::now()) {
            self.show(&line);
        }
    }

    /// When to call [`show_overdue`](Self::show_overdue); `None` if no line waits.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.merger.deadline()
    }

    /// Prints the lines of connections that may be complete, and to which no further line has come.
    pub(super) fn show_overdue(&mut self) {
        while let Some(line) = self.merger.take_overdue(Instant::now()) {
            self.show(&line);
        }
    }

    /// Prints a line and adds it to the totals.
    fn show(&mut self, line: &FlowLine) {
        match line.datagrams {
            Some(_) => self.totals.udp_flows += 1,
            None => self.totals.connections += 1,
        }
        self.totals.denied += u64::from(line.verdict == FlowVerdict::Deny);
        let is_failed = line.verdict == FlowVerdict::Failed && !line.is_given_up();
        self.totals.failed += u64::from(is_failed);
        self.totals.given_up += u64::from(line.is_given_up());
        self.totals.bytes_up += line.bytes_up;
        self.totals.bytes_down += line.bytes_down;
        if !self.quiet {
            let text = line.to_string();
            eprintln!(
                "{}",
                match line.verdict {
                    FlowVerdict::Deny => self.style.red(&text),
                    FlowVerdict::Failed => self.style.yellow(&text),
                    FlowVerdict::Allow => text,
                }
            );
        }
    }

    /// Reports that the kernel has refused a connection, or permitted one without a proxy that was
    /// not listening.
    pub(super) fn add_kernel_event(&mut self, event: &Event, service: &str) {
        let is_absence = event.kind == EventKind::AbsentPermitted;
        if is_absence && self.unsupported.contains(&(event.service, event.protocol)) {
            self.unsupported_events += 1;
            return;
        }
        self.reports += 1;
        if self.quiet || self.reports > REPORTS_MAX {
            return;
        }
        eprintln!("{}", self.style.yellow(&event_text(event, service)));
    }

    /// Reports that events of the kernel were lost, when it happens first; the summary has their
    /// total.
    pub(super) fn add_lost_events(&mut self, lost: u64) {
        if lost == 0 || self.has_lost_events {
            return;
        }
        self.has_lost_events = true;
        let lost = count(lost, "event");
        self.warn_unless_quiet(&format!(
            "{lost} lost, because the kernel's ring buffer was full"
        ));
    }

    /// Prints a warning.
    pub(super) fn warn(&self, text: &str) {
        let text = format!("sidetrack: {}", Printable(text));
        eprintln!("{}", self.style.yellow(&text));
    }

    /// Prints a warning, unless the user wants neither flows nor the summary.
    pub(super) fn warn_unless_quiet(&self, text: &str) {
        if !self.quiet {
            self.warn(text);
        }
    }

    /// Adds the last flow lines of the proxies, then prints the lines of connections that are still
    /// incomplete.
    pub(super) fn drain(&mut self, events: &Receiver<RunEvent>) {
        for event in events.try_iter() {
            if let RunEvent::Flow(line) = event {
                self.add(*line);
            }
        }
        let rest: Vec<_> = self.merger.rest().collect();
        rest.iter().for_each(|line| self.show(line));
    }

    /// Prints the summary.
    ///
    /// `lost_with_proxy` is that counter's value before the proxies were stopped: one that SIGTERM
    /// ends has connections that count as lost. `has_background_processes` is true if the command has
    /// ended but its children have not.
    pub(super) fn summary(
        &self,
        counters: &Counters,
        lost_with_proxy: u64,
        has_background_processes: bool,
    ) {
        if self.quiet {
            return;
        }
        let redirected = counters.value(Counter::Redirected);
        let text = self.totals.text(&self.chain, redirected);
        eprintln!("{}", self.style.dim(&Printable(text).to_string()));
        let exceptions = self.exceptions(counters, lost_with_proxy);
        if !exceptions.is_empty() {
            eprintln!(
                "{}",
                self.style
                    .yellow(&format!("counted: {}", exceptions.join("; ")))
            );
        }
        if has_background_processes {
            self.warn(
                "the command left processes behind; they are killed, because nothing would inspect \
                 their connections",
            );
        }
    }

    /// Formats the counters that do not count normal operation and are not 0.
    fn exceptions(&self, counters: &Counters, lost_with_proxy: u64) -> Vec<String> {
        let exceptions = counters.iter().enumerate().map(|(index, (name, value))| {
            let normal = match index {
                _ if NORMAL_COUNTERS.iter().any(|&one| one as usize == index) => value,
                _ if index == Counter::AbsentPermitted as usize => self.unsupported_events,
                _ if index == Counter::LostWithProxy as usize => {
                    value.saturating_sub(lost_with_proxy)
                }
                _ => 0,
            };
            (name, value.saturating_sub(normal))
        });
        exceptions
            .filter(|(_, value)| *value > 0)
            .map(|(name, value)| format!("{name} {value}"))
            .collect()
    }
}

impl Totals {
    /// Formats the summary: the sums, or only the number of redirections if no proxy of the chain
    /// writes flow lines.
    fn text(&self, chain: &str, redirected: u64) -> String {
        let flows = flow_counts(self.connections, self.udp_flows);
        if flows.is_none() && redirected > 0 {
            return format!("{} through {chain}", count(redirected, "redirection"));
        }
        let mut unconnected = String::new();
        for (number, what) in [(self.failed, "failed"), (self.given_up, "given up")] {
            if number > 0 {
                unconnected.push_str(&format!(", {number} {what}"));
            }
        }
        format!(
            "{} through {chain}, {} denied{unconnected}, {} up, {} down",
            flows.as_deref().unwrap_or("0 connections"),
            self.denied,
            size(self.bytes_up),
            size(self.bytes_down),
        )
    }
}

/// Formats a kernel event as a line.
fn event_text(event: &Event, service: &str) -> String {
    let Event {
        pid,
        destination,
        kind,
        ..
    } = event;
    let what = match kind {
        EventKind::Blocked => format!("{kind}: quic refuse"),
        _ => format!("{service}: {kind}"),
    };
    let program = event.program();
    Printable(format_args!("{program}[{pid}]  {destination}  {what}")).to_string()
}

/// Formats the numbers of flows, such as "2 connections and 1 UDP flow". `None` if both are 0.
fn flow_counts(connections: u64, udp_flows: u64) -> Option<String> {
    let parts: Vec<_> = [(connections, "connection"), (udp_flows, "UDP flow")]
        .into_iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, noun)| count(number, noun))
        .collect();
    (!parts.is_empty()).then(|| parts.join(" and "))
}

fn write_json(to: &mut dyn Write, line: &FlowLine) -> io::Result<()> {
    let mut text = json_line(line)?;
    text.push('\n');
    to.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_event_is_one_printable_line() {
        let event = Event {
            kind: EventKind::SelfConnect,
            time: 0,
            filter_id: 0,
            flow_id: 7,
            service: 1,
            pid: 42,
            uid: 0,
            comm: "worker-1".into(),
            executable: "mx_proxy\u{202e}".into(),
            destination: ([127, 0, 0, 1], 80).into(),
            local: ([127, 0, 0, 1], 0).into(),
            protocol: 6,
            layer: None,
            generation: 1,
        };
        assert_eq!(
            event_text(&event, "mx_proxy"),
            "mx_proxy\\u{202e}[42]  127.0.0.1:80  mx_proxy: refused: the destination is the proxy's own \
             listener"
        );
        let unknown = Event {
            kind: EventKind::Blocked,
            executable: String::new(),
            ..event
        };
        assert_eq!(
            event_text(&unknown, "a proxy"),
            "worker-1[42]  127.0.0.1:80  refused by a filter: quic refuse"
        );
    }

    #[test]
    fn programs_that_gave_up_are_counted_apart() {
        let mut totals = Totals {
            connections: 6,
            denied: 1,
            failed: 2,
            given_up: 3,
            ..Totals::default()
        };
        assert_eq!(
            totals.text("inspect", 6),
            "6 connections through inspect, 1 denied, 2 failed, 3 given up, 0 B up, 0 B down"
        );
        (totals.failed, totals.given_up) = (0, 0);
        assert_eq!(
            totals.text("inspect", 6),
            "6 connections through inspect, 1 denied, 0 B up, 0 B down"
        );
    }

    #[test]
    fn numbers_of_flows_are_singular_or_plural() {
        assert_eq!(flow_counts(0, 0), None);
        assert_eq!(flow_counts(1, 2).unwrap(), "1 connection and 2 UDP flows");
        assert_eq!(flow_counts(2, 1).unwrap(), "2 connections and 1 UDP flow");
    }
}
