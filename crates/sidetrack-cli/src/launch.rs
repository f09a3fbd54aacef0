//! The hidden subcommand `launch`: enters a cgroup, changes to a user, and executes a command.
//!
//! It is a separate process, because both must be done in the process of the command, before the
//! command creates any socket.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, anyhow};
use rustix::thread::{
    CapabilitySet, CapabilitySets, configure_capability_in_ambient_set, set_capabilities,
    set_keep_capabilities,
};

use crate::args;
use crate::user::User;

/// Replaces this process by the command. Returns only if that fails.
pub(crate) fn launch(options: &args::LaunchArgs) -> Result<ExitCode> {
    let pid = std::process::id().to_string();
    fs::write(options.cgroup.join("cgroup.procs"), pid)
        .context("cannot enter the cgroup of the run")?;
    let mut command = Command::new(&options.command[0]);
    command.args(&options.command[1..]);
    if let Some(id) = options.user {
        let user = User::of_id(id)?;
        set_keep_capabilities(options.net_raw).context("cannot keep capabilities")?;
        // This process has one thread, so what applies to the thread applies to the process.
        user.assume()
            .with_context(|| format!("cannot change to the user {id}"))?;
        command
            .env("HOME", &user.home)
            .env("USER", &user.name)
            .env("LOGNAME", &user.name);
        if options.net_raw {
            // The host may not grant it. The proxy then reports what it could not do.
            let _ = keep_net_raw();
        }
    }
    let error = command.exec();
    Err(anyhow!(error).context(format!("cannot start {}", options.command[0].display())))
}

/// Keeps CAP_NET_RAW across exec, as an ambient capability, and drops all others.
fn keep_net_raw() -> Result<()> {
    let only = CapabilitySet::NET_RAW;
    let sets = CapabilitySets {
        effective: only,
        permitted: only,
        inheritable: only,
    };
    set_capabilities(None, sets)?;
    Ok(configure_capability_in_ambient_set(only, true)?)
}
