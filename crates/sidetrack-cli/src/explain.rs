//! `sidetrack explain`: where a connection would go, and why.

mod answer;
mod question;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use sidetrack_api::v1;

use crate::args;
use crate::daemon::{ask, refused};
use crate::style::Style;

/// Exits with 1 if the connection would be blocked.
pub(crate) fn explain(options: &args::Explain) -> Result<ExitCode> {
    let question = question::question(options)?;
    let answer = ask(&options.daemon, async |mut client| {
        let answer = client.explain(question.request.clone()).await;
        Ok(answer.map_err(refused)?.into_inner())
    })?;
    let text = match options.json {
        true => serde_json::to_string_pretty(&answer::as_json(&answer)?)? + "\n",
        false => answer::render(&question.title, &answer, Style::stdout()),
    };
    io::stdout().write_all(text.as_bytes())?;
    let blocked = answer.verdict() == v1::Verdict::Block;
    Ok(ExitCode::from(u8::from(blocked)))
}
