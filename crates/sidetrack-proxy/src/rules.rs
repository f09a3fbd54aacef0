//! Which connections may go on: the rules of `--deny PATTERN` and `--allow PATTERN`.
//!
//! Deny wins over allow. If there is any allow rule, what matches none is denied. Host names are
//! what the client claims: a rule on them binds only clients that speak truly, while a rule on
//! addresses binds all.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod pattern;

pub use pattern::{PATTERN_SIZE_MAX, Pattern, PatternError};

/// What is denied and what is allowed. The default allows everything.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    deny: Vec<Pattern>,
    allow: Vec<Pattern>,
}

/// What becomes of a connection, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may go on.
    pub decision: Decision,
    /// What decided: "deny *.example.com", "no allow rule matches"; `None` if there was nothing to
    /// decide by.
    pub rule: Option<String>,
}

/// Whether a connection may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// It is relayed.
    Allow,
    /// It is refused.
    Deny,
}

impl Rules {
    /// The rules of these patterns.
    pub fn new(mut deny: Vec<Pattern>, mut allow: Vec<Pattern>) -> Self {
        // Addresses first: so `decide_by_address` and `decide` name the same rule where one on them
        // decides.
        deny.sort_by_key(Pattern::needs_host);
        allow.sort_by_key(Pattern::needs_host);
        Self { deny, allow }
    }

    /// The verdict, where the address alone decides and no host name could change it.
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

    /// The verdict, with the host name seen, if there was one.
    ///
    /// Decides as [`Self::decide_by_address`] has, if that has; but may name a rule on the host for
    /// it.
    pub fn decide(&self, destination: SocketAddr, host: Option<&str>) -> Verdict {
        let matches = |rule: &Pattern| rule.matches(destination, host);
        self.decide_with(matches, matches)
    }

    /// The verdict on a DNS query for `name` that goes to `destination`.
    ///
    /// A name that may be connected to at some port may be asked for; a rule that denies it at
    /// another port than DNS's does not deny the query.
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

    /// Whether any rule asks for a host name.
    pub fn needs_host(&self) -> bool {
        self.deny.iter().chain(&self.allow).any(Pattern::needs_host)
    }
}

impl Verdict {
    /// Whether the connection is refused.
    pub fn is_deny(&self) -> bool {
        self.decision == Decision::Deny
    }
}

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
    fn nothing_denies_nothing() {
        let none = Rules::default();
        assert_eq!(decided(&none, "192.0.2.1:80", Some("a.example")), "Allow: ");
        assert!(
            none.decide_by_address("192.0.2.1:80".parse().unwrap())
                .is_some()
        );
        assert!(!none.needs_host());
    }

    #[test]
    fn deny_wins_over_allow() {
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
    fn a_name_that_may_be_connected_to_may_be_asked_for() {
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
        assert_eq!(by_address("192.0.2.1:80"), None); // bad.example may live there
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
