//! Processes of the command that leave the run, and are not inspected any more.

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sidetrack_abi::text::Printable;
use sidetrack_engine::{Cgroup, Departure, DepartureWatch, Error, cgroup};

use super::report::Report;

/// Limit of the departures that are printed. Further ones are only counted in the summary.
const REPORTS_MAX: u64 = 20;

/// Notices departures, and reports them.
pub(super) struct Departures {
    /// `None` on a kernel that does not load the programs.
    watch: Option<DepartureWatch>,
    /// The processes are killed.
    strict: bool,
    /// Number of departures so far.
    count: u64,
}

impl Departures {
    /// Watches the cgroup of the command, before the command is in it.
    ///
    /// # Errors
    ///
    /// With `strict`, also if this kernel cannot notice departures.
    pub(super) fn watch(cgroup: &Cgroup, strict: bool, report: &Report) -> Result<Self> {
        let watch = match DepartureWatch::start(cgroup, strict) {
            Ok(watch) => Some(watch),
            Err(Error::Kernel(_)) if !strict => {
                report.warn(
                    "this kernel does not notice processes that leave the run, so they are not reported",
                );
                None
            }
            Err(error) => {
                return Err(error).context("cannot notice processes that leave the run");
            }
        };
        Ok(Self {
            watch,
            strict,
            count: 0,
        })
    }

    /// The descriptor that is readable when there are departures.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(AsFd::as_fd)
    }

    /// Reports the departures since the last call.
    pub(super) fn report(&mut self, report: &Report) -> Result<()> {
        let Some(watch) = &self.watch else {
            return Ok(());
        };
        let departures = watch.departures()?;
        let printed = REPORTS_MAX.saturating_sub(self.count) as usize;
        self.count += departures.len() as u64;
        if departures.is_empty() || printed == 0 {
            return Ok(());
        }
        let paths = cgroup::by_id()?;
        for departure in departures.iter().take(printed) {
            let path = paths.get(&departure.cgroup_id);
            report.warn_unless_quiet(&sentence(
                departure,
                path.map(PathBuf::as_path),
                self.strict,
            ));
        }
        Ok(())
    }

    /// Reports the numbers of departures, at the end of the run.
    pub(super) fn summary(&self, report: &Report) {
        let number = self.count;
        if number > 0 {
            let processes = plural(number);
            report.warn_unless_quiet(&match self.strict {
                true => format!("{processes} killed for leaving the run"),
                false => format!("{processes} left the run: not inspected from then on"),
            });
        }
        let missed = self.watch.as_ref().map_or(0, DepartureWatch::missed);
        if missed > 0 {
            let processes = plural(missed);
            report.warn(&format!(
                "{processes} may have left the run without being noticed"
            ));
        }
    }
}

fn plural(number: u64) -> String {
    match number {
        1 => "1 process".to_owned(),
        _ => format!("{number} processes"),
    }
}

/// `path` is that of the cgroup for which the process left; `None` if it is not there any more, or is outside of
/// the cgroup namespace.
fn sentence(departure: &Departure, path: Option<&Path>, strict: bool) -> String {
    let Departure { pid, comm, .. } = departure;
    let comm = Printable(comm);
    let place = match path {
        Some(path) => format!("the cgroup {}", Printable(path.display())),
        None => "another cgroup".to_owned(),
    };
    match strict {
        true => format!("process {pid} ({comm}) left the run for {place}, and was killed"),
        false => format!(
            "process {pid} ({comm}) left the run for {place}: its connections are not inspected"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentence_names_process_and_cgroup() {
        let departure = Departure {
            pid: 7,
            comm: "b\u{1b}sh".to_owned(),
            cgroup_id: 3,
        };
        assert_eq!(
            sentence(&departure, Some(Path::new("/sys/fs/cgroup/user")), false),
            "process 7 (b\\u{1b}sh) left the run for the cgroup /sys/fs/cgroup/user: its connections are \
             not inspected"
        );
        assert_eq!(
            sentence(&departure, None, true),
            "process 7 (b\\u{1b}sh) left the run for another cgroup, and was killed"
        );
    }
}
