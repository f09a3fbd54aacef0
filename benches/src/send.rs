//! What `sendto` takes: with nothing attached, in scope but of no filter, and diverted.
//!
//! To one destination again and again, whose flow is there; and to a new one each time, whose flow is made.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use sidetrack_engine::counter::Counter;
use sidetrack_engine::{Config, Engine, Filter, ServiceSpec};

use crate::hierarchy::Hierarchy;
use crate::namespace;
use crate::solo::{self, Figure, Reading};
use crate::statistics::median;
use crate::sys;
use crate::topic::{ROUNDS, ROUNDS_QUICK};

const NAME: &str = "send";
/// Datagrams of each kind. Fewer than there are flows.
const DATAGRAMS: u32 = 20_000;
const WARM_UP: u32 = 1_000;
const PORT: u16 = 53;
const PAYLOAD: &[u8] = b"datagram";

/// What stands in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sending {
    /// Nothing.
    Direct,
    /// An engine whose filters are for other addresses.
    Unmatched,
    /// An engine that diverts it.
    Matched,
}

/// Measures all, and writes it down.
pub(crate) fn run(quick: bool) -> Result<()> {
    let rounds = if quick { ROUNDS_QUICK } else { ROUNDS };
    let mut readings: BTreeMap<&str, Vec<Reading>> = BTreeMap::new();
    for round in 1..=rounds {
        eprintln!("{NAME}: round {round} of {rounds}");
        for sending in Sending::value_variants() {
            let name = sending.name();
            let text = namespace::run(&["send-worker", name]);
            let text = text.with_context(|| format!("{NAME}, {name}"))?;
            readings
                .entry(name)
                .or_default()
                .push(serde_json::from_str(&text)?);
        }
    }
    let values = |sending: Sending, measure: &str| -> Vec<f64> {
        let rounds = readings[sending.name()].iter();
        rounds.map(|reading| reading[measure]).collect()
    };
    let mut figures = Vec::new();
    for (measure, what) in [
        ("same", "one destination"),
        ("fresh", "a new destination each time"),
    ] {
        for (subject, over, name) in [
            (
                Sending::Matched,
                Sending::Unmatched,
                "diverted, beside unmatched",
            ),
            (
                Sending::Unmatched,
                Sending::Direct,
                "in scope, unmatched, beside direct",
            ),
        ] {
            figures.push(Figure {
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

/// One way, in a namespace of its own.
pub(crate) fn worker(sending: Sending) -> Result<()> {
    namespace::pin_last()?;
    namespace::prepare()?;
    let hierarchy = Hierarchy::make()?;
    hierarchy.enter_outside()?;
    let origin = listen(PORT)?;
    let way = match sending {
        Sending::Direct => None,
        _ => Some(attach(&hierarchy, sending == Sending::Matched)?),
    };
    hierarchy.enter_program()?;
    let receiver = match (&way, sending) {
        (Some((_, listener)), Sending::Matched) => listener,
        _ => &origin,
    };
    let same = send(receiver, |_| destination(0))?;
    let fresh = send(receiver, destination)?;
    if let Some((engine, _)) = &way {
        let made = match sending {
            Sending::Matched => 1 + u64::from(WARM_UP + DATAGRAMS),
            _ => 0,
        };
        let counted = engine.counters()?.value(Counter::Redirected);
        ensure!(
            counted == made,
            "{made} flows should have been made, not {counted}"
        );
    }
    let reading = Reading::from([("same".to_owned(), same), ("fresh".to_owned(), fresh)]);
    println!("{}", serde_json::to_string(&reading)?);
    Ok(())
}

impl Sending {
    /// As on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Unmatched => "unmatched",
            Self::Matched => "matched",
        }
    }
}

/// An engine with a service that listens for datagrams, and its filters.
fn attach(hierarchy: &Hierarchy, matching: bool) -> Result<(Engine, UdpSocket)> {
    let mut engine = Engine::open(&hierarchy.scope, Config::default())?
        .load()?
        .attach()?;
    let service = engine.add_service(&ServiceSpec::new("bench"), hierarchy.service())?;
    hierarchy.enter_service()?;
    let listener = listen(0)?;
    sys::mark_listener(listener.as_fd(), service.credentials())
        .context("make the socket the service's")?;
    let others = "198.51.100.0/24".parse()?;
    engine.set_policy(&[Filter {
        remote: (!matching).then_some(others),
        ..Filter::redirect_datagrams(service.number)
    }])?;
    Ok((engine, listener))
}

fn listen(port: u16) -> Result<UdpSocket> {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).context("bind a UDP socket")
}

/// Of the loopback range, so that it arrives without us too.
fn destination(number: u32) -> SocketAddrV4 {
    let address = u32::from(Ipv4Addr::new(127, 0, 1, 0)) + number;
    SocketAddrV4::new(address.into(), PORT)
}

/// Half of the datagrams' sends took less, in nanoseconds. Each is received before the next one.
fn send(receiver: &UdpSocket, to: impl Fn(u32) -> SocketAddrV4) -> Result<f64> {
    let socket = listen(0)?;
    let mut times = Vec::with_capacity(DATAGRAMS as usize);
    let mut buffer = [0; 64];
    for number in 0..WARM_UP + DATAGRAMS {
        let destination = to(number);
        let begin = Instant::now();
        socket.send_to(PAYLOAD, destination).context("send")?;
        let took = begin.elapsed();
        let length = receiver.recv(&mut buffer).context("receive")?;
        ensure!(&buffer[..length] == PAYLOAD, "another datagram came");
        if number >= WARM_UP {
            times.push(took.as_nanos() as f64);
        }
    }
    Ok(median(&times))
}
