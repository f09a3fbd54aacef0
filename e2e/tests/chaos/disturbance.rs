//! What happens while the exchanges go on.

use std::process::Stdio;
use std::time::Duration;

use fastrand::Rng;

use super::account::Account;
use super::{Chaos, SERVICES, policy};

/// How long something stays dead, at most, in milliseconds.
const DEAD_MAX: u64 = 300;
/// How far a commit gets before the daemon is killed, at most, in milliseconds.
const COMMIT_MAX: u64 = 40;
/// How long nothing happens after a disturbance, at most, in milliseconds.
const QUIET_MAX: u64 = 1500;

/// One disturbance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Disturbance {
    /// The policy is swapped.
    Swap,
    /// A proxy is killed, and started again.
    KillProxy,
    /// The daemon is killed, and started again.
    KillDaemon,
    /// The daemon is killed in the middle of a commit.
    KillDaemonDuringSwap,
    /// Daemon and proxies are killed.
    KillAll,
}

impl Disturbance {
    /// Chooses one.
    pub(super) fn random(random: &mut Rng) -> Self {
        match random.u32(0..10) {
            0..4 => Self::Swap,
            4..7 => Self::KillProxy,
            7 => Self::KillDaemon,
            8 => Self::KillDaemonDuringSwap,
            _ => Self::KillAll,
        }
    }

    /// Disturbs, restores, and lets nothing happen for a while.
    pub(super) fn happen(self, chaos: &mut Chaos, random: &mut Rng, account: &mut Account) {
        account.note(self);
        match self {
            Self::Swap => chaos.apply(random.u32(..policy::COUNT)),
            Self::KillProxy => {
                let service = random.usize(..SERVICES.len());
                account.note_kill(service);
                chaos.kill_proxy(service);
                pause(random, DEAD_MAX);
                chaos.start_proxy(service);
            }
            Self::KillDaemon => {
                chaos.daemon.kill();
                pause(random, DEAD_MAX);
                chaos.daemon.restart();
            }
            Self::KillDaemonDuringSwap => kill_daemon_during_swap(chaos, random),
            Self::KillAll => {
                chaos.daemon.kill();
                for service in 0..SERVICES.len() {
                    account.note_kill(service);
                    chaos.kill_proxy(service);
                }
                pause(random, DEAD_MAX);
                chaos.daemon.restart();
                (0..SERVICES.len()).for_each(|service| chaos.start_proxy(service));
            }
        }
        pause(random, QUIET_MAX);
    }
}

/// Which of the two policies is in force after that depends on how far the commit came.
fn kill_daemon_during_swap(chaos: &mut Chaos, random: &mut Rng) {
    let file = chaos
        .daemon
        .write_file("swap.toml", policy::text(random.u32(..policy::COUNT)));
    let mut apply = chaos.daemon.command(&["apply"]);
    let apply = apply.arg(file).stdout(Stdio::null()).stderr(Stdio::null());
    let mut apply = apply.spawn().expect("sidetrack starts");
    pause(random, COMMIT_MAX);
    chaos.daemon.kill();
    apply.wait().expect("it is a child process");
    chaos.daemon.restart();
}

/// Waits for a random time. The time is the input of the test: it waits for no condition.
fn pause(random: &mut Rng, milliseconds_max: u64) {
    std::thread::sleep(Duration::from_millis(random.u64(..milliseconds_max)));
}
