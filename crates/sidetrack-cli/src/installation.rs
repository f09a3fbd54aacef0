//! The sidetrackd of this host: where it pins its data path, and whether it is running.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::Result;
use sidetrack_api::SOCKET_VARIABLE;
use sidetrack_api::config::{CONFIG_FILE, Location};
use sidetrack_engine::pins_at;

/// The paths by which the daemon and its data path are found.
pub(crate) struct Installation {
    /// The folder in which the data path is pinned.
    pub(crate) pins: PathBuf,
    /// The socket of the API.
    pub(crate) socket: PathBuf,
}

impl Installation {
    /// Reads the paths from a configuration, or from the default one if it exists. The daemon's
    /// defaults apply to the rest. The environment variable for the socket has priority over the
    /// configuration.
    pub(crate) fn find(config: Option<&Path>) -> Result<Self> {
        let location = match config {
            Some(path) => Location::read(path)?,
            None if Path::new(CONFIG_FILE).exists() => Location::read(CONFIG_FILE.as_ref())?,
            None => Location::default(),
        };
        let from_environment = std::env::var_os(SOCKET_VARIABLE).map(PathBuf::from);
        Ok(Self {
            pins: location.pins,
            socket: from_environment.unwrap_or(location.socket),
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
        assert_eq!(installed.pins, Path::new(sidetrack_api::config::PINS));
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
