//! The DNS queries of one flow, and the answers to them.

use crate::dns::{DnsQuery, DnsQuestion, DnsResponse};
use crate::seen::QueryLine;

/// The number of questions that a flow's line reports; further ones are counted.
pub const QUERIES_MAX: usize = 16;
/// The number of addresses that the line reports of one answer.
pub const ADDRESSES_MAX: usize = 8;

/// All queries of one flow.
#[derive(Debug, Default)]
pub(super) struct Queries {
    /// The first [`QUERIES_MAX`] questions.
    reported: Vec<ReportedQuestion>,
    /// Number of questions that are not in `reported`.
    more: u64,
    /// Number of queries, without repeated ones.
    query_count: u64,
    /// Number of queries without an answer, however many questions each has.
    unanswered: u64,
}

/// A question that the flow line reports.
#[derive(Debug)]
struct ReportedQuestion {
    /// The id of its query's message.
    id: u16,
    /// The number of its query in the flow, from 1. A client may reuse an id.
    query_number: u64,
    line: QueryLine,
}

impl Queries {
    /// Adds the questions of a query, unless all of them wait for an answer already.
    pub(super) fn add(&mut self, query: &DnsQuery) {
        let is_repeat = |asked: &DnsQuestion| {
            let record_type = asked.record_type.to_string();
            self.reported
                .iter()
                .any(|ReportedQuestion { id, line, .. }| {
                    *id == query.id
                        && line.answer.is_none()
                        && (&line.name, &line.record_type) == (&asked.name, &record_type)
                })
        };
        if query.questions().all(is_repeat) {
            return; // the client has sent the query again
        }
        self.unanswered += 1;
        self.query_count += 1;
        for asked in query.questions() {
            if self.reported.len() < QUERIES_MAX {
                self.reported.push(ReportedQuestion {
                    id: query.id,
                    query_number: self.query_count,
                    line: new_line(asked),
                });
            } else {
                self.more += 1;
            }
        }
    }

    /// Notes that the last query was denied, and with which response code.
    pub(super) fn deny(&mut self, answer: &str) {
        self.unanswered = self.unanswered.saturating_sub(1);
        for line in self.open_lines(self.query_count) {
            line.answer = Some(answer.to_owned());
            line.denied = true;
        }
    }

    /// Notes a response. Returns whether it answers a query that was unanswered. Whether it belongs
    /// to a question that is only counted cannot be known; if there are such questions, that is
    /// assumed.
    pub(super) fn answer(&mut self, response: &DnsResponse) -> bool {
        let asked = self
            .reported
            .iter_mut()
            .find(|ReportedQuestion { id, line, .. }| {
                *id == response.id
                    && line.answer.is_none()
                    && (response.question.as_ref()).is_none_or(|asked| asked.name == line.name)
            });
        let Some(&mut ReportedQuestion {
            query_number,
            ref mut line,
            ..
        }) = asked
        else {
            let is_unreported = self.more > 0 && self.unanswered > 0; // of a question that is only counted
            self.unanswered -= u64::from(is_unreported);
            return is_unreported;
        };
        let answer = response.rcode.to_string();
        line.answer = Some(answer.clone());
        let found: Vec<_> = response.addresses().take(ADDRESSES_MAX).collect();
        line.ttl = found.first().map(|(_, ttl)| *ttl);
        line.addresses = found.into_iter().map(|(address, _)| address).collect();
        self.unanswered = self.unanswered.saturating_sub(1);
        for other in self.open_lines(query_number) {
            other.answer = Some(answer.clone());
        }
        true
    }

    /// The unanswered questions of the query with this number.
    fn open_lines(&mut self, query_number: u64) -> impl Iterator<Item = &mut QueryLine> {
        let is_open = move |reported: &&mut ReportedQuestion| {
            reported.query_number == query_number && reported.line.answer.is_none()
        };
        self.reported
            .iter_mut()
            .filter(is_open)
            .map(|reported| &mut reported.line)
    }

    /// Whether every query has an answer.
    pub(super) fn are_answered(&self) -> bool {
        self.unanswered == 0
    }

    /// The reported questions, and the number of further ones.
    pub(super) fn into_lines(self) -> (Vec<QueryLine>, u64) {
        let lines = self
            .reported
            .into_iter()
            .map(|reported| reported.line)
            .collect();
        (lines, self.more)
    }
}

fn new_line(asked: &DnsQuestion) -> QueryLine {
    QueryLine {
        name: asked.name.clone(),
        record_type: asked.record_type.to_string(),
        answer: None,
        addresses: Vec::new(),
        ttl: None,
        denied: false,
    }
}
