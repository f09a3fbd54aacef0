//! The order of a run: rounds of all cases interleaved, then memory, then the programs' times.

use std::collections::HashMap;

use anyhow::Result;

use super::{chart, table};
use crate::connect::case::Case;
use crate::connect::memory::Held;
use crate::connect::profile::Program;
use crate::connect::results::Results;
use crate::connect::round::Round;
use crate::connect::worker::{self, Measurement};
use crate::machine::Machine;
use crate::report;

/// Rounds for the record.
const ROUNDS: u32 = 7;
/// Rounds for a look.
const ROUNDS_QUICK: u32 = 3;
/// Connections of a round.
const CONNECTIONS: u32 = 20_000;
/// Connections held open at once.
const HELD: u32 = 10_000;
/// Readings of memory.
const MEMORY_ROUNDS: u32 = 3;
/// What memory is read of; the first is what the others are compared with.
const MEMORY_CASES: [Case; 3] = [Case::None, Case::Sidetrack, Case::Nft];
/// Another engine on the host may be loaded at the very same time; then its programs are in the way.
const PROFILE_ATTEMPTS: u32 = 3;
/// In which the programs are timed.
const PROFILED: [Case; 2] = [Case::Sidetrack, Case::Unmatched];

/// All that was measured, by case; a case's rounds are in the order of the run.
#[derive(Default)]
pub(crate) struct Measured {
    /// Times.
    pub(crate) rounds: HashMap<Case, Vec<Round>>,
    /// Kernel memory.
    pub(crate) held: HashMap<Case, Vec<Held>>,
    /// The eBPF programs.
    pub(crate) programs: Vec<Program>,
}

/// Measures everything, and writes docs/bench/.
pub(crate) fn run(quick: bool) -> Result<()> {
    let machine = Machine::describe()?;
    let rounds = if quick { ROUNDS_QUICK } else { ROUNDS };
    let measured = Measured::take(rounds)?;
    let results = Results::of(machine, &measured);
    let table = table::write(&results);
    report::save("connect.md", &table)?;
    report::save("connect.svg", &chart::draw(&results))?;
    report::merge("connect", results.figures()?, &[])?;
    report::keep("cases", serde_json::to_value(&results.cases)?)?;
    report::keep("programs", serde_json::to_value(&results.programs)?)?;
    print!("{table}");
    Ok(())
}

impl Measured {
    fn take(rounds: u32) -> Result<Self> {
        let mut measured = Self::default();
        for round in 1..=rounds {
            eprintln!("round {round} of {rounds}: {CONNECTIONS} connections in each case");
            for case in Case::ALL {
                let found = worker::start(case, Measurement::Time, CONNECTIONS)?;
                measured.rounds.entry(case).or_default().push(found);
            }
        }
        for round in 1..=MEMORY_ROUNDS {
            eprintln!("memory, {round} of {MEMORY_ROUNDS}");
            for case in MEMORY_CASES {
                let found = worker::start(case, Measurement::Memory, HELD)?;
                measured.held.entry(case).or_default().push(found);
            }
        }
        eprintln!("the programs' times");
        for case in PROFILED {
            measured.programs.extend(profile(case)?);
        }
        Ok(measured)
    }
}

fn profile(case: Case) -> Result<Vec<Program>> {
    let mut found = worker::start(case, Measurement::Profile, CONNECTIONS);
    for _ in 1..PROFILE_ATTEMPTS {
        if found.is_err() {
            found = worker::start(case, Measurement::Profile, CONNECTIONS);
        }
    }
    found
}
