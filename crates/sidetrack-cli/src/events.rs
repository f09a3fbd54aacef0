//! `sidetrack events`: what happens.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Value, json};
use sidetrack_api::{key, v1};

use crate::args;
use crate::daemon::{ask, refused, time};
use crate::endpoint::{endpoint_json, layer, protocol};
use crate::style::Style;
use crate::table::printable;

const PREFIX: &str = "EVENT_KIND_";

pub(crate) fn events(options: &args::Events) -> Result<ExitCode> {
    let style = Style::stdout();
    ask(&options.daemon, async |mut client| {
        let request = v1::StreamEventsRequest {
            follow: options.follow,
            backlog: options.backlog,
            kinds: options.kinds.iter().map(|kind| number(kind)).collect(),
        };
        let stream = client.stream_events(request).await.map_err(refused)?;
        let mut stream = stream.into_inner();
        while let Some(event) = stream.message().await.map_err(refused)? {
            let line = match options.json {
                true => as_json(&event)?.to_string(),
                false => render(&event, style),
            };
            writeln!(io::stdout(), "{line}")?;
        }
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The kinds as they are said on the command line: classify-block and so on.
pub(crate) fn kind_names() -> Vec<clap::builder::PossibleValue> {
    let numbers = 1..;
    let kinds = numbers.map_while(|number| v1::EventKind::try_from(number).ok());
    kinds
        .map(|kind| clap::builder::PossibleValue::new(name(kind)))
        .collect()
}

fn name(kind: v1::EventKind) -> String {
    let name = kind.as_str_name();
    let name = name.strip_prefix(PREFIX).unwrap_or(name);
    name.to_ascii_lowercase().replace('_', "-")
}

fn number(name: &str) -> i32 {
    let name = name.to_ascii_uppercase().replace('-', "_");
    v1::EventKind::from_str_name(&format!("{PREFIX}{name}")).map_or(0, Into::into)
}

fn kind(event: &v1::Event) -> String {
    match v1::EventKind::try_from(event.kind) {
        Ok(kind) => name(kind),
        Err(_) => format!("kind-{}", event.kind), // of a younger daemon
    }
}

/// Columns of the kind: the longest is absent-permitted.
const KIND_WIDTH: usize = 19;

fn render(event: &v1::Event, style: Style) -> String {
    use v1::EventKind::{
        AbsentBlocked, ChainTooLong, ClassifyBlock, MapFull, Missed, RecordsMissing, RecordsStale,
        SelfConnect, TransactionAborted,
    };
    let name = format!("{:KIND_WIDTH$}", kind(event));
    let name = match v1::EventKind::try_from(event.kind) {
        Ok(
            AbsentBlocked | ChainTooLong | ClassifyBlock | MapFull | RecordsMissing | RecordsStale
            | SelfConnect,
        ) => style.red(&name),
        Ok(Missed | TransactionAborted) => style.yellow(&name),
        _ => name,
    };
    let time = style.dim(&time(event.time_unix_ns));
    format!("{time}  {name}  {}", printable(&event.message))
}

/// What does not apply is left out.
fn as_json(event: &v1::Event) -> Result<Value> {
    let some = |number: u64| Some(number).filter(|&number| number != 0);
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let all = json!({
        "sequence": event.sequence,
        "time": time(event.time_unix_ns),
        "kind": kind(event),
        "message": event.message,
        "layer": layer(event.layer),
        "filter_id": some(event.filter_id),
        "filter": text(&event.filter),
        "filter_key": key(&event.filter_key)?,
        "service": text(&event.service),
        "pid": some(event.pid.into()),
        "uid": (event.pid != 0).then_some(event.uid),
        "comm": text(&event.comm),
        "local": endpoint_json(event.local.as_ref()),
        "remote": endpoint_json(event.remote.as_ref()),
        "protocol": text(&protocol(event.protocol)),
        "flow_id": some(event.flow_id),
        "session_id": some(event.session_id),
        "generation": some(event.generation),
        "missed": some(event.missed),
    });
    let Value::Object(members) = all else {
        return Ok(all);
    };
    let given = members.into_iter().filter(|(_, value)| !value.is_null());
    Ok(Value::Object(given.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> v1::Event {
        v1::Event {
            sequence: 3,
            time_unix_ns: 1_795_000_000_123_000_000,
            kind: v1::EventKind::ClassifyBlock.into(),
            message: "curl[42] was blocked by \"no web\"\u{1b}[2J".into(),
            layer: v1::Layer::AuthConnectV4.into(),
            filter_id: 9,
            filter: "no web".into(),
            pid: 42,
            comm: "curl".into(),
            remote: Some(sidetrack_api::endpoint(([192, 0, 2, 1], 80).into())),
            protocol: 6,
            ..Default::default()
        }
    }

    #[test]
    fn an_event_is_a_line() {
        insta::assert_snapshot!(
            render(&event(), Style::plain()),
            @r#"2026-11-18T11:06:40.123Z  classify-block       curl[42] was blocked by "no web"\u{1b}[2J"#
        );
        insta::assert_snapshot!(as_json(&event()).unwrap());
    }

    #[test]
    fn every_kind_can_be_asked_for_by_the_name_it_is_shown_by() {
        let names = kind_names();
        assert!(names.len() >= 19);
        for name in &names {
            assert_ne!(number(name.get_name()), 0, "{}", name.get_name());
            assert!(name.get_name().len() <= KIND_WIDTH);
            let page = include_str!("../../../docs/cli.md");
            assert!(
                page.contains(&format!("`{}`", name.get_name())),
                "{}",
                name.get_name()
            );
        }
    }
}
