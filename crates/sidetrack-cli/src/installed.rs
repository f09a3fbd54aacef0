//! sidetrackd as this host has it: where it pins its data path, and whether it is there.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;
use sidetrack_api::SOCKET_VARIABLE;
use sidetrack_api::client::default_socket;
use sidetrack_engine::pins_at;

/// Its configuration, where `make install` puts it.
const CONFIG: &str = "/etc/sidetrack/sidetrackd.toml";
/// Its own default.
const PINS: &str = "/sys/fs/bpf/sidetrack";

/// Where to look for it.
pub(crate) struct Installed {
    pub(crate) pins: PathBuf,
    pub(crate) socket: PathBuf,
}

/// Of its settings; the others are its own business.
#[derive(Default, Deserialize)]
struct Settings {
    pins: Option<PathBuf>,
    socket: Option<PathBuf>,
}

impl Installed {
    /// As a configuration says; none: as the usual one says, if there is one.
    pub(crate) fn find(config: Option<&Path>) -> Result<Self> {
        let settings = match config {
            Some(path) => Settings::read(path)?,
            None if Path::new(CONFIG).exists() => Settings::read(CONFIG.as_ref())?,
            None => Settings::default(),
        };
        let told = std::env::var_os(SOCKET_VARIABLE).map(PathBuf::from);
        Ok(Self {
            pins: settings.pins.unwrap_or_else(|| PINS.into()),
            socket: told.or(settings.socket).unwrap_or_else(default_socket),
        })
    }

    /// Whether it answers.
    pub(crate) fn is_running(&self) -> bool {
        UnixStream::connect(&self.socket).is_ok()
    }

    /// Whether its data path is in the kernel, with it or without.
    pub(crate) fn is_pinned(&self) -> bool {
        pins_at(&self.pins)
    }
}

impl Settings {
    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is not right", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_says_where_and_the_defaults_hold_otherwise() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "pins = \"/bpf/x\"\nlog = \"warn\"\n").unwrap();
        let installed = Installed::find(Some(file.path())).unwrap();
        assert_eq!(installed.pins, Path::new("/bpf/x"));
        std::fs::write(file.path(), "").unwrap();
        let installed = Installed::find(Some(file.path())).unwrap();
        assert_eq!(installed.pins, Path::new(PINS));
        std::fs::write(file.path(), "pins = 3").unwrap();
        let error = Installed::find(Some(file.path())).err().unwrap();
        assert!(error.to_string().ends_with("is not right"), "{error}");
    }
}
