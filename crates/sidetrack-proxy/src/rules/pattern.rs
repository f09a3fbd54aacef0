//! The patterns of rules: a host name, an address or a network, each with or without a port.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};
use sidetrack::Printable;

/// The longest pattern, in bytes.
pub const PATTERN_SIZE_MAX: usize = 300;

/// What a rule matches: `example.com`, `*.example.com` (its subdomains, at any depth), `*`,
/// `192.0.2.1`, `10.0.0.0/8` or `2001:db8::/32`, each with or without `:PORT`. IPv6 with a port is
/// written in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    subject: Subject,
    port: Option<u16>,
}

/// Why a text is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pattern `{}` is wrong at column {column}: expected {expected}", Printable(.pattern))]
pub struct PatternError {
    /// The text, cut after [`PATTERN_SIZE_MAX`] characters.
    pub pattern: String,
    /// The position of the error, in characters from 1.
    pub column: usize,
    /// What was expected there.
    pub expected: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    Any,
    /// A host name, in lower case and without a dot at the end.
    Host(String),
    /// The subdomains of this name, which has the same form.
    Below(String),
    /// A network; a single address is a network of one.
    Net(IpNet),
}

impl Pattern {
    /// Whether the pattern matches a connection to `destination` on which the client named `host`.
    pub fn matches(&self, destination: SocketAddr, host: Option<&str>) -> bool {
        let host = host.map(|host| host.strip_suffix('.').unwrap_or(host));
        self.has_port(destination)
            && match (&self.subject, host) {
                (Subject::Any, _) => true,
                (Subject::Net(net), _) => net.contains(&destination.ip().to_canonical()),
                (Subject::Host(name), Some(host)) => host.eq_ignore_ascii_case(name),
                (Subject::Below(name), Some(host)) => is_below(host, name),
                (Subject::Host(_) | Subject::Below(_), None) => false,
            }
    }

    /// Whether the pattern matches a host of this name at some port.
    pub fn matches_name(&self, name: &str) -> bool {
        match &self.subject {
            Subject::Any => true,
            Subject::Host(host) => name.eq_ignore_ascii_case(host),
            Subject::Below(domain) => is_below(name, domain),
            Subject::Net(_) => false,
        }
    }

    /// Whether the pattern matches a connection to `destination` with some host name.
    pub fn may_match(&self, destination: SocketAddr) -> bool {
        match self.needs_host() {
            true => self.has_port(destination),
            false => self.matches(destination, None),
        }
    }

    /// Whether the pattern has a host name, so that only connections with a host name match.
    pub fn needs_host(&self) -> bool {
        matches!(self.subject, Subject::Host(_) | Subject::Below(_))
    }

    fn has_port(&self, destination: SocketAddr) -> bool {
        self.port.is_none_or(|port| port == destination.port())
    }
}

/// Whether `host` is a subdomain of `name`. Compares bytes, since a client's host name may contain
/// any characters.
fn is_below(host: &str, name: &str) -> bool {
    let (host, name) = (host.as_bytes(), name.as_bytes());
    let Some(dot) = host.len().checked_sub(name.len() + 1) else {
        return false;
    };
    dot > 0 && host[dot] == b'.' && host[dot + 1..].eq_ignore_ascii_case(name)
}

impl FromStr for Pattern {
    type Err = PatternError;

    /// Parses a pattern. Case, a dot at the end of a name, and the bits of an address after the
    /// prefix do not matter.
    fn from_str(text: &str) -> Result<Self, PatternError> {
        parse(text).map_err(|SyntaxError { at, expected }| PatternError {
            pattern: text.chars().take(PATTERN_SIZE_MAX).collect(),
            column: text[..at].chars().count() + 1,
            expected,
        })
    }
}

/// What is wrong with a text.
struct SyntaxError {
    /// The offset in bytes, at the beginning of a character or the end of the text.
    at: usize,
    expected: &'static str,
}

fn parse(text: &str) -> Result<Pattern, SyntaxError> {
    let error = |at, expected| Err(SyntaxError { at, expected });
    if text.is_empty() || text.len() > PATTERN_SIZE_MAX {
        return error(
            0,
            "a host name, `*`, an address or a network of at most 300 bytes",
        );
    }
    if let Some(rest) = text.strip_prefix('[') {
        let Some((inner, rest)) = rest.split_once(']') else {
            return error(text.len(), "`]`");
        };
        let Some(net @ IpNet::V6(_)) = network(inner) else {
            return error(1, "an IPv6 address or network");
        };
        let port = match rest.strip_prefix(':') {
            _ if rest.is_empty() => None,
            None => return error(inner.len() + 2, "`:` and a port"),
            Some(digits) => Some(port(digits, inner.len() + 3)?),
        };
        return Ok(pattern(Subject::Net(net), port));
    }
    if let Some(net) = network(text) {
        return Ok(pattern(Subject::Net(net), None));
    }
    match text.split_once(':') {
        None => Ok(pattern(subject(text)?, None)),
        Some((before, after)) if after.contains(':') => error(
            before.len(),
            "an IPv6 address or network, in brackets if a port follows",
        ),
        Some((before, digits)) => {
            let subject = subject(before)?;
            Ok(pattern(subject, Some(port(digits, before.len() + 1)?)))
        }
    }
}

fn pattern(subject: Subject, port: Option<u16>) -> Pattern {
    Pattern { subject, port }
}

fn port(digits: &str, at: usize) -> Result<u16, SyntaxError> {
    let expected = "a port from 1 to 65535";
    let only_digits = digits.bytes().all(|byte| byte.is_ascii_digit()); // `parse` would take "+1"
    match digits.parse() {
        Ok(port) if only_digits && port > 0 => Ok(port),
        _ => Err(SyntaxError { at, expected }),
    }
}

/// Parses an address or a network. IPv4-mapped ones become IPv4, as destinations do.
fn network(text: &str) -> Option<IpNet> {
    let net: IpNet = match text.parse::<IpAddr>() {
        Ok(address) => address.into(),
        Err(_) => text.parse().ok()?,
    };
    match (net.addr().to_canonical(), net.prefix_len().checked_sub(96)) {
        (IpAddr::V4(v4), Some(length)) if net.addr().is_ipv6() => {
            Some(Ipv4Net::new(v4, length).ok()?.trunc().into())
        }
        _ => Some(net.trunc()),
    }
}

fn subject(text: &str) -> Result<Subject, SyntaxError> {
    if text == "*" {
        return Ok(Subject::Any);
    }
    if let Some(net) = network(text) {
        return Ok(Subject::Net(net));
    }
    if let Some(slash) = text.find('/') {
        return Err(match text[..slash].parse::<IpAddr>() {
            Ok(_) => SyntaxError {
                at: slash + 1,
                expected: "a prefix length that the address has",
            },
            Err(_) => SyntaxError {
                at: 0,
                expected: "an address before the `/`",
            },
        });
    }
    match text.strip_prefix("*.") {
        Some(name) => Ok(Subject::Below(host_name(name, 2)?)),
        None => Ok(Subject::Host(host_name(text, 0)?)),
    }
}

/// Parses a host name, and returns it in lower case. `at` is its offset in the pattern.
fn host_name(text: &str, at: usize) -> Result<String, SyntaxError> {
    let error = |offset, expected| {
        Err(SyntaxError {
            at: at + offset,
            expected,
        })
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    if let Some((offset, other)) = name.char_indices().find(|(_, c)| !is_name_character(*c)) {
        return match other {
            '*' => error(offset, "`*` only alone or as `*.` in front of a name"),
            _ => error(
                offset,
                "an ASCII letter, a digit, `-`, `_` or `.` (other letters as `xn--…`)",
            ),
        };
    }
    if name.len() > NAME_SIZE_MAX {
        return error(NAME_SIZE_MAX, "a name of at most 253 bytes");
    }
    let mut offset = 0;
    for label in name.split('.') {
        if label.is_empty() || label.len() > LABEL_SIZE_MAX {
            return error(offset, "a name's part of 1 to 63 bytes");
        }
        offset += label.len() + 1;
    }
    let last = name.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return error(
            0,
            "a complete IPv4 address, or a name whose last part is not a number",
        );
    }
    Ok(name.to_ascii_lowercase())
}

fn is_name_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_.".contains(c)
}

const NAME_SIZE_MAX: usize = 253;
const LABEL_SIZE_MAX: usize = 63;

impl fmt::Display for Pattern {
    /// Prints a text that parses to the same pattern.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let brackets = matches!(self.subject, Subject::Net(IpNet::V6(_))) && self.port.is_some();
        if brackets {
            f.write_str("[")?;
        }
        match &self.subject {
            Subject::Any => f.write_str("*")?,
            Subject::Host(name) => f.write_str(name)?,
            Subject::Below(name) => write!(f, "*.{name}")?,
            Subject::Net(net) if net.prefix_len() == net.max_prefix_len() => {
                write!(f, "{}", net.addr())?;
            }
            Subject::Net(net) => write!(f, "{net}")?,
        }
        if brackets {
            f.write_str("]")?;
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
