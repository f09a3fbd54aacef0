//! Inspects the datagrams of one flow: reads DNS and QUIC in them, and decides by the rules which
//! may pass.
//!
//! This module does not use sockets.

use std::mem;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::queries::Queries;
use crate::dns::{self, Denial, DnsError, DnsQuery, DnsQuestion};
use crate::names::Names;
use crate::rules::{Decision, Rules, Verdict};
use crate::seen::Seen;
use crate::settings::Quic;
use crate::sniff::quic::{Hello, InitialReader, Reading};

/// The port of DNS. A malformed datagram to it is dropped while a rule that needs names may apply.
pub const DNS_PORT: u16 = 53;
/// How many datagrams of a flow are inspected if the decision does not depend on a name. Flows with
/// DNS queries are always inspected.
pub const INSPECTED_MAX: u64 = 16;
/// How many bytes of one flow are held back until its QUIC ClientHello is complete. Further
/// datagrams are dropped.
pub const HELD_BACK_SIZE_MAX: usize = 16 * 1024;
/// How many flows may have an incomplete QUIC ClientHello at a time. The first datagrams of a
/// further one are not read: they are dropped while a rule may deny them, and the client sends them
/// again.
pub const PENDING_MAX: usize = 512;

/// What an inspection needs besides the flow: rules and settings.
pub(super) struct InspectionContext<'a> {
    pub(super) rules: &'a Rules,
    pub(super) denial: Denial,
    pub(super) quic: Quic,
    /// Cloned by each flow that is pending, so that its reference count limits them, see
    /// [`PENDING_MAX`].
    pub(super) pending: &'a Arc<()>,
}

/// What the proxy does with a datagram from the client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ruling {
    /// Sends it to the origin, after those that were held back.
    Pass,
    /// Has kept it, and waits for more.
    HoldBack,
    /// Drops it; also those that were held back, if the flow is denied now.
    Drop,
    /// Drops it, and sends these bytes to the client.
    Answer(Vec<u8>),
}

/// The state of one flow's inspection.
pub(super) struct Inspection {
    destination: SocketAddr,
    /// Number of datagrams from the client that were inspected.
    inspected: u64,
    /// The flow's DNS queries; `None` if there were none.
    queries: Option<Queries>,
    /// The QUIC ClientHello, once it is complete.
    hello: Option<Hello>,
    reader: Option<Box<InitialReader>>,
    held_back: Vec<Vec<u8>>,
    /// Set while the QUIC ClientHello is incomplete, see [`PENDING_MAX`].
    pending: Option<Arc<()>>,
    /// The verdict on the flow line: that of a denied query, if there was one.
    verdict: Verdict,
    /// The decision on datagrams that name no host.
    decision: Decision,
    /// Whether no host name can change `decision`.
    is_final: bool,
    /// Whether there was QUIC whose ClientHello was not read.
    unread_quic: bool,
}

impl Inspection {
    /// Begins with what the rules decide by the address alone.
    pub(super) fn new(destination: SocketAddr, rules: &Rules) -> Self {
        let by_address = rules.decide_by_address(destination);
        let is_final = by_address.is_some();
        let verdict = by_address.unwrap_or_else(|| rules.decide(destination, None));
        Self {
            destination,
            inspected: 0,
            queries: None,
            hello: None,
            reader: None,
            held_back: Vec::new(),
            pending: None,
            is_final,
            decision: verdict.decision,
            verdict,
            unread_quic: false,
        }
    }

    /// Inspects a datagram from the client.
    pub(super) fn on_client_datagram(
        &mut self,
        bytes: &[u8],
        context: &InspectionContext<'_>,
    ) -> Ruling {
        if self.is_final && self.inspected >= INSPECTED_MAX && self.queries.is_none() {
            return self.ruling();
        }
        self.inspected += 1;
        let is_dns_port = self.destination.port() == DNS_PORT;
        if !is_dns_port && bytes.first().is_some_and(|first| first & 0x80 != 0) {
            match self.read_quic(bytes, context) {
                Some(ruling) => return ruling,
                None if !self.held_back.is_empty() => return self.hold_back(bytes),
                None => {}
            }
        }
        match dns::read_query(bytes) {
            Ok(query) => self.decide_query(bytes, &query, context),
            Err(DnsError::Malformed(_)) if is_dns_port && !self.is_final => Ruling::Drop,
            Err(_) if !self.held_back.is_empty() => self.hold_back(bytes),
            Err(_) => self.ruling(),
        }
    }

    /// Inspects a datagram from the origin: an answer to a query is noted, and its addresses are
    /// learnt.
    pub(super) fn on_origin_datagram(&mut self, bytes: &[u8], names: &Mutex<Names>) {
        if let Some(queries) = &mut self.queries
            && let Ok(response) = dns::read_response(bytes)
            && queries.answer(&response)
        {
            let mut names = names.lock().unwrap_or_else(PoisonError::into_inner);
            names.learn(&response, Instant::now());
        }
    }

    /// Takes the datagrams that were held back. The last ruling says whether they pass or are
    /// dropped.
    pub(super) fn take_held_back(&mut self) -> Vec<Vec<u8>> {
        mem::take(&mut self.held_back)
    }

    /// Whether all of the flow's DNS queries have been answered. False if there were none, or if
    /// there was a QUIC ClientHello.
    pub(super) fn is_answered(&self) -> bool {
        self.hello.is_none() && self.queries.as_ref().is_some_and(Queries::are_answered)
    }

    /// Whether the flow itself is denied. A flow with DNS queries is not, as each query has its own
    /// verdict.
    pub(super) fn is_denied(&self) -> bool {
        self.decision == Decision::Deny && self.queries.is_none()
    }

    /// What the flow line reports.
    pub(super) fn into_seen(self) -> (Seen, Verdict) {
        let seen = match (self.hello, self.queries) {
            (Some(hello), _) => Seen::Quic {
                sni: hello.sni,
                alpn: hello.alpn,
                version: Some(hello.version.to_string()),
            },
            (None, Some(queries)) => {
                let (queries, more) = queries.into_lines();
                Seen::Dns { queries, more }
            }
            (None, None) if self.unread_quic => Seen::Quic {
                sni: None,
                alpn: Vec::new(),
                version: None,
            },
            (None, None) => Seen::Raw,
        };
        (seen, self.verdict)
    }

    /// The ruling on a datagram that names no host.
    fn ruling(&self) -> Ruling {
        match self.decision {
            Decision::Allow => Ruling::Pass,
            Decision::Deny => Ruling::Drop,
        }
    }

    /// Decides on a DNS query, which is denied if one of its questions is.
    fn decide_query(
        &mut self,
        bytes: &[u8],
        query: &DnsQuery,
        context: &InspectionContext<'_>,
    ) -> Ruling {
        let queries = self.queries.get_or_insert_default();
        queries.add(query);
        let decide =
            |asked: &DnsQuestion| (context.rules).decide_name(self.destination, &asked.name);
        let mut verdict = decide(&query.question);
        for other in &query.others {
            if !verdict.is_deny() {
                verdict = decide(other);
            }
        }
        let denied = verdict.is_deny();
        if denied || !self.verdict.is_deny() || self.inspected == 1 {
            self.verdict = verdict;
        }
        if !denied {
            return Ruling::Pass;
        }
        queries.deny(match context.denial {
            Denial::NoSuchName => "NXDOMAIN",
            Denial::Refused => "REFUSED",
        });
        dns::deny(bytes, context.denial).map_or(Ruling::Drop, Ruling::Answer)
    }

    /// Reads a datagram as QUIC, and decides by the ClientHello. Returns `None` if it is not the
    /// beginning of QUIC.
    fn read_quic(&mut self, bytes: &[u8], context: &InspectionContext<'_>) -> Option<Ruling> {
        let is_new = self.reader.is_none();
        let mut reader = self.reader.take().unwrap_or_default();
        let reading = reader.datagram(bytes);
        if !is_new || matches!(reading, Reading::NeedMore | Reading::Hello(_)) {
            self.reader = Some(reader);
        }
        if !self.reserve_pending(&reading, context.pending) {
            self.reader = None;
            self.unread_quic = true;
            let may_pass = self.is_final && context.quic == Quic::Allow;
            return Some(if may_pass {
                self.ruling()
            } else {
                Ruling::Drop
            });
        }
        match reading {
            // An unknown version is four bytes that other protocols may have too.
            Reading::NotQuic | Reading::NotInitial(_) | Reading::OtherVersion(_) => return None,
            _ if context.quic == Quic::Refuse => {
                self.unread_quic = true;
                self.refuse(QUIC_REFUSED);
            }
            Reading::NeedMore if !self.is_final => return Some(self.hold_back(bytes)),
            Reading::NeedMore => {}
            Reading::Malformed(_) => {
                self.unread_quic = true;
                if !self.is_final {
                    return Some(Ruling::Drop);
                }
            }
            Reading::Hello(hello) => self.decide_hello(hello, context.rules),
        }
        Some(self.ruling())
    }

    /// Makes the flow pending while its ClientHello is incomplete. Returns false if [`PENDING_MAX`]
    /// flows are.
    fn reserve_pending(&mut self, reading: &Reading, all: &Arc<()>) -> bool {
        match reading {
            Reading::NeedMore if self.pending.is_none() => {
                let has_room = Arc::strong_count(all) <= PENDING_MAX; // one reference is the loop's
                self.pending = has_room.then(|| Arc::clone(all));
                has_room
            }
            Reading::Hello(_) => {
                self.pending = None;
                true
            }
            _ => true,
        }
    }

    /// Decides by the server name of a complete ClientHello.
    fn decide_hello(&mut self, hello: Hello, rules: &Rules) {
        if !self.is_final && self.hello.as_ref() != Some(&hello) {
            self.verdict = rules.decide(self.destination, hello.sni.as_deref());
            self.decision = self.verdict.decision;
        }
        self.hello = Some(hello);
    }

    /// Denies the flow by a rule that no name can change.
    fn refuse(&mut self, rule: &str) {
        self.verdict = Verdict {
            decision: Decision::Deny,
            rule: Some(rule.to_owned()),
        };
        self.decision = Decision::Deny;
        self.is_final = true;
    }

    fn hold_back(&mut self, bytes: &[u8]) -> Ruling {
        let held: usize = self.held_back.iter().map(Vec::len).sum();
        if held + bytes.len() > HELD_BACK_SIZE_MAX {
            return Ruling::Drop;
        }
        self.held_back.push(bytes.to_vec());
        Ruling::HoldBack
    }
}

/// The rule on the flow line if QUIC is refused.
const QUIC_REFUSED: &str = "quic refuse";

#[cfg(test)]
mod tests;
