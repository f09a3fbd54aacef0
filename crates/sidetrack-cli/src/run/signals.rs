//! Signals that are sent to us are meant for the command.

use std::thread;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::Cause;

use super::wake::{Happening, Wake};

/// Passes them on from now on.
///
/// Not those of the terminal (Ctrl-C): the kernel sends them to the command too, which is in the same
/// process group.
pub(super) fn forward(wake: &Wake) -> Result<()> {
    let all = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];
    let mut signals = SignalsInfo::<WithOrigin>::new(all).context("catch signals")?;
    let wake = wake.clone();
    thread::spawn(move || {
        for origin in signals.forever() {
            if !matches!(origin.cause, Cause::Kernel) {
                wake.tell(Happening::Signal(origin.signal));
            }
        }
    });
    Ok(())
}
