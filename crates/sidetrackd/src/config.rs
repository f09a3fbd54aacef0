//! The configuration: one TOML file. A setting that the file does not have keeps its default, and
//! without a file all settings do. docs/daemon.md and packaging/sidetrackd.toml describe each
//! setting.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde::Deserialize;

/// All settings.
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
    /// Name of the group whose members may change policy, but only objects of providers that the
    /// same user has added.
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
    /// Maximum number of open sessions; 1 to 1,024.
    pub sessions: usize,
    /// Maximum number of open connections to the API; 1 to 4,096. Further ones wait until one
    /// closes.
    pub connections: usize,
    /// Maximum number of seconds that a session may hold a writing transaction; 1 to 3,600.
    pub transaction_hold_seconds: u64,
}

/// The highest value of `limits.sessions`, and its default.
pub const SESSIONS_MAX: usize = 1024;
/// The highest value of `limits.connections`.
pub const CONNECTIONS_MAX: usize = 4096;
/// The highest value of `limits.transaction_hold_seconds`, and its default: WFP's limit
/// (docs/wfp.md, 4.1).
pub const HOLD_MAX: Duration = Duration::from_secs(3600);
/// The highest value of `session_grace_seconds`.
pub const GRACE_MAX: Duration = Duration::from_secs(3600);

impl Default for Config {
    fn default() -> Self {
        Self {
            socket: sidetrack_api::SOCKET.into(),
            store: "/var/lib/sidetrack/policy.redb".into(),
            cgroup: "/sys/fs/cgroup".into(),
            pins: "/sys/fs/bpf/sidetrack".into(),
            log: "info".into(),
            refresh_seconds: 5,
            session_grace_seconds: 10,
            access: Access::default(),
            limits: Limits::default(),
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
    /// Reads a configuration file.
    ///
    /// Errors: the file cannot be read, or as for [`Self::parse`].
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is not valid", path.display()))
    }

    /// Reads a configuration from a text in TOML.
    ///
    /// Errors: a syntax error, an unknown key or a value of a wrong type, with line, column and the
    /// keys that exist there; or a number outside its range, with the key and the range.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let config: Self = toml::from_str(text)?;
        let limits = &config.limits;
        let hold = HOLD_MAX.as_secs();
        check_range("limits.sessions", limits.sessions, SESSIONS_MAX)?;
        check_range("limits.connections", limits.connections, CONNECTIONS_MAX)?;
        let seconds = limits.transaction_hold_seconds;
        check_range("limits.transaction_hold_seconds", seconds, hold)?;
        check_range("refresh_seconds", config.refresh_seconds, hold)?;
        let grace = config.session_grace_seconds;
        anyhow::ensure!(
            grace <= GRACE_MAX.as_secs(),
            "session_grace_seconds must be from 0 to {}; it is {grace}",
            GRACE_MAX.as_secs()
        );
        Ok(config)
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

fn check_range<T: PartialOrd + From<u8> + std::fmt::Display>(
    name: &str,
    value: T,
    max: T,
) -> anyhow::Result<()> {
    anyhow::ensure!(
        value >= T::from(1) && value <= max,
        "{name} must be from 1 to {max}; it is {value}"
    );
    Ok(())
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
