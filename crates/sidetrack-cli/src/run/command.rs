//! The command of a run: finding it, starting it as its user, and its end.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};
use std::thread;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use sidetrack::{LISTEN_VARIABLE, NAME_VARIABLE, PENDED_VARIABLE};
use sidetrack_engine::Cgroup;

use super::event::{EventSender, RunEvent};
use crate::user::User;

/// The running command.
pub(super) struct Program {
    pid: Pid,
}

impl Program {
    /// Starts `file` with the arguments of `command` in the cgroup, as the user. Its end is sent as an event.
    pub(super) fn start(
        file: &Path,
        command: &[OsString],
        cgroup: &Cgroup,
        user: Option<&User>,
        sender: &EventSender,
    ) -> Result<Self> {
        let mut child = launcher(cgroup, user, false)
            .arg("--")
            .arg(file)
            .args(&command[1..])
            .env_remove(LISTEN_VARIABLE)
            .env_remove(NAME_VARIABLE)
            .env_remove(PENDED_VARIABLE)
            .spawn()
            .with_context(|| format!("cannot start {}", file.display()))?;
        let pid = Pid::from_child(&child);
        let sender = sender.clone();
        thread::spawn(move || {
            if let Ok(status) = child.wait() {
                sender.send(RunEvent::ProgramEnded(status));
            }
        });
        Ok(Self { pid })
    }

    /// Sends the command a signal, given by its number.
    pub(super) fn signal(&mut self, number: i32) {
        if let Some(signal) = Signal::from_named_raw(number) {
            let _ = kill_process(self.pid, signal); // it fails if the command has just ended
        }
    }
}

/// Returns the beginning of a command line that runs a command in the cgroup, as the user (`None`: as this
/// process's), and with CAP_NET_RAW if `net_raw` is set. The caller adds further options, `--` and the
/// command.
///
/// It is this program with the hidden subcommand `launch`.
pub(super) fn launcher(cgroup: &Cgroup, user: Option<&User>, net_raw: bool) -> Command {
    let mut launcher = Command::new("/proc/self/exe");
    launcher.arg("launch").arg("--cgroup").arg(cgroup.path());
    if let Some(user) = user {
        launcher.args(["--user", &user.id().to_string()]);
    }
    if net_raw {
        launcher.arg("--net-raw");
    }
    launcher
}

/// Finds the file of a command as a shell does: by its path, or in PATH.
pub(super) fn resolve(command: &[OsString]) -> Result<PathBuf> {
    let name = Path::new(&command[0]);
    if name.components().count() > 1 {
        if !is_executable(name) {
            bail!("{} is not a program that can be run", name.display());
        }
        return Ok(name.to_owned());
    }
    env::split_paths(&env::var_os("PATH").unwrap_or_default())
        .map(|folder| folder.join(name))
        .find(|file| is_executable(file))
        .with_context(|| format!("command not found: {}", name.display()))
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Returns the command's exit code, or 128 plus the number of the signal that ended it, as shells
/// do.
pub(super) fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or(status.signal().map(|signal| 128 + signal))
        .unwrap_or(1);
    ExitCode::from(code as u8)
}
