//! The DNS queries of one flow, and what they were answered.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::dns::{Query, Question, Response};

/// The queries of one flow that its line tells; more are counted.
pub const QUERIES_MAX: usize = 16;
/// The addresses of one answer that the line tells.
pub const ADDRESSES_MAX: usize = 8;

/// A question of a DNS query, and what it was answered. The name comes from the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueryLine {
    /// The name asked for, in lower case and without a dot at the end.
    pub name: String,
    /// The type of record asked for, such as "A".
    #[serde(rename = "type")]
    pub kind: String,
    /// What became of it, such as "NOERROR" or "NXDOMAIN"; absent while there is no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// The name's addresses, 8 at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// How long the first address holds, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u32>,
    /// It was denied, and so answered by the proxy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub denied: bool,
}

/// All of a flow.
#[derive(Debug, Default)]
pub(super) struct Queries {
    told: Vec<Told>,
    more: u64,
    /// How many queries there were.
    asked: u64,
    /// Queries without an answer, however many questions each has.
    open: u64,
}

/// A question that the line tells.
#[derive(Debug)]
struct Told {
    id: u16,
    /// By number. A client may give an id again.
    query: u64,
    line: QueryLine,
}

impl Queries {
    pub(super) fn ask(&mut self, query: &Query) {
        let is_told = |asked: &Question| {
            let kind = asked.kind.to_string();
            self.told.iter().any(|Told { id, line, .. }| {
                *id == query.id
                    && line.answer.is_none()
                    && (&line.name, &line.kind) == (&asked.name, &kind)
            })
        };
        if query.questions().all(is_told) {
            return; // sent again
        }
        self.open += 1;
        self.asked += 1;
        for asked in query.questions() {
            if self.told.len() < QUERIES_MAX {
                self.told.push(Told {
                    id: query.id,
                    query: self.asked,
                    line: line(asked),
                });
            } else {
                self.more += 1;
            }
        }
    }

    /// The last query was denied.
    pub(super) fn deny(&mut self, answer: &str) {
        self.open = self.open.saturating_sub(1);
        for line in self.open_lines(self.asked) {
            line.answer = Some(answer.to_owned());
            line.denied = true;
        }
    }

    /// Returns whether it answers a query that is open, as far as that is known.
    pub(super) fn answer(&mut self, response: &Response) -> bool {
        let asked = self.told.iter_mut().find(|Told { id, line, .. }| {
            *id == response.id
                && line.answer.is_none()
                && (response.question.as_ref()).is_none_or(|asked| asked.name == line.name)
        });
        let Some(&mut Told {
            query,
            ref mut line,
            ..
        }) = asked
        else {
            let known = self.more > 0 && self.open > 0; // one of those that are only counted
            self.open -= u64::from(known);
            return known;
        };
        let answer = response.rcode.to_string();
        line.answer = Some(answer.clone());
        let found: Vec<_> = response.addresses().take(ADDRESSES_MAX).collect();
        line.ttl = found.first().map(|(_, ttl)| *ttl);
        line.addresses = found.into_iter().map(|(address, _)| address).collect();
        self.open = self.open.saturating_sub(1);
        for other in self.open_lines(query) {
            other.answer = Some(answer.clone());
        }
        true
    }

    /// Of a query by its number: the lines of its questions, while they have no answer.
    fn open_lines(&mut self, query: u64) -> impl Iterator<Item = &mut QueryLine> {
        let of_it = move |told: &&mut Told| told.query == query && told.line.answer.is_none();
        self.told
            .iter_mut()
            .filter(of_it)
            .map(|told| &mut told.line)
    }

    pub(super) fn are_answered(&self) -> bool {
        self.open == 0
    }

    pub(super) fn into_lines(self) -> (Vec<QueryLine>, u64) {
        let lines = self.told.into_iter().map(|told| told.line).collect();
        (lines, self.more)
    }
}

fn line(asked: &Question) -> QueryLine {
    QueryLine {
        name: asked.name.clone(),
        kind: asked.kind.to_string(),
        answer: None,
        addresses: Vec::new(),
        ttl: None,
        denied: false,
    }
}
