//! The DNS queries of one flow, and what they were answered.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::dns::{Query, Response};

/// The queries of one flow that its line tells; more are counted.
pub const QUERIES_MAX: usize = 16;
/// The addresses of one answer that the line tells.
pub const ADDRESSES_MAX: usize = 8;

/// A DNS query, and what it was answered. The name comes from the client.
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
    told: Vec<(u16, QueryLine)>,
    more: u64,
    /// Queries without an answer.
    open: u64,
}

impl Queries {
    pub(super) fn ask(&mut self, query: &Query) {
        let kind = query.question.kind.to_string();
        let name = &query.question.name;
        let again = |(id, line): &&(u16, QueryLine)| {
            *id == query.id && line.answer.is_none() && line.name == *name && line.kind == kind
        };
        if self.told.iter().find(again).is_some() {
            return; // sent again
        }
        self.open += 1;
        if self.told.len() >= QUERIES_MAX {
            self.more += 1;
            return;
        }
        let line = QueryLine {
            name: name.clone(),
            kind,
            answer: None,
            addresses: Vec::new(),
            ttl: None,
            denied: false,
        };
        self.told.push((query.id, line));
    }

    /// The last query was denied.
    pub(super) fn deny(&mut self, answer: &str) {
        self.open = self.open.saturating_sub(1);
        if let Some((_, line)) = self
            .told
            .last_mut()
            .filter(|(_, line)| line.answer.is_none())
        {
            line.answer = Some(answer.to_owned());
            line.denied = true;
        }
    }

    /// Returns whether it answers a query that is open, as far as that is known.
    pub(super) fn answer(&mut self, response: &Response) -> bool {
        let asked = self.told.iter_mut().find(|(id, line)| {
            *id == response.id
                && line.answer.is_none()
                && (response.question.as_ref()).is_none_or(|asked| asked.name == line.name)
        });
        let Some((_, line)) = asked else {
            let known = self.more > 0 && self.open > 0; // one of those that are only counted
            self.open -= u64::from(known);
            return known;
        };
        line.answer = Some(response.rcode.to_string());
        let found: Vec<_> = response.addresses().take(ADDRESSES_MAX).collect();
        line.ttl = found.first().map(|(_, ttl)| *ttl);
        line.addresses = found.into_iter().map(|(address, _)| address).collect();
        self.open = self.open.saturating_sub(1);
        true
    }

    pub(super) fn are_answered(&self) -> bool {
        self.open == 0
    }

    pub(super) fn into_lines(self) -> (Vec<QueryLine>, u64) {
        let lines = self.told.into_iter().map(|(_, line)| line).collect();
        (lines, self.more)
    }
}
