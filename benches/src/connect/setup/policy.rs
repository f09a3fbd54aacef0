//! Policies with many filters of which only the last one matches: what a policy costs connections
//! that it does not affect.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use sidetrack_policy::{
    Action, Condition, Field, Filter, LayerKind, MatchType, Uuid, Value, Weight,
};

use super::{PORT, PROBE};

/// The folder with the executables that filters name. They are never run.
const PROGRAMS: &str = "/usr/bin";
/// The most executables that filters name.
const PROGRAMS_MAX: usize = 200;
/// The first user id that filters name. None of them is the user of a client.
const USERS: u64 = 100_000;

/// A policy of `count` filters for IPv4. A quarter of them name prefixes in the range of the
/// connections' destinations, a quarter other prefixes, a quarter programs and a quarter users; all
/// name ports as well. The last filter matches the probe, with the smallest weight.
pub(crate) fn filters(count: u32, service: Uuid) -> Result<Vec<Filter>> {
    let programs = programs()?;
    let mut random = Random::new();
    let mut filters: Vec<Filter> = (1..count)
        .map(|number| mixed(number, &programs, &mut random, service))
        .collect();
    let probe = Value::Prefix(
        ipnet::IpNet::new((*PROBE.ip()).into(), 32)
            .context("make a prefix of the probe's address")?,
    );
    filters.push(Filter {
        id: count.into(),
        conditions: vec![Condition::equal(Field::RemoteAddress, probe)],
        weight: Weight::Literal(0),
        ..filter(Action::Redirect(service))
    });
    Ok(filters)
}

fn mixed(number: u32, programs: &[String], random: &mut Random, service: Uuid) -> Filter {
    let first = match number % 4 {
        0 => prefix(127, random),
        1 => prefix(10, random),
        2 => {
            let program = &programs[random.below(programs.len() as u32) as usize];
            Condition::equal(Field::App, Value::Path(program.clone()))
        }
        _ => Condition::equal(Field::User, Value::Uint(USERS + u64::from(number))),
    };
    Filter {
        id: number.into(),
        conditions: vec![first, port(random)],
        weight: Weight::Literal(u64::from(random.below(1 << 20)) + 1),
        ..filter(match number % 3 {
            0 => Action::Permit,
            1 => Action::Block,
            _ => Action::Redirect(service),
        })
    }
}

fn filter(action: Action) -> Filter {
    Filter::new("bench", LayerKind::ConnectRedirect.both()[0], action)
}

/// A condition with a prefix of a length from 16 to 32, as in real policies.
fn prefix(net: u8, random: &mut Random) -> Condition {
    let length = 16 + random.below(17) as u8;
    let address = std::net::Ipv4Addr::from(u32::from(net) << 24 | random.below(1 << 24));
    let prefix = ipnet::Ipv4Net::new(address, length).map(|net| net.trunc());
    let prefix = prefix.expect("the length is at most 32");
    Condition::equal(Field::RemoteAddress, Value::Prefix(prefix.into()))
}

/// A condition with one port or a range of ports, but never [`PORT`].
fn port(random: &mut Random) -> Condition {
    let low = u64::from(PORT) + 1 + u64::from(random.below(60_000));
    if random.below(2) == 0 {
        return Condition::equal(Field::RemotePort, Value::Uint(low));
    }
    let high = low + u64::from(random.below(5000));
    Condition {
        field: Field::RemotePort,
        match_type: MatchType::Range,
        value: Value::Range(Box::new(Value::Uint(low)), Box::new(Value::Uint(high))),
    }
}

fn programs() -> Result<Vec<String>> {
    let entries = std::fs::read_dir(PROGRAMS).with_context(|| format!("read {PROGRAMS}"))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.truncate(PROGRAMS_MAX);
    ensure!(!paths.is_empty(), "{PROGRAMS} contains no programs");
    Ok(paths
        .into_iter()
        .filter_map(|path| path.to_str().map(ToOwned::to_owned))
        .collect())
}

/// A linear congruential generator, so that each run uses the same policy. Its quality is
/// sufficient for mixing filters.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new() -> Self {
        Self(1)
    }

    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % u64::from(bound)) as u32
    }
}
