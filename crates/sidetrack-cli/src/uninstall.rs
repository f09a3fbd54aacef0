//! `sidetrack uninstall`: removes everything of Sidetrack from the kernel.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Result, bail};
use sidetrack_abi::text::Printable;
use sidetrack_engine::{Cgroup, host, remove_pins};

use crate::installation::Installation;
use crate::{args, run_cgroup, watcher};

pub(crate) fn uninstall(options: &args::UninstallArgs) -> Result<ExitCode> {
    let mut installed = Installation::find(options.config.as_deref())?;
    if let Some(pins) = &options.pins {
        installed.pins.clone_from(pins);
    }
    host::privilege()?;
    let running = installed.is_running();
    if running && !options.force {
        bail!(
            "sidetrackd is running (it accepts connections at {}); \
             stop it first with `systemctl stop sidetrackd`, or use --force",
            installed.socket.display()
        );
    }
    let mut out = io::stdout();
    let pins = Printable(installed.pins.display());
    let was_pinned = installed.is_pinned();
    // This also removes the pins of an engine that ended before it had pinned everything.
    remove_pins(&installed.pins)?;
    match was_pinned {
        true => writeln!(out, "removed the data path pinned at {pins}")?,
        false => writeln!(out, "no data path is pinned at {pins}")?,
    }
    let (dead, _) = run_cgroup::find_all()?;
    for path in dead {
        watcher::kill_and_remove(&Cgroup::at(&path)?);
        writeln!(out, "removed the cgroup {}", Printable(path.display()))?;
    }
    if running {
        writeln!(
            out,
            "sidetrackd is still running; what it holds in the kernel is freed when it exits"
        )?;
    }
    Ok(ExitCode::SUCCESS)
}
