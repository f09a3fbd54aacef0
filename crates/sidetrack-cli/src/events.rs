//! `sidetrack events`: the events that the daemon reports.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Value, json};
use sidetrack_abi::text::Printable;
use sidetrack_api::{key, v1};

use crate::args;
use crate::daemon::{status_error, time_text, with_daemon};
use crate::event_kind::{kind_name, kind_number};
use crate::format::{endpoint_json, json_line, layer_name, protocol_name};
use crate::text_style::TextStyle;

pub(crate) fn events(options: &args::EventsArgs) -> Result<ExitCode> {
    let style = TextStyle::stdout();
    with_daemon(&options.daemon, async |mut client| {
        let request = v1::StreamEventsRequest {
            follow: options.follow,
            backlog: options.backlog,
            kinds: options.kinds.iter().map(|kind| kind_number(kind)).collect(),
        };
        let stream = client.stream_events(request).await.map_err(status_error)?;
        let mut stream = stream.into_inner();
        while let Some(event) = stream.message().await.map_err(status_error)? {
            let line = match options.json {
                true => json_line(&as_json(&event)?)?,
                false => render(&event, style),
            };
            writeln!(io::stdout(), "{line}")?;
        }
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

fn kind_text(event: &v1::Event) -> String {
    match v1::EventKind::try_from(event.kind) {
        Ok(kind) => kind_name(kind),
        Err(_) => format!("kind-{}", event.kind), // the daemon is newer than this command
    }
}

/// Width of the column for the kind: the length of the longest name, transaction-aborted.
const KIND_WIDTH: usize = 19;

fn render(event: &v1::Event, style: TextStyle) -> String {
    use v1::EventKind::{
        AbsentBlocked, ChainTooLong, ClassifyBlock, MapFull, Missed, RecordsBound, RecordsMissing,
        RecordsStale, SelfConnect, TransactionAborted,
    };
    let name = format!("{:KIND_WIDTH$}", kind_text(event));
    let name = match v1::EventKind::try_from(event.kind) {
        Ok(
            AbsentBlocked | ChainTooLong | ClassifyBlock | MapFull | RecordsBound | RecordsMissing
            | RecordsStale | SelfConnect,
        ) => style.red(&name),
        Ok(Missed | TransactionAborted) => style.yellow(&name),
        _ => name,
    };
    let time = style.dim(&time_text(event.time_unix_ns));
    format!("{time}  {name}  {}", Printable(&event.message))
}

/// Converts an event to JSON. Members that do not apply are left out.
fn as_json(event: &v1::Event) -> Result<Value> {
    let some = |number: u64| Some(number).filter(|&number| number != 0);
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let all = json!({
        "sequence": event.sequence,
        "time": time_text(event.time_unix_ns),
        "kind": kind_text(event),
        "message": event.message,
        "layer": layer_name(event.layer),
        "filter_id": some(event.filter_id),
        "filter": text(&event.filter),
        "filter_key": key(&event.filter_key)?,
        "service": text(&event.service),
        "pid": some(event.pid.into()),
        "uid": (event.pid != 0).then_some(event.uid),
        "comm": text(&event.comm),
        "executable": text(&event.executable),
        "local": endpoint_json(event.local.as_ref()),
        "remote": endpoint_json(event.remote.as_ref()),
        "protocol": text(&protocol_name(event.protocol)),
        "flow_id": some(event.flow_id),
        "session_id": some(event.session_id),
        "generation": some(event.generation),
        "missed": some(event.missed),
    });
    let Value::Object(members) = all else {
        return Ok(all);
    };
    let present = members.into_iter().filter(|(_, value)| !value.is_null());
    Ok(Value::Object(present.collect()))
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
    fn event_is_printed_as_one_line() {
        insta::assert_snapshot!(
            render(&event(), TextStyle::plain()),
            @r#"2026-11-18T11:06:40.123Z  classify-block       curl[42] was blocked by "no web"\u{1b}[2J"#
        );
        insta::assert_snapshot!(as_json(&event()).unwrap());
    }

    #[test]
    fn every_kind_has_one_name_for_option_output_and_page() {
        let names = crate::event_kind::kind_names();
        assert!(names.len() >= 19);
        for name in &names {
            assert_ne!(kind_number(name.get_name()), 0, "{}", name.get_name());
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
