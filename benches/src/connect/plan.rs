//! A run of the topic `connect`: everything is measured, and written to docs/bench/.

use anyhow::Result;

use super::{chart, table};
use crate::connect::measured::Measured;
use crate::connect::results::Results;
use crate::machine::Machine;
use crate::report;
use crate::rounds::rounds;

/// Measures everything, and writes the results to docs/bench/.
pub(crate) fn run(quick: bool) -> Result<()> {
    let machine = Machine::describe()?;
    let measured = Measured::take(rounds(quick))?;
    let results = Results::of(machine, &measured);
    let table = table::write(&results);
    report::save("connect.md", &table)?;
    report::save("connect.svg", &chart::draw(&results))?;
    report::merge("connect", results.figures()?, &[])?;
    report::replace("cases", serde_json::to_value(&results.cases)?)?;
    report::replace("programs", serde_json::to_value(&results.programs)?)?;
    print!("{table}");
    Ok(())
}
