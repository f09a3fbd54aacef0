//! Connects while one policy is put in another one's place, again and again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use super::Reading;
use crate::connect::way::sidetrack::{key_of, start};
use crate::connect::way::{self, policy};
use crate::hierarchy::Hierarchy;
use crate::namespace;

/// Filters of each of the two policies.
const FILTERS: u32 = 1_000;
/// At least so many commits,
const SWAPS_MIN: u64 = 200;
/// and for at least so long.
const TIME: Duration = Duration::from_secs(2);

/// Commits on the last CPU, connects on the first: what the figure shows is the hold, not a CPU shared.
pub(super) fn measure(swapping: bool) -> Result<Reading> {
    let hierarchy = Hierarchy::make()?;
    let (mut engine, service, _proxy) = start(&hierarchy)?;
    let key = key_of(&engine, &service)?;
    let policies = [
        policy::filters(FILTERS, key)?,
        policy::filters(FILTERS - 1, key)?,
    ];
    engine.commit(&policies[0], &[])?;
    hierarchy.enter_outside()?;
    let listener = way::listen(way::PORT, None)?;
    hierarchy.enter_program()?;
    let stop = AtomicBool::new(false);
    let (mut swaps, mut times) = (0, Vec::new());
    thread::scope(|scope| -> Result<()> {
        let connecting = scope.spawn(|| connects(&listener, &stop));
        let committed = (|| -> Result<()> {
            namespace::pin_last()?;
            let begun = Instant::now();
            while begun.elapsed() < TIME || (swapping && swaps < SWAPS_MIN) {
                if !swapping {
                    thread::sleep(Duration::from_millis(10));
                    continue;
                }
                engine.commit(&policies[(swaps + 1) as usize % 2], &[])?;
                swaps += 1;
            }
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        times = connecting.join().map_err(|_| anyhow!("it panicked"))??;
        committed
    })?;
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize] as f64;
    Ok(Reading::from([
        ("swaps".to_owned(), swaps as f64),
        ("p50".to_owned(), at(0.5)),
        ("p999".to_owned(), at(0.999)),
        ("most".to_owned(), at(1.0)),
    ]))
}

fn connects(listener: &std::net::TcpListener, stop: &AtomicBool) -> Result<Vec<u64>> {
    namespace::pin_first()?;
    let mut times = Vec::new();
    for number in 0_u32.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let destination = way::local_destination(number % 1_000_000);
        let begun = Instant::now();
        let client = std::net::TcpStream::connect(destination).context("connect")?;
        times.push(begun.elapsed().as_nanos() as u64);
        let accepted = listener.accept().context("accept")?;
        way::close(client)?;
        drop(accepted);
    }
    Ok(times)
}
