//! `sidetrack uninstall`: takes everything of Sidetrack out of the kernel.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Result, bail};
use sidetrack_engine::{Cgroup, host, remove_pins};

use crate::installed::Installed;
use crate::{args, scope};

pub(crate) fn uninstall(options: &args::Uninstall) -> Result<ExitCode> {
    let mut installed = Installed::find(options.config.as_deref())?;
    if let Some(pins) = &options.pins {
        installed.pins.clone_from(pins);
    }
    host::privilege()?;
    let running = installed.is_running();
    if running && !options.force {
        bail!(
            "sidetrackd answers at {}; stop it first (`systemctl stop sidetrackd`), or use --force",
            installed.socket.display()
        );
    }
    let mut out = io::stdout();
    let pins = installed.pins.display();
    let was_there = installed.is_pinned();
    remove_pins(&installed.pins)?; // also what an engine left that did not get to its end
    match was_there {
        true => writeln!(out, "removed the data path pinned at {pins}")?,
        false => writeln!(out, "no data path is pinned at {pins}")?,
    }
    for path in scope::found()?.0 {
        scope::clear(&Cgroup::at(&path)?);
        writeln!(out, "removed the cgroup {}", path.display())?;
    }
    if running {
        writeln!(
            out,
            "sidetrackd still runs: what it holds goes when it ends"
        )?;
    }
    Ok(ExitCode::SUCCESS)
}
