//! The hidden subcommand `launch`: enters a cgroup, changes to a user, and executes a command.
//!
//! It is a separate process, because both must be done in the process of the command, before the
//! command creates any socket.

use std::fs;
use std::os::fd::{IntoRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, anyhow};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::thread::{
    CapabilitySet, CapabilitySets, configure_capability_in_ambient_set, set_capabilities,
    set_keep_capabilities,
};

use sidetrack::{LISTEN_VARIABLE, PENDED_VARIABLE};
use sidetrack_abi::kernel::Listen;
use sidetrack_engine::{open_ring, senders_of};

use crate::args;
use crate::user::User;

/// Replaces this process by the command. Returns only if that fails.
pub(crate) fn launch(options: &args::LaunchArgs) -> Result<ExitCode> {
    let mut command = Command::new(&options.command[0]);
    command.args(&options.command[1..]);
    // A proxy without these accepts first, and says so.
    if let Ok(Some(descriptors)) = pended_descriptors(options) {
        command.env(PENDED_VARIABLE, descriptors);
    }
    enter(&options.cgroup)?;
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

fn enter(cgroup: &Path) -> Result<()> {
    let pid = std::process::id().to_string();
    fs::write(cgroup.join("cgroup.procs"), pid).context("cannot enter the cgroup of the run")
}

/// Opens what the command needs to pend connects, for it to inherit. Returns the descriptors' numbers as the
/// SDK reads them, or `None` if the command does not pend.
fn pended_descriptors(options: &args::LaunchArgs) -> Result<Option<String>> {
    let (Some(id), Some(cgroup)) = (options.ring, &options.sender_cgroup) else {
        return Ok(None);
    };
    let credentials = std::env::var(LISTEN_VARIABLE)?;
    let listen = Listen::from_hex(&credentials).context("bad credentials")?;
    enter(cgroup)?; // which restricts what the senders made there can send
    let (v4, v6) = senders_of(&listen)?;
    let ring = inherited(open_ring(id)?)?;
    let v6 = v6.map(inherited).transpose()?;
    Ok(Some(format!(
        "{ring},{},{}",
        inherited(v4)?,
        v6.map_or_else(|| "-".to_owned(), |number| number.to_string())
    )))
}

/// Keeps a descriptor open in the command. Returns its number.
fn inherited(descriptor: OwnedFd) -> Result<RawFd> {
    fcntl_setfd(&descriptor, FdFlags::empty())?;
    Ok(descriptor.into_raw_fd())
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
