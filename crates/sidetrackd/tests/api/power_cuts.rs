//! Tests that a store has whole commits only, whenever its process is killed.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sidetrack_policy::{Filter, Uuid};
use sidetrackd::store::Store;

use super::commits::{BOOT, commit_number, filter_count};
use super::harness::HELPER;

/// A folder of a file system in memory. A kill leaves there what it leaves on a disk, but sooner.
const MEMORY: &str = "/dev/shm";
/// How often the process is killed.
const KILLS: usize = 1000;
/// How often the process is killed while it creates its store.
const KILLS_AT_CREATION: usize = 200;

#[test]
fn a_store_survives_power_cuts() {
    let folder = tempfile::tempdir_in(MEMORY).unwrap();
    let path: PathBuf = folder.path().join("policy.redb");
    let begun = Instant::now();
    let mut last = 0;
    let mut unprinted = 0;
    for _ in 0..KILLS {
        let mut writer = start_writer(&path);
        let mut output = BufReader::new(writer.stdout.take().unwrap());
        // The process is killed after none, one or two commits and a random time. It prints a line
        // after each commit.
        let random = Uuid::new_v4().as_u128();
        let mut printed = last;
        let mut line = String::new();
        for _ in 0..random % 3 {
            line.clear();
            while !line.starts_with("committed") {
                line.clear();
                assert_ne!(output.read_line(&mut line).unwrap(), 0, "the writer ended");
            }
            printed = number(&line);
        }
        kill_after(&mut writer, random >> 64);
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        printed = rest
            .lines()
            .filter(|line| line.starts_with("committed"))
            .map(number)
            .next_back()
            .unwrap_or(printed);
        let stored = stored_commit(&path);
        assert!(
            stored == printed || stored == printed + 1,
            "commit {printed} was printed, the store holds {stored}"
        );
        unprinted += u32::from(stored == printed + 1);
        last = stored;
    }
    println!(
        "{KILLS} kills in {:?}, {last} commits, {unprinted} of them stored but not yet printed",
        begun.elapsed()
    );
    assert!(last > 100, "only {last} commits: the kills came too early");
}

#[test]
fn a_store_survives_power_cuts_while_it_is_created() {
    let mut unnamed = 0;
    for _ in 0..KILLS_AT_CREATION {
        let folder = tempfile::tempdir_in(MEMORY).unwrap();
        let path = folder.path().join("policy.redb");
        let files = || std::fs::read_dir(folder.path()).unwrap().count();
        let mut writer = start_writer(&path);
        let deadline = Instant::now() + Duration::from_secs(20);
        while files() == 0 {
            assert!(Instant::now() < deadline, "the writer creates no store");
        }
        // The process is killed at a random moment of the creation, or soon after it.
        let random = Uuid::new_v4().as_u128();
        kill_after(&mut writer, random);
        unnamed += u32::from(!path.exists());
        stored_commit(&path);
        assert_eq!(files(), 1, "the unfinished file was not removed");
    }
    println!("{unnamed} of {KILLS_AT_CREATION} kills came before the store had its name");
    assert!(unnamed > 0, "the kills came too late");
}

/// Kills a process after at most 2 ms, of which a random number takes the microseconds.
fn kill_after(writer: &mut Child, random: u128) {
    let moment = Duration::from_micros(u64::try_from(random & 0x7ff).unwrap());
    let until = Instant::now() + moment;
    while Instant::now() < until {
        std::hint::spin_loop();
    }
    writer.kill().unwrap();
    writer.wait().unwrap();
}

fn number(line: &str) -> u64 {
    line.trim()
        .strip_prefix("committed ")
        .unwrap()
        .parse()
        .unwrap()
}

/// Returns the number of the commit that a store has, or 0 if it is empty. Panics if it has parts
/// of several commits.
fn stored_commit(path: &Path) -> u64 {
    let objects = Store::open(path)
        .unwrap()
        .load(BOOT, &|_| true)
        .unwrap()
        .objects;
    let Some(n) = commit_number(&objects) else {
        return 0;
    };
    let mut filters = objects.all::<Filter>();
    assert!(
        filters.all(|filter| filter.identity.description == n.to_string()),
        "the store holds parts of several commits"
    );
    assert_eq!(
        objects.all::<Filter>().len() as u128,
        filter_count(n),
        "commit {n} is not whole"
    );
    n
}

/// Starts a process that writes commits to a store, and prints a line after each.
fn start_writer(path: &Path) -> Child {
    Command::new(HELPER)
        .arg("commit")
        .arg(path)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}
