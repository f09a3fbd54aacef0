//! The names of addresses, learnt from DNS responses.
//!
//! A name labels later flows to the address. It is no proof: the client may connect to the address
//! for another name, and an attacker who can forge DNS responses can have any name learnt.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dns::DnsResponse;

/// The largest number of addresses. For a further one, the least recently learnt is removed.
pub const ADDRESSES_MAX: usize = 4096;
/// How long a name is valid at least. Programs use addresses for longer than their TTL: with a TTL
/// of 0, each connection begins after the TTL has ended.
pub const TTL_MIN: Duration = Duration::from_secs(60);
/// How long a name is valid at most, since addresses get other owners.
pub const TTL_MAX: Duration = Duration::from_secs(24 * 3600);

/// A table of the names of addresses.
#[derive(Debug, Default)]
pub struct Names {
    labels: HashMap<IpAddr, Label>,
    /// The addresses in `labels` in the order in which they were learnt.
    order: BTreeMap<u64, IpAddr>,
    /// Number of addresses learnt so far, which is the next label's `sequence`.
    learnt: u64,
    /// See [`evicted`](Self::evicted).
    evicted: u64,
}

/// The name of one address.
#[derive(Debug)]
struct Label {
    name: Arc<str>,
    until: Instant,
    /// Its key in `order`.
    sequence: u64,
}

impl Names {
    /// Makes an empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Learns the name in the response's question as the name of the response's addresses.
    ///
    /// It is valid for the TTL, but [`TTL_MIN`] at least and [`TTL_MAX`] at most. It replaces the
    /// name that an address had before.
    pub fn learn(&mut self, response: &DnsResponse, now: Instant) {
        let Some(asked) = &response.question else {
            return;
        };
        let name = Arc::<str>::from(asked.name.as_str());
        for (address, ttl) in response.addresses() {
            let ttl = Duration::from_secs(ttl.into()).clamp(TTL_MIN, TTL_MAX);
            self.put(address.to_canonical(), Arc::clone(&name), now + ttl);
            self.evict(now);
        }
    }

    /// The name that was last learnt for the address, if it is still valid, in the form of
    /// [`DnsQuestion::name`](crate::dns::DnsQuestion::name).
    pub fn label(&self, address: IpAddr, now: Instant) -> Option<&str> {
        let label = self.labels.get(&address.to_canonical())?;
        (now < label.until).then_some(&*label.name)
    }

    /// Number of addresses in the table, including those whose name is not valid any more.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Number of names that were removed for a new address while they were still valid.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    fn put(&mut self, address: IpAddr, name: Arc<str>, until: Instant) {
        let sequence = self.learnt;
        self.learnt += 1;
        let label = Label {
            name,
            until,
            sequence,
        };
        if let Some(old) = self.labels.insert(address, label) {
            self.order.remove(&old.sequence);
        }
        self.order.insert(sequence, address);
    }

    fn evict(&mut self, now: Instant) {
        while self.order.len() > ADDRESSES_MAX
            && let Some((_, address)) = self.order.pop_first()
        {
            let label = self.labels.remove(&address);
            self.evicted += u64::from(label.is_some_and(|label| now < label.until));
        }
    }
}

#[cfg(test)]
mod tests;
