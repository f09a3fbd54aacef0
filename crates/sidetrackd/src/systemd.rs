//! Notifications to systemd, and the query whether a unit is enabled.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Command, Stdio};

/// Sends a message such as `READY=1`, `STOPPING=1` or `STATUS=…` to the service manager
/// (sd_notify(3)). Without the environment variable NOTIFY_SOCKET there is no manager that waits
/// for it, and nothing is sent.
///
/// Errors: the socket's.
pub fn notify(message: &str) -> io::Result<()> {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let socket = UnixDatagram::unbound()?;
    let bytes = path.as_encoded_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    socket.send_to_addr(message.as_bytes(), &address)?;
    Ok(())
}

/// Returns whether systemd starts a unit at boot. Without systemd no unit is enabled.
pub fn is_enabled(unit: &str) -> bool {
    // After `--`, a name such as --root is a unit's name and not an option.
    let command = Command::new("systemctl")
        .args(["is-enabled", "--quiet", "--", unit])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    command.is_ok_and(|status| status.success())
}
