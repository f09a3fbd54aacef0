//! What the user sees: flows as they end, refusals as they happen, a summary.

mod hops;

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::Receiver;

use anyhow::{Context, Result};
use sidetrack_engine::counter::{Counter, Counters};
use sidetrack_engine::event::{Event, EventKind};
use sidetrack_proxy::FlowLine;
use sidetrack_proxy::line::size;
use sidetrack_proxy::rules::Decision;

use self::hops::Hops;
use super::proxies::Taker;
use super::wake::Happening;
use crate::args;
use crate::style::Style;
use crate::via::Via;

/// Refusals told one by one; more are only counted.
const REPORTS_MAX: u32 = 20;

/// Collects and prints. One connection through three proxies is three JSON lines, one for each, but
/// one line for people: the outermost inspecting proxy's, with the whole chain.
pub(super) struct Flows {
    json: Option<Box<dyn Write>>,
    quiet: bool,
    style: Style,
    hops: Hops,
    chain: String,
    reports: u32,
    /// Services that do not take a protocol, by their numbers.
    deaf: HashSet<(u32, u8)>,
    /// Events of theirs.
    past_deaf: u64,
    totals: Totals,
}

#[derive(Default)]
struct Totals {
    connections: u64,
    datagram_flows: u64,
    denied: u64,
    bytes_up: u64,
    bytes_down: u64,
}

impl Flows {
    pub(super) fn new(options: &args::Run, vias: &[(String, Via)]) -> Result<Self> {
        let names: Vec<&str> = vias.iter().map(|(name, _)| name.as_str()).collect();
        Ok(Self {
            json: options.json.as_deref().map(open).transpose()?,
            quiet: options.quiet,
            style: Style::stderr(),
            hops: Hops::new(vias),
            chain: names.join(" → "),
            reports: 0,
            deaf: HashSet::new(),
            past_deaf: 0,
            totals: Totals::default(),
        })
    }

    /// What goes past these proxies is not told: it is not for them.
    pub(super) fn expect_deaf(&mut self, takers: &[Taker<'_>]) {
        let deaf = takers.iter().filter(|taker| taker.is_deaf);
        self.deaf = deaf
            .map(|taker| (taker.service.number, taker.protocol as u8))
            .collect();
    }

    /// A proxy has told of a connection's end.
    pub(super) fn add(&mut self, line: FlowLine) {
        if let Some(json) = &mut self.json
            && let Err(error) = write_json(json.as_mut(), &line)
        {
            self.json = None;
            self.warn(&format!("cannot write the flows any more: {error}"));
        }
        if let Some(line) = self.hops.add(line) {
            self.show(&line);
        }
    }

    fn show(&mut self, line: &FlowLine) {
        match line.datagrams {
            Some(_) => self.totals.datagram_flows += 1,
            None => self.totals.connections += 1,
        }
        self.totals.denied += u64::from(line.verdict == Decision::Deny);
        self.totals.bytes_up += line.bytes_up;
        self.totals.bytes_down += line.bytes_down;
        if !self.quiet {
            let text = line.to_string();
            eprintln!(
                "{}",
                match line.verdict {
                    Decision::Deny => self.style.red(&text),
                    Decision::Allow => text,
                }
            );
        }
    }

    /// The kernel has refused a connection, or let one pass where a proxy was missing.
    pub(super) fn report(&mut self, event: &Event, service: &str) {
        let is_absence = event.kind == EventKind::AbsentPermitted;
        if is_absence && self.deaf.contains(&(event.service, event.protocol)) {
            self.past_deaf += 1;
            return;
        }
        self.reports += 1;
        if self.quiet || self.reports > REPORTS_MAX {
            return;
        }
        let Event {
            comm,
            pid,
            destination,
            kind,
            ..
        } = event;
        let text = match kind {
            EventKind::Blocked => format!("{comm}[{pid}]  {destination}  {kind}: quic refuse"),
            _ => format!("{comm}[{pid}]  {destination}  {service}: {kind}"),
        };
        eprintln!("{}", self.style.yellow(&text.escape_debug().to_string()));
    }

    /// Something else went wrong.
    pub(super) fn warn(&self, text: &str) {
        eprintln!("{}", self.style.yellow(&format!("sidetrack: {text}")));
    }

    /// What the proxies said last.
    pub(super) fn drain(&mut self, happenings: &Receiver<Happening>) {
        for happening in happenings.try_iter() {
            if let Happening::Flow(line) = happening {
                self.add(*line);
            }
        }
        let rest: Vec<_> = self.hops.rest().collect();
        rest.iter().for_each(|line| self.show(line));
    }

    pub(super) fn summary(&self, counters: &Counters, background: bool) {
        if self.quiet {
            return;
        }
        let Totals {
            connections,
            datagram_flows,
            denied,
            bytes_up,
            bytes_down,
        } = self.totals;
        let (up, down) = (size(bytes_up), size(bytes_down));
        let diverted = counters.value(Counter::Redirected);
        let chain = &self.chain;
        let text = match counted(connections, datagram_flows) {
            None if diverted > 0 => format!("{diverted} diversions, through {chain}"),
            what => format!(
                "{} through {chain}, {denied} denied, {up} up, {down} down",
                what.as_deref().unwrap_or("0 connections")
            ),
        };
        eprintln!("{}", self.style.dim(&text));
        let exceptions: Vec<String> = counters
            .iter()
            .enumerate()
            .skip(4) // the first four count what went well
            .map(|(index, (name, value))| match index {
                _ if index == Counter::AbsentPermitted as usize => {
                    (name, value.saturating_sub(self.past_deaf))
                }
                _ => (name, value),
            })
            .filter(|(_, value)| *value > 0)
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        if !exceptions.is_empty() {
            eprintln!(
                "{}",
                self.style
                    .yellow(&format!("counted: {}", exceptions.join("; ")))
            );
        }
        if background {
            self.warn(
                "the command left processes behind; they are ended, as nothing would inspect them",
            );
        }
    }
}

/// "2 connections and 1 flow of datagrams"; `None` if there are none.
fn counted(connections: u64, datagram_flows: u64) -> Option<String> {
    let counted: Vec<_> = [
        (connections, "1 connection", "connections"),
        (datagram_flows, "1 flow of datagrams", "flows of datagrams"),
    ]
    .into_iter()
    .filter(|(number, ..)| *number > 0)
    .map(|(number, one, many)| match number {
        1 => one.to_owned(),
        _ => format!("{number} {many}"),
    })
    .collect();
    (!counted.is_empty()).then(|| counted.join(" and "))
}

fn open(path: &Path) -> Result<Box<dyn Write>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdout()));
    }
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Box::new(file))
}

fn write_json(to: &mut dyn Write, line: &FlowLine) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    to.write_all(&text)
}
