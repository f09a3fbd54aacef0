//! Merges the flow lines of a connection that passes several built-in proxies into one. The lines
//! come in any order.

use std::collections::HashMap;

use sidetrack_proxy::FlowLine;
use sidetrack_proxy::rules::Decision;

use crate::via::Via;

/// Limit of connections of which some lines are missing. When it is reached, the lines of further
/// connections are printed without being merged.
const WAITING_MAX: usize = 65_536;

/// Keeps lines until all lines of their connections are there.
pub(super) struct LineMerger {
    /// The names of the built-in proxies, in the order of the chain, in groups that are divided by
    /// legacy proxies. A legacy proxy sets no records, so its outgoing connection counts as another
    /// connection.
    groups: Vec<Vec<String>>,
    /// The lines of incomplete connections, by `origin_id`.
    waiting: HashMap<u64, Vec<FlowLine>>,
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
        }
    }

    /// Adds a line. Returns the merged line of the connection once it is complete.
    pub(super) fn add(&mut self, line: FlowLine) -> Option<FlowLine> {
        let origin = line.origin_id;
        let is_full = self.waiting.len() >= WAITING_MAX && !self.waiting.contains_key(&origin);
        if is_full {
            return Some(line);
        }
        self.waiting.entry(origin).or_default().push(line);
        if !self.is_complete(&self.waiting[&origin]) {
            return None;
        }
        self.waiting.remove(&origin).and_then(merge)
    }

    /// Returns the merged lines of incomplete connections: some proxy was killed before it wrote
    /// its line.
    pub(super) fn rest(&mut self) -> impl Iterator<Item = FlowLine> {
        std::mem::take(&mut self.waiting)
            .into_values()
            .filter_map(merge)
    }

    /// Returns true if each proxy of the group has written its line, up to the last one that the
    /// connection reached.
    fn is_complete(&self, lines: &[FlowLine]) -> bool {
        let Some(group) = self
            .groups
            .iter()
            .find(|group| group.contains(&lines[0].service))
        else {
            return true;
        };
        for service in group {
            let Some(line) = lines.iter().find(|line| line.service == *service) else {
                return false;
            };
            // A denied UDP flow may have reached the next proxy in part.
            let denied = line.verdict == Decision::Deny && line.datagrams.is_none();
            if denied || line.connect_ms.is_none() {
                return true;
            }
        }
        true
    }
}

/// Returns the outermost proxy's line, with the chain of the innermost one; its rule if it denied
/// the connection; and why it could not connect, if it could not: the outermost one only sees that
/// the next proxy closes.
fn merge(mut lines: Vec<FlowLine>) -> Option<FlowLine> {
    lines.sort_by_key(|line| line.chain.len());
    let mut lines = lines.into_iter();
    let outermost = lines.next()?;
    let Some(innermost) = lines.last() else {
        return Some(outermost);
    };
    let denied = innermost.verdict == Decision::Deny;
    let connected = innermost.connect_ms.is_some();
    Some(FlowLine {
        ended: match denied || connected {
            true => outermost.ended,
            false => innermost.ended,
        },
        chain: innermost.chain,
        rule: match innermost.rule {
            Some(rule) if denied => Some(format!("{}: {rule}", innermost.service)),
            _ => outermost.rule,
        },
        verdict: if denied {
            Decision::Deny
        } else {
            outermost.verdict
        },
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

    #[test]
    fn lines_are_merged_in_any_order() {
        for reversed in [false, true] {
            let mut merger = merger(&["inspect:a", "inspect:b"]);
            let mut lines = [line("a", &["a"], "allow"), line("b", &["a", "b"], "deny")];
            if reversed {
                lines.reverse();
            }
            let [first, second] = lines;
            assert_eq!(merger.add(first), None);
            let merged = merger.add(second).unwrap();
            assert_eq!(merged.service, "a");
            assert_eq!(merged.chain, ["a", "b"]);
            assert_eq!(
                (merged.verdict, merged.rule.as_deref()),
                (Decision::Deny, Some("b: r"))
            );
        }
    }

    #[test]
    fn the_end_is_that_of_the_proxy_that_could_not_connect() {
        let mut merger = merger(&["inspect:a", "inspect:b"]);
        let outer = FlowLine {
            ended: "reset by origin".into(),
            ..line("a", &["a"], "allow")
        };
        let inner = FlowLine {
            ended: "connect failed: connection refused".into(),
            connect_ms: None,
            ..line("b", &["a", "b"], "allow")
        };
        assert_eq!(merger.add(outer), None);
        let merged = merger.add(inner).unwrap();
        assert_eq!(merged.ended, "connect failed: connection refused");
    }

    #[test]
    fn denied_connection_is_complete_at_the_proxy_that_denied_it() {
        let mut merger = merger(&["inspect:a", "inspect:b"]);
        assert!(merger.add(line("a", &["a"], "deny")).is_some());
    }

    #[test]
    fn connection_behind_a_legacy_proxy_is_another_one() {
        let mut merger = merger(&["inspect:a", "tcp://127.0.0.1:9", "inspect:b"]);
        assert!(merger.add(line("a", &["a"], "allow")).is_some());
        assert!(
            merger
                .add(line("b", &["a", "127.0.0.1:9", "b"], "allow"))
                .is_some()
        );
    }

    #[test]
    fn incomplete_connections_are_returned_at_the_end() {
        let mut merger = merger(&["inspect:a", "inspect:b"]);
        assert_eq!(merger.add(line("b", &["a", "b"], "allow")), None);
        assert_eq!(merger.rest().count(), 1);
    }
}
