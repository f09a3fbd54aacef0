//! Files that are generated from the command line's definition: shell completions and manual pages.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::CommandFactory;

use crate::args::{self, Arguments};

pub(crate) fn completions(options: &args::CompletionsArgs) -> Result<ExitCode> {
    let mut script = Vec::new();
    let mut command = Arguments::command();
    clap_complete::generate(options.shell, &mut command, "sidetrack", &mut script);
    io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a manual page for each command: sidetrack.1, sidetrack-apply.1 and so on.
pub(crate) fn manual(options: &args::ManArgs) -> Result<ExitCode> {
    let folder = &options.folder;
    clap_mangen::generate_to(Arguments::command(), folder)
        .with_context(|| format!("cannot write the manual pages to {}", folder.display()))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_has_a_manual_page() {
        let folder = tempfile::tempdir().unwrap();
        let options = args::ManArgs {
            folder: folder.path().to_owned(),
        };
        manual(&options).unwrap();
        let page = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert!(page("sidetrack-filter-add.1").contains("remote_port=443"));
        for command in Arguments::command()
            .get_subcommands()
            .filter(|one| !one.is_hide_set())
        {
            assert!(page(&format!("sidetrack-{}.1", command.get_name())).contains(".SH NAME"));
        }
    }
}
