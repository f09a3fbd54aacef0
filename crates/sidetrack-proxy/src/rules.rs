//! The rules that allow or deny connections, as given by `--deny PATTERN` and `--allow PATTERN`.
//!
//! Deny takes precedence over allow. If there are allow rules, a connection that matches none of
//! them is denied. A host name is what the client claims. So a rule on host names is effective only
//! for honest clients, while a rule on addresses is for all.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod pattern;

pub use pattern::{PATTERN_SIZE_MAX, Pattern, PatternError};

/// The patterns that are denied and allowed. The default allows everything.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    deny: Vec<Pattern>,
    allow: Vec<Pattern>,
}

/// Whether a connection is allowed, and by which rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it is allowed.
    pub decision: Decision,
    /// The rule that decided, such as "deny *.example.com" or "no allow rule matches"; `None` if no
    /// rule applied.
    pub rule: Option<String>,
}

/// Whether a connection is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// It is relayed.
    Allow,
    /// It is refused.
    Deny,
}

impl Rules {
    /// Makes rules from the patterns to deny and to allow.
    pub fn new(mut deny: Vec<Pattern>, mut allow: Vec<Pattern>) -> Self {
        // Patterns of addresses come first, so that `decide_by_address` and `decide` name the same
        // rule if one of them decides.
        deny.sort_by_key(Pattern::needs_host);
        allow.sort_by_key(Pattern::needs_host);
        Self { deny, allow }
    }

    /// The verdict by the address alone; `None` if a host name could change it.
    pub fn decide_by_address(&self, destination: SocketAddr) -> Option<Verdict> {
        let may_match = |rules: &[Pattern]| rules.iter().any(|rule| rule.may_match(destination));
        let unnamed = self.decide(destination, None);
        let is_final = match (unnamed.decision, &unnamed.rule) {
            (Decision::Deny, Some(rule)) if rule == NO_ALLOW_RULE => !may_match(&self.allow),
            (Decision::Deny, _) => true,
            (Decision::Allow, _) => !may_match(&self.deny),
        };
        is_final.then_some(unnamed)
    }

    /// The verdict by the address and the host name that the client named, if any.
    ///
    /// If [`decide_by_address`](Self::decide_by_address) returns a verdict, this one has the same
    /// decision, but may name another rule.
    pub fn decide(&self, destination: SocketAddr, host: Option<&str>) -> Verdict {
        let matches = |rule: &Pattern| rule.matches(destination, host);
        self.decide_with(matches, matches)
    }

    /// The verdict on a DNS query for `name` that goes to `destination`.
    ///
    /// A query is allowed if connections to the name are allowed at some port. A rule that denies
    /// the name at another port than that of `destination` does not deny the query.
    pub fn decide_name(&self, destination: SocketAddr, name: &str) -> Verdict {
        let denied = |rule: &Pattern| rule.matches(destination, Some(name));
        let allowed = |rule: &Pattern| denied(rule) || rule.matches_name(name);
        self.decide_with(denied, allowed)
    }

    fn decide_with(
        &self,
        denied: impl Fn(&Pattern) -> bool,
        allowed: impl Fn(&Pattern) -> bool,
    ) -> Verdict {
        let denying = self.deny.iter().find(|rule| denied(rule));
        let allowing = self.allow.iter().find(|rule| allowed(rule));
        let (decision, rule) = if let Some(rule) = denying {
            (Decision::Deny, Some(format!("deny {rule}")))
        } else if self.allow.is_empty() {
            (Decision::Allow, None)
        } else if let Some(rule) = allowing {
            (Decision::Allow, Some(format!("allow {rule}")))
        } else {
            (Decision::Deny, Some(NO_ALLOW_RULE.into()))
        };
        Verdict { decision, rule }
    }

    /// Whether any rule has a host name.
    pub fn needs_host(&self) -> bool {
        self.deny.iter().chain(&self.allow).any(Pattern::needs_host)
    }
}

impl Verdict {
    /// Whether the connection is denied.
    pub fn is_deny(&self) -> bool {
        self.decision == Decision::Deny
    }
}

/// The rule in a verdict if there are allow rules, but none matches.
const NO_ALLOW_RULE: &str = "no allow rule matches";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::{select, subsequence};

    use super::*;

    fn rules(deny: &[&str], allow: &[&str]) -> Rules {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Rules::new(parse(deny), parse(allow))
    }

    fn decided(rules: &Rules, destination: &str, host: Option<&str>) -> String {
        let destination = destination.parse().unwrap();
        let verdict = rules.decide(destination, host);
        if let Some(by_address) = rules.decide_by_address(destination) {
            assert_eq!(by_address.decision, verdict.decision);
        }
        format!(
            "{:?}: {}",
            verdict.decision,
            verdict.rule.unwrap_or_default()
        )
    }

    #[test]
    fn no_rules_allow_everything() {
        let none = Rules::default();
        assert_eq!(decided(&none, "192.0.2.1:80", Some("a.example")), "Allow: ");
        assert!(
            none.decide_by_address("192.0.2.1:80".parse().unwrap())
                .is_some()
        );
        assert!(!none.needs_host());
    }

    #[test]
    fn deny_takes_precedence_over_allow() {
        let rules = rules(&["*.example.com"], &["*", "www.example.com"]);
        let host = Some("www.example.com");
        assert_eq!(
            decided(&rules, "192.0.2.1:80", host),
            "Deny: deny *.example.com"
        );
        assert_eq!(decided(&rules, "192.0.2.1:80", None), "Allow: allow *");
        assert!(rules.needs_host());
    }

    #[test]
    fn with_an_allow_rule_the_rest_is_denied() {
        let rules = rules(&[], &["example.com:443"]);
        let host = Some("example.com");
        assert_eq!(
            decided(&rules, "192.0.2.1:443", host),
            "Allow: allow example.com:443"
        );
        assert_eq!(
            decided(&rules, "192.0.2.1:443", None),
            "Deny: no allow rule matches"
        );
        assert_eq!(
            decided(&rules, "192.0.2.1:80", host),
            "Deny: no allow rule matches"
        );
        assert_eq!(
            rules.decide_by_address("192.0.2.1:443".parse().unwrap()),
            None
        );
        assert!(
            rules
                .decide_by_address("192.0.2.1:80".parse().unwrap())
                .unwrap()
                .is_deny()
        );
    }

    #[test]
    fn a_query_is_allowed_for_a_name_that_is_allowed_at_some_port() {
        let rules = rules(
            &["b.example:443", "c.example"],
            &["a.example:443", "*.example"],
        );
        let decided = |name| {
            rules
                .decide_name("192.0.2.53:53".parse().unwrap(), name)
                .decision
        };
        assert_eq!(decided("a.example"), Decision::Allow);
        assert_eq!(decided("b.example"), Decision::Allow);
        assert_eq!(decided("c.example"), Decision::Deny);
        assert_eq!(decided("example.net"), Decision::Deny);
    }

    #[test]
    fn an_address_may_decide_alone() {
        let rules = rules(
            &["bad.example", "10.0.0.0/8"],
            &["192.0.2.0/24", "good.example"],
        );
        let by_address = |text: &str| rules.decide_by_address(text.parse().unwrap());
        assert_eq!(
            by_address("10.1.2.3:80").unwrap().rule.unwrap(),
            "deny 10.0.0.0/8"
        );
        assert_eq!(by_address("192.0.2.1:80"), None); // bad.example may have this address
        assert_eq!(by_address("[2001:db8::1]:80"), None);
    }

    const PATTERNS: [&str; 8] = [
        "*",
        "*:80",
        "example.com",
        "*.example.com:80",
        "10.0.0.0/8",
        "10.0.0.1:443",
        "::/0",
        "com",
    ];

    proptest! {
        #[test]
        fn no_host_changes_a_decision_by_address(
            deny in subsequence(&PATTERNS, 0..4),
            allow in subsequence(&PATTERNS, 0..4),
            destination in select(&["10.0.0.1:80", "10.9.0.1:443", "[::1]:80", "192.0.2.1:443"]),
            host in select(&[None, Some("example.com"), Some("a.example.com"), Some("other")]),
        ) {
            decided(&rules(&deny, &allow), destination, host);
        }
    }
}
