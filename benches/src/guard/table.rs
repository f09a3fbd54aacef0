//! What people read, and the same as JSON.

use std::fmt::Write as _;
use std::io::IsTerminal as _;

use anyhow::Result;
use serde_json::{Value, json};

use crate::guard::decision::{Change, Verdict};
use crate::guard::plan::Probe;
use crate::guard::rounds::{GuardResult, Row};
use crate::machine::Machine;
use crate::value::with_unit;

/// The columns, in order. Those after the second are numbers, which are aligned to the right.
const HEADS: [&str; 7] = [
    "topic",
    "figure",
    "base",
    "head",
    "change",
    "99 % interval",
    "verdict",
];
const FIRST_NUMBER: usize = 2;
const LAST_NUMBER: usize = 5;

/// Colours, only on a terminal. NO_COLOR switches them off (no-color.org).
#[derive(Clone, Copy)]
pub(super) struct Style {
    is_on: bool,
}

impl Style {
    /// For standard output.
    pub(super) fn stdout() -> Self {
        let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            is_on: std::io::stdout().is_terminal() && !forbidden,
        }
    }

    fn wrap(self, code: &str, text: &str) -> String {
        match self.is_on {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

/// The table, and below it what the reader has to know about it.
pub(super) fn text(result: &GuardResult, [base, head]: [&str; 2], style: Style) -> String {
    let mut text = format!(
        "base: {base}\nhead: {head}\n{} rounds; a change is head relative to base\n\n",
        result.rounds
    );
    let rows: Vec<[String; 7]> = std::iter::once(HEADS.map(ToOwned::to_owned))
        .chain(result.rows.iter().map(cells))
        .collect();
    let widths: Vec<usize> = (0..HEADS.len())
        .map(|column| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut last_topic = String::new();
    for (number, row) in rows.into_iter().enumerate() {
        let topic = row[0].clone();
        let line = aligned(&row, &widths, topic == last_topic);
        last_topic = topic;
        let row = number.checked_sub(1).map(|place| &result.rows[place]);
        text.push_str(&style.wrap(row.map_or("1", colour), &line));
        text.push('\n');
    }
    text.push('\n');
    for line in notes(result) {
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// What would be measured.
pub(super) fn plan(probes: &[Probe]) -> String {
    let mut text = String::new();
    for probe in probes {
        for figure in &probe.figures {
            let control = if probe.is_control { " (control)" } else { "" };
            let _ = writeln!(text, "{}: {}{control}", probe.topic_name(), figure.name);
        }
    }
    text
}

/// Everything, with the values of each round.
pub(super) fn json(result: &GuardResult, [base, head]: [&str; 2]) -> Result<Value> {
    let figures: Vec<Value> = result.rows.iter().map(figure).collect();
    let left_out = result.left_out.iter().map(|one| {
        json!({
            "topic": one.topic,
            "figures": one.figures,
            "side": if one.is_head { "head" } else { "base" },
            "why": one.why,
        })
    });
    Ok(json!({
        "base": base,
        "head": head,
        "rounds": result.rounds,
        "machine": Machine::describe()?,
        "figures": figures,
        "left_out": left_out.collect::<Vec<_>>(),
    }))
}

fn figure(row: &Row) -> Value {
    let (base, head) = row.medians();
    let rounds = row.base.iter().zip(&row.head);
    let rounds = rounds.map(|(base, head)| json!({ "base": base, "head": head }));
    json!({
        "topic": row.topic,
        "name": row.name,
        "unit": row.unit,
        "better": row.better,
        "control": row.is_control,
        "base": base,
        "head": head,
        "change": row.change,
        "rounds": rounds.collect::<Vec<_>>(),
    })
}

fn cells(row: &Row) -> [String; 7] {
    let (base, head) = row.medians();
    let Change {
        ratio,
        low,
        high,
        verdict,
    } = row.change;
    let (change, interval) = match ratio.is_finite() {
        true => (
            format!("{} %", percent(ratio)),
            format!("{} to {} %", percent(low), percent(high)),
        ),
        false => ("–".to_owned(), "–".to_owned()),
    };
    [
        row.topic.clone(),
        row.name.clone(),
        with_unit(base, row.unit),
        with_unit(head, row.unit),
        change,
        interval,
        shown(verdict, row.is_control),
    ]
}

fn percent(ratio: f64) -> String {
    format!("{:+.1}", (ratio - 1.0) * 100.0)
}

fn shown(verdict: Verdict, is_control: bool) -> String {
    let text = match verdict {
        Verdict::Faster => "faster",
        Verdict::Slower => "slower",
        Verdict::Same => "same",
        Verdict::TooNoisy => "too noisy",
    };
    match is_control {
        true => format!("{text} (control)"),
        false => text.to_owned(),
    }
}

fn colour(row: &Row) -> &'static str {
    match row.change.verdict {
        _ if row.is_control => "2",
        Verdict::Slower => "31",
        Verdict::Faster => "32",
        Verdict::TooNoisy => "33",
        Verdict::Same => "0",
    }
}

/// One line: texts to the left, numbers to the right, and nothing behind the last column.
fn aligned(row: &[String; 7], widths: &[usize], is_same_topic: bool) -> String {
    let mut line = String::new();
    for (column, cell) in row.iter().enumerate() {
        let cell = if column == 0 && is_same_topic {
            ""
        } else {
            cell
        };
        let gap = " ".repeat(widths[column].saturating_sub(cell.chars().count()));
        let (before, after) = match (FIRST_NUMBER..=LAST_NUMBER).contains(&column) {
            true => (gap.as_str(), ""),
            false => ("", gap.as_str()),
        };
        let _ = write!(line, "{before}{cell}{after}  ");
    }
    line.trim_end().to_owned()
}

fn notes(result: &GuardResult) -> Vec<String> {
    let mut notes: Vec<String> = result.left_out.iter().map(ToString::to_string).collect();
    for row in &result.rows {
        if row.is_control && matches!(row.change.verdict, Verdict::Slower | Verdict::Faster) {
            notes.push(format!(
                "The control of {} moved ({}). No code of Sidetrack runs in it, so the machine or the traffic \
                 generator in benches/ moved: do not rely on the figures of this topic.",
                row.topic, row.name
            ));
        }
    }
    let count = |verdict| {
        let rows = result.rows.iter();
        rows.filter(|row| !row.is_control && row.change.verdict == verdict)
            .count()
    };
    notes.push(format!(
        "{} slower, {} faster, {} the same, {} too noisy.",
        count(Verdict::Slower),
        count(Verdict::Faster),
        count(Verdict::Same),
        count(Verdict::TooNoisy)
    ));
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::decision::{self, Better};

    fn row(name: &str, head: f64, is_control: bool) -> Row {
        let (base, head) = (vec![20_000.0; 12], vec![head; 12]);
        Row {
            topic: "rate".to_owned(),
            name: name.to_owned(),
            unit: "ns",
            better: Better::Less,
            is_control,
            change: decision::compare(&base, &head, Better::Less),
            base,
            head,
        }
    }

    fn result(rows: Vec<Row>) -> GuardResult {
        GuardResult {
            rounds: 12,
            rows,
            left_out: Vec::new(),
        }
    }

    #[test]
    fn columns_are_aligned_and_plain_text_has_no_colours() {
        let rows = vec![row("one", 20_000.0, false), row("another", 30_000.0, false)];
        let plain = Style { is_on: false };
        let text = text(&result(rows), ["main", "working tree"], plain);
        let expected = "\
base: main
head: working tree
12 rounds; a change is head relative to base

topic  figure      base     head   change     99 % interval  verdict
rate   one      20.0 µs  20.0 µs   +0.0 %    +0.0 to +0.0 %  same
       another  20.0 µs  30.0 µs  +50.0 %  +50.0 to +50.0 %  slower

1 slower, 0 faster, 1 the same, 0 too noisy.
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_control_that_moved_is_pointed_out_and_not_counted() {
        let rows = vec![row("direct", 30_000.0, true), row("one", 20_000.0, false)];
        let text = text(&result(rows), ["a", "b"], Style { is_on: true });
        assert!(
            text.contains("The control of rate moved (direct)"),
            "{text}"
        );
        assert!(text.contains("0 slower, 0 faster, 1 the same"), "{text}");
        assert!(text.contains("\x1b["), "{text}");
    }
}
