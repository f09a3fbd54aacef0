//! The figures: what is compared with what, and what it is to be.

use serde::Serialize;
use serde_json::{Value, json};

use crate::connect::case::Case;
use crate::connect::plan::Measured;
use crate::connect::round::Round;
use crate::statistics::{deviation, median};

/// With more than this share of spread (median absolute deviation over median) in the direct case or in
/// one of the two compared, a run decides nothing.
pub(crate) const NOISE_MAX: f64 = 0.05;

/// One comparison.
pub(crate) struct Figure {
    name: &'static str,
    measure: Measure,
    /// Whose value it is,
    subject: Case,
    /// divided by whose.
    over: Case,
    peers: &'static [Case],
    goal: Goal,
}

/// What is taken of each round: of times the median of single connections, which another process's
/// turn on the CPU does not move; the mean and the tail are figures of their own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Measure {
    Connect,
    Asked,
    AskedMean,
    AskedTail,
    Whole,
    Query,
    Cpu,
    Memory,
}

/// What the ratio is to be.
#[derive(Clone, Copy)]
enum Goal {
    AtMost(f64),
    /// At most this, but for the noise of this run.
    WithinNoise(f64),
    Reported,
}

/// All of them, in the order of the tables.
pub(crate) const FIGURES: [Figure; 16] = [
    redirected(
        "connect + accept + query",
        Measure::Asked,
        Goal::AtMost(0.85),
    ),
    redirected(
        "connect + accept + query + close",
        Measure::Whole,
        Goal::Reported,
    ),
    redirected("CPU time to close", Measure::Cpu, Goal::Reported),
    redirected(
        "connect + accept + query, mean",
        Measure::AskedMean,
        Goal::Reported,
    ),
    redirected(
        "connect + accept + query, 99th percentile",
        Measure::AskedTail,
        Goal::Reported,
    ),
    redirected("the query alone", Measure::Query, Goal::Reported),
    bystander(
        "connect, no filter matches",
        Case::Unmatched,
        Measure::Connect,
        Goal::AtMost(1.05),
    ),
    bystander(
        "from connect to close, no filter matches",
        Case::Unmatched,
        Measure::Whole,
        Goal::Reported,
    ),
    bystander(
        "CPU time to close, no filter matches",
        Case::Unmatched,
        Measure::Cpu,
        Goal::Reported,
    ),
    bystander(
        "connect, outside the scope",
        Case::Outside,
        Measure::Connect,
        Goal::WithinNoise(1.0),
    ),
    bystander(
        "from connect to close, outside the scope",
        Case::Outside,
        Measure::Whole,
        Goal::Reported,
    ),
    over_empty(
        "connect, no filter matches, over empty programs",
        Case::Unmatched,
        Case::EmptyInScope,
    ),
    over_empty(
        "connect, outside the scope, over an empty program",
        Case::Outside,
        Case::EmptyElsewhere,
    ),
    redirected(
        "memory of a tracked idle connection",
        Measure::Memory,
        Goal::Reported,
    ),
    under_filters(
        "connect under 1,000 filters, over 10",
        Case::Filters1000,
        Goal::Reported,
    ),
    under_filters(
        "connect under 100,000 filters, over 10",
        Case::Filters100000,
        Goal::AtMost(1.15),
    ),
];

/// A connect under many filters, over one under few.
const fn under_filters(name: &'static str, subject: Case, goal: Goal) -> Figure {
    Figure {
        name,
        measure: Measure::Connect,
        subject,
        over: Case::Filters10,
        peers: &[Case::NftLinear, Case::NftSet],
        goal,
    }
}

/// Sidetrack over nftables, both redirecting.
const fn redirected(name: &'static str, measure: Measure, goal: Goal) -> Figure {
    Figure {
        name,
        measure,
        subject: Case::Sidetrack,
        over: Case::Nft,
        peers: &[Case::Nft],
        goal,
    }
}

/// A connection that is not redirected, over one with nothing attached.
const fn bystander(name: &'static str, subject: Case, measure: Measure, goal: Goal) -> Figure {
    Figure {
        name,
        measure,
        subject,
        over: Case::None,
        peers: &[Case::NftUnmatched],
        goal,
    }
}

/// The same, over programs at the same hooks that do nothing: how much of it is ours.
const fn over_empty(name: &'static str, subject: Case, over: Case) -> Figure {
    Figure {
        over,
        ..bystander(name, subject, Measure::Connect, Goal::Reported)
    }
}

/// A figure, found.
#[derive(Serialize)]
pub(crate) struct Outcome {
    /// What was measured.
    pub(crate) name: String,
    /// Of the values.
    pub(crate) unit: &'static str,
    /// Sidetrack's value: the median of the rounds.
    pub(crate) sidetrack: f64,
    /// The best of the others that do the same.
    pub(crate) best_peer: &'static str,
    /// Its value.
    pub(crate) best_peer_value: f64,
    /// What the kernel takes with nothing attached; no way can be below that.
    pub(crate) limit: Option<f64>,
    /// The median of the rounds' own ratios.
    pub(crate) ratio: f64,
    /// What the ratio is to be at most; `null` if it is only reported.
    pub(crate) goal: Option<f64>,
    /// true, false, "too noisy to tell", or null if there is no goal.
    pub(crate) met: Value,
    /// Each round's values and ratio.
    pub(crate) rounds: Vec<Pair>,
    /// Of the medians, to compare with `ratio`: far apart, the run was uneven.
    #[serde(skip)]
    pub(crate) ratio_of_medians: f64,
    /// What it was divided by.
    #[serde(skip)]
    pub(crate) over: Case,
}

/// A round: both cases ran within seconds of each other.
#[derive(Serialize)]
pub(crate) struct Pair {
    sidetrack: f64,
    over: f64,
    ratio: f64,
}

impl Figure {
    /// Works it out.
    pub(crate) fn outcome(&self, measured: &Measured) -> Outcome {
        let own = self.measure.values(measured, self.subject);
        let over = self.measure.values(measured, self.over);
        let ratios: Vec<f64> = own.iter().zip(&over).map(|(a, b)| a / b).collect();
        let (best_peer, best_peer_value) = self.best_peer(measured);
        let limit = self
            .measure
            .has_limit()
            .then(|| median(&self.measure.values(measured, Case::None)));
        Outcome {
            name: self.name.to_owned(),
            unit: self.measure.unit(),
            sidetrack: tenth(median(&own)),
            best_peer: best_peer.name(),
            best_peer_value: tenth(best_peer_value),
            limit: limit.map(tenth),
            ratio: thousandth(median(&ratios)),
            goal: self.goal.value(),
            met: self.goal.judge(&ratios, self.noise(measured)),
            rounds: own
                .iter()
                .zip(&over)
                .map(|(&own, &over)| Pair {
                    sidetrack: tenth(own),
                    over: tenth(over),
                    ratio: thousandth(own / over),
                })
                .collect(),
            ratio_of_medians: thousandth(median(&own) / median(&over)),
            over: self.over,
        }
    }

    /// The widest spread of the rounds, of the direct case and of the two compared.
    fn noise(&self, measured: &Measured) -> f64 {
        [Case::None, self.subject, self.over]
            .into_iter()
            .map(|case| {
                let values = self.measure.values(measured, case);
                deviation(&values) / median(&values)
            })
            .fold(0.0, f64::max)
    }

    fn best_peer(&self, measured: &Measured) -> (Case, f64) {
        self.peers
            .iter()
            .map(|&peer| (peer, median(&self.measure.values(measured, peer))))
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .expect("each figure names a peer")
    }
}

impl Measure {
    fn values(self, measured: &Measured, case: Case) -> Vec<f64> {
        if self == Self::Memory {
            return tracking(measured, case);
        }
        let rounds = measured.rounds.get(&case).into_iter().flatten();
        rounds.map(|round| self.of(round)).collect()
    }

    fn of(self, round: &Round) -> f64 {
        match self {
            Self::Connect => round.connect.p50,
            Self::Asked => round.asked.p50,
            Self::AskedMean => round.asked.mean,
            Self::AskedTail => round.asked.p99,
            Self::Whole => round.whole.p50,
            Self::Query => round.query.p50,
            Self::Cpu => round.cpu_ns,
            Self::Memory => 0.0, // not of a round
        }
    }

    fn unit(self) -> &'static str {
        if self == Self::Memory { "bytes" } else { "ns" }
    }

    /// The direct case has no query and tracks nothing.
    fn has_limit(self) -> bool {
        !matches!(self, Self::Query | Self::Memory)
    }
}

/// What a connection takes more than a direct one.
fn tracking(measured: &Measured, case: Case) -> Vec<f64> {
    let of = |case| measured.held.get(&case).into_iter().flatten();
    of(case)
        .zip(of(Case::None))
        .map(|(held, direct)| held.bytes - direct.bytes)
        .collect()
}

impl Goal {
    fn value(self) -> Option<f64> {
        match self {
            Self::AtMost(goal) | Self::WithinNoise(goal) => Some(goal),
            Self::Reported => None,
        }
    }

    fn judge(self, ratios: &[f64], noise: f64) -> Value {
        let ratio = median(ratios);
        match self {
            Self::Reported => Value::Null,
            _ if noise > NOISE_MAX => json!("too noisy to tell"),
            Self::AtMost(goal) => json!(ratio <= goal),
            Self::WithinNoise(goal) => json!(ratio <= goal + noise.max(deviation(ratios))),
        }
    }
}

/// Rounded to a tenth: more digits would say more than was measured.
pub(crate) fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Rounded to a thousandth.
pub(crate) fn thousandth(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_noisy_run_decides_nothing() {
        let goal = Goal::AtMost(0.85);
        assert_eq!(goal.judge(&[0.5], 0.06), json!("too noisy to tell"));
        assert_eq!(goal.judge(&[0.5], 0.01), json!(true));
        assert_eq!(goal.judge(&[0.9], 0.01), json!(false));
    }

    #[test]
    fn within_noise_allows_the_noise_and_no_more() {
        let goal = Goal::WithinNoise(1.0);
        assert_eq!(goal.judge(&[1.01], 0.02), json!(true));
        assert_eq!(goal.judge(&[1.03], 0.02), json!(false));
    }
}
