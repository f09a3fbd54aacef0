//! The step between fork and exec: into a cgroup, and down to the user's own rights.
//!
//! A process of its own, because what it does must be done in the new process, before the command
//! has made any socket.

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

/// Becomes the command; returns only if that fails.
pub(crate) fn launch(options: &args::Launch) -> Result<ExitCode> {
    let pid = std::process::id().to_string();
    fs::write(options.cgroup.join("cgroup.procs"), pid).context("enter the run's cgroup")?;
    let mut command = Command::new(&options.command[0]);
    command.args(&options.command[1..]);
    if let Some(user) = options.user {
        set_keep_capabilities(options.net_raw).context("keep rights")?;
        become_user(user, &mut command).with_context(|| format!("become user {user}"))?;
        if options.net_raw {
            let _ = keep_net_raw(); // a host may not give it; the proxy tells what it could not do
        }
    }
    let error = command.exec();
    Err(anyhow!(error).context(format!("cannot start {}", options.command[0].display())))
}

/// This process has one thread, so the thread's rights are the process's.
fn become_user(user: u32, command: &mut Command) -> Result<()> {
    let user = uzers::get_user_by_uid(user).context("there is no such user")?;
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

/// Beyond exec, which takes all other rights away.
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
