//! The command: found, started as the user who asked, waited for.

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
use sidetrack::{LISTEN_VARIABLE, NAME_VARIABLE};
use sidetrack_engine::Cgroup;

use super::wake::{Happening, Wake};

/// The running command.
pub(super) struct Program {
    pid: Pid,
}

impl Program {
    pub(super) fn start(
        file: &Path,
        command: &[OsString],
        cgroup: &Cgroup,
        wake: &Wake,
    ) -> Result<Self> {
        let mut child = launcher(cgroup, false)
            .arg(file)
            .args(&command[1..])
            .env_remove(LISTEN_VARIABLE)
            .env_remove(NAME_VARIABLE)
            .spawn()
            .with_context(|| format!("start {}", file.display()))?;
        let pid = Pid::from_child(&child);
        let wake = wake.clone();
        thread::spawn(move || {
            if let Ok(status) = child.wait() {
                wake.tell(Happening::ProgramEnded(status));
            }
        });
        Ok(Self { pid })
    }

    pub(super) fn signal(&mut self, number: i32) {
        if let Some(signal) = Signal::from_named_raw(number) {
            let _ = kill_process(self.pid, signal); // it may have just ended
        }
    }
}

/// This program once more, to enter a cgroup and become the invoking user, perhaps with CAP_NET_RAW; the
/// command follows.
pub(super) fn launcher(cgroup: &Cgroup, net_raw: bool) -> Command {
    let mut launcher = Command::new("/proc/self/exe");
    launcher.arg("launch").arg("--cgroup").arg(cgroup.path());
    if let Some(user) = invoking_user() {
        launcher.args(["--user", &user.to_string()]);
    }
    if net_raw {
        launcher.arg("--net-raw");
    }
    launcher.arg("--");
    launcher
}

/// Who called sudo; `None` if nobody did.
fn invoking_user() -> Option<u32> {
    let user = env::var("SUDO_UID").ok()?.parse().ok()?;
    (user != 0 && rustix::process::geteuid().is_root()).then_some(user)
}

/// The file that a command means, as the shell would find it.
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

/// The command's own code; 128 and the signal's number if one ended it, as shells have it.
pub(super) fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or(status.signal().map(|signal| 128 + signal))
        .unwrap_or(1);
    ExitCode::from(code as u8)
}
