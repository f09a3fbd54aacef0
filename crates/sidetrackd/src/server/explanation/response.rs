//! An explanation as a message of the API, with the reasons in words.

use sidetrack_api::v1;
use sidetrack_policy::explain::{
    Classification, ConnectionResult, Explanation, FilterOutcome, ListedFilter,
};
use sidetrack_policy::rank::RankedFilter;
use sidetrack_policy::reference::MatchEffect;
use sidetrack_policy::{Objects, Service, Sublayer};

/// Writes the response. Its fields are what the texts need.
pub(super) struct Renderer<'a> {
    /// The objects in force.
    pub(super) objects: &'a Objects,
    /// Their filters in the order of evaluation.
    pub(super) filters: &'a [RankedFilter<'a>],
    /// Their services, with the numbers that they have in the kernel.
    pub(super) services: &'a [(u16, &'a Service)],
    /// How the text names the program.
    pub(super) app: String,
}

impl Renderer<'_> {
    /// Returns the response. `actual_chain` are the services that have seen the connection.
    pub(super) fn response(
        &self,
        explanation: &Explanation,
        generation: u64,
        actual_chain: Vec<String>,
    ) -> v1::ExplainResponse {
        let chain: Vec<String> = explanation
            .chain
            .iter()
            .map(|&number| self.name(number))
            .collect();
        let (verdict, summary) = self.summary(explanation, &chain);
        v1::ExplainResponse {
            steps: explanation
                .classifications
                .iter()
                .map(|classification| self.step(classification))
                .collect(),
            chain,
            verdict: verdict.into(),
            summary,
            generation,
            happened: actual_chain,
        }
    }

    fn summary(&self, explanation: &Explanation, chain: &[String]) -> (v1::Verdict, String) {
        let services = match chain {
            [] => String::new(),
            chain => format!(" through {}", chain.join(", then ")),
        };
        match explanation.result {
            ConnectionResult::Blocked => {
                let last = explanation.classifications.last();
                let by = last.and_then(|classification| classification.verdict.decided_by);
                let by = by.map_or(String::new(), |rank| {
                    format!(
                        " by filter {:?}",
                        self.filters[rank as usize].filter.identity.name
                    )
                });
                (
                    v1::Verdict::Block,
                    format!("blocked{by}{}", after_services(&services)),
                )
            }
            ConnectionResult::ChainTooLong => (
                v1::Verdict::Block,
                "blocked: a 17th service would see it, and a chain has at most 16".to_owned(),
            ),
            ConnectionResult::ReachesDestination if chain.is_empty() => {
                let decided = explanation
                    .classifications
                    .iter()
                    .any(|classification| classification.verdict.decided_by.is_some());
                let verdict = if decided {
                    v1::Verdict::Permit
                } else {
                    v1::Verdict::None
                };
                (verdict, "goes directly to its destination".to_owned())
            }
            ConnectionResult::ReachesDestination => (
                v1::Verdict::Redirect,
                format!("goes{services}, then to its destination"),
            ),
        }
    }

    fn step(&self, classification: &Classification) -> v1::Step {
        let verdict = &classification.verdict;
        let service = verdict
            .redirect
            .filter(|_| !verdict.blocked)
            .and_then(|rank| self.filters[rank as usize].service)
            .map(|number| self.name(number));
        let decided = verdict.decided_by.map(|rank| &self.filters[rank as usize]);
        let (kind, reason) = match (&service, verdict.blocked, decided) {
            (_, true, Some(ranked)) => (
                v1::Verdict::Block,
                format!("filter {:?} blocks", ranked.filter.identity.name),
            ),
            (Some(service), ..) => (
                v1::Verdict::Redirect,
                format!("redirected to service {service:?}"),
            ),
            (None, _, Some(ranked)) => (
                v1::Verdict::Permit,
                format!("filter {:?} permits", ranked.filter.identity.name),
            ),
            (None, _, None) => (v1::Verdict::None, "no filter decides".to_owned()),
        };
        v1::Step {
            layer: v1::Layer::from(classification.layer).into(),
            by: classification
                .proxy_of
                .map_or_else(|| self.app.clone(), |number| self.name(number)),
            looks: classification
                .filters
                .iter()
                .map(|filter| self.look(filter, classification))
                .collect(),
            looks_left_out: classification.left_out as u64,
            verdict: kind.into(),
            service: service.unwrap_or_default(),
            filter: decided
                .map(|ranked| sidetrack_api::key_bytes(ranked.filter.identity.key))
                .unwrap_or_default(),
            reason,
        }
    }

    fn look(&self, filter: &ListedFilter, classification: &Classification) -> v1::Look {
        let ranked = &self.filters[filter.rank as usize];
        let (outcome, reason) = outcome(filter, classification);
        let sublayer = self.objects.get::<Sublayer>(ranked.sublayer);
        v1::Look {
            filter: sidetrack_api::key_bytes(ranked.filter.identity.key),
            name: ranked.filter.identity.name.clone(),
            id: ranked.filter.id,
            sublayer: sidetrack_api::key_bytes(ranked.sublayer),
            sublayer_name: sublayer
                .map(|found| found.identity.name.clone())
                .unwrap_or_default(),
            sublayer_weight: ranked.sublayer_weight.into(),
            weight: ranked.weight,
            action: v1::Action::from(ranked.filter.action).into(),
            service: ranked
                .service
                .map(|number| self.name(number))
                .unwrap_or_default(),
            outcome: outcome.into(),
            reason,
        }
    }

    /// Returns a service's name, or its number if it has been removed.
    fn name(&self, number: u16) -> String {
        let known = self.services.iter().find(|(known, _)| *known == number);
        known.map_or_else(
            || format!("#{number}"),
            |(_, service)| service.identity.name.clone(),
        )
    }
}

/// Returns the end of a sentence about a blocked connection, with the services that have seen it.
fn after_services(services: &str) -> String {
    match services {
        "" => String::new(),
        services => format!(", after it went{services}"),
    }
}

/// Returns what a filter did, with the reason in words.
fn outcome(filter: &ListedFilter, classification: &Classification) -> (v1::look::Outcome, String) {
    use v1::look::Outcome as ApiOutcome;
    let effect = match &filter.outcome {
        FilterOutcome::NoMatch(requirement) => {
            return (ApiOutcome::NoMatch, format!("it requires {requirement}"));
        }
        FilterOutcome::NotReached => {
            return (
                ApiOutcome::NotReached,
                "its sublayer had decided, or no filter could change the verdict".into(),
            );
        }
        FilterOutcome::Matched(effect) => effect,
    };
    let verdict = &classification.verdict;
    let decides = verdict.decided_by == Some(filter.rank)
        || (verdict.redirect == Some(filter.rank) && !verdict.blocked);
    match effect {
        MatchEffect::AlreadySeen => (
            ApiOutcome::PassedOver,
            "its service has already seen the connection".into(),
        ),
        MatchEffect::AssumedSeen => (
            ApiOutcome::PassedOver,
            "its service counts as seen: a legacy proxy comes after it".into(),
        ),
        MatchEffect::OwnTraffic => (
            ApiOutcome::PassedOver,
            "the connection is a service's own traffic".into(),
        ),
        MatchEffect::NoActionRight => (
            ApiOutcome::PassedOver,
            "the verdict of a higher sublayer is hard".into(),
        ),
        MatchEffect::AbsentSkipped => {
            (ApiOutcome::PassedOver, "its service has no listener".into())
        }
        MatchEffect::Inspected => (ApiOutcome::PassedOver, "it only reports an event".into()),
        MatchEffect::AbsentBlocked => (ApiOutcome::Decided, "its service has no listener".into()),
        _ if decides => (ApiOutcome::Decided, String::new()),
        MatchEffect::RedirectedElsewhere => (
            ApiOutcome::Overridden,
            "a higher sublayer redirects already".into(),
        ),
        _ => (
            ApiOutcome::Overridden,
            "the verdict of another sublayer overrules it".into(),
        ),
    }
}
