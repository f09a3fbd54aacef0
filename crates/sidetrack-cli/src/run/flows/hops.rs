//! One connection through several inspecting proxies is several lines, in any order: brought together.

use std::collections::HashMap;

use sidetrack_proxy::FlowLine;
use sidetrack_proxy::rules::Decision;

use crate::via::Via;

/// Connections whose lines are not all here yet. Beyond, a line is shown by itself.
const WAITING_MAX: usize = 65_536;

/// The lines that wait for others.
pub(super) struct Hops {
    /// The inspecting proxies in order, in groups: a legacy proxy passes no records on, so what is
    /// behind it is another connection to us.
    groups: Vec<Vec<String>>,
    waiting: HashMap<u64, Vec<FlowLine>>,
}

impl Hops {
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

    /// Takes a line. Returns the connection's, once it is complete.
    pub(super) fn add(&mut self, line: FlowLine) -> Option<FlowLine> {
        let origin = line.origin_id;
        let full = self.waiting.len() >= WAITING_MAX && !self.waiting.contains_key(&origin);
        if full {
            return Some(line);
        }
        self.waiting.entry(origin).or_default().push(line);
        if !self.is_complete(&self.waiting[&origin]) {
            return None;
        }
        self.waiting.remove(&origin).and_then(merge)
    }

    /// What is incomplete, because a proxy was ended before it could tell.
    pub(super) fn rest(&mut self) -> impl Iterator<Item = FlowLine> {
        std::mem::take(&mut self.waiting)
            .into_values()
            .filter_map(merge)
    }

    /// Each proxy of the group has told, up to the last one that the connection reached.
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
            // A flow of datagrams may go on in part.
            let denied = line.verdict == Decision::Deny && line.datagrams.is_none();
            if denied || line.connect_ms.is_none() {
                return true;
            }
        }
        true
    }
}

/// The outermost proxy's line, with what the innermost knows better.
fn merge(mut lines: Vec<FlowLine>) -> Option<FlowLine> {
    lines.sort_by_key(|line| line.chain.len());
    let mut lines = lines.into_iter();
    let outermost = lines.next()?;
    let Some(innermost) = lines.last() else {
        return Some(outermost);
    };
    let denied = innermost.verdict == Decision::Deny;
    Some(FlowLine {
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

    fn hops(vias: &[&str]) -> Hops {
        let vias: Vec<Via> = vias.iter().map(|via| via.parse().unwrap()).collect();
        Hops::new(&crate::via::named(&vias))
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
    fn lines_come_together_in_any_order() {
        for reversed in [false, true] {
            let mut hops = hops(&["inspect:a", "inspect:b"]);
            let mut lines = [line("a", &["a"], "allow"), line("b", &["a", "b"], "deny")];
            if reversed {
                lines.reverse();
            }
            let [first, second] = lines;
            assert_eq!(hops.add(first), None);
            let merged = hops.add(second).unwrap();
            assert_eq!(merged.service, "a");
            assert_eq!(merged.chain, ["a", "b"]);
            assert_eq!(
                (merged.verdict, merged.rule.as_deref()),
                (Decision::Deny, Some("b: r"))
            );
        }
    }

    #[test]
    fn a_denied_connection_waits_for_nobody() {
        let mut hops = hops(&["inspect:a", "inspect:b"]);
        assert!(hops.add(line("a", &["a"], "deny")).is_some());
    }

    #[test]
    fn behind_a_legacy_proxy_is_another_connection() {
        let mut hops = hops(&["inspect:a", "tcp://127.0.0.1:9", "inspect:b"]);
        assert!(hops.add(line("a", &["a"], "allow")).is_some());
        assert!(
            hops.add(line("b", &["a", "127.0.0.1:9", "b"], "allow"))
                .is_some()
        );
    }

    #[test]
    fn what_never_completes_is_told_at_the_end() {
        let mut hops = hops(&["inspect:a", "inspect:b"]);
        assert_eq!(hops.add(line("b", &["a", "b"], "allow")), None);
        assert_eq!(hops.rest().count(), 1);
    }
}
