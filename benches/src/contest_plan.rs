//! What a topic measures that is a contest of relays.

use crate::chart::BarGroup;
use crate::comparison::Comparison;
use crate::contest::{ContestEntry, Readings};

/// What a topic measures that is a contest of relays.
pub(crate) struct ContestPlan {
    /// The name on the command line and in results.json.
    pub(crate) name: &'static str,
    /// The heading of the page and the chart.
    pub(crate) title: &'static str,
    /// What each round measures, in this order.
    pub(crate) entries: Vec<ContestEntry>,
    /// The figures.
    pub(crate) comparisons: Vec<Comparison>,
    /// Makes the bars of the chart.
    pub(crate) groups: fn(&Readings) -> Vec<BarGroup>,
}
