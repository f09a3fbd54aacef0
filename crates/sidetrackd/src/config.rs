//! The configuration: one TOML file. Without it, and for what it does not say, the defaults hold.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde::Deserialize;

/// All settings.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the API is offered.
    pub socket: PathBuf,
    /// Where persistent objects are kept. Its folder must exist.
    pub store: PathBuf,
    /// The cgroup whose programs, with those of all below, are judged.
    pub cgroup: PathBuf,
    /// Where the data path is pinned: a folder of a bpf file system.
    pub pins: PathBuf,
    /// What is logged: error, warn, info, debug or trace; or directives of tracing's filter.
    pub log: String,
    /// Seconds between two looks at whether executables and cgroups still are what they were.
    pub refresh_seconds: u64,
    /// Seconds in which the client of a dynamic session may come back after the daemon's restart, 0 to
    /// 3,600.
    pub session_grace_seconds: u64,
    /// Who may do what.
    pub access: Access,
    /// How much there may be of something.
    pub limits: Limits,
}

/// Who may do what, besides root, who may all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Access {
    /// Its members may change policy: their own providers' objects only.
    pub write_group: Option<String>,
    /// Its members may see policy, flows and events.
    pub read_group: Option<String>,
    /// Everyone may see them.
    pub everyone_reads: bool,
}

/// How much there may be of something.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Sessions at once, 1 to 1,024.
    pub sessions: usize,
    /// Connections at once, 1 to 4,096. More wait until one closes.
    pub connections: usize,
    /// Seconds a session may hold the writing transaction, 1 to 3,600.
    pub transaction_hold_seconds: u64,
}

/// Sessions at once, at most.
pub const SESSIONS_MAX: usize = 1024;
/// Connections at once, at most.
pub const CONNECTIONS_MAX: usize = 4096;
/// How long a writing transaction may be held, at most (specification, 4.1).
pub const HOLD_MAX: Duration = Duration::from_secs(3600);
/// How long a dynamic session waits for its client after a restart, at most.
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
    /// Reads a file. Errors say line and column, and what is known there.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is not right", path.display()))
    }

    /// Reads a text. Errors say line and column, and what is known there.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let config: Self = toml::from_str(text)?;
        let limits = &config.limits;
        let hold = HOLD_MAX.as_secs();
        within("limits.sessions", limits.sessions, SESSIONS_MAX)?;
        within("limits.connections", limits.connections, CONNECTIONS_MAX)?;
        let seconds = limits.transaction_hold_seconds;
        within("limits.transaction_hold_seconds", seconds, hold)?;
        within("refresh_seconds", config.refresh_seconds, hold)?;
        let grace = config.session_grace_seconds;
        anyhow::ensure!(
            grace <= GRACE_MAX.as_secs(),
            "session_grace_seconds goes from 0 to {}; it is {grace}",
            GRACE_MAX.as_secs()
        );
        Ok(config)
    }

    /// How long a dynamic session waits for its client after a restart.
    pub fn session_grace(&self) -> Duration {
        Duration::from_secs(self.session_grace_seconds)
    }

    /// How long a writing transaction may be held.
    pub fn transaction_hold(&self) -> Duration {
        Duration::from_secs(self.limits.transaction_hold_seconds)
    }
}

fn within<T: PartialOrd + From<u8> + std::fmt::Display>(
    name: &str,
    value: T,
    most: T,
) -> anyhow::Result<()> {
    anyhow::ensure!(
        value >= T::from(1) && value <= most,
        "{name} goes from 1 to {most}; it is {value}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_said_is_the_defaults() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    #[test]
    fn the_example_says_the_defaults() {
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
    fn limits_have_limits() {
        for text in [
            "limits.sessions = 0",
            "limits.sessions = 1025",
            "limits.connections = 4097",
            "limits.transaction_hold_seconds = 3601",
            "refresh_seconds = 0",
        ] {
            let error = Config::parse(text).unwrap_err().to_string();
            assert!(error.contains("goes from 1 to"), "{text}: {error}");
        }
        assert!(Config::parse("session_grace_seconds = 0").is_ok());
        let error = Config::parse("session_grace_seconds = 3601").unwrap_err();
        assert!(error.to_string().contains("goes from 0 to"), "{error}");
    }
}
