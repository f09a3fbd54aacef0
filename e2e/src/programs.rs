//! The programs of others that a test uses.

use std::env;

/// Panics unless all of these programs, each named with its Debian package, are installed. A test
/// that lacks one fails: it does not pass without having tested anything.
pub fn require(programs: &[(&str, &str)]) {
    let path = env::var_os("PATH").unwrap_or_default();
    let is_installed =
        |name: &str| env::split_paths(&path).any(|folder| folder.join(name).is_file());
    let missing: Vec<&str> = programs
        .iter()
        .filter(|(name, _)| !is_installed(name))
        .map(|(_, package)| *package)
        .collect();
    assert!(
        missing.is_empty(),
        "programs that the test runs are missing: apt-get install {}",
        missing.join(" ")
    );
}
