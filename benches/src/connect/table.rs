//! The page docs/bench/connect.md.

use std::fmt::Write as _;

use serde_json::Value;

use crate::connect::figure::{FigureResult, NOISE_MAX};
use crate::connect::results::{CaseSummary, Results};

/// The page with all results. Times are in microseconds.
pub(crate) fn write(results: &Results) -> String {
    let parts = [
        head(results),
        figures(results),
        cases(results),
        programs(results),
    ];
    parts.join("\n")
}

fn head(results: &Results) -> String {
    let machine = &results.machine;
    let kind = if machine.virtual_machine {
        ", a virtual machine"
    } else {
        ""
    };
    format!(
        "<!-- Written by `make bench`. Do not edit. -->\n\n\
         Linux {}; {}, {} cores{kind}; load average {} when the run began; nftables {}; \
         Sidetrack {}.\n\n![The duration of one connection in each case](connect.svg)\n",
        machine.kernel,
        machine.cpu,
        machine.cores,
        machine.load_average,
        machine
            .peers
            .get("nftables")
            .map_or("unknown", String::as_str),
        machine.sidetrack
    )
}

fn figures(results: &Results) -> String {
    let mut text = String::from(
        "| figure | Sidetrack | best peer | direct | ratio | of medians | goal | |\n\
         |---|--:|--:|--:|--:|--:|--:|---|\n",
    );
    for figure in &results.figures {
        let show = |value| with_unit(value, figure.unit);
        line(
            &mut text,
            &[
                figure.name.clone(),
                show(figure.sidetrack),
                format!("{} ({})", show(figure.best_peer_value), figure.best_peer),
                figure.limit.map_or("–".to_owned(), show),
                format!("{:.3} (to {})", figure.ratio, figure.over.name()),
                format!("{:.3}", figure.ratio_of_medians),
                figure
                    .goal
                    .map_or("–".to_owned(), |goal| format!("≤ {goal:.2}")),
                verdict(figure),
            ],
        );
    }
    text
}

fn verdict(figure: &FigureResult) -> String {
    match &figure.met {
        Value::Bool(true) => "met".to_owned(),
        Value::Bool(false) => "**missed**".to_owned(),
        Value::String(text) => text.clone(),
        _ => "reported".to_owned(),
    }
}

fn cases(results: &Results) -> String {
    let mut text = format!(
        "Times in microseconds. The value of a round is the median of its single connections, unless the column says \
         otherwise. The spread is that of the rounds. If it is more than ±{:.0} % in the direct case or in one of the \
         two cases that are compared, the run decides nothing.\n\n\
         | case | connect | + accept + query | min to max | spread | mean | p99 | + close | CPU | query alone |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        NOISE_MAX * 100.0
    );
    for case in &results.cases {
        line(&mut text, &case_row(case));
    }
    text
}

fn case_row(case: &CaseSummary) -> Vec<String> {
    // In the other cases, the duration of the query is the time between two readings of the clock.
    let has_query = matches!(case.case.name(), "sidetrack" | "nft");
    vec![
        case.case.title().to_owned(),
        micros(case.connect),
        micros(case.asked.median),
        format!("{} to {}", micros(case.asked.min), micros(case.asked.max)),
        format!("±{:.1} %", case.asked.noise * 100.0),
        micros(case.asked_mean),
        micros(case.asked_p99),
        micros(case.whole),
        micros(case.cpu),
        if has_query {
            micros(case.query)
        } else {
            "–".to_owned()
        },
    ]
}

fn programs(results: &Results) -> String {
    let mut text = String::from(
        "The run times of Sidetrack's eBPF programs, from the statistics of the kernel, in a separate round: \
         the statistics cost time themselves.\n\n\
         | case | program | runs for a connection | ns for a run | ns for a connection |\n\
         |---|---|--:|--:|--:|\n",
    );
    for program in &results.programs {
        line(
            &mut text,
            &[
                program.case.title().to_owned(),
                format!("`{}`", program.name),
                format!("{:.2}", program.runs_per_connection),
                format!("{:.0}", program.ns_per_run),
                format!("{:.0}", program.ns_per_connection),
            ],
        );
    }
    text
}

fn line(text: &mut String, cells: &[String]) {
    let _ = writeln!(text, "| {} |", cells.join(" | ")); // writing to a String cannot fail
}

fn with_unit(value: f64, unit: &str) -> String {
    match unit {
        "ns" => format!("{} µs", micros(value)),
        _ => format!("{value:.0} {unit}"),
    }
}

/// Formats nanoseconds as microseconds.
pub(crate) fn micros(nanoseconds: f64) -> String {
    format!("{:.2}", nanoseconds / 1000.0)
}
