//! Putting policies into force.
use anyhow::Result;
use clap::ValueEnum;

/// What is measured.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Measurement {
    /// x
    Apply,
}
pub(crate) fn run(_quick: bool) -> Result<()> {
    Ok(())
}
pub(crate) fn worker(_m: Measurement) -> Result<()> {
    Ok(())
}
