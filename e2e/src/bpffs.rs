//! A bpf file system of a test's own.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// Mounted until it is dropped.
pub struct Bpffs {
    folder: TempDir,
}

impl Bpffs {
    /// Mounts one.
    pub fn mount() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let status = Command::new("mount")
            .args(["-t", "bpf", "bpf"])
            .arg(folder.path())
            .status()
            .expect("mount is installed");
        assert!(status.success());
        Self { folder }
    }

    /// For an engine's pins.
    pub fn pins(&self) -> PathBuf {
        self.at("sidetrack")
    }

    /// A place in it.
    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let status = Command::new("umount").arg(self.folder.path()).status();
        assert!(status.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}
