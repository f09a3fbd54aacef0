//! The daemon's explanation as text and as JSON.

use std::fmt::Write;

use anyhow::Result;
use serde_json::{Value, json};
use sidetrack_abi::text::{Printable, count};
use sidetrack_api::{key, v1};

use crate::format::layer_name;
use crate::table::Table;
use crate::text_style::TextStyle;

/// Renders the explanation: the filters of each step, then the resulting path and verdict. A
/// connection that is blocked has no path to its destination.
pub(super) fn render(title: &str, response: &v1::ExplainResponse, style: TextStyle) -> String {
    let mut text = style.bold(&Printable(title).to_string()) + "\n";
    for step in &response.steps {
        text.push('\n');
        text.push_str(&render_step(step, style));
    }
    text.push('\n');
    let mut result = Vec::new();
    if response.verdict() != v1::Verdict::Block {
        let path = match response.chain.as_slice() {
            [] => "directly to its destination".to_owned(),
            services => format!("{} > its destination", services.join(" > ")),
        };
        result.push(("path", path));
    }
    if !response.happened.is_empty() {
        result.push(("path so far", response.happened.join(" > ")));
    }
    result.push(("policy", format!("generation {}", response.generation)));
    text.push_str(&crate::table::properties(result, style));
    let summary = Printable(&response.summary).to_string();
    let summary = match response.verdict() {
        v1::Verdict::Block => style.red(&summary),
        _ => style.green(&summary),
    };
    text + &summary + "\n"
}

fn render_step(step: &v1::Step, style: TextStyle) -> String {
    let layer = layer_name(step.layer).unwrap_or_default();
    let mut verdict = verdict_text(step.verdict()).to_owned();
    if !step.service.is_empty() {
        let _ = write!(verdict, " to {}", step.service); // writing to a String cannot fail
    }
    let head = match step.by.is_empty() {
        true => format!("{layer}: {verdict}"),
        false => format!("{layer}, for {}: {verdict}", step.by),
    };
    let mut text = style.bold(&Printable(head).to_string()) + "\n";
    if !step.looks.is_empty() {
        text.push_str(&filter_table(step, style));
    }
    if !step.reason.is_empty() {
        let _ = writeln!(text, "{}", Printable(&step.reason));
    }
    text
}

/// Renders the filters in the order in which they are evaluated.
fn filter_table(step: &v1::Step, style: TextStyle) -> String {
    let mut table = Table::new(["SUBLAYER", "WEIGHT", "FILTER", "ACTION", "OUTCOME"]);
    for look in &step.looks {
        let action = match (look.action(), look.service.as_str()) {
            (v1::Action::Redirect, service) => format!("redirect to {service}"),
            (other, _) => constant_name(other.as_str_name(), "ACTION_"),
        };
        let outcome = match (outcome_text(look.outcome()), look.reason.as_str()) {
            (outcome, "") => outcome.to_owned(),
            (outcome, reason) => format!("{outcome}: {reason}"),
        };
        table.push([
            format!("{} ({})", look.sublayer_name, look.sublayer_weight),
            look.weight.to_string(),
            look.name.clone(),
            action,
            outcome,
        ]);
    }
    let mut text = table.render(style);
    if step.looks_left_out > 0 {
        let _ = writeln!(text, "and {}", count(step.looks_left_out, "more filter"));
    }
    text
}

fn verdict_text(verdict: v1::Verdict) -> &'static str {
    match verdict {
        v1::Verdict::Permit => "permit",
        v1::Verdict::Block => "block",
        v1::Verdict::Redirect => "redirect",
        v1::Verdict::None => "no filter matches",
        v1::Verdict::Unspecified => "unknown",
    }
}

fn outcome_text(outcome: v1::look::Outcome) -> &'static str {
    use v1::look::Outcome;
    match outcome {
        Outcome::NoMatch => "no match",
        Outcome::PassedOver => "passed over",
        Outcome::Overridden => "overridden",
        Outcome::Decided => "decided",
        Outcome::NotReached => "not reached",
        Outcome::Unspecified => "unknown",
    }
}

/// Converts the name of a protobuf constant to the form used in JSON: without its prefix, in lower
/// case.
fn constant_name(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix)
        .unwrap_or(name)
        .to_ascii_lowercase()
}

pub(super) fn as_json(response: &v1::ExplainResponse) -> Result<Value> {
    let steps: Vec<_> = response
        .steps
        .iter()
        .map(step_json)
        .collect::<Result<_>>()?;
    Ok(json!({
        "verdict": constant_name(response.verdict().as_str_name(), "VERDICT_"),
        "summary": response.summary,
        "chain": response.chain,
        "happened": response.happened,
        "generation": response.generation,
        "steps": steps,
    }))
}

fn step_json(step: &v1::Step) -> Result<Value> {
    let looks: Vec<_> = step.looks.iter().map(look_json).collect::<Result<_>>()?;
    Ok(json!({
        "layer": layer_name(step.layer),
        "by": step.by,
        "verdict": constant_name(step.verdict().as_str_name(), "VERDICT_"),
        "service": step.service,
        "filter": key(&step.filter)?,
        "reason": step.reason,
        "looks": looks,
        "looks_left_out": step.looks_left_out,
    }))
}

fn look_json(look: &v1::Look) -> Result<Value> {
    Ok(json!({
        "filter": key(&look.filter)?,
        "name": look.name,
        "id": look.id,
        "sublayer": key(&look.sublayer)?,
        "sublayer_name": look.sublayer_name,
        "sublayer_weight": look.sublayer_weight,
        "weight": look.weight,
        "action": constant_name(look.action().as_str_name(), "ACTION_"),
        "service": look.service,
        "outcome": constant_name(look.outcome().as_str_name(), "OUTCOME_"),
        "reason": look.reason,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use v1::look::Outcome;

    fn look(name: &str, action: v1::Action, outcome: Outcome, reason: &str) -> v1::Look {
        v1::Look {
            name: name.into(),
            sublayer_name: "acme-inspect".into(),
            sublayer_weight: 1000,
            weight: 10,
            action: action.into(),
            service: match action {
                v1::Action::Redirect => "inspect".into(),
                _ => String::new(),
            },
            outcome: outcome.into(),
            reason: reason.into(),
            ..Default::default()
        }
    }

    #[test]
    fn explanation_shows_each_filter_and_the_path() {
        let response = v1::ExplainResponse {
            steps: vec![
                v1::Step {
                    layer: v1::Layer::ConnectRedirectV4.into(),
                    by: "/usr/bin/curl".into(),
                    looks: vec![
                        look(
                            "mail",
                            v1::Action::Block,
                            Outcome::NoMatch,
                            "remote_port is 443, not 25",
                        ),
                        look("web", v1::Action::Redirect, Outcome::Decided, ""),
                        look("rest", v1::Action::Permit, Outcome::NotReached, ""),
                    ],
                    looks_left_out: 99_000,
                    verdict: v1::Verdict::Redirect.into(),
                    service: "inspect".into(),
                    reason: "web was the first to match in its sublayer".into(),
                    ..Default::default()
                },
                v1::Step {
                    layer: v1::Layer::AuthConnectV4.into(),
                    by: "inspect".into(),
                    verdict: v1::Verdict::None.into(),
                    ..Default::default()
                },
            ],
            chain: vec!["inspect".into()],
            verdict: v1::Verdict::Redirect.into(),
            summary: "it goes through inspect".into(),
            generation: 7,
            happened: Vec::new(),
        };
        insta::assert_snapshot!(render(
            "curl to 192.0.2.1:443",
            &response,
            TextStyle::plain()
        ));
        let blocked = v1::ExplainResponse {
            chain: Vec::new(),
            verdict: v1::Verdict::Block.into(),
            summary: "blocked by filter \"mail\"".into(),
            happened: vec!["inspect".into()],
            ..response.clone()
        };
        let text = render("a flow", &blocked, TextStyle::plain());
        assert!(!text.contains("its destination"), "{text}");
        assert!(text.contains("path so far  inspect\n"), "{text}");
        insta::assert_snapshot!(
            "json",
            serde_json::to_string_pretty(&as_json(&response).unwrap()).unwrap()
        );
    }
}
