//! The duration of `sendto`: with nothing attached, in the scope without a matching filter, and
//! diverted.
//!
//! Each is measured for one destination, whose flow exists, and for a new destination each time,
//! which needs a new flow.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use sidetrack_engine::counter::Counter;
use sidetrack_engine::{Config, Engine, ServiceSpec};
use sidetrack_policy::redirect::{Redirect, in_order};

use crate::hierarchy::Hierarchy;
use crate::namespace;
use crate::rounds::rounds;
use crate::solo::{self, Reading, SoloFigure};
use crate::statistics::median;
use crate::sys;

const NAME: &str = "send";
/// Datagrams of each measurement. There are more slots for flows than this.
const DATAGRAMS: u32 = 20_000;
const WARM_UP: u32 = 1_000;
const PORT: u16 = 53;
const PAYLOAD: &[u8] = b"datagram";

/// What stands between sender and receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SendCase {
    /// Nothing is attached.
    Direct,
    /// An engine whose filters match other addresses only.
    Unmatched,
    /// An engine that diverts the datagrams to a service.
    Matched,
}

/// Measures all cases, and writes the results to docs/bench/.
pub(crate) fn run(quick: bool) -> Result<()> {
    let rounds = rounds(quick);
    let mut readings: BTreeMap<&str, Vec<Reading>> = BTreeMap::new();
    for round in 1..=rounds {
        eprintln!("{NAME}: round {round} of {rounds}");
        for case in SendCase::value_variants() {
            let name = case.name();
            let text = namespace::run(&["send-worker", name]);
            let text = text.with_context(|| format!("{NAME}, {name}"))?;
            readings
                .entry(name)
                .or_default()
                .push(serde_json::from_str(&text)?);
        }
    }
    let values = |case: SendCase, measure: &str| -> Vec<f64> {
        let rounds = readings[case.name()].iter();
        rounds.map(|reading| reading[measure]).collect()
    };
    let mut figures = Vec::new();
    for (measure, what) in [
        ("same", "one destination"),
        ("fresh", "a new destination each time"),
    ] {
        for (subject, over, name) in [
            (
                SendCase::Matched,
                SendCase::Unmatched,
                "diverted, compared with unmatched",
            ),
            (
                SendCase::Unmatched,
                SendCase::Direct,
                "in scope, unmatched, compared with direct",
            ),
        ] {
            figures.push(SoloFigure {
                name: format!("sendto, {what}: {name}"),
                unit: "ns",
                values: values(subject, measure),
                over: Some((over.name(), values(over, measure))),
                goal: None,
            });
        }
    }
    solo::write(NAME, "What a datagram's send takes", &figures)
}

/// Measures one case in the namespace of this process, and prints the result as JSON.
pub(crate) fn worker(case: SendCase) -> Result<()> {
    namespace::pin_last()?;
    namespace::prepare()?;
    let hierarchy = Hierarchy::make()?;
    hierarchy.enter_outside()?;
    let origin = listen(PORT)?;
    let attached = match case {
        SendCase::Direct => None,
        _ => Some(attach(&hierarchy, case == SendCase::Matched)?),
    };
    hierarchy.enter_program()?;
    let receiver = match (&attached, case) {
        (Some((_, listener)), SendCase::Matched) => listener,
        _ => &origin,
    };
    let same = send(receiver, |_| destination(0))?;
    let fresh = send(receiver, destination)?;
    if let Some((engine, _)) = &attached {
        let expected = match case {
            SendCase::Matched => 1 + u64::from(WARM_UP + DATAGRAMS),
            _ => 0,
        };
        let counted = engine.counters()?.value(Counter::Redirected);
        ensure!(
            counted == expected,
            "the engine counted {counted} flows instead of {expected}: this round measured something else"
        );
    }
    let reading = Reading::from([("same".to_owned(), same), ("fresh".to_owned(), fresh)]);
    println!("{}", serde_json::to_string(&reading)?);
    Ok(())
}

impl SendCase {
    /// The name on the command line of the worker.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Unmatched => "unmatched",
            Self::Matched => "matched",
        }
    }
}

/// Attaches an engine with one service, and returns the service's UDP listener. The filters match
/// every datagram, or only other addresses.
fn attach(hierarchy: &Hierarchy, matching: bool) -> Result<(Engine, UdpSocket)> {
    let mut engine = Engine::open(&hierarchy.scope, Config::default())?
        .load()?
        .attach()?;
    let service = engine.add_service(&ServiceSpec::new("bench"), hierarchy.service())?;
    hierarchy.enter_service()?;
    let listener = listen(0)?;
    sys::mark_listener(listener.as_fd(), service.credentials())
        .context("mark the socket as a listener of the service")?;
    let all = Redirect::udp(service.key);
    let redirect = match matching {
        true => all,
        false => all.remote("198.51.100.0/24".parse()?),
    };
    engine.commit(&in_order([redirect]), &[])?;
    Ok((engine, listener))
}

fn listen(port: u16) -> Result<UdpSocket> {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).context("bind a UDP socket")
}

/// The destination with this number. It is in the loopback range, so that the datagram also arrives
/// if nothing diverts it.
fn destination(number: u32) -> SocketAddrV4 {
    let address = u32::from(Ipv4Addr::new(127, 0, 1, 0)) + number;
    SocketAddrV4::new(address.into(), PORT)
}

/// Returns the median duration of a send, in nanoseconds. Each datagram is received before the next
/// one is sent.
fn send(receiver: &UdpSocket, destination: impl Fn(u32) -> SocketAddrV4) -> Result<f64> {
    let socket = listen(0)?;
    let mut times = Vec::with_capacity(DATAGRAMS as usize);
    let mut buffer = [0; 64];
    for number in 0..WARM_UP + DATAGRAMS {
        let destination = destination(number);
        let begin = Instant::now();
        socket.send_to(PAYLOAD, destination).context("send")?;
        let took = begin.elapsed();
        let length = receiver.recv(&mut buffer).context("receive")?;
        ensure!(&buffer[..length] == PAYLOAD, "a different datagram arrived");
        if number >= WARM_UP {
            times.push(took.as_nanos() as f64);
        }
    }
    Ok(median(&times))
}
