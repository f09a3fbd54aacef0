//! The sidetrackd of this host: where it pins its data path, and whether it is running.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;
use sidetrack_api::SOCKET_VARIABLE;
use sidetrack_api::client::default_socket;
use sidetrack_engine::pins_at;

/// Path of the daemon's configuration, where `make install` puts it.
const DEFAULT_CONFIG: &str = "/etc/sidetrack/sidetrackd.toml";
/// The folder in which the daemon pins its data path by default.
const DEFAULT_PINS: &str = "/sys/fs/bpf/sidetrack";

/// The paths by which the daemon and its data path are found.
pub(crate) struct Installation {
    /// The folder in which the data path is pinned.
    pub(crate) pins: PathBuf,
    /// The socket of the API.
    pub(crate) socket: PathBuf,
}

/// The settings of the daemon's configuration that matter here; all others are ignored.
#[derive(Default, Deserialize)]
struct Settings {
    pins: Option<PathBuf>,
    socket: Option<PathBuf>,
}

impl Installation {
    /// Reads the paths from a configuration, or from the default one if it exists. The daemon's
    /// defaults apply to the rest. The environment variable for the socket has priority over the
    /// configuration.
    pub(crate) fn find(config: Option<&Path>) -> Result<Self> {
        let settings = match config {
            Some(path) => Settings::read(path)?,
            None if Path::new(DEFAULT_CONFIG).exists() => Settings::read(DEFAULT_CONFIG.as_ref())?,
            None => Settings::default(),
        };
        let from_environment = std::env::var_os(SOCKET_VARIABLE).map(PathBuf::from);
        Ok(Self {
            pins: settings.pins.unwrap_or_else(|| DEFAULT_PINS.into()),
            socket: from_environment
                .or(settings.socket)
                .unwrap_or_else(default_socket),
        })
    }

    /// Returns true if a process accepts connections at the socket.
    pub(crate) fn is_running(&self) -> bool {
        UnixStream::connect(&self.socket).is_ok()
    }

    /// Returns true if a data path is pinned, whether or not the daemon is running.
    pub(crate) fn is_pinned(&self) -> bool {
        pins_at(&self.pins)
    }
}

impl Settings {
    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| {
            format!(
                "cannot parse {} as configuration of sidetrackd",
                path.display()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_come_from_the_configuration_or_the_defaults() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "pins = \"/bpf/x\"\nlog = \"warn\"\n").unwrap();
        let installed = Installation::find(Some(file.path())).unwrap();
        assert_eq!(installed.pins, Path::new("/bpf/x"));
        std::fs::write(file.path(), "").unwrap();
        let installed = Installation::find(Some(file.path())).unwrap();
        assert_eq!(installed.pins, Path::new(DEFAULT_PINS));
        std::fs::write(file.path(), "pins = 3").unwrap();
        let error = Installation::find(Some(file.path())).err().unwrap();
        assert!(
            error
                .to_string()
                .ends_with("as configuration of sidetrackd"),
            "{error}"
        );
    }
}
