//! Larger programs than those of `tests/transparency/`, straight and through chains of one, two and
//! eight built-in proxies: what they see must be the same. `make test-clients` runs it.

mod callbacks;
mod fallback;
mod server;

use std::process::Command;

/// The path of a file next to this one.
fn file(name: &str) -> String {
    format!("{}/tests/clients/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Runs a command that prepares something, and panics if it fails.
fn prepare(command: &mut Command) {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
}
