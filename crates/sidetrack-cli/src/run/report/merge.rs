//! Merges the flow lines of a connection that passes several built-in proxies into one. The lines
//! come in any order.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use sidetrack_proxy::FlowLine;
use sidetrack_proxy::outcome::FlowVerdict;

use crate::via::Via;

/// Limit of connections of which some lines are missing. When it is reached, the lines of further
/// connections are printed without being merged.
const WAITING_MAX: usize = 65_536;
/// How long the line of the next proxy may take after that of one whose connect has failed: the
/// connect may have failed there, or before.
const NEXT_LINE_MAX: Duration = Duration::from_millis(250);

/// Keeps lines until all lines of their connections are there.
pub(super) struct LineMerger {
    /// The names of the built-in proxies, in the order of the chain, in groups that are divided by
    /// legacy proxies. A legacy proxy sets no records, so its outgoing connection counts as another
    /// connection.
    groups: Vec<Vec<String>>,
    /// The lines of incomplete connections, by `origin_id`.
    waiting: HashMap<u64, Vec<FlowLine>>,
    /// The connections that may be complete, and when they count as complete, in order of time.
    due: VecDeque<(Instant, u64)>,
}

/// Whether all lines of a connection are there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Completeness {
    Complete,
    /// It is not known whether the connection has reached the next proxy.
    Perhaps,
    Incomplete,
}

impl LineMerger {
    pub(super) fn new(vias: &[(String, Via)]) -> Self {
        let mut groups = vec![Vec::new()];
        for (name, via) in vias {
            match via {
                Via::Tcp(_) => groups.push(Vec::new()),
                Via::Inspect(_) => groups.last_mut().expect("never empty").push(name.clone()),
                Via::Exec(_) => {}
            }
        }
        Self {
            groups,
            waiting: HashMap::new(),
            due: VecDeque::new(),
        }
    }

    /// Adds a line that has come at `now`. Returns the merged line of the connection once it is
    /// complete.
    pub(super) fn add(&mut self, line: FlowLine, now: Instant) -> Option<FlowLine> {
        let origin = line.origin_id;
        let is_full = self.waiting.len() >= WAITING_MAX && !self.waiting.contains_key(&origin);
        if is_full {
            return Some(line);
        }
        self.waiting.entry(origin).or_default().push(line);
        match self.completeness(&self.waiting[&origin]) {
            Completeness::Complete => return self.waiting.remove(&origin).and_then(merge),
            Completeness::Perhaps => self.due.push_back((now + NEXT_LINE_MAX, origin)),
            Completeness::Incomplete => {}
        }
        None
    }

    /// When the next connection counts as complete although the line of a further proxy might come.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due.front().map(|(due, _)| *due)
    }

    /// Returns the merged line of a connection that counts as complete at `now`.
    pub(super) fn take_overdue(&mut self, now: Instant) -> Option<FlowLine> {
        while let Some(&(due, origin)) = self.due.front()
            && due <= now
        {
            self.due.pop_front();
            let lines = self.waiting.get(&origin);
            if lines.is_some_and(|lines| self.completeness(lines) == Completeness::Perhaps) {
                return self.waiting.remove(&origin).and_then(merge);
            }
        }
        None
    }

    /// Returns the merged lines of incomplete connections: some proxy was killed before it wrote
    /// its line.
    pub(super) fn rest(&mut self) -> impl Iterator<Item = FlowLine> {
        self.due.clear();
        std::mem::take(&mut self.waiting)
            .into_values()
            .filter_map(merge)
    }

    /// Whether each proxy of the group has written its line, up to the last one that the connection
    /// reached.
    fn completeness(&self, lines: &[FlowLine]) -> Completeness {
        let mut groups = self.groups.iter();
        let Some(group) = groups.find(|group| group.contains(&lines[0].service)) else {
            return Completeness::Complete;
        };
        let mut without_next = Completeness::Incomplete;
        for service in group {
            let Some(line) = lines.iter().find(|line| line.service == *service) else {
                return without_next;
            };
            without_next = match line.verdict {
                _ if line.connect_ms.is_some() => Completeness::Incomplete,
                FlowVerdict::Failed => Completeness::Perhaps,
                FlowVerdict::Allow | FlowVerdict::Deny => return Completeness::Complete,
            };
        }
        Completeness::Complete
    }
}

/// Returns the outermost proxy's line, with the chain of the innermost one. If a proxy has denied the
/// connection, or could not connect, the line has its verdict, rule and end: the proxies before it
/// only see that their connect fails, or that the next proxy closes.
fn merge(mut lines: Vec<FlowLine>) -> Option<FlowLine> {
    lines.sort_by_key(|line| line.chain.len());
    let chain = lines.last()?.chain.clone();
    let decisive = lines
        .iter()
        .rposition(|line| line.verdict != FlowVerdict::Allow)
        .unwrap_or(0);
    let mut lines = lines.into_iter();
    let outermost = FlowLine {
        chain,
        ..lines.next()?
    };
    if decisive == 0 {
        return Some(outermost);
    }
    let decisive = lines.nth(decisive - 1)?;
    Some(FlowLine {
        verdict: decisive.verdict,
        rule: match decisive.verdict {
            FlowVerdict::Deny => decisive
                .rule
                .map(|rule| format!("{}: {rule}", decisive.service)),
            _ => outermost.rule,
        },
        ended: decisive.ended,
        ..outermost
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merger(vias: &[&str]) -> LineMerger {
        let vias: Vec<Via> = vias.iter().map(|via| via.parse().unwrap()).collect();
        LineMerger::new(&crate::via::named(&vias))
    }

    fn line(service: &str, chain: &[&str], verdict: &str) -> FlowLine {
        serde_json::from_value(serde_json::json!({
            "time": "", "flow_id": chain.len(), "origin_id": 1, "service": service,
            "protocol": "tcp", "destination": "192.0.2.1:80", "client": "127.0.0.1:1",
            "program": { "executable": "", "pid": 1, "uid": 0, "comm": "" },
            "chain": chain, "seen": { "kind": "raw" }, "verdict": verdict, "rule": "r",
            "bytes_up": 1, "bytes_down": 1, "connect_ms": 1.0, "duration_ms": 1.0,
            "ended": "closed",
        }))
        .unwrap()
    }

    /// A line of a proxy that has not connected onward.
    fn unconnected(service: &str, chain: &[&str], verdict: &str, ended: &str) -> FlowLine {
        FlowLine {
            ended: ended.into(),
            connect_ms: None,
            ..line(service, chain, verdict)
        }
    }

    fn add(merger: &mut LineMerger, line: FlowLine) -> Option<FlowLine> {
        merger.add(line, Instant::now())
    }

    #[test]
    fn lines_are_merged_in_any_order() {
        for reversed in [false, true] {
            let mut merger = merger(&["inspect:a", "inspect:b"]);
            let mut lines = [line("a", &["a"], "allow"), line("b", &["a", "b"], "deny")];
            if reversed {
                lines.reverse();
            }
            let [first, second] = lines;
            assert_eq!(add(&mut merger, first), None);
            let merged = add(&mut merger, second).unwrap();
            assert_eq!(merged.service, "a");
            assert_eq!(merged.chain, ["a", "b"]);
            assert_eq!(
                (merged.verdict, merged.rule.as_deref()),
                (FlowVerdict::Deny, Some("b: r"))
            );
        }
    }

    #[test]
    fn the_end_is_that_of_the_proxy_that_could_not_connect() {
        const REFUSED: &str = "connect failed: connection refused";
        const UNREACHABLE: &str = "connect failed: host unreachable";
        let accepted_first = FlowLine {
            ended: "reset by origin".into(),
            ..line("a", &["a"], "allow")
        };
        let pended = |ended| unconnected("a", &["a"], "failed", ended);
        for (outer, verdict, ended) in [
            (accepted_first, "failed", REFUSED),
            (pended(REFUSED), "failed", REFUSED),
            (pended(UNREACHABLE), "deny", "denied"),
        ] {
            let mut merger = merger(&["inspect:a", "inspect:b"]);
            assert_eq!(add(&mut merger, outer), None);
            let inner = unconnected("b", &["a", "b"], verdict, ended);
            let merged = add(&mut merger, inner.clone()).unwrap();
            assert_eq!((merged.verdict, &*merged.ended), (inner.verdict, ended));
            assert_eq!(merged.chain, ["a", "b"]);
        }
    }

    #[test]
    fn denied_connection_is_complete_at_the_proxy_that_denied_it() {
        let mut merger = merger(&["inspect:a", "inspect:b"]);
        let line = unconnected("a", &["a"], "deny", "denied");
        assert!(add(&mut merger, line).is_some());
    }

    #[test]
    fn a_failed_connect_may_not_have_reached_the_next_proxy() {
        let mut merger = merger(&["inspect:a", "inspect:b"]);
        let now = Instant::now();
        let line = unconnected("a", &["a"], "failed", "client gave up");
        assert_eq!(merger.add(line.clone(), now), None);
        assert_eq!(merger.take_overdue(now), None);
        let due = merger.deadline().unwrap();
        assert_eq!(merger.take_overdue(due), Some(line));
        assert_eq!(merger.deadline(), None);
    }

    #[test]
    fn connection_behind_a_legacy_proxy_is_another_one() {
        let mut merger = merger(&["inspect:a", "tcp://127.0.0.1:9", "inspect:b"]);
        assert!(add(&mut merger, line("a", &["a"], "allow")).is_some());
        let behind = line("b", &["a", "127.0.0.1:9", "b"], "allow");
        assert!(add(&mut merger, behind).is_some());
    }

    #[test]
    fn incomplete_connections_are_returned_at_the_end() {
        let mut merger = merger(&["inspect:a", "inspect:b"]);
        assert_eq!(add(&mut merger, line("b", &["a", "b"], "allow")), None);
        assert_eq!(merger.rest().count(), 1);
    }
}
