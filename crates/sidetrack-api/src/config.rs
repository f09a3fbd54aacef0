//! The daemon's configuration: one TOML file. A setting that the file does not have keeps its
//! default, and without a file all settings do. docs/daemon.md and packaging/sidetrackd.toml
//! describe each setting.
//!
//! The daemon reads all settings ([`Config`]). Programs that only look for the daemon of this host
//! read those that they need ([`Location`]). This module needs the feature `config`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::SOCKET;

/// Path of the configuration file, where `make install` puts it and where the daemon's unit expects
/// it.
pub const CONFIG_FILE: &str = "/etc/sidetrack/sidetrackd.toml";
/// Default path of the folder in which the data path is pinned.
pub const PINS: &str = "/sys/fs/bpf/sidetrack";

/// All settings. An unknown key is an error.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Path of the Unix socket of the API.
    pub socket: PathBuf,
    /// Path of the file in which objects are stored. Its folder must exist.
    pub store: PathBuf,
    /// The scope: connections of programs in this cgroup, and in all cgroups below it, are
    /// classified.
    pub cgroup: PathBuf,
    /// Path of the folder, on a bpf file system, in which the data path's programs, maps and links
    /// are pinned.
    pub pins: PathBuf,
    /// The log level: error, warn, info, debug or trace; or directives of tracing-subscriber's
    /// `EnvFilter`.
    pub log: String,
    /// Interval, in seconds, of checking whether the paths of executables and cgroups in the policy
    /// still lead to the same files and cgroups; 1 to 3,600.
    pub refresh_seconds: u64,
    /// Number of seconds that a dynamic session waits for its client after a restart of the daemon;
    /// 0 to 3,600.
    pub session_grace_seconds: u64,
    /// Which users, besides root, may call the API.
    pub access: Access,
    /// Limits on sessions, connections and transactions.
    pub limits: Limits,
}

/// Which users may call the API. Root may do everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Access {
    /// Name of the group whose members may change policy for connections of all users, but only
    /// objects of providers that the same user has added.
    pub host_group: Option<String>,
    /// Name of the group whose members may change policy for their user's own connections, and only
    /// objects of providers that the same user has added.
    pub write_group: Option<String>,
    /// Name of the group whose members may read policy, flows and events.
    pub read_group: Option<String>,
    /// Whether every user may read policy, flows and events.
    pub everyone_reads: bool,
}

/// Limits on sessions, connections and transactions.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Quota of open sessions; 1 to 1,024. One user other than root has at most an eighth, and an
    /// eighth is kept for root.
    pub sessions: usize,
    /// Quota of open connections to the API; 1 to 4,096. It is shared as that of sessions is. The
    /// daemon closes a connection beyond it at once.
    pub connections: usize,
    /// Maximum number of seconds that a session may hold a writing transaction; 1 to 3,600.
    pub transaction_hold_seconds: u64,
}

/// The settings by which the daemon and its data path are found. All other keys are ignored, so a
/// file that the daemon refuses because of them can be read.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Location {
    /// [`Config::socket`].
    pub socket: PathBuf,
    /// [`Config::pins`].
    pub pins: PathBuf,
}

/// A configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The file's text is not a configuration.
    #[error("cannot parse {} as configuration of sidetrackd", .path.display())]
    Parse {
        /// Path of the file.
        path: PathBuf,
        /// The first fault of the text.
        source: ParseError,
    },
}

/// A text is not a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// A syntax error, an unknown key, or a value of a wrong type. The message has line and column,
    /// and for an unknown key the keys that exist there.
    #[error(transparent)]
    Toml(#[from] toml::de::Error),
    /// A number is outside its range.
    #[error("{key} must be from {min} to {max}; it is {value}")]
    OutOfRange {
        /// The key, with those of its tables.
        key: &'static str,
        /// The lowest value.
        min: u64,
        /// The highest value.
        max: u64,
        /// The value in the text.
        value: u64,
    },
}

/// The highest value of `limits.sessions`, and its default.
pub const SESSIONS_MAX: usize = 1024;
/// The highest value of `limits.connections`.
pub const CONNECTIONS_MAX: usize = 4096;
/// The highest value of `limits.transaction_hold_seconds`, and its default: WFP's limit
/// (docs/wfp.md, 4.1).
pub const HOLD_MAX: Duration = Duration::from_secs(3600);
/// The highest value of `refresh_seconds`.
pub const REFRESH_MAX: Duration = Duration::from_secs(3600);
/// The highest value of `session_grace_seconds`.
pub const GRACE_MAX: Duration = Duration::from_secs(3600);

impl Default for Config {
    fn default() -> Self {
        Self {
            socket: SOCKET.into(),
            store: "/var/lib/sidetrack/policy.redb".into(),
            cgroup: "/sys/fs/cgroup".into(),
            pins: PINS.into(),
            log: "info".into(),
            refresh_seconds: 5,
            session_grace_seconds: 10,
            access: Access::default(),
            limits: Limits::default(),
        }
    }
}

impl Default for Location {
    fn default() -> Self {
        Self {
            socket: SOCKET.into(),
            pins: PINS.into(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: SESSIONS_MAX,
            connections: 1100,
            transaction_hold_seconds: HOLD_MAX.as_secs(),
        }
    }
}

impl Config {
    /// Reads a configuration file. Errors: [`Error`].
    pub fn read(path: &Path) -> Result<Self, Error> {
        read(path, Self::parse)
    }

    /// Reads a configuration from a text in TOML. Errors: [`ParseError`].
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let config: Self = toml::from_str(text)?;
        config.check_ranges()?;
        Ok(config)
    }

    fn check_ranges(&self) -> Result<(), ParseError> {
        let limits = &self.limits;
        let hold_max = HOLD_MAX.as_secs();
        let grace_max = GRACE_MAX.as_secs();
        for (key, value, min, max) in [
            (
                "limits.sessions",
                limits.sessions as u64,
                1,
                SESSIONS_MAX as u64,
            ),
            (
                "limits.connections",
                limits.connections as u64,
                1,
                CONNECTIONS_MAX as u64,
            ),
            (
                "limits.transaction_hold_seconds",
                limits.transaction_hold_seconds,
                1,
                hold_max,
            ),
            (
                "refresh_seconds",
                self.refresh_seconds,
                1,
                REFRESH_MAX.as_secs(),
            ),
            (
                "session_grace_seconds",
                self.session_grace_seconds,
                0,
                grace_max,
            ),
        ] {
            if !(min..=max).contains(&value) {
                return Err(ParseError::OutOfRange {
                    key,
                    min,
                    max,
                    value,
                });
            }
        }
        Ok(())
    }

    /// How long a dynamic session waits for its client after a restart of the daemon.
    pub fn session_grace(&self) -> Duration {
        Duration::from_secs(self.session_grace_seconds)
    }

    /// How long a session may hold a writing transaction.
    pub fn transaction_hold(&self) -> Duration {
        Duration::from_secs(self.limits.transaction_hold_seconds)
    }
}

impl Location {
    /// Reads the location from a configuration file. Errors: [`Error`].
    pub fn read(path: &Path) -> Result<Self, Error> {
        read(path, |text| Ok(toml::from_str(text)?))
    }
}

fn read<T>(path: &Path, parse: impl FnOnce(&str) -> Result<T, ParseError>) -> Result<T, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&text).map_err(|source| Error::Parse {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_gives_the_defaults() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    #[test]
    fn the_example_file_has_the_defaults() {
        let example = include_str!("../../../packaging/sidetrackd.toml");
        let uncommented: String = example
            .lines()
            .map(|line| line.strip_prefix("#: ").unwrap_or(line))
            .fold(String::new(), |text, line| text + line + "\n");
        let config = Config::parse(&uncommented).unwrap();
        let groups = Access {
            host_group: Some("sidetrack-host".into()),
            write_group: Some("sidetrack".into()),
            read_group: Some("adm".into()),
            everyone_reads: false,
        };
        let expected = Config {
            access: groups,
            ..Config::default()
        };
        assert_eq!(config, expected);
        assert_eq!(Config::parse(example).unwrap(), Config::default());
    }

    #[test]
    fn a_location_is_that_of_the_whole_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sidetrackd.toml");
        for text in ["", "pins = \"/x\"", "socket = \"/y\"\nlimits.sessions = 1"] {
            std::fs::write(&path, text).unwrap();
            let (location, config) = (Location::read(&path).unwrap(), Config::read(&path).unwrap());
            assert_eq!(
                (location.socket, location.pins),
                (config.socket, config.pins)
            );
        }
        let refused = "refresh_seconds = 0\nunknown = 1\npins = \"/x\"";
        std::fs::write(&path, refused).unwrap();
        assert!(matches!(Config::read(&path), Err(Error::Parse { .. })));
        assert_eq!(Location::read(&path).unwrap().pins, Path::new("/x"));
        let missing = folder.path().join("missing");
        assert!(matches!(Location::read(&missing), Err(Error::Read { .. })));
    }

    #[test]
    fn unknown_keys_are_refused_with_line_and_column() {
        let error = Config::parse("log = \"info\"\n[limits]\n  session = 3\n").unwrap_err();
        let text = error.to_string();
        assert!(text.contains("line 3, column 3"), "{text}");
        assert!(text.contains("unknown field `session`"), "{text}");
        assert!(text.contains("`sessions`"), "{text}");
        let error = Config::parse("refresh_seconds = \"often\"").unwrap_err();
        assert!(error.to_string().contains("line 1, column 19"), "{error}");
    }

    #[test]
    fn numbers_outside_their_range_are_refused() {
        for text in [
            "limits.sessions = 0",
            "limits.sessions = 1025",
            "limits.connections = 4097",
            "limits.transaction_hold_seconds = 3601",
            "refresh_seconds = 0",
        ] {
            let error = Config::parse(text).unwrap_err().to_string();
            assert!(error.contains("must be from 1 to"), "{text}: {error}");
        }
        assert!(Config::parse("session_grace_seconds = 0").is_ok());
        let error = Config::parse("session_grace_seconds = 3601").unwrap_err();
        assert!(error.to_string().contains("must be from 0 to"), "{error}");
    }
}
