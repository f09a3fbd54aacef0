//! Measures contestants under workloads in interleaved rounds: A B C, A B C, and so on.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::relay::contestant::Contestant;
use crate::relay::worker::{self, RelayTask};
use crate::relay::workload::{Reading, Workload};

/// How often a worker is started before its contestant is left out: a port may have been in use.
const ATTEMPTS: u32 = 2;

/// One contestant under one workload, as every round measures it.
#[derive(Clone, Copy)]
pub(crate) struct ContestEntry {
    /// The contestant.
    pub(crate) contestant: Contestant,
    /// The traffic.
    pub(crate) workload: Workload,
    /// How long the traffic lasts in each round, in milliseconds.
    pub(crate) milliseconds: u64,
}

/// A contestant that could not be measured, as results.json lists it.
#[derive(Clone, Serialize)]
pub(crate) struct LeftOut {
    /// The topic's name.
    pub(crate) topic: &'static str,
    /// The contestant's name.
    pub(crate) who: String,
    /// The traffic under which it failed.
    pub(crate) workload: Workload,
    /// The message of the worker that failed.
    pub(crate) why: String,
}

/// Everything that a contest measured.
#[derive(Default)]
pub(crate) struct Readings {
    /// The readings of each contestant under each workload, in the order of the rounds.
    pub(crate) all: BTreeMap<(Contestant, Workload), Vec<Reading>>,
    /// The contestants that failed.
    pub(crate) left_out: Vec<LeftOut>,
}

impl Readings {
    /// Measures all entries once in each round.
    pub(crate) fn take(topic: &'static str, entries: &[ContestEntry], rounds: u32) -> Self {
        let mut readings = Self::default();
        for round in 1..=rounds {
            eprintln!("{topic}: round {round} of {rounds}");
            for entry in entries {
                readings.measure(topic, entry);
            }
        }
        readings
    }

    fn measure(&mut self, topic: &'static str, entry: &ContestEntry) {
        let key = (entry.contestant, entry.workload);
        let is_left_out = |one: &LeftOut| one.who == key.0.name() && one.workload == key.1;
        if self.left_out.iter().any(is_left_out) {
            return;
        }
        let task = RelayTask {
            contestant: entry.contestant,
            workload: entry.workload,
            milliseconds: entry.milliseconds,
        };
        let mut result = worker::start(task);
        for _ in 1..ATTEMPTS {
            if result.is_err() {
                result = worker::start(task);
            }
        }
        match result {
            Ok(reading) => self.all.entry(key).or_default().push(reading),
            Err(error) => {
                let why = format!("{error:#}");
                eprintln!("left out: {why}");
                self.all.remove(&key); // a part of its rounds must not be compared with all rounds of others
                self.left_out.push(LeftOut {
                    topic,
                    who: key.0.name(),
                    workload: key.1,
                    why,
                });
            }
        }
    }

    /// The values of one measure, in the order of the rounds. `None` if it was not measured.
    pub(crate) fn values(&self, key: (Contestant, Workload), measure: &str) -> Option<Vec<f64>> {
        let rounds = self.all.get(&key)?;
        rounds
            .iter()
            .map(|reading| reading.get(measure).copied())
            .collect()
    }
}
