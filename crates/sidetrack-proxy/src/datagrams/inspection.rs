//! What the datagrams of one flow tell, and what the rules make of it. Knows nothing of sockets.

use std::mem;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::queries::Queries;
use crate::dns::{self, Denial, Query, Question, Unread};
use crate::names::Names;
use crate::rules::{Decision, Rules, Verdict};
use crate::sniff::Seen;
use crate::sniff::quic::{Hello, InitialReader, Reading};

/// The port of DNS: there, what cannot be read does not pass while a rule asks for names.
pub const DNS_PORT: u16 = 53;
/// The first datagrams of a flow that are looked at, if no rule asks for names; DNS is always.
pub const LOOKED_AT_MAX: u64 = 16;
/// What is held back of one flow until its QUIC ClientHello is whole, in bytes; more is dropped.
pub const HELD_SIZE_MAX: usize = 16 * 1024;
/// The flows whose QUIC ClientHello is not whole yet. Another one's first datagrams are not read: they
/// are dropped while a rule may deny them, and the client sends them again.
pub const PENDING_MAX: usize = 512;

/// What QUIC may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quic {
    /// It goes on, as far as the rules let it.
    #[default]
    Allow,
    /// It does not begin.
    Refuse,
}

/// What the flows are judged by.
pub(super) struct Judgement<'a> {
    pub(super) rules: &'a Rules,
    pub(super) denial: Denial,
    pub(super) quic: Quic,
    /// Held by each flow that is pending, see [`PENDING_MAX`].
    pub(super) pending: &'a Arc<()>,
}

/// What becomes of a datagram from the client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ruling {
    /// It goes on, behind those that were held.
    Pass,
    /// It was kept.
    Hold,
    /// It does not go on; nor do those that were held, if the flow is denied now.
    Drop,
    /// It does not go on; the client gets this.
    Answer(Vec<u8>),
}

/// One flow.
pub(super) struct Inspection {
    destination: SocketAddr,
    looked_at: u64,
    queries: Option<Queries>,
    hello: Option<Hello>,
    reader: Option<Box<InitialReader>>,
    held: Vec<Vec<u8>>,
    pending: Option<Arc<()>>,
    /// What the line tells: a denied query's, if there was one.
    verdict: Verdict,
    /// Of datagrams without a name of their own.
    decision: Decision,
    /// Whether no name can change that.
    settled: bool,
    /// QUIC whose ClientHello was not read.
    odd_quic: bool,
}

impl Inspection {
    pub(super) fn new(destination: SocketAddr, rules: &Rules) -> Self {
        let before = rules.before(destination);
        let settled = before.is_some();
        let verdict = before.unwrap_or_else(|| rules.decide(destination, None));
        Self {
            destination,
            looked_at: 0,
            queries: None,
            hello: None,
            reader: None,
            held: Vec::new(),
            pending: None,
            settled,
            decision: verdict.decision,
            verdict,
            odd_quic: false,
        }
    }

    /// A datagram from the client.
    pub(super) fn up(&mut self, bytes: &[u8], by: &Judgement<'_>) -> Ruling {
        if self.settled && self.looked_at >= LOOKED_AT_MAX && self.queries.is_none() {
            return self.by_verdict();
        }
        self.looked_at += 1;
        let is_dns_port = self.destination.port() == DNS_PORT;
        if !is_dns_port && bytes.first().is_some_and(|first| first & 0x80 != 0) {
            match self.read_quic(bytes, by) {
                Some(ruling) => return ruling,
                None if !self.held.is_empty() => return self.hold(bytes),
                None => {}
            }
        }
        match dns::read_query(bytes) {
            Ok(query) => self.dns(bytes, &query, by),
            Err(Unread::Malformed(_)) if is_dns_port && !self.settled => Ruling::Drop,
            Err(_) if !self.held.is_empty() => self.hold(bytes),
            Err(_) => self.by_verdict(),
        }
    }

    /// A datagram from the origin.
    pub(super) fn down(&mut self, bytes: &[u8], names: &Mutex<Names>) {
        if let Some(queries) = &mut self.queries
            && let Ok(response) = dns::read_response(bytes)
            && queries.answer(&response)
        {
            let mut names = names.lock().unwrap_or_else(PoisonError::into_inner);
            names.learn(&response, Instant::now());
        }
    }

    /// What is to go on, or was lost: as the ruling says.
    pub(super) fn take_held(&mut self) -> Vec<Vec<u8>> {
        mem::take(&mut self.held)
    }

    /// All of its DNS queries have been answered, and there was nothing else.
    pub(super) fn is_answered(&self) -> bool {
        self.hello.is_none() && self.queries.as_ref().is_some_and(Queries::are_answered)
    }

    pub(super) fn is_denied(&self) -> bool {
        self.decision == Decision::Deny && self.queries.is_none()
    }

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
            (None, None) if self.odd_quic => Seen::Quic {
                sni: None,
                alpn: Vec::new(),
                version: None,
            },
            (None, None) => Seen::Raw,
        };
        (seen, self.verdict)
    }

    fn by_verdict(&self) -> Ruling {
        match self.decision {
            Decision::Allow => Ruling::Pass,
            Decision::Deny => Ruling::Drop,
        }
    }

    fn dns(&mut self, bytes: &[u8], query: &Query, by: &Judgement<'_>) -> Ruling {
        let queries = self.queries.get_or_insert_default();
        queries.add(query);
        let decide = |asked: &Question| (by.rules).decide_name(self.destination, &asked.name);
        let mut verdict = decide(&query.question);
        for other in &query.others {
            if !verdict.is_deny() {
                verdict = decide(other);
            }
        }
        let denied = verdict.is_deny();
        if denied || !self.verdict.is_deny() || self.looked_at == 1 {
            self.verdict = verdict;
        }
        if !denied {
            return Ruling::Pass;
        }
        queries.deny(match by.denial {
            Denial::NoSuchName => "NXDOMAIN",
            Denial::Refused => "REFUSED",
        });
        dns::deny(bytes, by.denial).map_or(Ruling::Drop, Ruling::Answer)
    }

    /// `None` if it is not the beginning of QUIC.
    fn read_quic(&mut self, bytes: &[u8], by: &Judgement<'_>) -> Option<Ruling> {
        let is_new = self.reader.is_none();
        let mut reader = self.reader.take().unwrap_or_default();
        let reading = reader.datagram(bytes);
        if !is_new || matches!(reading, Reading::NeedMore | Reading::Hello(_)) {
            self.reader = Some(reader);
        }
        if !self.may_be_pending(&reading, by.pending) {
            self.reader = None;
            self.odd_quic = true;
            let is_open = self.settled && by.quic == Quic::Allow;
            return Some(if is_open {
                self.by_verdict()
            } else {
                Ruling::Drop
            });
        }
        match reading {
            // Another version's looks are four bytes that anything may have.
            Reading::NotQuic | Reading::NotInitial(_) | Reading::OtherVersion(_) => return None,
            _ if by.quic == Quic::Refuse => {
                self.odd_quic = true;
                self.refuse(QUIC_REFUSED);
            }
            Reading::NeedMore if !self.settled => return Some(self.hold(bytes)),
            Reading::NeedMore => {}
            Reading::Malformed(_) => {
                self.odd_quic = true;
                if !self.settled {
                    return Some(Ruling::Drop);
                }
            }
            Reading::Hello(hello) => self.judge_hello(hello, by.rules),
        }
        Some(self.by_verdict())
    }

    /// Whether there is room for what this reading needs remembered.
    fn may_be_pending(&mut self, reading: &Reading, all: &Arc<()>) -> bool {
        match reading {
            Reading::NeedMore if self.pending.is_none() => {
                let has_room = Arc::strong_count(all) <= PENDING_MAX; // one is the loop's
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

    fn judge_hello(&mut self, hello: Hello, rules: &Rules) {
        if !self.settled && self.hello.as_ref() != Some(&hello) {
            self.verdict = rules.decide(self.destination, hello.sni.as_deref());
            self.decision = self.verdict.decision;
        }
        self.hello = Some(hello);
    }

    fn refuse(&mut self, rule: &str) {
        self.verdict = Verdict {
            decision: Decision::Deny,
            rule: Some(rule.to_owned()),
        };
        self.decision = Decision::Deny;
        self.settled = true;
    }

    fn hold(&mut self, bytes: &[u8]) -> Ruling {
        let held: usize = self.held.iter().map(Vec::len).sum();
        if held + bytes.len() > HELD_SIZE_MAX {
            return Ruling::Drop;
        }
        self.held.push(bytes.to_vec());
        Ruling::Hold
    }
}

const QUIC_REFUSED: &str = "quic refuse";

#[cfg(test)]
mod tests;
