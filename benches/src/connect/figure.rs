//! The figures: which cases are compared, by what measure, and with what goal.

use serde::Serialize;
use serde_json::{Value, json};

use crate::connect::case::ConnectCase;
use crate::connect::measured::Measured;
use crate::connect::round::ConnectRound;
use crate::statistics::{deviation, median};

/// The largest spread (median absolute deviation divided by the median) with which a run decides
/// anything. It applies to the direct case and to both cases that are compared.
pub(crate) const NOISE_MAX: f64 = 0.05;

/// A figure: a measure of one case, divided by the same measure of another case.
pub(crate) struct ConnectFigure {
    /// The figure's name in results.json and on the page.
    name: &'static str,
    measure: ConnectMeasure,
    /// The case whose value this is.
    subject: ConnectCase,
    /// The case by whose value it is divided.
    over: ConnectCase,
    /// The cases of which the best is shown as the best peer.
    peers: &'static [ConnectCase],
    goal: ConnectGoal,
}

/// The value that is taken from each round. Of times it is the median of single connections, which
/// does not change when another process gets the CPU for a moment. The mean and the 99th percentile
/// are separate figures.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ConnectMeasure {
    Connect,
    ToQuery,
    ToQueryMean,
    ToQueryTail,
    ToClose,
    Query,
    Cpu,
    /// The CPU time minus that of the direct case in the same round.
    CpuAdded,
    Memory,
}

/// What the ratio of a [`ConnectFigure`] has to reach.
#[derive(Clone, Copy)]
enum ConnectGoal {
    AtMost(f64),
    /// At most this plus the noise of the run.
    WithinNoise(f64),
    /// There is no goal.
    Reported,
}

/// All figures, in the order of the tables.
pub(crate) const FIGURES: [ConnectFigure; 18] = [
    redirected(
        "connect + accept + query",
        ConnectMeasure::ToQuery,
        ConnectGoal::AtMost(0.85),
    ),
    redirected(
        "connect + accept + query + close",
        ConnectMeasure::ToClose,
        ConnectGoal::Reported,
    ),
    redirected(
        "CPU time to close",
        ConnectMeasure::Cpu,
        ConnectGoal::Reported,
    ),
    redirected(
        "connect + accept + query, mean",
        ConnectMeasure::ToQueryMean,
        ConnectGoal::Reported,
    ),
    redirected(
        "connect + accept + query, 99th percentile",
        ConnectMeasure::ToQueryTail,
        ConnectGoal::Reported,
    ),
    redirected(
        "the query alone",
        ConnectMeasure::Query,
        ConnectGoal::Reported,
    ),
    bystander(
        "connect, no filter matches",
        ConnectCase::Unmatched,
        ConnectMeasure::Connect,
        ConnectGoal::AtMost(1.05),
    ),
    bystander(
        "from connect to close, no filter matches",
        ConnectCase::Unmatched,
        ConnectMeasure::ToClose,
        ConnectGoal::Reported,
    ),
    bystander(
        "CPU time to close, no filter matches",
        ConnectCase::Unmatched,
        ConnectMeasure::Cpu,
        ConnectGoal::Reported,
    ),
    added(
        "CPU time added to a redirected connection, query included",
        ConnectCase::Sidetrack,
        ConnectCase::Nft,
        ConnectGoal::AtMost(0.7),
    ),
    added(
        "CPU time added to a connection in scope that no filter matches",
        ConnectCase::Unmatched,
        ConnectCase::NftUnmatched,
        ConnectGoal::AtMost(0.3),
    ),
    bystander(
        "connect, outside the scope",
        ConnectCase::Outside,
        ConnectMeasure::Connect,
        ConnectGoal::WithinNoise(1.0),
    ),
    bystander(
        "from connect to close, outside the scope",
        ConnectCase::Outside,
        ConnectMeasure::ToClose,
        ConnectGoal::Reported,
    ),
    over_empty(
        "connect, no filter matches, over empty programs",
        ConnectCase::Unmatched,
        ConnectCase::EmptyInScope,
    ),
    over_empty(
        "connect, outside the scope, over an empty program",
        ConnectCase::Outside,
        ConnectCase::EmptyElsewhere,
    ),
    redirected(
        "memory of a tracked idle connection",
        ConnectMeasure::Memory,
        ConnectGoal::Reported,
    ),
    under_filters(
        "connect under 1,000 filters, over 10",
        ConnectCase::Filters1000,
        ConnectGoal::Reported,
    ),
    under_filters(
        "connect under 100,000 filters, over 10",
        ConnectCase::Filters100000,
        ConnectGoal::AtMost(1.15),
    ),
];

/// A connect under many filters, divided by one under few filters.
const fn under_filters(
    name: &'static str,
    subject: ConnectCase,
    goal: ConnectGoal,
) -> ConnectFigure {
    ConnectFigure {
        name,
        measure: ConnectMeasure::Connect,
        subject,
        over: ConnectCase::Filters10,
        peers: &[ConnectCase::NftLinear, ConnectCase::NftSet],
        goal,
    }
}

/// The cost that is added to the direct case, divided by the cost that a peer adds.
const fn added(
    name: &'static str,
    subject: ConnectCase,
    over: ConnectCase,
    goal: ConnectGoal,
) -> ConnectFigure {
    ConnectFigure {
        name,
        measure: ConnectMeasure::CpuAdded,
        subject,
        over,
        peers: match over {
            ConnectCase::Nft => &[ConnectCase::Nft],
            _ => &[ConnectCase::NftUnmatched],
        },
        goal,
    }
}

/// Sidetrack divided by nftables, both of which redirect.
const fn redirected(
    name: &'static str,
    measure: ConnectMeasure,
    goal: ConnectGoal,
) -> ConnectFigure {
    ConnectFigure {
        name,
        measure,
        subject: ConnectCase::Sidetrack,
        over: ConnectCase::Nft,
        peers: &[ConnectCase::Nft],
        goal,
    }
}

/// A connection that is not redirected, divided by one with nothing attached.
const fn bystander(
    name: &'static str,
    subject: ConnectCase,
    measure: ConnectMeasure,
    goal: ConnectGoal,
) -> ConnectFigure {
    ConnectFigure {
        name,
        measure,
        subject,
        over: ConnectCase::None,
        peers: &[ConnectCase::NftUnmatched],
        goal,
    }
}

/// A connection that is not redirected, divided by one with programs that do nothing at the same
/// hooks. This shows how much of the cost is Sidetrack's own.
const fn over_empty(name: &'static str, subject: ConnectCase, over: ConnectCase) -> ConnectFigure {
    ConnectFigure {
        over,
        ..bystander(
            name,
            subject,
            ConnectMeasure::Connect,
            ConnectGoal::Reported,
        )
    }
}

/// The result of a figure, as results.json stores it.
#[derive(Serialize)]
pub(crate) struct FigureResult {
    /// The figure's name.
    pub(crate) name: String,
    /// The unit of the values.
    pub(crate) unit: &'static str,
    /// Sidetrack's value: the median of the rounds.
    pub(crate) sidetrack: f64,
    /// The name of the best peer.
    pub(crate) best_peer: &'static str,
    /// The best peer's value: the median of the rounds.
    pub(crate) best_peer_value: f64,
    /// The value with nothing attached; no case can be below it.
    pub(crate) limit: Option<f64>,
    /// The median of the ratios of the rounds.
    pub(crate) ratio: f64,
    /// The maximum of the ratio; `null` if there is no goal.
    pub(crate) goal: Option<f64>,
    /// true, false, "too noisy", or null if there is no goal.
    pub(crate) met: Value,
    /// The values and the ratio of each round.
    pub(crate) rounds: Vec<RoundResult>,
    /// The ratio of the medians. If it differs much from `ratio`, conditions changed during the
    /// run.
    #[serde(skip)]
    pub(crate) ratio_of_medians: f64,
    /// The case by whose value Sidetrack's was divided.
    #[serde(skip)]
    pub(crate) over: ConnectCase,
}

/// The values of one round; both cases ran within seconds of each other.
#[derive(Serialize)]
pub(crate) struct RoundResult {
    sidetrack: f64,
    over: f64,
    ratio: f64,
}

impl ConnectFigure {
    /// Computes the figure from what was measured.
    pub(crate) fn result(&self, measured: &Measured) -> FigureResult {
        let own = self.measure.values(measured, self.subject);
        let over = self.measure.values(measured, self.over);
        let ratios: Vec<f64> = own.iter().zip(&over).map(|(a, b)| a / b).collect();
        let (best_peer, best_peer_value) = self.best_peer(measured);
        let limit = self
            .measure
            .has_limit()
            .then(|| median(&self.measure.values(measured, ConnectCase::None)));
        FigureResult {
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
                .map(|(&own, &over)| RoundResult {
                    sidetrack: tenth(own),
                    over: tenth(over),
                    ratio: thousandth(own / over),
                })
                .collect(),
            ratio_of_medians: thousandth(median(&own) / median(&over)),
            over: self.over,
        }
    }

    /// The largest spread of the rounds among the direct case and the two cases that are compared.
    fn noise(&self, measured: &Measured) -> f64 {
        // The noise of a difference is that of the values that are subtracted.
        let measure = match self.measure {
            ConnectMeasure::CpuAdded => ConnectMeasure::Cpu,
            measure => measure,
        };
        [ConnectCase::None, self.subject, self.over]
            .into_iter()
            .map(|case| {
                let values = measure.values(measured, case);
                deviation(&values) / median(&values)
            })
            .fold(0.0, f64::max)
    }

    fn best_peer(&self, measured: &Measured) -> (ConnectCase, f64) {
        self.peers
            .iter()
            .map(|&peer| (peer, median(&self.measure.values(measured, peer))))
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .expect("each figure names a peer")
    }
}

impl ConnectMeasure {
    fn values(self, measured: &Measured, case: ConnectCase) -> Vec<f64> {
        if self == Self::Memory {
            return memory_added(measured, case);
        }
        let rounds = |case| measured.rounds.get(&case).into_iter().flatten();
        if self == Self::CpuAdded {
            let pairs = rounds(case).zip(rounds(ConnectCase::None));
            return pairs
                .map(|(round, direct)| round.cpu_ns - direct.cpu_ns)
                .collect();
        }
        rounds(case).map(|round| self.of(round)).collect()
    }

    fn of(self, round: &ConnectRound) -> f64 {
        match self {
            Self::Connect => round.connect.p50,
            Self::ToQuery => round.asked.p50,
            Self::ToQueryMean => round.asked.mean,
            Self::ToQueryTail => round.asked.p99,
            Self::ToClose => round.whole.p50,
            Self::Query => round.query.p50,
            Self::Cpu | Self::CpuAdded => round.cpu_ns,
            Self::Memory => 0.0, // no part of a round
        }
    }

    fn unit(self) -> &'static str {
        if self == Self::Memory { "bytes" } else { "ns" }
    }

    /// The direct case has no query and tracks nothing.
    fn has_limit(self) -> bool {
        !matches!(self, Self::Query | Self::Memory | Self::CpuAdded)
    }
}

/// The kernel memory of a connection minus that of a direct one, for each reading.
fn memory_added(measured: &Measured, case: ConnectCase) -> Vec<f64> {
    let of = |case| measured.held.get(&case).into_iter().flatten();
    of(case)
        .zip(of(ConnectCase::None))
        .map(|(held, direct)| held.bytes - direct.bytes)
        .collect()
}

impl ConnectGoal {
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
            _ if noise > NOISE_MAX => json!("too noisy"),
            Self::AtMost(goal) => json!(ratio <= goal),
            Self::WithinNoise(goal) => json!(ratio <= goal + noise.max(deviation(ratios))),
        }
    }
}

/// Rounds to a tenth; the measurement is not more precise than that.
pub(crate) fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Rounds to a thousandth.
pub(crate) fn thousandth(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_noisy_run_decides_nothing() {
        let goal = ConnectGoal::AtMost(0.85);
        assert_eq!(goal.judge(&[0.5], 0.06), json!("too noisy"));
        assert_eq!(goal.judge(&[0.5], 0.01), json!(true));
        assert_eq!(goal.judge(&[0.9], 0.01), json!(false));
    }

    #[test]
    fn within_noise_adds_the_noise_to_the_goal() {
        let goal = ConnectGoal::WithinNoise(1.0);
        assert_eq!(goal.judge(&[1.01], 0.02), json!(true));
        assert_eq!(goal.judge(&[1.03], 0.02), json!(false));
    }
}
