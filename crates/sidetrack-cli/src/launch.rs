//! The hidden subcommand `launch`: enters a cgroup, changes to a user, and executes a command.
//!
//! It is a separate process, because both must be done in the process of the command, before the
//! command creates any socket.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, anyhow};
use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, configure_capability_in_ambient_set, set_capabilities,
    set_keep_capabilities, set_thread_gid, set_thread_groups, set_thread_uid,
};
use uzers::os::unix::UserExt;

use crate::args;

/// Replaces this process by the command. Returns only if that fails.
pub(crate) fn launch(options: &args::LaunchArgs) -> Result<ExitCode> {
    let pid = std::process::id().to_string();
    fs::write(options.cgroup.join("cgroup.procs"), pid)
        .context("cannot enter the cgroup of the run")?;
    let mut command = Command::new(&options.command[0]);
    command.args(&options.command[1..]);
    if let Some(user) = options.user {
        set_keep_capabilities(options.net_raw).context("cannot keep capabilities")?;
        become_user(user, &mut command)
            .with_context(|| format!("cannot change to the user {user}"))?;
        if options.net_raw {
            // The host may not grant it. The proxy then reports what it could not do.
            let _ = keep_net_raw();
        }
    }
    let error = command.exec();
    Err(anyhow!(error).context(format!("cannot start {}", options.command[0].display())))
}

/// Changes to a user and to its groups. This process has one thread, so what applies to the thread
/// applies to the process.
fn become_user(user: u32, command: &mut Command) -> Result<()> {
    let user = uzers::get_user_by_uid(user).context("there is no user with this id")?;
    let groups: Vec<Gid> = user
        .groups()
        .unwrap_or_default()
        .iter()
        .map(|group| Gid::from_raw(group.gid()))
        .collect();
    set_thread_groups(&groups)?;
    set_thread_gid(Gid::from_raw(user.primary_group_id()))?;
    set_thread_uid(Uid::from_raw(user.uid()))?;
    command
        .env("HOME", user.home_dir())
        .env("USER", user.name())
        .env("LOGNAME", user.name());
    Ok(())
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
