//! A reader of the daemon's events.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Stdio};

use serde_json::Value;

use crate::Daemon;

/// The command `sidetrack events --follow`. It is killed on drop.
pub struct Follower {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Follower {
    /// Follows events of this kind, and those that the daemon has kept.
    pub fn start(daemon: &Daemon, kind: &str) -> Self {
        let mut child = daemon
            .command(&["events", "--follow", "--backlog", "--json", "--kind", kind])
            .stdout(Stdio::piped())
            .spawn()
            .expect("sidetrack starts");
        let stdout = child.stdout.take().expect("standard output is piped");
        Self {
            child,
            lines: BufReader::new(stdout).lines(),
        }
    }

    /// Waits for the next event.
    pub fn next_event(&mut self) -> Value {
        let line = self.lines.next().expect("the stream goes on");
        serde_json::from_str(&line.expect("standard output is readable")).expect("JSON")
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended already
        let _ = self.child.wait();
    }
}
