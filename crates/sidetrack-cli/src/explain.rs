//! `sidetrack explain`: where a connection would go, and which filters decide that.

mod request;
mod response;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use sidetrack_api::v1;

use crate::args;
use crate::daemon::{status_error, with_daemon};
use crate::format::json_lines;
use crate::text_style::TextStyle;

/// Explains a connection or flow. The exit code is 1 if it would be blocked.
pub(crate) fn explain(options: &args::ExplainArgs) -> Result<ExitCode> {
    let query = request::build(options)?;
    let response = with_daemon(&options.daemon, async |mut client| {
        let response = client.explain(query.request.clone()).await;
        Ok(response.map_err(status_error)?.into_inner())
    })?;
    let text = match options.json {
        true => json_lines(&response::as_json(&response)?)? + "\n",
        false => response::render(&query.title, &response, TextStyle::stdout()),
    };
    io::stdout().write_all(text.as_bytes())?;
    let blocked = response.verdict() == v1::Verdict::Block;
    Ok(ExitCode::from(u8::from(blocked)))
}
