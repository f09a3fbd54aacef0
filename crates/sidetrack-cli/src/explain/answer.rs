//! The daemon's answer, for people and for programs.

use std::fmt::Write;

use anyhow::Result;
use serde_json::{Value, json};
use sidetrack_api::{key, v1};

use crate::endpoint::layer;
use crate::style::Style;
use crate::table::{Table, printable};

pub(super) fn render(title: &str, answer: &v1::ExplainResponse, style: Style) -> String {
    let mut text = style.bold(&printable(title)) + "\n";
    for step in &answer.steps {
        text.push('\n');
        text.push_str(&render_step(step, style));
    }
    text.push('\n');
    let chain = |services: &[String]| match services.is_empty() {
        true => "straight to its destination".to_owned(),
        false => format!("{} > its destination", services.join(" > ")),
    };
    let mut last = vec![("way", chain(&answer.chain))];
    if !answer.happened.is_empty() {
        last.push(("it took", chain(&answer.happened)));
    }
    last.push(("policy", format!("generation {}", answer.generation)));
    text.push_str(&crate::table::properties(last, style));
    let summary = printable(&answer.summary);
    let summary = match answer.verdict() {
        v1::Verdict::Block => style.red(&summary),
        _ => style.green(&summary),
    };
    text + &summary + "\n"
}

fn render_step(step: &v1::Step, style: Style) -> String {
    let layer = layer(step.layer).unwrap_or_default();
    let mut verdict = verdict(step.verdict()).to_owned();
    if !step.service.is_empty() {
        let _ = write!(verdict, " to {}", step.service); // a String takes it
    }
    let head = match step.by.is_empty() {
        true => format!("{layer}: {verdict}"),
        false => format!("{layer}, for {}: {verdict}", step.by),
    };
    let mut text = style.bold(&printable(&head)) + "\n";
    if !step.looks.is_empty() {
        text.push_str(&looks(step, style));
    }
    if !step.reason.is_empty() {
        let _ = writeln!(text, "{}", printable(&step.reason));
    }
    text
}

/// The filters, in the order in which they are looked at.
fn looks(step: &v1::Step, style: Style) -> String {
    let mut table = Table::new(["SUBLAYER", "WEIGHT", "FILTER", "ACTION", "OUTCOME"]);
    for look in &step.looks {
        let action = match (look.action(), look.service.as_str()) {
            (v1::Action::Redirect, service) => format!("redirect to {service}"),
            (other, _) => short(other.as_str_name(), "ACTION_"),
        };
        let outcome = match (outcome(look.outcome()), look.reason.as_str()) {
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
        let _ = writeln!(text, "and {} more filters", step.looks_left_out);
    }
    text
}

fn verdict(verdict: v1::Verdict) -> &'static str {
    match verdict {
        v1::Verdict::Permit => "permit",
        v1::Verdict::Block => "block",
        v1::Verdict::Redirect => "redirect",
        v1::Verdict::None => "nothing matches",
        v1::Verdict::Unspecified => "not known",
    }
}

fn outcome(outcome: v1::look::Outcome) -> &'static str {
    use v1::look::Outcome;
    match outcome {
        Outcome::NoMatch => "no match",
        Outcome::PassedOver => "passed over",
        Outcome::Overridden => "overridden",
        Outcome::Decided => "decided",
        Outcome::NotReached => "not reached",
        Outcome::Unspecified => "not known",
    }
}

/// A constant's name as programs read it.
fn short(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix)
        .unwrap_or(name)
        .to_ascii_lowercase()
}

pub(super) fn as_json(answer: &v1::ExplainResponse) -> Result<Value> {
    let steps: Vec<_> = answer.steps.iter().map(step_json).collect::<Result<_>>()?;
    Ok(json!({
        "verdict": short(answer.verdict().as_str_name(), "VERDICT_"),
        "summary": answer.summary,
        "chain": answer.chain,
        "happened": answer.happened,
        "generation": answer.generation,
        "steps": steps,
    }))
}

fn step_json(step: &v1::Step) -> Result<Value> {
    let looks: Vec<_> = step.looks.iter().map(look_json).collect::<Result<_>>()?;
    Ok(json!({
        "layer": layer(step.layer),
        "by": step.by,
        "verdict": short(step.verdict().as_str_name(), "VERDICT_"),
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
        "action": short(look.action().as_str_name(), "ACTION_"),
        "service": look.service,
        "outcome": short(look.outcome().as_str_name(), "OUTCOME_"),
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
    fn an_answer_tells_each_filter_and_the_whole_way() {
        let answer = v1::ExplainResponse {
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
        insta::assert_snapshot!(render("curl to 192.0.2.1:443", &answer, Style::plain()));
        insta::assert_snapshot!(
            "json",
            serde_json::to_string_pretty(&as_json(&answer).unwrap()).unwrap()
        );
    }
}
