//! The run time of the kernel side's programs, as measured by the kernel.

use std::collections::HashMap;
use std::thread;
use std::time::Duration;

use libbpf_rs::btf::{Btf, types::Func};
use libbpf_rs::query::{ProgInfoIter, ProgInfoQueryOptions, ProgramInfo};

use crate::host;
use crate::{Error, sys};

/// The prefix of the names of all Sidetrack programs.
const PREFIX: &str = "sidetrack_";

/// The run time of one eBPF program during a measurement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    /// The name of the program without the prefix, for example `connect4`.
    pub program: String,
    /// The kernel's id of the program, since two engines have two programs of the same name.
    pub id: u32,
    /// Number of runs.
    pub runs: u64,
    /// Total time of all runs.
    pub time: Duration,
}

impl Cost {
    /// The average time of one run in nanoseconds; 0 if there was none.
    pub fn nanoseconds_per_run(&self) -> u64 {
        let time = self.time.as_nanos() as u64;
        time.checked_div(self.runs).unwrap_or(0)
    }
}

/// Lets the kernel measure the programs of all engines on this host for a time. Returns those that ran, the most
/// expensive first.
///
/// The measurement adds some tens of nanoseconds to each run of any eBPF program on the host, and ends with this
/// call.
///
/// Errors: those of [`host::privilege`], [`Error::System`].
pub fn costs(time: Duration) -> Result<Vec<Cost>, Error> {
    host::privilege()?;
    let timing = sys::time_programs().map_err(Error::system("start measuring programs"))?;
    let before = readings();
    thread::sleep(time);
    let after = readings();
    drop(timing);
    let mut costs: Vec<Cost> = after
        .into_iter()
        .map(|(id, (program, runs, spent))| {
            // A program that was loaded after the first reading began with zeros.
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

/// Name, number of runs and total nanoseconds of each program, by its id.
fn readings() -> HashMap<u32, (String, u64, u64)> {
    let options = ProgInfoQueryOptions::default().include_func_info(true);
    ProgInfoIter::with_query_opts(options)
        .filter(|program| program.name.to_string_lossy().starts_with(PREFIX))
        .map(|program| {
            let name = full_name(&program);
            let name = name.strip_prefix(PREFIX).unwrap_or(&name).to_owned();
            (program.id, (name, program.run_cnt, program.run_time_ns))
        })
        .collect()
}

/// The full name of a program. The kernel keeps 15 bytes of it; the program's BTF has all of them.
fn full_name(program: &ProgramInfo) -> String {
    let from_btf = || {
        let btf = Btf::from_prog_id(program.id).ok()?;
        let function = btf.type_by_id::<Func<'_>>(program.func_info.first()?.type_id.into())?;
        Some(function.name()?.to_string_lossy().into_owned())
    };
    from_btf().unwrap_or_else(|| program.name.to_string_lossy().into_owned())
}
