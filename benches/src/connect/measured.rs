//! Everything that a run measures of connects: interleaved rounds of all cases, then memory, then the run times of the
//! eBPF programs.

use std::collections::HashMap;

use anyhow::Result;

use crate::connect::case::ConnectCase;
use crate::connect::memory::HeldMemory;
use crate::connect::profile::ProgramTime;
use crate::connect::round::ConnectRound;
use crate::connect::worker::{self, ConnectMeasurement};

/// The number of connections of each case in a round.
const CONNECTIONS: u32 = 20_000;
/// The number of connections that are open at the same time when memory is read.
const HELD: u32 = 10_000;
/// The number of readings of memory.
const MEMORY_ROUNDS: u32 = 3;
/// The cases of which memory is read. The others are compared with the first.
const MEMORY_CASES: [ConnectCase; 3] =
    [ConnectCase::None, ConnectCase::Sidetrack, ConnectCase::Nft];
/// How often the programs are timed. An attempt fails if another engine on the host is loaded at
/// the same time.
const PROFILE_ATTEMPTS: u32 = 3;
/// The cases in which the programs are timed.
const PROFILED: [ConnectCase; 2] = [ConnectCase::Sidetrack, ConnectCase::Unmatched];

/// Everything that was measured. The lists of a case are in the order of the run.
#[derive(Default)]
pub(crate) struct Measured {
    /// The times of each case.
    pub(crate) rounds: HashMap<ConnectCase, Vec<ConnectRound>>,
    /// The kernel memory of [`MEMORY_CASES`].
    pub(crate) held: HashMap<ConnectCase, Vec<HeldMemory>>,
    /// The run times of the eBPF programs in [`PROFILED`].
    pub(crate) programs: Vec<ProgramTime>,
}

impl Measured {
    /// Measures everything.
    pub(super) fn take(rounds: u32) -> Result<Self> {
        let mut measured = Self::default();
        for round in 1..=rounds {
            eprintln!("round {round} of {rounds}: {CONNECTIONS} connections in each case");
            for case in ConnectCase::ALL {
                let round = worker::start(case, ConnectMeasurement::Time, CONNECTIONS)?;
                measured.rounds.entry(case).or_default().push(round);
            }
        }
        for round in 1..=MEMORY_ROUNDS {
            eprintln!("memory: reading {round} of {MEMORY_ROUNDS}");
            for case in MEMORY_CASES {
                let memory = worker::start(case, ConnectMeasurement::Memory, HELD)?;
                measured.held.entry(case).or_default().push(memory);
            }
        }
        eprintln!("run times of the eBPF programs");
        for case in PROFILED {
            measured.programs.extend(profile(case)?);
        }
        Ok(measured)
    }
}

fn profile(case: ConnectCase) -> Result<Vec<ProgramTime>> {
    let mut result = worker::start(case, ConnectMeasurement::Profile, CONNECTIONS);
    for _ in 1..PROFILE_ATTEMPTS {
        if result.is_err() {
            result = worker::start(case, ConnectMeasurement::Profile, CONNECTIONS);
        }
    }
    result
}
