//! The chart docs/bench/connect.svg: a bar for each case, divided into connect, accept and query.

use std::fmt::Write as _;

use crate::connect::results::{CaseSummary, Results};
use crate::connect::table::micros;

/// Lengths in the chart, in pixels at its natural size.
const WIDTH: f64 = 760.0;
const LABELS: f64 = 270.0;
const NUMBERS: f64 = 70.0;
const TOP: f64 = 76.0;
const ROW: f64 = 34.0;
const BAR: f64 = 20.0;

/// Colours that are visible on a white and on a dark background. Text follows the colour scheme of
/// the reader.
const STYLE: &str = "text { font: 13px system-ui, sans-serif; fill: #1f2328 }\n\
     .title { font-weight: 600; font-size: 15px }\n\
     .small { font-size: 12px }\n\
     .connect { fill: #3b82c4 } .accept { fill: #7c5cc4 } .query { fill: #d9822b }\n\
     @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } }";

/// The steps of a connection: the CSS class and the label of each.
const STEPS: [(&str, &str); 3] = [
    ("connect", "connect"),
    ("accept", "accept"),
    ("query", "query"),
];

/// Draws the chart.
pub(crate) fn draw(results: &Results) -> String {
    let height = TOP + ROW * results.cases.len() as f64 + 8.0;
    let most = results
        .cases
        .iter()
        .map(|case| case.asked.median)
        .fold(1.0, f64::max);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" role=\"img\" aria-label=\"{}\">\n\
         <style>{STYLE}</style>\n\
         <text class=\"title\" x=\"12\" y=\"26\">Microseconds for one connection on loopback</text>\n",
        description(results)
    );
    legend(&mut svg);
    for (row, case) in results.cases.iter().enumerate() {
        bar(&mut svg, TOP + ROW * row as f64, case, most);
    }
    svg.push_str("</svg>\n");
    svg
}

/// The values in words, for readers who cannot see the chart.
fn description(results: &Results) -> String {
    let values: Vec<String> = results
        .cases
        .iter()
        .map(|case| format!("{}: {} µs", case.case.title(), micros(case.asked.median)))
        .collect();
    values.join("; ")
}

fn legend(svg: &mut String) {
    let mut x = 12.0;
    for (class, label) in STEPS {
        let text = x + 18.0;
        let _ = writeln!(
            svg,
            "<rect class=\"{class}\" x=\"{x}\" y=\"42\" width=\"12\" height=\"12\" rx=\"2\"/>\
             <text class=\"small\" x=\"{text}\" y=\"53\">{label}</text>"
        );
        x += 90.0;
    }
    let _ = writeln!(
        svg,
        "<text class=\"small\" x=\"{x}\" y=\"53\">shorter is better; medians of the rounds</text>"
    );
}

fn bar(svg: &mut String, top: f64, case: &CaseSummary, most: f64) {
    let scale = (WIDTH - LABELS - NUMBERS) / most;
    let baseline = top + BAR * 0.72;
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{baseline:.1}\" text-anchor=\"end\">{}</text>",
        LABELS - 10.0,
        case.case.title()
    );
    let mut x = LABELS;
    for ((class, _), time) in STEPS.into_iter().zip(steps(case)) {
        let width = time * scale;
        let _ = writeln!(
            svg,
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{BAR}\"/>"
        );
        x += width;
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{baseline:.1}\">{:.1} µs</text>",
        x + 8.0,
        case.asked.median / 1000.0
    );
}

/// The durations of connect, accept and query. Their sum is the median of all three together.
fn steps(case: &CaseSummary) -> [f64; 3] {
    let accept = (case.asked.median - case.connect - case.query).max(0.0);
    [case.connect, accept, case.query]
}
