//! From the values of both sides to a verdict.
//!
//! Round by round, the value of the head is divided by the value of the base. Both were taken
//! within seconds of each other and in alternating order, so whatever drifts on the machine moves
//! both. If nothing changed, each ratio is therefore as likely to lie above 1 as below it, like the
//! sides of a coin. The sign test assumes no more than that: its interval for the median runs from
//! one of the smallest ratios to one of the largest, however they are distributed, and a few
//! disturbed rounds do not widen it.

use serde::Serialize;

use crate::statistics::median;

/// How likely it is, at least, that the interval contains the true median. With 35 figures that did
/// not change, one run in five has one whose interval lies on one side of 1; [`MARGIN`] makes a
/// wrong verdict rarer than that.
const CONFIDENCE: f64 = 0.99;
/// With fewer rounds, no interval reaches [`CONFIDENCE`]: by chance, all 7 rounds of one figure in
/// 64 lie on the same side of 1.
pub(super) const ROUNDS_MIN: u32 = 8;
/// A smaller change is not reported, even if it is certain: the same code, compiled at another path
/// or placed at another address, differs by as much.
const MARGIN: f64 = 0.02;
/// If the interval reaches further from 1 than this, a change that matters could hide in it.
const TOLERANCE: f64 = 0.05;

/// Which direction of a figure is an improvement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Better {
    /// A smaller value: times and memory.
    Less,
    /// A larger value: rates and throughput.
    More,
}

/// What the rounds say about one figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    /// The head is better, by more than the margin and the noise.
    Faster,
    /// The head is worse, by more than the margin and the noise.
    Slower,
    /// No change that is larger than the tolerance.
    Same,
    /// The rounds differ so much that a change could hide among them.
    TooNoisy,
}

/// How the head differs from the base in one figure.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Change {
    /// Head divided by base: the median of the rounds.
    pub(super) ratio: f64,
    /// The true ratio is not below this, with a confidence of 99 %.
    pub(super) low: f64,
    /// The true ratio is not above this, with a confidence of 99 %.
    pub(super) high: f64,
    /// What follows from them.
    pub(super) verdict: Verdict,
}

/// Compares the values of the rounds; `base[n]` and `head[n]` are of the same round.
///
/// If a value is not positive, there is no ratio and the verdict is [`Verdict::TooNoisy`]. Memory is
/// the difference of two readings, so it can be 0 or less.
pub(super) fn compare(base: &[f64], head: &[f64], better: Better) -> Change {
    let has_no_ratio = |value: &f64| !value.is_finite() || *value <= 0.0;
    if base.iter().chain(head).any(has_no_ratio) {
        return Change {
            ratio: f64::NAN,
            low: 0.0,
            high: f64::INFINITY,
            verdict: Verdict::TooNoisy,
        };
    }
    let rounds = base.iter().zip(head);
    let mut ratios: Vec<f64> = rounds.map(|(base, head)| head / base).collect();
    ratios.sort_by(f64::total_cmp);
    let (ratio, (low, high)) = (median(&ratios), interval(&ratios));
    Change {
        ratio,
        low,
        high,
        verdict: match better {
            Better::Less => judge(ratio, low, high),
            // A rate that falls to a half is a time that doubles.
            Better::More => judge(1.0 / ratio, 1.0 / high, 1.0 / low),
        },
    }
}

/// The verdict on a cost: above 1, the head costs more than the base.
fn judge(ratio: f64, low: f64, high: f64) -> Verdict {
    if low > 1.0 && ratio > 1.0 + MARGIN {
        Verdict::Slower
    } else if high < 1.0 && ratio < 1.0 / (1.0 + MARGIN) {
        Verdict::Faster
    } else if low > 1.0 / (1.0 + TOLERANCE) && high < 1.0 + TOLERANCE {
        Verdict::Same
    } else {
        Verdict::TooNoisy
    }
}

/// The interval of the sign test: a few of the sorted ratios are left out at either end.
fn interval(sorted: &[f64]) -> (f64, f64) {
    match left_out_at_each_end(sorted.len()) {
        Some(count) => (sorted[count], sorted[sorted.len() - 1 - count]),
        None => (0.0, f64::INFINITY),
    }
}

/// The largest `count` for which chance puts `count` or fewer of the rounds below 1 in at most half
/// of `1 - CONFIDENCE` of all cases. `None` if even 0 is more likely than that.
fn left_out_at_each_end(rounds: usize) -> Option<usize> {
    let mut probability = 0.5_f64.powi(rounds as i32); // of no round below 1
    let mut sum = 0.0;
    (0..rounds)
        .take_while(|below| {
            sum += probability;
            probability *= (rounds - below) as f64 / (below + 1) as f64;
            sum <= (1.0 - CONFIDENCE) / 2.0
        })
        .last()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twelve rounds whose noise, in per cent, sums to nothing.
    const NOISE: [f64; 12] = [
        0.4, -1.1, 0.9, -0.3, 1.6, -0.8, 0.1, -1.5, 1.2, -0.6, 0.7, -0.6,
    ];

    fn verdict(ratio: f64, noise_factor: f64, better: Better) -> Verdict {
        let base = [200.0; 12];
        let head = NOISE.map(|percent| 200.0 * ratio * (1.0 + noise_factor * percent / 100.0));
        compare(&base, &head, better).verdict
    }

    #[test]
    fn a_change_is_judged_by_the_direction_that_is_better() {
        assert_eq!(verdict(1.1, 1.0, Better::Less), Verdict::Slower);
        assert_eq!(verdict(0.9, 1.0, Better::Less), Verdict::Faster);
        assert_eq!(verdict(1.1, 1.0, Better::More), Verdict::Faster);
        assert_eq!(verdict(0.9, 1.0, Better::More), Verdict::Slower);
    }

    #[test]
    fn no_change_is_the_same_in_either_direction() {
        assert_eq!(verdict(1.0, 1.0, Better::Less), Verdict::Same);
        assert_eq!(verdict(1.0, 1.0, Better::More), Verdict::Same);
    }

    #[test]
    fn a_certain_change_within_the_margin_is_the_same() {
        let change = compare(&[100.0; 12], &[101.5; 12], Better::Less);
        assert!(change.low > 1.0, "it is certain");
        assert_eq!(change.verdict, Verdict::Same);
    }

    #[test]
    fn noise_that_could_hide_a_change_is_no_verdict() {
        assert_eq!(verdict(1.0, 10.0, Better::Less), Verdict::TooNoisy);
        assert_eq!(verdict(1.04, 10.0, Better::Less), Verdict::TooNoisy);
        assert_eq!(verdict(1.3, 10.0, Better::Less), Verdict::Slower);
    }

    #[test]
    fn drift_that_moves_both_sides_alike_is_no_change() {
        let base: Vec<f64> = (0..12)
            .map(|round| 100.0 + 10.0 * f64::from(round))
            .collect();
        let change = compare(&base, &base, Better::Less);
        assert_eq!(change.verdict, Verdict::Same);
    }

    #[test]
    fn one_disturbed_round_neither_makes_nor_hides_a_change() {
        let mut head = NOISE.map(|percent| 100.0 * (1.0 + percent / 100.0));
        head[3] = 300.0;
        assert_eq!(
            compare(&[100.0; 12], &head, Better::Less).verdict,
            Verdict::Same
        );
        let mut slowed = NOISE.map(|percent| 110.0 * (1.0 + percent / 100.0));
        slowed[3] = 30.0;
        assert_eq!(
            compare(&[100.0; 12], &slowed, Better::Less).verdict,
            Verdict::Slower
        );
    }

    #[test]
    fn values_without_a_ratio_are_no_verdict() {
        for (base, head) in [
            (0.0, 1.0),
            (1.0, 0.0),
            (-1.0, 1.0),
            (-1.0, -1.0),
            (0.0, 0.0),
        ] {
            let change = compare(&[base; 12], &[head; 12], Better::Less);
            assert_eq!(change.verdict, Verdict::TooNoisy, "{base}, {head}");
        }
    }

    /// The critical values of the sign test that statistical tables list for 1 %, two-sided.
    #[test]
    fn the_interval_is_the_one_of_the_tables() {
        for (rounds, critical) in [
            (8, 0),
            (11, 0),
            (12, 1),
            (15, 2),
            (20, 3),
            (30, 7),
            (100, 36),
        ] {
            assert_eq!(left_out_at_each_end(rounds), Some(critical), "{rounds}");
        }
        assert_eq!(left_out_at_each_end(ROUNDS_MIN as usize - 1), None);
    }

    #[test]
    fn too_few_rounds_are_no_verdict() {
        let change = compare(&[100.0; 7], &[200.0; 7], Better::Less);
        assert_eq!(change.verdict, Verdict::TooNoisy);
    }
}
