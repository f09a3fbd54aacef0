//! What a client began with, as the flow line reports it.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the client began with. The texts come from the client and may contain any character.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Seen {
    /// A TLS ClientHello.
    Tls {
        /// The server's name, in lower case; absent if the client sent none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sni: Option<String>,
        /// The application protocols offered, such as "h2", in the client's order.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        alpn: Vec<String>,
        /// The versions offered, such as "1.3", in the client's order.
        versions: Vec<String>,
    },
    /// An HTTP/1 request.
    Http {
        /// The requested host, in lower case and without the port; absent if the client named none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// The request's method, such as "GET".
        method: String,
        /// The request's target as sent, cut after 2,048 bytes.
        path: String,
    },
    /// DNS in datagrams.
    Dns {
        /// The questions of the first queries, 16 at most, each with its answer.
        queries: Vec<QueryLine>,
        /// The number of further questions.
        #[serde(default, skip_serializing_if = "is_zero")]
        more: u64,
    },
    /// QUIC.
    Quic {
        /// The server's name, in lower case; absent if the client sent none, or if it was not read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sni: Option<String>,
        /// The application protocols offered, such as "h3", in the client's order.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        alpn: Vec<String>,
        /// The version of QUIC, "1" or "2"; absent if it was not read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<String>,
    },
    /// Anything else.
    Raw,
    /// The client sent nothing.
    Silent,
    /// The client could send nothing: its connect was held, and was not accepted.
    None,
}

/// A question of a DNS query, and the answer to it. The name comes from the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueryLine {
    /// The name asked for, in lower case and without a dot at the end.
    pub name: String,
    /// The type of record asked for, such as "A".
    #[serde(rename = "type")]
    pub record_type: String,
    /// The response code, such as "NOERROR" or "NXDOMAIN"; absent if there was no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// The addresses in the answer, 8 at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// How long the first address is valid, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u32>,
    /// True if a rule denied the query, so that the proxy answered it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub denied: bool,
}

impl Seen {
    /// The host that the client named in TLS, QUIC or HTTP.
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Tls { sni: host, .. } | Self::Quic { sni: host, .. } => host.as_deref(),
            Self::Http { host, .. } => host.as_deref(),
            Self::Dns { .. } | Self::Raw | Self::Silent | Self::None => None,
        }
    }
}

pub(crate) fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_fields_are_skipped() {
        let json = |seen| serde_json::to_string(&seen).unwrap();
        assert_eq!(json(Seen::Silent), r#"{"kind":"silent"}"#);
        assert_eq!(json(Seen::None), r#"{"kind":"none"}"#);
        let seen = Seen::Http {
            host: None,
            method: "GET".into(),
            path: "/".into(),
        };
        assert_eq!(json(seen), r#"{"kind":"http","method":"GET","path":"/"}"#);
    }
}
