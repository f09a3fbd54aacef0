//! A bpf file system that only one test uses.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// A mounted bpf file system. It is unmounted on drop.
pub struct Bpffs {
    folder: TempDir,
}

impl Bpffs {
    /// Mounts one at a temporary folder.
    pub fn mount() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let status = Command::new("mount")
            .args(["-t", "bpf", "bpf"])
            .arg(folder.path())
            .status()
            .expect("mount is installed");
        assert!(status.success());
        Self { folder }
    }

    /// The folder for an engine's pins.
    pub fn pins(&self) -> PathBuf {
        self.path("sidetrack")
    }

    /// The path of a file or folder in this file system.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let status = Command::new("umount").arg(self.folder.path()).status();
        assert!(status.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}
