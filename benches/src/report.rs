//! Writes docs/bench/: results.json for programs, results.md with all figures, and a page and a
//! chart for each topic. A topic that is measured again replaces its own figures. The figures of
//! the other topics stay if the machine is the same.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::chart;
use crate::comparison::rounded;
use crate::contest::{LeftOut, Readings};
use crate::contest_plan::ContestPlan;
use crate::machine::Machine;
use crate::statistics::{deviation, median};
use crate::value::with_unit;

/// The folder, relative to the root of the workspace, where `make bench` runs.
const FOLDER: &str = "docs/bench";

/// Writes the results of a contest.
pub(crate) fn write(plan: &ContestPlan, readings: &Readings) -> Result<()> {
    let figures: Vec<Value> = plan
        .comparisons
        .iter()
        .filter_map(|comparison| comparison.result(plan.name, readings))
        .collect();
    let missing: Vec<&str> = plan
        .comparisons
        .iter()
        .filter(|comparison| comparison.result(plan.name, readings).is_none())
        .map(|comparison| comparison.name.as_str())
        .collect();
    let groups = (plan.groups)(readings);
    save(
        &format!("{}.svg", plan.name),
        &chart::draw(plan.title, &groups),
    )?;
    let page = page(plan, readings, &missing);
    save(&format!("{}.md", plan.name), &page)?;
    print!("{page}");
    merge(plan.name, figures, &readings.left_out)
}

/// Replaces a topic's figures in results.json and results.md.
pub(crate) fn merge(topic: &str, figures: Vec<Value>, left_out: &[LeftOut]) -> Result<()> {
    let machine = serde_json::to_value(Machine::describe()?)?;
    let mut results = read();
    let same = ["kernel", "cpu", "cores"]
        .iter()
        .all(|key| results["machine"][key] == machine[key]);
    if !same {
        results = json!({ "figures": [], "left_out": [] });
    }
    results["machine"] = machine;
    for (list, new) in [
        ("figures", figures),
        (
            "left_out",
            serde_json::from_value(serde_json::to_value(left_out)?)?,
        ),
    ] {
        let mut all: Vec<Value> = results[list].as_array().cloned().unwrap_or_default();
        all.retain(|figure| figure["topic"] != topic);
        all.extend(new);
        results[list] = all.into();
    }
    store(&results)
}

/// Replaces another part of results.json.
pub(crate) fn replace(key: &str, value: Value) -> Result<()> {
    let mut results = read();
    results[key] = value;
    store(&results)
}

fn store(results: &Value) -> Result<()> {
    save(
        "results.json",
        &(serde_json::to_string_pretty(results)? + "\n"),
    )?;
    save("results.md", &summary(results))
}

fn read() -> Value {
    let text = fs::read_to_string(Path::new(FOLDER).join("results.json"));
    let value = text.ok().and_then(|text| serde_json::from_str(&text).ok());
    value.unwrap_or_else(|| json!({}))
}

/// Writes one file of docs/bench/.
pub(crate) fn save(name: &str, text: &str) -> Result<()> {
    let folder = Path::new(FOLDER);
    fs::create_dir_all(folder).with_context(|| format!("make {FOLDER}"))?;
    fs::write(folder.join(name), text).with_context(|| format!("write {FOLDER}/{name}"))
}

/// The page with all figures of all topics.
fn summary(results: &Value) -> String {
    let mut text = String::from("<!-- Written by `make bench`. Do not edit. -->\n\n");
    let machine = &results["machine"];
    let value = |key: &str| machine[key].to_string().trim_matches('"').to_owned();
    let kind = match machine["virtual_machine"] {
        Value::Bool(true) => ", a virtual machine",
        _ => "",
    };
    let versions = machine["peers"].as_object().into_iter().flatten();
    let versions: Vec<String> = versions
        .map(|(name, version)| format!("{name} {}", version.as_str().unwrap_or("?")))
        .collect();
    let _ = writeln!(
        text,
        "Linux {}; {}, {} cores{kind}; load average {} when the last topic began; Sidetrack {}; {}.\n",
        value("kernel"),
        value("cpu"),
        value("cores"),
        value("load_average"),
        value("sidetrack"),
        versions.join(", ")
    );
    text.push_str(
        "| topic | figure | Sidetrack | best peer | limit | ratio | goal | |\n\
         |---|---|--:|--:|--:|--:|--:|---|\n",
    );
    for figure in results["figures"].as_array().into_iter().flatten() {
        let unit = figure["unit"].as_str().unwrap_or_default();
        let number = |key: &str| figure[key].as_f64().map(|value| with_unit(value, unit));
        let goal = figure["goal"].as_f64().map(|goal| format!("≤ {goal}"));
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} ({}) | {} | {} | {} | {} |",
            figure["topic"].as_str().unwrap_or_default(),
            figure["name"].as_str().unwrap_or_default(),
            number("sidetrack").unwrap_or_default(),
            number("best_peer_value").unwrap_or("–".to_owned()),
            figure["best_peer"].as_str().unwrap_or("–"),
            number("limit").unwrap_or("–".to_owned()),
            figure["ratio"]
                .as_f64()
                .map_or("–".to_owned(), |ratio| format!("{ratio:.3}")),
            figure["goal_text"]
                .as_str()
                .map(str::to_owned)
                .or(goal)
                .unwrap_or("–".to_owned()),
            verdict(&figure["met"]),
        );
    }
    for left in results["left_out"].as_array().into_iter().flatten() {
        let _ = writeln!(
            text,
            "\nLeft out of {}: {} under {}: {}",
            left["topic"].as_str().unwrap_or_default(),
            left["who"].as_str().unwrap_or_default(),
            left["workload"],
            left["why"].as_str().unwrap_or_default()
        );
    }
    text
}

fn verdict(met: &Value) -> String {
    match met {
        Value::Bool(true) => "met".to_owned(),
        Value::Bool(false) => "**missed**".to_owned(),
        Value::String(text) => text.clone(),
        _ => "reported".to_owned(),
    }
}

/// The page of a topic: every contestant under every workload.
fn page(plan: &ContestPlan, readings: &Readings, missing: &[&str]) -> String {
    let mut text = format!(
        "<!-- Written by `make bench`. Do not edit. -->\n\n# {}\n\n![{}]({}.svg)\n\n\
         Medians of the rounds; ± is the median distance of the rounds from their median.\n",
        plan.title, plan.title, plan.name
    );
    let mut last = None;
    for ((contestant, workload), rounds) in by_workload(readings) {
        let measures: Vec<&String> = rounds[0].keys().collect();
        if last != Some(workload) {
            last = Some(workload);
            let heads: Vec<&str> = measures.iter().map(|measure| measure.as_str()).collect();
            let _ = writeln!(
                text,
                "\n| {workload:?} | {} | rounds |\n|---|{}--:|",
                heads.join(" | "),
                "--:|".repeat(heads.len())
            );
        }
        let cells: Vec<String> = measures
            .iter()
            .map(|measure| {
                let values: Vec<f64> = rounds.iter().map(|round| round[*measure]).collect();
                let middle = median(&values);
                let spread = 100.0 * deviation(&values) / middle.abs().max(f64::MIN_POSITIVE);
                let shown = in_unit(measure, middle);
                if middle == 0.0 {
                    shown
                } else {
                    format!("{shown} ±{spread:.1} %")
                }
            })
            .collect();
        let _ = writeln!(
            text,
            "| {} | {} | {} |",
            contestant.name(),
            cells.join(" | "),
            rounds.len()
        );
    }
    for left in &readings.left_out {
        let _ = writeln!(
            text,
            "\nLeft out: {} under {:?}: {}",
            left.who, left.workload, left.why
        );
    }
    for name in missing {
        let _ = writeln!(
            text,
            "\nNot measured, because one of the contestants was left out: {name}"
        );
    }
    text
}

fn by_workload(
    readings: &Readings,
) -> Vec<(
    (
        crate::relay::contestant::Contestant,
        crate::relay::workload::Workload,
    ),
    &Vec<crate::relay::workload::Reading>,
)> {
    let mut all: Vec<_> = readings
        .all
        .iter()
        .map(|(key, rounds)| (*key, rounds))
        .collect();
    all.sort_by_key(|((contestant, workload), _)| (*workload, *contestant));
    all
}

fn in_unit(measure: &str, value: f64) -> String {
    match measure {
        "cpu" | "machine" | "first" | "total" | "p50" | "p99" | "p999" => with_unit(value, "ns"),
        "gbit" => with_unit(value, "Gbit/s"),
        "rate" => with_unit(value, "/s"),
        "user" | "kernel" => with_unit(value, "bytes"),
        _ => format!("{}", rounded(value)),
    }
}
