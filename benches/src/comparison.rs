//! The figures of contests: which contestant is compared with which peers, and the goal of the
//! ratio.

use serde_json::{Value, json};

use crate::contest::Readings;
use crate::relay::contestant::Contestant;
use crate::relay::workload::Workload;
use crate::statistics::median;
use crate::value::with_unit;

/// The share of the rounds that must agree. If fewer do, the run was too noisy.
const AGREEING: f64 = 0.75;

/// A figure: a measure of one contestant, compared with the same measure of its best peer.
pub(crate) struct Comparison {
    /// The figure's name in results.json and on the pages.
    pub(crate) name: String,
    /// The unit of the values.
    pub(crate) unit: &'static str,
    /// The contestant whose value this is.
    pub(crate) subject: Contestant,
    /// The traffic under which all of them are measured.
    pub(crate) workload: Workload,
    /// The key of the value in a [`Reading`](crate::relay::workload::Reading).
    pub(crate) measure: &'static str,
    /// The contestants to compare with. The ratio is formed with the one that has the best median.
    pub(crate) peers: Vec<Contestant>,
    /// What the compared values are the cost of.
    pub(crate) cost_of: CostOf,
    /// A contestant that none of the others can surpass.
    pub(crate) limit: Option<Contestant>,
    /// What the ratio or the value has to reach.
    pub(crate) goal: ContestGoal,
}

/// What a value that is compared is the cost of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum CostOf {
    /// The contestant's whole path, as it was measured.
    Path,
    /// A further hop of a chain: what it costs more than a chain of one service, divided by the number
    /// of its further hops.
    FurtherHop,
    /// A hop: what a chain costs more than a direct connection, divided by the number of its services.
    Hop,
}

/// What a [`Comparison`] has to reach.
#[derive(Clone, Copy)]
pub(crate) enum ContestGoal {
    /// The value is at least this multiple of the best peer's value.
    AtLeast(f64),
    /// The value is at most this multiple of the best peer's value.
    AtMost(f64),
    /// The value itself is at most this, in the figure's unit.
    Below(f64),
    /// There is no goal, and a larger value is better.
    MoreReported,
    /// There is no goal, and a smaller value is better.
    LessReported,
}

impl ContestGoal {
    fn is_more_better(self) -> bool {
        matches!(self, Self::AtLeast(_) | Self::MoreReported)
    }

    fn value(self) -> Option<f64> {
        match self {
            Self::AtLeast(goal) | Self::AtMost(goal) | Self::Below(goal) => Some(goal),
            Self::MoreReported | Self::LessReported => None,
        }
    }

    fn text(self, unit: &str) -> String {
        match self {
            Self::AtLeast(goal) => format!("≥ {goal}"),
            Self::AtMost(goal) => format!("≤ {goal}"),
            Self::Below(goal) => format!("value ≤ {}", with_unit(goal, unit)),
            Self::MoreReported | Self::LessReported => "–".to_owned(),
        }
    }

    /// Judges each round separately, so that a single disturbed round changes nothing.
    fn judge(self, own: &[f64], ratios: &[f64]) -> Value {
        let verdicts: Vec<bool> = match self {
            Self::AtLeast(goal) => ratios.iter().map(|ratio| *ratio >= goal).collect(),
            Self::AtMost(goal) => ratios.iter().map(|ratio| *ratio <= goal).collect(),
            Self::Below(goal) => own.iter().map(|value| *value <= goal).collect(),
            Self::MoreReported | Self::LessReported => return Value::Null,
        };
        let met = verdicts.iter().filter(|met| **met).count() as f64 / verdicts.len() as f64;
        match met {
            share if share >= AGREEING => json!(true),
            share if share <= 1.0 - AGREEING => json!(false),
            _ => json!("too noisy"),
        }
    }
}

impl Comparison {
    /// The figure as results.json stores it. `None` if the subject or every peer was left out.
    pub(crate) fn result(&self, topic: &str, readings: &Readings) -> Option<Value> {
        let values = |contestant| self.values(contestant, readings);
        let own = values(self.subject)?;
        let medians = self
            .peers
            .iter()
            .filter_map(|peer| Some((*peer, median(&values(*peer)?))));
        let better = |a: &(Contestant, f64), b: &(Contestant, f64)| a.1.total_cmp(&b.1);
        let best = match self.goal.is_more_better() {
            true => medians.max_by(better),
            false => medians.min_by(better),
        };
        let (peer, peer_value) = best?;
        let peer_values = values(peer)?;
        let ratios: Vec<f64> = own.iter().zip(&peer_values).map(|(a, b)| a / b).collect();
        let rounds: Vec<Value> = own
            .iter()
            .zip(&peer_values)
            .map(|(own, over)| {
                json!({ "sidetrack": rounded(*own), "over": rounded(*over), "ratio": rounded(own / over) })
            })
            .collect();
        let limit = self
            .limit
            .and_then(|limit| Some(rounded(median(&values(limit)?))));
        Some(json!({
            "topic": topic,
            "name": self.name,
            "unit": self.unit,
            "sidetrack": rounded(median(&own)),
            "best_peer": peer.name(),
            "best_peer_value": rounded(peer_value),
            "limit": limit,
            "ratio": rounded(median(&ratios)),
            "goal": self.goal.value(),
            "goal_text": self.goal.text(self.unit),
            "met": self.goal.judge(&own, &ratios),
            "rounds": rounds,
        }))
    }

    fn values(&self, contestant: Contestant, readings: &Readings) -> Option<Vec<f64>> {
        let values = |contestant| readings.values((contestant, self.workload), self.measure);
        let own = values(contestant)?;
        let services = f64::from(contestant.services());
        let (base, hops) = match self.cost_of {
            CostOf::FurtherHop if services > 0.0 => (Contestant::Chain(1), services - 1.0),
            CostOf::Hop if services > 0.0 => (Contestant::Direct, services),
            _ => return Some(own),
        };
        let each_hop = own.iter().zip(values(base)?);
        Some(each_hop.map(|(all, base)| (all - base) / hops).collect())
    }
}

/// Rounds to four significant digits; the measurement is not more precise than that.
pub(crate) fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let digits = 3 - value.abs().log10().floor() as i32;
    match digits {
        0.. => (value * 10_f64.powi(digits)).round() / 10_f64.powi(digits),
        _ => (value / 10_f64.powi(-digits)).round() * 10_f64.powi(-digits),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_that_disagree_decide_nothing() {
        let goal = ContestGoal::AtLeast(1.3);
        assert_eq!(goal.judge(&[], &[1.4, 1.4, 1.4, 1.2]), json!(true));
        assert_eq!(goal.judge(&[], &[1.4, 1.2, 1.2, 1.2]), json!(false));
        let mixed = goal.judge(&[], &[1.4, 1.4, 1.2, 1.2]);
        assert_eq!(mixed, json!("too noisy"));
    }

    #[test]
    fn values_are_rounded_to_four_digits() {
        assert_eq!(rounded(123_456.0), 123_500.0);
        assert_eq!(rounded(253_699_912.0), 253_700_000.0);
        assert_eq!(rounded(0.012_345_6), 0.012_35);
        assert_eq!(rounded(0.0), 0.0);
    }
}
