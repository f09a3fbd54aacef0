//! The flow line, which is written for each connection and each UDP flow when it has ended.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sidetrack::Flow;

use crate::close_reason::CLIENT_GAVE_UP;
use crate::outcome::{ConnectMode, Datagrams, FlowVerdict, Outcome};
use crate::seen::Seen;

mod text;

pub use text::{program_name, size};

/// One connection or UDP flow, as one line of JSON. `Display` prints it for people. Texts that come
/// from the client are unchanged in JSON, and escaped by `Display`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FlowLine {
    /// When the program, or the proxy before this one, called connect or sent the first datagram:
    /// RFC 3339, UTC, with milliseconds.
    pub time: String,
    /// Identifies the flow, which is one hop of the connection. Unique while the engine runs.
    pub flow_id: u64,
    /// Identifies the connection: the lines of all its hops have the same value, except behind a
    /// legacy proxy.
    pub origin_id: u64,
    /// The service whose proxy wrote the line.
    pub service: String,
    /// The transport protocol: "tcp" or "udp".
    pub protocol: String,
    /// The original destination, as "IP:PORT".
    pub destination: SocketAddr,
    /// The address from which the connection came, as "IP:PORT".
    pub client: SocketAddr,
    /// The original program.
    pub program: ProgramLine,
    /// The services that the connection has passed, in order. The last one wrote the line.
    pub chain: Vec<String>,
    /// The name for which DNS through this proxy last returned the destination's address; absent if
    /// there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the client began with, or what its datagrams are.
    pub seen: Seen,
    /// Whether the connection went through: allowed, denied by a rule, or failed.
    pub verdict: FlowVerdict,
    /// The rule that decided, such as "deny *.example.com"; absent if none applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Number of bytes relayed from the client to the origin.
    pub bytes_up: u64,
    /// Number of bytes relayed from the origin to the client.
    pub bytes_down: u64,
    /// Counts of datagrams; absent for TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datagrams: Option<Datagrams>,
    /// Whether the client's connect waited for the proxy's ("pended"), or succeeded before
    /// ("accepted"); absent for UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<ConnectMode>,
    /// How long it took to connect to the origin, in milliseconds; absent if the proxy did not
    /// connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_ms: Option<f64>,
    /// The time from `time` to the end, in milliseconds.
    pub duration_ms: f64,
    /// Why it ended: "closed", "denied", "idle", "stopped", "reset by client", "reset by origin",
    /// "connect failed: …", "client failed: …", "origin failed: …"; for held connects also "client
    /// gave up", "client not accepted"; for UDP also "answered", "refused by origin", "made room".
    pub ended: String,
}

/// The program that opened the first connection of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProgramLine {
    /// The path of its executable; bytes that are not UTF-8 are replaced by U+FFFD.
    pub executable: String,
    /// Its process id.
    pub pid: u32,
    /// Its real user id.
    pub uid: u32,
    /// The name of its task, 15 bytes at most; bytes that are not UTF-8 are replaced by U+FFFD.
    pub comm: String,
}

impl FlowLine {
    /// The line of a connection or UDP flow that has just ended, without `name` and `datagrams`.
    pub fn new(flow: &Flow, outcome: Outcome) -> Self {
        let age = flow.age();
        let chain: Vec<String> = flow.chain().map(str::to_owned).collect();
        let program = flow.program();
        Self {
            time: rfc3339(SystemTime::now().checked_sub(age)),
            flow_id: flow.id(),
            origin_id: flow.origin_id(),
            service: chain.last().cloned().unwrap_or_default(),
            protocol: match flow.is_datagrams() {
                true => "udp".into(),
                false => "tcp".into(),
            },
            destination: flow.original_destination(),
            client: flow.client(),
            program: ProgramLine {
                executable: program.executable.to_string_lossy().into_owned(),
                pid: program.pid,
                uid: program.uid,
                comm: program.comm.to_string(),
            },
            chain,
            name: None,
            datagrams: None,
            verdict: outcome.flow_verdict(),
            seen: outcome.seen,
            rule: outcome.verdict.rule,
            bytes_up: outcome.relayed.bytes_up,
            bytes_down: outcome.relayed.bytes_down,
            connect: outcome.connect,
            connect_ms: outcome.connect_time.map(milliseconds),
            duration_ms: milliseconds(age),
            ended: outcome.relayed.reason.to_string(),
        }
    }

    /// Whether the client closed or timed out while its connect was held.
    pub fn is_given_up(&self) -> bool {
        self.verdict == FlowVerdict::Failed && self.ended == CLIENT_GAVE_UP
    }
}

/// A time as RFC 3339 with milliseconds. A time before 1970, to which the clock may be set, becomes
/// the epoch.
fn rfc3339(time: Option<SystemTime>) -> String {
    let time = time.and_then(|time| Timestamp::try_from(time).ok());
    format!("{:.3}", time.unwrap_or(Timestamp::UNIX_EPOCH))
}

/// A duration in milliseconds, with a resolution of one microsecond.
fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn line() -> FlowLine {
        FlowLine {
            time: rfc3339(Some(
                SystemTime::UNIX_EPOCH + Duration::from_millis(1_764_000_000_123),
            )),
            flow_id: 7,
            origin_id: 5,
            service: "b".into(),
            protocol: "tcp".into(),
            destination: "198.51.100.7:443".parse().unwrap(),
            client: "192.0.2.1:40000".parse().unwrap(),
            program: ProgramLine {
                executable: "/usr/bin/curl".into(),
                pid: 4242,
                uid: 1000,
                comm: "curl".into(),
            },
            chain: vec!["a".into(), "b".into()],
            name: None,
            datagrams: None,
            seen: Seen::Tls {
                sni: Some("example.com".into()),
                alpn: vec!["h2".into()],
                versions: vec!["1.3".into()],
            },
            verdict: FlowVerdict::Allow,
            rule: None,
            bytes_up: 1229,
            bytes_down: 34816,
            connect: Some(ConnectMode::Accepted),
            connect_ms: Some(0.25),
            duration_ms: 12.34,
            ended: "closed".into(),
        }
    }

    #[test]
    fn a_line_is_written_and_read_as_json() {
        let json = serde_json::to_string(&line()).unwrap();
        assert_eq!(
            json,
            concat!(
                r#"{"time":"2025-11-24T16:00:00.123Z","flow_id":7,"origin_id":5,"service":"b","#,
                r#""protocol":"tcp","destination":"198.51.100.7:443","client":"192.0.2.1:40000","#,
                r#""program":{"executable":"/usr/bin/curl","pid":4242,"uid":1000,"comm":"curl"},"#,
                r#""chain":["a","b"],"seen":{"kind":"tls","sni":"example.com","alpn":["h2"],"#,
                r#""versions":["1.3"]},"verdict":"allow","bytes_up":1229,"bytes_down":34816,"#,
                r#""connect":"accepted","connect_ms":0.25,"duration_ms":12.34,"ended":"closed"}"#
            )
        );
        assert_eq!(serde_json::from_str::<FlowLine>(&json).unwrap(), line());
    }

    #[test]
    fn the_schema_requires_the_fields_that_are_always_there() {
        let schema = schemars::schema_for!(FlowLine).to_value();
        let required = schema["required"].as_array().unwrap();
        assert!(required.contains(&"ended".into()) && !required.contains(&"rule".into()));
        assert!(schema["properties"]["bytes_up"]["description"].is_string());
    }

    #[test]
    fn whole_seconds_keep_their_milliseconds() {
        assert_eq!(
            rfc3339(Some(SystemTime::UNIX_EPOCH)),
            "1970-01-01T00:00:00.000Z"
        );
        assert_eq!(rfc3339(None), "1970-01-01T00:00:00.000Z");
    }
}
