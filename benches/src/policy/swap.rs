//! Connects while one policy replaces another, again and again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use super::Reading;
use crate::connect::setup::sidetrack::start;
use crate::connect::setup::{self, policy};
use crate::hierarchy::Hierarchy;
use crate::namespace;

/// The number of filters of the first policy; the second has one less.
const FILTERS: u32 = 1_000;
/// A measurement has at least this many commits.
const SWAPS_MIN: u64 = 200;
/// A measurement takes at least this long.
const TIME: Duration = Duration::from_secs(2);

/// Connects on the first CPU. With `swapping`, commits on the last one, so that the figure shows
/// the delay of a commit and not the effect of a shared CPU.
pub(super) fn measure(swapping: bool) -> Result<Reading> {
    let hierarchy = Hierarchy::make()?;
    let (mut engine, service, _proxy) = start(&hierarchy)?;
    let policies = [
        policy::filters(FILTERS, service.key)?,
        policy::filters(FILTERS - 1, service.key)?,
    ];
    engine.commit(&policies[0], &[])?;
    hierarchy.enter_outside()?;
    let listener = setup::listen(setup::PORT, None)?;
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
        times = connecting
            .join()
            .map_err(|_| anyhow!("the thread that connects panicked"))??;
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
        let destination = setup::local_destination(number % 1_000_000);
        let begun = Instant::now();
        let client = std::net::TcpStream::connect(destination).context("connect")?;
        times.push(begun.elapsed().as_nanos() as u64);
        let accepted = listener.accept().context("accept")?;
        setup::close(client)?;
        drop(accepted);
    }
    Ok(times)
}
