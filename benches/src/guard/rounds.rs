//! Runs the probes of both sides, alternating, and pairs what they print.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::guard::decision::{self, Better, Change};
use crate::guard::plan::{Probe, ProbeFigure};
use crate::namespace;
use crate::statistics::median;

/// How often a worker is started before its probe is left out: a port may have been in use.
const ATTEMPTS: u32 = 3;

/// The `bench` programs of both sides. Each finds `sidetrack` and `sidetrackd` next to itself.
pub(super) struct Programs {
    pub(super) base: PathBuf,
    pub(super) head: PathBuf,
}

/// The result of a run.
pub(super) struct GuardResult {
    /// The number of rounds.
    pub(super) rounds: u32,
    /// One row for each figure that both sides have, in the order of the plan.
    pub(super) rows: Vec<Row>,
    /// The probes that one side could not run.
    pub(super) left_out: Vec<SkippedProbe>,
}

/// One figure, measured on both sides.
pub(super) struct Row {
    /// The name of the topic.
    pub(super) topic: String,
    /// The name of the figure.
    pub(super) name: String,
    pub(super) unit: &'static str,
    pub(super) better: Better,
    pub(super) is_control: bool,
    /// The values of the base, one for each round.
    pub(super) base: Vec<f64>,
    /// The values of the head, one for each round.
    pub(super) head: Vec<f64>,
    /// How the head differs from the base.
    pub(super) change: Change,
}

/// A probe that one side could not run.
pub(super) struct SkippedProbe {
    /// The name of the topic.
    pub(super) topic: String,
    /// The names of its figures.
    pub(super) figures: String,
    /// Whether the head failed. It knows every probe, so this is an error; an older base may not
    /// know one.
    pub(super) is_head: bool,
    /// The message of the worker that failed.
    pub(super) why: String,
}

/// What the workers of one probe printed so far, on each side: one JSON value for each round.
#[derive(Default)]
struct Printed {
    base: Vec<Value>,
    head: Vec<Value>,
    /// Set when the worker of one side failed for good.
    failed: Option<SkippedProbe>,
}

/// Runs this number of rounds of all probes.
///
/// The sides alternate: base, head in the first round and head, base in the next. A pair of values
/// is thus taken within seconds, and neither side always comes second.
pub(super) fn run(programs: &Programs, probes: &[Probe], rounds: u32) -> GuardResult {
    let mut all: Vec<Printed> = probes.iter().map(|_| Printed::default()).collect();
    let begun = Instant::now();
    for round in 0..rounds {
        if all.iter().all(|printed| printed.failed.is_some()) {
            break;
        }
        eprintln!("{}", progress(round, rounds, begun.elapsed().as_secs()));
        for (probe, printed) in probes.iter().zip(&mut all) {
            if printed.failed.is_none() {
                printed.failed = printed.take(programs, probe, round % 2 == 1).err();
                if let Some(failure) = &printed.failed {
                    eprintln!("{failure}");
                }
            }
        }
    }
    let measured = probes
        .iter()
        .zip(&all)
        .filter(|pair| pair.1.failed.is_none());
    GuardResult {
        rounds,
        rows: measured
            .flat_map(|(probe, printed)| printed.rows(probe))
            .collect(),
        left_out: all.into_iter().filter_map(|one| one.failed).collect(),
    }
}

fn progress(round: u32, rounds: u32, elapsed_seconds: u64) -> String {
    let head = format!("round {} of {rounds}", round + 1);
    if round == 0 {
        return head;
    }
    let left = elapsed_seconds * u64::from(rounds - round) / u64::from(round);
    match left / 60 {
        0 => format!("{head}; about {left} s to go"),
        minutes => format!("{head}; about {minutes} min to go"),
    }
}

impl Printed {
    fn take(
        &mut self,
        programs: &Programs,
        probe: &Probe,
        head_first: bool,
    ) -> Result<(), SkippedProbe> {
        for is_head in [head_first, !head_first] {
            let program = if is_head {
                &programs.head
            } else {
                &programs.base
            };
            let value = measure(program, probe).map_err(|error| SkippedProbe {
                topic: probe.topic_name(),
                figures: names(&probe.figures),
                is_head,
                why: format!("{error:#}"),
            })?;
            match is_head {
                true => self.head.push(value),
                false => self.base.push(value),
            }
        }
        Ok(())
    }

    fn rows(&self, probe: &Probe) -> Vec<Row> {
        let row = |figure: &ProbeFigure| {
            let (base, head) = (numbers(&self.base, figure), numbers(&self.head, figure));
            Row {
                topic: probe.topic_name(),
                name: figure.name.clone(),
                unit: figure.unit,
                better: figure.better,
                is_control: probe.is_control,
                change: decision::compare(&base, &head, figure.better),
                base,
                head,
            }
        };
        probe.figures.iter().map(row).collect()
    }
}

/// Starts the worker of one side, again if it fails.
fn measure(program: &Path, probe: &Probe) -> Result<Value> {
    let arguments: Vec<&str> = probe.arguments.iter().map(String::as_str).collect();
    let once = || -> Result<Value> {
        let text = namespace::run_program(program, &arguments)?;
        let value: Value = serde_json::from_str(&text).context("read what the worker printed")?;
        for figure in &probe.figures {
            let found = value.pointer(figure.pointer).and_then(Value::as_f64);
            found.with_context(|| format!("the worker did not print {}", figure.pointer))?;
        }
        Ok(value)
    };
    let mut result = once();
    for _ in 1..ATTEMPTS {
        if let Err(error) = &result {
            eprintln!("a worker failed and is started again: {error:#}");
            result = once();
        }
    }
    result
}

/// The values of a figure; [`measure`] made sure that each is there.
fn numbers(printed: &[Value], figure: &ProbeFigure) -> Vec<f64> {
    let number = |value: &Value| value.pointer(figure.pointer).and_then(Value::as_f64);
    printed.iter().filter_map(number).collect()
}

fn names(figures: &[ProbeFigure]) -> String {
    let names: Vec<&str> = figures.iter().map(|figure| figure.name.as_str()).collect();
    names.join("; ")
}

impl Row {
    /// The medians of the base and of the head.
    pub(super) fn medians(&self) -> (f64, f64) {
        (median(&self.base), median(&self.head))
    }
}

impl std::fmt::Display for SkippedProbe {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let side = if self.is_head { "head" } else { "base" };
        let Self {
            topic,
            figures,
            why,
            ..
        } = self;
        write!(
            formatter,
            "not measured: {topic} ({figures}): the {side} failed: {why}"
        )
    }
}
