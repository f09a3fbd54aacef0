//! Keeps the resource limits that hold for the caller of a run, although the run's cgroup is elsewhere.
//!
//! Of each limit, the run's cgroup gets the lowest value of the caller's cgroup and of those above it, up to
//! the first one that contains the run's cgroup too. The run's processes are then counted by themselves, and
//! not together with the other processes of the caller's cgroup.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Limits whose files contain a number or `max`.
const NUMBERS: [&str; 4] = ["memory.high", "memory.max", "memory.swap.max", "pids.max"];
/// The limit of processor time: quota or `max`, and period.
const CPU: &str = "cpu.max";
/// Lists of processors and memory nodes, which are empty if a cgroup does not restrict them.
const LISTS: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];
/// Limits for each device, which are not carried over.
const BY_DEVICE: [&str; 1] = ["io.max"];

/// A limit of the caller's cgroup that does not hold for the run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LostLimit {
    file: &'static str,
    value: String,
}

impl fmt::Display for LostLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, value } = self;
        write!(
            f,
            "the limit {file} = {value} of this cgroup cannot be set for the run, and does not hold for it"
        )
    }
}

/// Sets the limits of the caller's cgroup for the run's cgroup. Returns those that could not be set.
pub(super) fn keep(caller: &Path, run: &Path) -> Vec<LostLimit> {
    let levels: Vec<PathBuf> = caller
        .ancestors()
        .take_while(|level| !run.starts_with(level))
        .map(Path::to_owned)
        .collect();
    let numbers = NUMBERS.map(|file| (file, lowest(&levels, file, |text| text.parse().ok())));
    let lists = LISTS.map(|file| (file, effective_list(&levels, file)));
    let by_device = BY_DEVICE.map(|file| (file, values(&levels, file).next()));
    let cpu = [(CPU, lowest(&levels, CPU, cpu_share))];
    let limits = numbers.into_iter().chain(cpu).chain(lists);
    let set = limits.filter_map(|(file, value)| Some((file, value?)));
    let failed = set.filter(|(file, value)| !set_limit(run, file, value));
    let unsupported = by_device.into_iter();
    let unsupported = unsupported.filter_map(|(file, value)| Some((file, value?)));
    failed
        .chain(unsupported)
        .map(|(file, value)| LostLimit { file, value })
        .collect()
}

/// The contents of a file in each of these cgroups in which it is there and sets something.
fn values<'a>(levels: &'a [PathBuf], file: &'a str) -> impl Iterator<Item = String> + 'a {
    levels
        .iter()
        .filter_map(move |level| fs::read_to_string(level.join(file)).ok())
        .map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty() && text != "max")
}

/// The value of a limit that is lowest by this measure; `None` if no cgroup limits it.
fn lowest(levels: &[PathBuf], file: &str, measure: impl Fn(&str) -> Option<u64>) -> Option<String> {
    let measured = values(levels, file).filter_map(|text| Some((measure(&text)?, text)));
    measured.min().map(|(_, text)| text)
}

/// Processor time in millionths of one processor: quota divided by period. `None` without a quota.
fn cpu_share(text: &str) -> Option<u64> {
    let (quota, period) = text.split_once(' ')?;
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
    quota.checked_mul(1_000_000)?.checked_div(period)
}

/// The processors or nodes of the caller's cgroup, if it or one above it restricts them.
fn effective_list(levels: &[PathBuf], file: &str) -> Option<String> {
    values(levels, file).next()?;
    let effective = fs::read_to_string(levels.first()?.join(format!("{file}.effective"))).ok()?;
    Some(effective.trim().to_owned())
}

/// Writes a limit to a cgroup. If the file is not there, its controller is first enabled in the cgroup above.
fn set_limit(cgroup: &Path, file: &str, value: &str) -> bool {
    let path = cgroup.join(file);
    if !path.exists()
        && let Some((controller, _)) = file.split_once('.')
        && let Some(parent) = cgroup.parent()
    {
        // If it fails, the file is still not there, and the next write fails too.
        let _ = fs::write(
            parent.join("cgroup.subtree_control"),
            format!("+{controller}"),
        );
    }
    path.exists() && fs::write(path, value).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that looks like the cgroups `a/b/c` and `run`, with these files.
    fn cgroups(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for folder in ["a/b/c", "run"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        for (file, text) in files {
            fs::write(root.path().join(file), format!("{text}\n")).unwrap();
        }
        root
    }

    fn keep_in(root: &tempfile::TempDir) -> Vec<LostLimit> {
        keep(&root.path().join("a/b/c"), &root.path().join("run"))
    }

    fn limit(root: &tempfile::TempDir, file: &str) -> String {
        fs::read_to_string(root.path().join("run").join(file)).unwrap()
    }

    #[test]
    fn lowest_limit_on_the_path_is_kept() {
        let root = cgroups(&[
            ("memory.max", "1"), // of a cgroup that contains the run's
            ("a/memory.max", "9000"),
            ("a/b/memory.max", "10000"),
            ("a/b/c/memory.max", "max"),
            ("a/cpu.max", "max 100000"),
            ("a/b/cpu.max", "150000 100000"),
            ("a/b/c/cpu.max", "40000 20000"),
            ("a/cpuset.cpus", "0-3"),
            ("a/b/c/cpuset.cpus.effective", "1"),
            ("a/pids.max", "max"),
            ("run/memory.max", "max"),
            ("run/cpu.max", "max 100000"),
            ("run/cpuset.cpus", ""),
            ("run/pids.max", "max"),
        ]);
        assert_eq!(keep_in(&root), []);
        assert_eq!(limit(&root, "memory.max"), "9000");
        assert_eq!(limit(&root, "cpu.max"), "150000 100000");
        assert_eq!(limit(&root, "cpuset.cpus"), "1");
        assert_eq!(limit(&root, "pids.max"), "max\n", "it is not set");
    }

    #[test]
    fn limits_that_cannot_be_set_are_returned() {
        let root = cgroups(&[("a/pids.max", "7"), ("a/b/io.max", "8:0 rbps=1024")]);
        let lost: Vec<_> = keep_in(&root).into_iter().map(|lost| lost.file).collect();
        assert_eq!(lost, ["pids.max", "io.max"]);
    }
}
