//! `sidetrack state`: the daemon's state, and the cost of each hook.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use sidetrack_abi::text::{Printable, count};
use sidetrack_api::v1;
use sidetrack_engine::cost::{Cost, costs};
use sidetrack_proxy::line::size;

use crate::args;
use crate::daemon::{status_error, time_text, with_daemon};
use crate::format::json_lines;
use crate::table::{Table, properties};
use crate::text_style::TextStyle;

pub(crate) fn state(options: &args::StateArgs) -> Result<ExitCode> {
    let state = with_daemon(&options.daemon, async |mut client| {
        let response = client.get_state(v1::GetStateRequest {}).await;
        Ok(response.map_err(status_error)?.into_inner())
    })?;
    let seconds = options.costs.map(Duration::from_secs);
    let costs = seconds.map(costs).transpose()?;
    let text = match options.json {
        true => {
            let mut json = as_json(&state);
            if let Some(costs) = &costs {
                json["costs"] = costs.iter().map(cost_json).collect();
            }
            json_lines(&json)? + "\n"
        }
        false => {
            let mut text = render(&state, TextStyle::stdout());
            if let Some(costs) = &costs {
                text.push('\n');
                text.push_str(&cost_table(
                    costs,
                    options.costs.unwrap_or(1),
                    TextStyle::stdout(),
                ));
            }
            text
        }
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn render(state: &v1::State, style: TextStyle) -> String {
    let mut parts = vec![properties(head(state), style)];
    if !state.counters.is_empty() {
        let counters = state.counters.iter();
        let all = counters.map(|counter| (counter.name.as_str(), counter.value.to_string()));
        parts.push(style.bold("counters") + "\n" + &properties(all, style));
    }
    if !state.tables.is_empty() {
        let mut table = Table::new(["TABLE", "USED", "CAPACITY"]);
        for map in &state.tables {
            table.push([
                map.name.clone(),
                map.used.to_string(),
                map.capacity.to_string(),
            ]);
        }
        parts.push(table.render(style));
    }
    if !state.sessions.is_empty() {
        parts.push(session_table(&state.sessions, style));
    }
    for note in &state.notes {
        parts.push(format!("{}{}\n", style.yellow("note: "), Printable(note)));
    }
    parts.join("\n")
}

/// Returns the properties that stand above the tables.
fn head(state: &v1::State) -> Vec<(&str, String)> {
    let mut head = vec![
        ("sidetrackd", state.version.clone()),
        ("running since", time_text(state.started_unix_ns)),
        (
            "policy",
            format!(
                "generation {}, in force since {}, {} in the kernel",
                state.generation,
                time_text(state.committed_unix_ns),
                size(state.policy_bytes)
            ),
        ),
        (
            "objects",
            [
                count(state.providers, "provider"),
                count(state.sublayers, "sublayer"),
                count(state.services, "service"),
                count(state.filters, "filter"),
            ]
            .join(", "),
        ),
    ];
    if !state.cgroups.is_empty() {
        head.push(("attached to", state.cgroups.join(", ")));
    }
    if let Some(writer) = &state.writer {
        head.push((
            "writer",
            format!(
                "session {}, for {:.1} s; {}",
                writer.session_id,
                writer.held_ms as f64 / 1000.0,
                count(state.writers_waiting, "waiting call")
            ),
        ));
    }
    head
}

fn session_table(sessions: &[v1::SessionState], style: TextStyle) -> String {
    let mut table = Table::new([
        "SESSION", "NAME", "PID", "USER", "DYNAMIC", "OBJECTS", "SINCE",
    ]);
    for session in sessions {
        let dynamic = if session.dynamic { "yes" } else { "no" };
        // After a restart of the daemon, the client of a dynamic session is unknown until it
        // reconnects.
        let (name, pid, since) = match session.waiting {
            true => ("(waiting for its client)".into(), "-".into(), "-".into()),
            false => (
                session.name.clone(),
                session.pid.to_string(),
                time_text(session.opened_unix_ns),
            ),
        };
        table.push([
            session.session_id.to_string(),
            name,
            pid,
            session.uid.to_string(),
            dynamic.to_owned(),
            session.objects.to_string(),
            since,
        ]);
    }
    table.render(style)
}

/// Renders the cost of each hook, measured for `seconds`. The CPU share is of one CPU.
fn cost_table(costs: &[Cost], seconds: u64, style: TextStyle) -> String {
    if costs.is_empty() {
        return format!("no hook ran within {seconds} s\n");
    }
    let mut table = Table::new(["HOOK", "RUNS", "NS PER RUN", "CPU SHARE", "PROGRAM"]);
    for cost in costs {
        let share = 100.0 * cost.time.as_secs_f64() / seconds as f64;
        table.push([
            cost.program.clone(),
            cost.runs.to_string(),
            cost.nanoseconds_per_run().to_string(),
            format!("{share:.3} %"),
            cost.id.to_string(),
        ]);
    }
    table.render(style)
}

fn cost_json(cost: &Cost) -> Value {
    json!({
        "hook": cost.program,
        "program": cost.id,
        "runs": cost.runs,
        "time_ns": cost.time.as_nanos() as u64,
        "ns_per_run": cost.nanoseconds_per_run(),
    })
}

fn as_json(state: &v1::State) -> Value {
    let counters = state.counters.iter();
    let counters = counters.map(|counter| (counter.name.clone(), counter.value.into()));
    let tables = state
        .tables
        .iter()
        .map(|map| json!({ "name": map.name, "used": map.used, "capacity": map.capacity }));
    let sessions = state.sessions.iter().map(|session| {
        json!({
            "id": session.session_id,
            "name": session.name,
            "pid": session.pid,
            "uid": session.uid,
            "dynamic": session.dynamic,
            "objects": session.objects,
            "in_transaction": session.in_transaction,
            "waiting": session.waiting,
            "opened": time_text(session.opened_unix_ns),
        })
    });
    let writer = state
        .writer
        .map(|writer| json!({ "session": writer.session_id, "held_ms": writer.held_ms }));
    json!({
        "version": state.version,
        "started": time_text(state.started_unix_ns),
        "generation": state.generation,
        "committed": time_text(state.committed_unix_ns),
        "policy_bytes": state.policy_bytes,
        "providers": state.providers,
        "sublayers": state.sublayers,
        "services": state.services,
        "filters": state.filters,
        "cgroups": state.cgroups,
        "counters": Value::Object(counters.collect()),
        "tables": tables.collect::<Vec<_>>(),
        "sessions": sessions.collect::<Vec<_>>(),
        "writer": writer,
        "writers_waiting": state.writers_waiting,
        "notes": state.notes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_rendered_as_a_table() {
        let cost = |program: &str, runs, time| Cost {
            program: program.to_owned(),
            id: 7,
            runs,
            time: Duration::from_nanos(time),
        };
        let costs = [cost("connect4", 1000, 1_500_000), cost("sockops", 4, 400)];
        let text = cost_table(&costs, 1, TextStyle::plain());
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(rows[1], ["connect4", "1000", "1500", "0.150", "%", "7"]);
        assert_eq!(rows[2][..3], ["sockops", "4", "100"]);
        assert_eq!(
            cost_table(&[], 2, TextStyle::plain()),
            "no hook ran within 2 s\n"
        );
    }

    #[test]
    fn state_is_rendered_in_sections() {
        let state = v1::State {
            version: "0.1.0".into(),
            generation: 12,
            committed_unix_ns: 1_795_000_000_000_000_000,
            started_unix_ns: 1_794_999_000_000_000_000,
            providers: 1,
            sublayers: 2,
            services: 3,
            filters: 100_000,
            counters: vec![v1::Counter {
                name: "redirected".into(),
                value: 5,
            }],
            tables: vec![v1::Table {
                name: "flows".into(),
                used: 3,
                capacity: 65_536,
            }],
            cgroups: vec!["/".into()],
            sessions: vec![v1::SessionState {
                session_id: 4,
                name: "acme\u{7}".into(),
                dynamic: true,
                pid: 77,
                uid: 1000,
                opened_unix_ns: 1_794_999_500_000_000_000,
                objects: 6,
                in_transaction: true,
                waiting: false,
            }],
            writer: Some(v1::TransactionState {
                session_id: 4,
                held_ms: 1500,
            }),
            writers_waiting: 2,
            notes: vec!["the kernel's policy was not the stored one; it was loaded again".into()],
            policy_bytes: 20 << 20,
        };
        insta::assert_snapshot!(render(&state, TextStyle::plain()));
        insta::assert_snapshot!(
            "json",
            serde_json::to_string_pretty(&as_json(&state)).unwrap()
        );
    }
}
