//! Real programs, straight and through chains of one, two and eight built-in proxies: what they see
//! must be the same. `make test-clients` does the same with larger programs, see `tests/clients/`.

mod blocks;
mod deaths;
mod errors;
mod fallback;
mod lines;
mod names;
mod refusals;
mod timeouts;

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// The package of the programs with which most tests connect.
const NC: (&str, &str) = ("nc", "netcat-openbsd");
const NMAP: (&str, &str) = ("nmap", "nmap");
const CURL: (&str, &str) = ("curl", "curl");
const WGET: (&str, &str) = ("wget", "wget");

/// The ways to wait for the end of a connect that `connect.c` has.
const MODES: [&str; 4] = ["blocking", "poll", "epoll", "uring"];

/// A port at which nobody listens; each test has its own network namespace.
const DEAD: u16 = 9;

/// The path of a file next to this one.
fn file(name: &str) -> String {
    format!("{}/tests/transparency/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The compiled program of `connect.c`.
struct ConnectProgram {
    folder: TempDir,
}

impl ConnectProgram {
    fn compile() -> Self {
        let folder = e2e::run::shared_folder();
        let built = Command::new("cc")
            .args(["-Wall", "-Wextra", "-Werror", "-O1", "-o"])
            .arg(folder.path().join("connect"))
            .args([&file("connect.c"), "-luring"])
            .output();
        let built = built.expect("cc is installed");
        let message = String::from_utf8_lossy(&built.stderr);
        assert!(
            built.status.success(),
            "apt-get install liburing-dev: {message}"
        );
        Self { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("connect")
    }
}
