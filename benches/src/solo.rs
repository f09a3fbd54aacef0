//! Figures of Sidetrack that no peer has: nothing else does the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use serde_json::{Value, json};

use crate::comparison::rounded;
use crate::report;
use crate::statistics::{deviation, median};
use crate::value::with_unit;

/// The values of one round, by the name of the measure; times in nanoseconds.
pub(crate) type Reading = BTreeMap<String, f64>;

/// A measure of Sidetrack, possibly compared with another one.
pub(crate) struct SoloFigure {
    /// The figure's name in results.json and on the page.
    pub(crate) name: String,
    /// The unit of the values.
    pub(crate) unit: &'static str,
    /// One value for each round.
    pub(crate) values: Vec<f64>,
    /// What the values are divided by: its name, and one value for each round.
    pub(crate) over: Option<(&'static str, Vec<f64>)>,
    /// The maximum of the median: of the ratios if there is something to divide by, else of the
    /// values.
    pub(crate) goal: Option<f64>,
}

/// Writes the topic's page, and replaces its figures in results.json and results.md.
pub(crate) fn write(topic: &str, title: &str, figures: &[SoloFigure]) -> Result<()> {
    let page = page(title, figures);
    report::save(&format!("{topic}.md"), &page)?;
    print!("{page}");
    let results = figures.iter().map(|figure| figure.result(topic));
    report::merge(topic, results.collect(), &[])
}

impl SoloFigure {
    fn result(&self, topic: &str) -> Value {
        let rounds: Vec<Value> = (self.values.iter().enumerate())
            .map(|(round, own)| match &self.over {
                Some((_, over)) => json!({
                    "sidetrack": rounded(*own),
                    "over": rounded(over[round]),
                    "ratio": rounded(own / over[round]),
                }),
                None => json!({ "sidetrack": rounded(*own) }),
            })
            .collect();
        let ratio = self.over.as_ref().map(|(_, over)| {
            let ratios: Vec<f64> = self.values.iter().zip(over).map(|(a, b)| a / b).collect();
            rounded(median(&ratios))
        });
        json!({
            "topic": topic,
            "name": self.name,
            "unit": self.unit,
            "sidetrack": rounded(median(&self.values)),
            "best_peer": self.over.as_ref().map(|(what, _)| what),
            "best_peer_value": self.over.as_ref().map(|(_, over)| rounded(median(over))),
            "limit": null,
            "ratio": ratio,
            "goal": self.goal,
            "goal_text": self.goal_text(),
            "met": self.goal.map(|goal| ratio.unwrap_or(median(&self.values)) <= goal),
            "rounds": rounds,
        })
    }

    fn goal_text(&self) -> Option<String> {
        self.goal.map(|goal| match self.over {
            Some(_) => format!("≤ {goal}"),
            None => format!("value ≤ {}", with_unit(goal, self.unit)),
        })
    }
}

fn page(title: &str, figures: &[SoloFigure]) -> String {
    let mut text = format!(
        "<!-- Written by `make bench`. Do not edit. -->\n\n# {title}\n\n\
         | figure | median | ± | compared with | goal |\n|---|--:|--:|--:|--:|\n",
    );
    for figure in figures {
        let middle = median(&figure.values);
        let show = |value| with_unit(value, figure.unit);
        let _ = writeln!(
            text,
            "| {} | {} | {:.1} % | {} | {} |",
            figure.name,
            show(middle),
            100.0 * deviation(&figure.values) / middle,
            figure
                .over
                .as_ref()
                .map_or("–".to_owned(), |(what, over)| format!(
                    "{} ({what})",
                    show(median(over))
                )),
            figure.goal_text().unwrap_or("–".to_owned()),
        );
    }
    text
}
