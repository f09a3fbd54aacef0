//! A layer's prefilter: a test of three fields that rules out most connections without a search of
//! the index.
//!
//! It tests the first byte of the remote address, the lower six bits of the remote port, and
//! whether the protocol is TCP, UDP or another one.

use sidetrack_abi::kernel;

use crate::test::{Test, TestKind};
use crate::{Family, Field};

const TCP: u128 = 6;
const UDP: u128 = 17;
/// Number of bits for ports. A range of at least as many ports sets all of them.
const PORT_BITS: u128 = 64;
const PROTOCOLS_ALL: u32 =
    kernel::PREFILTER_TCP | kernel::PREFILTER_UDP | kernel::PREFILTER_OTHER_PROTOCOL;

/// Sets of the values that at least one filter may match, one bit each.
#[derive(Default)]
pub(crate) struct Prefilter {
    pub(crate) addresses: [u64; 4],
    pub(crate) ports: u64,
    pub(crate) protocols: u32,
}

impl Prefilter {
    /// The prefilter of a layer of this family with these filters.
    pub(crate) fn of<'a>(
        family: Family,
        filters: impl Iterator<Item = &'a Vec<(bool, Test)>>,
    ) -> Self {
        let mut prefilter = Self::default();
        for tests in filters {
            prefilter.add(family, tests);
        }
        prefilter
    }

    fn add(&mut self, family: Family, tests: &[(bool, Test)]) {
        let tests_of = |field: Field| {
            let all = tests.iter().map(|(_, test)| test);
            all.filter(move |test| test.field == field as u8)
        };
        let addresses = union(tests_of(Field::RemoteAddress).map(|test| addresses(family, test)));
        for (half, more) in self
            .addresses
            .iter_mut()
            .zip(addresses.unwrap_or([u64::MAX; 4]))
        {
            *half |= more;
        }
        self.ports |= tests_of(Field::RemotePort)
            .map(ports)
            .reduce(|a, b| a | b)
            .unwrap_or(u64::MAX);
        let protocols = tests_of(Field::Protocol)
            .map(protocols)
            .reduce(|a, b| a | b);
        self.protocols |= protocols.unwrap_or(PROTOCOLS_ALL);
    }
}

fn union(each: impl Iterator<Item = [u64; 4]>) -> Option<[u64; 4]> {
    each.reduce(|a, b| std::array::from_fn(|at| a[at] | b[at]))
}

/// The set of first bytes of the addresses for which the test may hold.
fn addresses(family: Family, test: &Test) -> [u64; 4] {
    let (first, above) = match family {
        Family::V4 => (24, 32), // IPv4-mapped
        Family::V6 => (120, 128),
    };
    let byte = |number: u128| (number >> first) as u8;
    let rest = |number: u128| number.checked_shr(above).unwrap_or(0);
    let holds = |of: u8| match test.kind {
        TestKind::Masked { value, mask } => of & byte(mask) == byte(value) & byte(mask),
        TestKind::Between { low, high } => {
            rest(low) != rest(high) || (byte(low)..=byte(high)).contains(&of)
        }
    };
    let mut bits = [0; 4];
    for of in (0..=u8::MAX).filter(|&of| test.negate || holds(of)) {
        bits[usize::from(of / 64)] |= 1 << (of % 64);
    }
    bits
}

/// The set of the lower six bits of the ports for which the test may hold.
fn ports(test: &Test) -> u64 {
    let bit = |port: u128| 1 << (port % PORT_BITS);
    match test.kind {
        _ if test.negate => u64::MAX,
        TestKind::Masked { value, mask } if mask & u128::from(u16::MAX) == u128::from(u16::MAX) => {
            bit(value)
        }
        TestKind::Between { low, high } if high.wrapping_sub(low) < PORT_BITS => {
            (low..=high).map(bit).fold(0, |all, one| all | one)
        }
        _ => u64::MAX,
    }
}

/// The set of protocols for which the test may hold.
fn protocols(test: &Test) -> u32 {
    let holds = |protocol: u128| match test.kind {
        _ if test.negate => true,
        TestKind::Masked { value, mask } => protocol & mask == value & mask,
        TestKind::Between { low, high } => (low..=high).contains(&protocol),
    };
    let of = |protocol, bit| if holds(protocol) { bit } else { 0 };
    of(TCP, kernel::PREFILTER_TCP)
        | of(UDP, kernel::PREFILTER_UDP)
        | kernel::PREFILTER_OTHER_PROTOCOL
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(field: Field, kind: TestKind) -> (bool, Test) {
        let negate = false;
        let field = field as u8;
        (
            true,
            Test {
                field,
                negate,
                kind,
            },
        )
    }

    fn mapped(address: [u8; 4]) -> u128 {
        0xffff_0000_0000 | u128::from(u32::from_be_bytes(address))
    }

    fn has(prefilter: &Prefilter, byte: u8) -> bool {
        prefilter.addresses[usize::from(byte / 64)] >> (byte % 64) & 1 == 1
    }

    #[test]
    fn fields_that_no_filter_tests_are_not_ruled_out() {
        let prefilter = Prefilter::of(Family::V4, [vec![]].iter());
        assert_eq!(prefilter.addresses, [u64::MAX; 4]);
        assert_eq!(
            (prefilter.ports, prefilter.protocols),
            (u64::MAX, PROTOCOLS_ALL)
        );
    }

    #[test]
    fn a_prefix_a_range_a_port_and_a_protocol_set_their_bits() {
        let prefix = TestKind::Masked {
            value: mapped([10, 0, 0, 0]),
            mask: u128::MAX << 24,
        };
        let range = TestKind::Between {
            low: mapped([192, 0, 2, 1]),
            high: mapped([194, 0, 0, 1]),
        };
        let one = |value| TestKind::Masked {
            value,
            mask: u128::MAX,
        };
        let filters = [
            vec![
                test(Field::RemoteAddress, prefix),
                test(Field::RemotePort, one(443)),
            ],
            vec![
                test(Field::RemoteAddress, range),
                test(Field::RemotePort, TestKind::Between { low: 80, high: 81 }),
                test(Field::Protocol, one(TCP)),
            ],
        ];
        let prefilter = Prefilter::of(Family::V4, filters.iter());
        let bytes: Vec<u8> = (0..=255).filter(|&byte| has(&prefilter, byte)).collect();
        assert_eq!(bytes, [10, 192, 193, 194]);
        assert_eq!(prefilter.ports, 1 << (443 % 64) | 1 << 16 | 1 << 17);
        assert_eq!(prefilter.protocols, PROTOCOLS_ALL);
        let only_tcp = Prefilter::of(Family::V4, filters[1..].iter());
        assert_eq!(only_tcp.protocols & kernel::PREFILTER_UDP, 0);
    }
}
