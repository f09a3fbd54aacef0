//! Many filters, of which none but the last matches: what a policy costs those whom it does not touch.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use sidetrack_policy::{
    Action, Condition, Field, Filter, LayerKind, MatchType, Uuid, Value, Weight,
};

use super::{PORT, PROBE};

/// Executables that filters name, taken from here; they are never run.
const PROGRAMS: &str = "/usr/bin";
const PROGRAMS_MAX: usize = 200;
/// Users that filters name begin with this one; nobody measured is one of them.
const USERS: u64 = 100_000;

/// So many filters for IPv4: a fourth each of prefixes around the connections' own destinations, of
/// prefixes elsewhere, of programs and of users, all with ports; and the probe's, with the least weight.
pub(crate) fn filters(count: u32, service: Uuid) -> Result<Vec<Filter>> {
    let programs = programs()?;
    let mut random = Random(1);
    let mut filters: Vec<Filter> = (1..count)
        .map(|number| mixed(number, &programs, &mut random, service))
        .collect();
    let probe = Value::Prefix(ipnet::IpNet::new((*PROBE.ip()).into(), 32).context("a prefix")?);
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

/// From /16 to /32, as policies have them.
fn prefix(net: u8, random: &mut Random) -> Condition {
    let length = 16 + random.below(17) as u8;
    let address = std::net::Ipv4Addr::from(u32::from(net) << 24 | random.below(1 << 24));
    let prefix = ipnet::Ipv4Net::new(address, length).map(|net| net.trunc());
    let prefix = prefix.expect("the length is at most 32");
    Condition::equal(Field::RemoteAddress, Value::Prefix(prefix.into()))
}

/// One port, or from one to another; never the one that is asked for.
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
    ensure!(!paths.is_empty(), "{PROGRAMS} has no programs");
    Ok(paths
        .into_iter()
        .filter_map(|path| path.to_str().map(ToOwned::to_owned))
        .collect())
}

/// The same policy in each run: a small linear generator, good enough for a mixture.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % u64::from(bound)) as u32
    }
}
