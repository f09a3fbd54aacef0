//! Signals that are sent to `sidetrack run` are passed on to the command.

use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};
use signal_hook::consts::{
    SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU, SIGXFSZ,
};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::Cause;

use super::event::{EventSender, RunEvent};

/// Starts a thread that sends every signal from another process as an event.
///
/// Signals that the kernel sends are left out, such as SIGINT for a Ctrl-C at the terminal: the
/// command gets them too, because it is in the same process group.
pub(super) fn forward(sender: &EventSender) -> Result<()> {
    // What this process inherits must not end it, and with it the inspection: without a handler, a user's limit of
    // file sizes or processor time would. And if SIGCHLD is ignored, no child can be waited for. Children do not
    // inherit handlers.
    for number in [SIGCHLD, SIGXCPU, SIGXFSZ] {
        signal_hook::flag::register(number, Arc::default())
            .context("cannot install the signal handlers")?;
    }
    let forwarded = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];
    let mut signals =
        SignalsInfo::<WithOrigin>::new(forwarded).context("cannot install the signal handlers")?;
    let sender = sender.clone();
    thread::spawn(move || {
        for origin in signals.forever() {
            if !matches!(origin.cause, Cause::Kernel) {
                sender.send(RunEvent::Signal(origin.signal));
            }
        }
    });
    Ok(())
}
