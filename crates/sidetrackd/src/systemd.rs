//! What systemd is told, and asked.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Command, Stdio};

/// Tells the service manager, if there is one: `READY=1`, `STOPPING=1`, `STATUS=…` (sd_notify(3)).
pub fn notify(message: &str) -> io::Result<()> {
    let Some(place) = env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let socket = UnixDatagram::unbound()?;
    let bytes = place.as_encoded_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&place)?,
    };
    socket.send_to_addr(message.as_bytes(), &address)?;
    Ok(())
}

/// Whether a unit is enabled: it starts by itself at boot. Without systemd nothing is.
pub fn is_enabled(unit: &str) -> bool {
    // A name such as --root would be an option.
    let command = Command::new("systemctl")
        .args(["is-enabled", "--quiet", "--", unit])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    command.is_ok_and(|status| status.success())
}
