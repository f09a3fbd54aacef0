//! Figures of contests: who is compared with whom, and what the ratio is to be.

use serde_json::{Value, json};

use crate::contest::Readings;
use crate::relay::contestant::Contestant;
use crate::relay::workload::Workload;
use crate::statistics::median;

/// This share of the rounds must say the same, or the run was too noisy to tell.
const AGREEING: f64 = 0.75;

/// One comparison.
pub(crate) struct Comparison {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    /// Whose value it is.
    pub(crate) subject: Contestant,
    pub(crate) workload: Workload,
    pub(crate) measure: &'static str,
    /// The best of them is what the ratio is formed with.
    pub(crate) peers: Vec<Contestant>,
    /// The values are of each hop after the first: what a chain takes more than a chain of one, by its
    /// further hops.
    pub(crate) further: bool,
    /// No way can be better.
    pub(crate) limit: Option<Contestant>,
    pub(crate) goal: Goal,
}

/// What is to be reached.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    /// Of the best peer's value.
    AtLeast(f64),
    /// Of the best peer's value.
    AtMost(f64),
    /// The value itself, in the figure's unit.
    Below(f64),
    /// More is better; no goal.
    MoreReported,
    /// Less is better; no goal.
    LessReported,
}

impl Goal {
    fn is_more_better(self) -> bool {
        matches!(self, Self::AtLeast(_) | Self::MoreReported)
    }

    fn value(self) -> Option<f64> {
        match self {
            Self::AtLeast(goal) | Self::AtMost(goal) | Self::Below(goal) => Some(goal),
            Self::MoreReported | Self::LessReported => None,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(goal) => format!("≥ {goal}"),
            Self::AtMost(goal) => format!("≤ {goal}"),
            Self::Below(goal) => format!("value ≤ {goal}"),
            Self::MoreReported | Self::LessReported => "–".to_owned(),
        }
    }

    /// By each round for itself: one that was disturbed moves nothing.
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
            _ => json!("too noisy to tell"),
        }
    }
}

impl Comparison {
    /// As results.json has it; none if the subject or every peer was left out.
    pub(crate) fn outcome(&self, topic: &str, readings: &Readings) -> Option<Value> {
        let values = |one| self.values(one, readings);
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
            "goal_text": self.goal.text(),
            "met": self.goal.judge(&own, &ratios),
            "rounds": rounds,
        }))
    }

    fn values(&self, one: Contestant, readings: &Readings) -> Option<Vec<f64>> {
        let values = |one| readings.values((one, self.workload), self.measure);
        let own = values(one)?;
        match one {
            Contestant::Chain(hops) if self.further => {
                let further = f64::from(hops) - 1.0;
                let first = values(Contestant::Chain(1))?;
                let each = own
                    .iter()
                    .zip(first)
                    .map(|(all, first)| (all - first) / further);
                Some(each.collect())
            }
            _ => Some(own),
        }
    }
}

/// To four digits: more would say more than was measured.
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
    fn rounds_that_do_not_agree_decide_nothing() {
        let goal = Goal::AtLeast(1.3);
        assert_eq!(goal.judge(&[], &[1.4, 1.4, 1.4, 1.2]), json!(true));
        assert_eq!(goal.judge(&[], &[1.4, 1.2, 1.2, 1.2]), json!(false));
        let mixed = goal.judge(&[], &[1.4, 1.4, 1.2, 1.2]);
        assert_eq!(mixed, json!("too noisy to tell"));
    }

    #[test]
    fn four_digits() {
        assert_eq!(rounded(123_456.0), 123_500.0);
        assert_eq!(rounded(253_699_912.0), 253_700_000.0);
        assert_eq!(rounded(0.012_345_6), 0.012_35);
        assert_eq!(rounded(0.0), 0.0);
    }
}
