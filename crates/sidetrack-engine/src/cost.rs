//! What the kernel side takes, hook by hook, as the kernel itself measures it.

use std::collections::HashMap;
use std::thread;
use std::time::Duration;

use libbpf_rs::btf::{Btf, types::Func};
use libbpf_rs::query::{ProgInfoIter, ProgInfoQueryOptions, ProgramInfo};

use crate::host;
use crate::{Error, sys};

/// What all of our programs' names begin with.
const PREFIX: &str = "sidetrack_";

/// What one eBPF program took during some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    /// The program, without the prefix: `connect4`.
    pub program: String,
    /// The kernel's number of it: two engines have two programs of the same name.
    pub id: u32,
    /// How often it ran.
    pub runs: u64,
    /// How long all runs took.
    pub time: Duration,
}

impl Cost {
    /// How long one run took on average, in nanoseconds; 0 if there was none.
    pub fn nanoseconds_per_run(&self) -> u64 {
        let time = self.time.as_nanos() as u64;
        time.checked_div(self.runs).unwrap_or(0)
    }
}

/// Lets the kernel time the programs of all engines on this host for so long; the dearest first, those
/// that did not run left out.
///
/// Timing itself adds some tens of nanoseconds to each run, of any eBPF program on the host, and ends with
/// this call. Errors: those of [`host::privilege`], [`Error::System`].
pub fn costs(time: Duration) -> Result<Vec<Cost>, Error> {
    host::privilege()?;
    let timing = sys::time_programs().map_err(Error::system("let the kernel time programs"))?;
    let before = readings();
    thread::sleep(time);
    let after = readings();
    drop(timing);
    let mut costs: Vec<Cost> = after
        .into_iter()
        .map(|(id, (program, runs, spent))| {
            // One that has come meanwhile began with nothing.
            let (old_runs, old_spent) = before.get(&id).map_or((0, 0), |old| (old.1, old.2));
            Cost {
                program,
                id,
                runs: runs.saturating_sub(old_runs),
                time: Duration::from_nanos(spent.saturating_sub(old_spent)),
            }
        })
        .filter(|cost| cost.runs > 0)
        .collect();
    costs.sort_by_key(|cost| (std::cmp::Reverse(cost.time), cost.id));
    Ok(costs)
}

/// Name, runs and nanoseconds of each, by its number.
fn readings() -> HashMap<u32, (String, u64, u64)> {
    let options = ProgInfoQueryOptions::default().include_func_info(true);
    ProgInfoIter::with_query_opts(options)
        .filter(|program| program.name.to_string_lossy().starts_with(PREFIX))
        .map(|program| {
            let name = whole_name(&program);
            let name = name.strip_prefix(PREFIX).unwrap_or(&name).to_owned();
            (program.id, (name, program.run_cnt, program.run_time_ns))
        })
        .collect()
}

/// The kernel keeps 15 bytes of a program's name; its type information has all of it.
fn whole_name(program: &ProgramInfo) -> String {
    let whole = || {
        let btf = Btf::from_prog_id(program.id).ok()?;
        let function = btf.type_by_id::<Func<'_>>(program.func_info.first()?.type_id.into())?;
        Some(function.name()?.to_string_lossy().into_owned())
    };
    whole().unwrap_or_else(|| program.name.to_string_lossy().into_owned())
}
