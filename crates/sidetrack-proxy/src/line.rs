//! The flow line: what is written of each connection when it has ended.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sidetrack::Flow;

use crate::connection::Outcome;
use crate::rules::Decision;
use crate::sniff::Seen;

mod text;

pub use text::size;

/// One connection, as one line of JSON; `Display` is the same for people. Texts that come from the
/// client are as it sent them in JSON, and escaped in `Display`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FlowLine {
    /// When the program called connect: RFC 3339, UTC, with milliseconds.
    pub time: String,
    /// Names this hop of the connection, for as long as the engine runs.
    pub flow_id: u64,
    /// Names the connection through all its hops: lines of one connection share it.
    pub origin_id: u64,
    /// The service that wrote the line.
    pub service: String,
    /// The transport protocol: "tcp" or "udp".
    pub protocol: String,
    /// Where the program wanted to go, as "IP:PORT".
    pub destination: SocketAddr,
    /// The program's own address, as "IP:PORT".
    pub client: SocketAddr,
    /// Whose connection it is.
    pub program: ProgramLine,
    /// The services that have seen the connection, in order, the one that wrote the line last.
    pub chain: Vec<String>,
    /// The name that the destination was last asked for by, as DNS answers through this proxy told;
    /// absent if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the client began with; of datagrams, what they are.
    pub seen: Seen,
    /// Whether the connection might go on.
    pub verdict: Decision,
    /// The rule that decided, such as "deny *.example.com"; absent if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Bytes relayed from the client to the origin.
    pub bytes_up: u64,
    /// Bytes relayed from the origin to the client.
    pub bytes_down: u64,
    /// UDP: the datagrams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datagrams: Option<Datagrams>,
    /// The time it took to connect onward, in milliseconds; absent if that did not come about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_ms: Option<f64>,
    /// From the program's connect to the end, in milliseconds.
    pub duration_ms: f64,
    /// How it ended: "closed", "denied", "idle", "stopped", "reset by client", "reset by origin",
    /// "connect failed: …", "client failed: …", "origin failed: …"; of datagrams also "answered",
    /// "refused by origin", "made room".
    pub ended: String,
}

/// How many datagrams there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Datagrams {
    /// Relayed from the client to the origin.
    pub up: u64,
    /// Relayed from the origin to the client.
    pub down: u64,
    /// From the client, denied.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub denied: u64,
    /// Lost here, either way: a socket's buffer was full, the kernel refused to send it, or the flow
    /// ended before a QUIC ClientHello was whole.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The program that opened a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProgramLine {
    /// Its file; bytes that are not UTF-8 are replaced by U+FFFD.
    pub executable: String,
    /// Its process.
    pub pid: u32,
    /// Its real user.
    pub uid: u32,
    /// The task's name, at most 15 bytes; bytes that are not UTF-8 are replaced by U+FFFD.
    pub comm: String,
}

impl FlowLine {
    /// The line of a connection that has just ended.
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
            seen: outcome.seen,
            verdict: outcome.verdict.decision,
            rule: outcome.verdict.rule,
            bytes_up: outcome.relayed.bytes_up,
            bytes_down: outcome.relayed.bytes_down,
            connect_ms: outcome.connect_time.map(milliseconds),
            duration_ms: milliseconds(age),
            ended: outcome.relayed.reason.to_string(),
        }
    }
}

/// The epoch for a clock that is set before it.
fn rfc3339(time: Option<SystemTime>) -> String {
    let time = time.and_then(|time| Timestamp::try_from(time).ok());
    format!("{:.3}", time.unwrap_or(Timestamp::UNIX_EPOCH))
}

/// To a microsecond; the rest would be noise.
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
            verdict: Decision::Allow,
            rule: None,
            bytes_up: 1229,
            bytes_down: 34816,
            connect_ms: Some(0.25),
            duration_ms: 12.34,
            ended: "closed".into(),
        }
    }

    #[test]
    fn json() {
        let json = serde_json::to_string(&line()).unwrap();
        assert_eq!(
            json,
            concat!(
                r#"{"time":"2025-11-24T16:00:00.123Z","flow_id":7,"origin_id":5,"service":"b","#,
                r#""protocol":"tcp","destination":"198.51.100.7:443","client":"192.0.2.1:40000","#,
                r#""program":{"executable":"/usr/bin/curl","pid":4242,"uid":1000,"comm":"curl"},"#,
                r#""chain":["a","b"],"seen":{"kind":"tls","sni":"example.com","alpn":["h2"],"#,
                r#""versions":["1.3"]},"verdict":"allow","bytes_up":1229,"bytes_down":34816,"#,
                r#""connect_ms":0.25,"duration_ms":12.34,"ended":"closed"}"#
            )
        );
        assert_eq!(serde_json::from_str::<FlowLine>(&json).unwrap(), line());
    }

    #[test]
    fn the_schema_requires_what_is_always_there() {
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
