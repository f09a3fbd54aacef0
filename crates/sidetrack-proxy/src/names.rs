//! Which name an address was last known by, learnt from DNS responses.
//!
//! A label for what goes to the address later, not a proof: the client may go there for another
//! name, and whoever can answer in the server's place can teach what he likes.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dns::DnsResponse;

/// The most addresses; for another one, the least recently learnt is forgotten.
pub const ADDRESSES_MAX: usize = 4096;
/// How long a label holds at least. Programs keep addresses for longer than they are told: with a
/// TTL of 0, the connection comes after it has ended.
pub const TTL_MIN: Duration = Duration::from_secs(60);
/// How long a label holds at most, whatever the TTL; addresses become others'.
pub const TTL_MAX: Duration = Duration::from_secs(24 * 3600);

/// The names of addresses.
#[derive(Debug, Default)]
pub struct Names {
    labels: HashMap<IpAddr, Label>,
    /// The addresses by when they were learnt; as many as `labels`.
    order: BTreeMap<u64, IpAddr>,
    learnt: u64,
    evicted: u64,
}

#[derive(Debug)]
struct Label {
    name: Arc<str>,
    until: Instant,
    /// Its place in `order`.
    sequence: u64,
}

impl Names {
    /// A table that knows nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Learns that the response's addresses are those of the name asked for.
    ///
    /// Each holds for its TTL, but [`TTL_MIN`] at least and [`TTL_MAX`] at most. An address that
    /// has a name already gets the new one.
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

    /// The name that the address was last learnt by, if that still holds; as
    /// [`DnsQuestion::name`](crate::dns::DnsQuestion::name) has it.
    pub fn label(&self, address: IpAddr, now: Instant) -> Option<&str> {
        let label = self.labels.get(&address.to_canonical())?;
        (now < label.until).then_some(&*label.name)
    }

    /// How many addresses are kept, with those whose label has ended.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// How many labels were forgotten for want of room while they still held.
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
