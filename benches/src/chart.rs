//! The charts of the contests: groups of bars, one bar for each contestant.

use std::fmt::Write as _;

use crate::contest::Readings;
use crate::relay::contestant::Contestant;
use crate::relay::workload::Workload;
use crate::statistics::median;
use crate::value::shown;

/// Lengths in the chart, in pixels at its natural size.
const WIDTH: f64 = 760.0;
const LABELS: f64 = 220.0;
const NUMBERS: f64 = 90.0;
const TOP: f64 = 44.0;
const HEAD: f64 = 34.0;
const ROW: f64 = 24.0;
const BAR: f64 = 15.0;

/// Colours that are visible on a white and on a dark background. Text follows the colour scheme of
/// the reader.
const STYLE: &str = "text { font: 13px system-ui, sans-serif; fill: #1f2328 }\n\
     .title { font-weight: 600; font-size: 15px } .head { font-weight: 600 }\n\
     .ours { fill: #d9822b } .peer { fill: #3b82c4 } .limit { fill: #8b949e }\n\
     .spread { stroke: #1f2328 }\n\
     @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .spread { stroke: #e6edf3 } }";

/// Bars that are compared with each other, below a heading.
pub(crate) struct BarGroup {
    head: String,
    bars: Vec<Bar>,
}

struct Bar {
    label: String,
    class: &'static str,
    value: f64,
    least: f64,
    most: f64,
}

impl BarGroup {
    /// One measure of all contestants under a workload, in the order of [`Contestant`]. Values are
    /// multiplied by `scale`.
    pub(crate) fn of(
        readings: &Readings,
        head: &str,
        workload: Workload,
        measure: &str,
        scale: f64,
    ) -> Self {
        let measured = readings.all.keys().filter(|key| key.1 == workload);
        let bars = measured.filter_map(|key| {
            let values = readings.values(*key, measure)?;
            let scaled: Vec<f64> = values.iter().map(|value| value * scale).collect();
            let value = median(&scaled);
            (value > 0.0).then(|| Bar {
                label: key.0.name(),
                class: class(key.0),
                value,
                least: scaled.iter().copied().fold(f64::INFINITY, f64::min),
                most: scaled.iter().copied().fold(0.0, f64::max),
            })
        });
        Self {
            head: head.to_owned(),
            bars: bars.collect(),
        }
    }
}

fn class(contestant: Contestant) -> &'static str {
    match contestant {
        one if one.is_sidetrack() => "ours",
        one if !one.has_redirector() => "limit",
        _ => "peer",
    }
}

/// Draws the groups one below the other. The line on each bar goes from the smallest to the largest
/// value of the rounds.
pub(crate) fn draw(title: &str, groups: &[BarGroup]) -> String {
    let rows: usize = groups.iter().map(|group| group.bars.len()).sum();
    let height = TOP + HEAD * groups.len() as f64 + ROW * rows as f64 + 12.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" role=\"img\" aria-label=\"{title}\">\n\
         <style>{STYLE}</style>\n<text class=\"title\" x=\"12\" y=\"26\">{title}</text>\n"
    );
    let mut y = TOP;
    for group in groups {
        let _ = writeln!(
            svg,
            "<text class=\"head\" x=\"12\" y=\"{:.1}\">{}</text>",
            y + 18.0,
            group.head
        );
        y += HEAD;
        let most = group.bars.iter().map(|bar| bar.most).fold(0.0, f64::max);
        for bar in &group.bars {
            row(&mut svg, y, bar, (WIDTH - LABELS - NUMBERS) / most);
            y += ROW;
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn row(svg: &mut String, top: f64, bar: &Bar, scale: f64) {
    let baseline = top + BAR * 0.8;
    let middle = top + BAR / 2.0;
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{baseline:.1}\" text-anchor=\"end\">{}</text>\
         <rect class=\"{}\" x=\"{LABELS}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{BAR}\"/>\
         <line class=\"spread\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\"/>\
         <text x=\"{:.1}\" y=\"{baseline:.1}\">{}</text>",
        LABELS - 10.0,
        bar.label,
        bar.class,
        bar.value * scale,
        LABELS + bar.least * scale,
        LABELS + bar.most * scale,
        LABELS + bar.most.max(bar.value) * scale + 8.0,
        shown(bar.value)
    );
}
