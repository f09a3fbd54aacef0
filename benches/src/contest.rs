//! Contestants under workloads, round by round: A B C, A B C, and so on.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::relay::contestant::Contestant;
use crate::relay::worker::{self, Task};
use crate::relay::workload::{Reading, Workload};

/// Another attempt is made before somebody is left out: a port may have been in use.
const ATTEMPTS: u32 = 2;

/// What is measured of whom.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    /// Who.
    pub(crate) contestant: Contestant,
    /// Under what.
    pub(crate) workload: Workload,
    /// For so many milliseconds in each round.
    pub(crate) milliseconds: u64,
}

/// Who was not measured, and why.
#[derive(Clone, Serialize)]
pub(crate) struct LeftOut {
    pub(crate) topic: &'static str,
    pub(crate) who: String,
    pub(crate) workload: Workload,
    pub(crate) why: String,
}

/// All that was measured; each list is in the order of the rounds.
#[derive(Default)]
pub(crate) struct Readings {
    pub(crate) all: BTreeMap<(Contestant, Workload), Vec<Reading>>,
    pub(crate) left_out: Vec<LeftOut>,
}

impl Readings {
    /// Measures all entries in each of so many rounds.
    pub(crate) fn take(topic: &'static str, entries: &[Entry], rounds: u32) -> Self {
        let mut readings = Self::default();
        for round in 1..=rounds {
            eprintln!("{topic}: round {round} of {rounds}");
            for entry in entries {
                readings.measure(topic, entry);
            }
        }
        readings
    }

    fn measure(&mut self, topic: &'static str, entry: &Entry) {
        let key = (entry.contestant, entry.workload);
        let is_out = |out: &LeftOut| out.who == key.0.name() && out.workload == key.1;
        if self.left_out.iter().any(is_out) {
            return;
        }
        let task = Task {
            contestant: entry.contestant,
            workload: entry.workload,
            milliseconds: entry.milliseconds,
        };
        let mut found = worker::start(task);
        for _ in 1..ATTEMPTS {
            if found.is_err() {
                found = worker::start(task);
            }
        }
        match found {
            Ok(reading) => self.all.entry(key).or_default().push(reading),
            Err(error) => {
                let why = format!("{error:#}");
                eprintln!("left out: {why}");
                self.all.remove(&key); // some rounds of it would be compared with all of others
                self.left_out.push(LeftOut {
                    topic,
                    who: key.0.name(),
                    workload: key.1,
                    why,
                });
            }
        }
    }

    /// A measure's values; none if it was not measured.
    pub(crate) fn values(&self, key: (Contestant, Workload), measure: &str) -> Option<Vec<f64>> {
        let rounds = self.all.get(&key)?;
        rounds.iter().map(|one| one.get(measure).copied()).collect()
    }
}
