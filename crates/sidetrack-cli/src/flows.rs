//! `sidetrack flows`: the redirected connections and UDP flows that the kernel knows.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Value, json};
use sidetrack_api::v1;
use sidetrack_proxy::line::program_name;

use crate::args;
use crate::daemon::{collect_stream, status_error, time_text, with_daemon};
use crate::format::{endpoint_json, endpoint_text, json_lines, protocol_name};
use crate::table::Table;
use crate::text_style::TextStyle;

pub(crate) fn list(options: &args::ListFlowsArgs) -> Result<ExitCode> {
    let flows = with_daemon(&options.daemon, async |mut client| {
        let request = v1::ListFlowsRequest {
            closed: options.closed,
        };
        let stream = client.list_flows(request).await.map_err(status_error)?;
        let responses = collect_stream(stream.into_inner()).await?;
        Ok(responses
            .into_iter()
            .flat_map(|response| response.flows)
            .collect::<Vec<_>>())
    })?;
    let text = match options.json {
        true => {
            let all: Vec<_> = flows.iter().map(as_json).collect();
            json_lines(&all)? + "\n"
        }
        false => render(&flows, TextStyle::stdout()),
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn render(flows: &[v1::Flow], style: TextStyle) -> String {
    let mut table = Table::new([
        "ID", "PROGRAM", "USER", "TO", "PROTO", "VIA", "FILTER", "STATE",
    ]);
    for flow in flows {
        table.push([
            flow.id.to_string(),
            format!("{}[{}]", program_name(&flow.app, &flow.comm), flow.pid),
            flow.uid.to_string(),
            endpoint_text(flow.remote.as_ref()),
            protocol_name(flow.protocol),
            flow.chain.join(" > "),
            match flow.filter.is_empty() {
                true => format!("#{}", flow.filter_id),
                false => flow.filter.clone(),
            },
            state(flow).to_owned(),
        ]);
    }
    table.render(style)
}

fn state(flow: &v1::Flow) -> &'static str {
    match (flow.closed, flow.held) {
        (true, _) => "closed",
        (_, true) => "held",
        _ => "open",
    }
}

fn as_json(flow: &v1::Flow) -> Value {
    json!({
        "id": flow.id,
        "connected": time_text(flow.connected_unix_ns),
        "remote": endpoint_json(flow.remote.as_ref()),
        "local": endpoint_json(flow.local.as_ref()),
        "protocol": protocol_name(flow.protocol),
        "pid": flow.pid,
        "uid": flow.uid,
        "comm": flow.comm,
        "app": flow.app,
        "cgroup_id": flow.cgroup_id,
        "chain": flow.chain,
        "filter_id": flow.filter_id,
        "filter": flow.filter,
        "closed": flow.closed,
        "held": flow.held,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_shows_program_destination_and_chain() {
        let flow = v1::Flow {
            id: 7,
            remote: Some(sidetrack_api::endpoint(([93, 184, 216, 34], 443).into())),
            protocol: 6,
            pid: 42,
            uid: 1000,
            comm: "worker-1".into(),
            app: "/usr/bin/curl".into(),
            chain: vec!["inspect".into(), "dlp".into()],
            filter_id: 9,
            filter: "web".into(),
            ..Default::default()
        };
        let old = v1::Flow {
            id: 123_456,
            filter: String::new(),
            closed: true,
            remote: None,
            ..flow.clone()
        };
        let held = v1::Flow {
            held: true,
            ..flow.clone()
        };
        insta::assert_snapshot!(render(&[flow, old, held], TextStyle::plain()));
    }
}
