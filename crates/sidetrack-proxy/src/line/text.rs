//! The flow line as text for people.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv6Addr};

use sidetrack::Printable;

use super::FlowLine;
use crate::close_reason::CONNECT_FAILED;
use crate::outcome::{ConnectMode, Datagrams, FlowVerdict};
use crate::seen::{QueryLine, Seen};

impl fmt::Display for FlowLine {
    /// Prints `curl[4242]  198.51.100.7:443  tls example.com h2  allow  1.2 KiB up  34.0 KiB down
    /// 12.3 ms via a → b`, in columns that are aligned for usual lengths. What acts on a
    /// terminal is escaped: see [`Printable`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let program = format!(
            "{}[{}]",
            Printable(program_name(&self.program.executable, &self.program.comm)),
            self.program.pid
        );
        let destination = self.destination.to_string();
        let verdict = match self.verdict {
            FlowVerdict::Allow => "allow",
            FlowVerdict::Deny => "deny",
            FlowVerdict::Failed => "failed",
        };
        write!(
            f,
            "{program:<22}  {destination:<21}  {:<36}  {verdict:<6}  {:>10} up  {:>10} down  {:>9}",
            self.seen_text()?,
            size(self.bytes_up),
            size(self.bytes_down),
            duration(self.duration_ms),
        )?;
        if let Some(datagrams) = self.datagrams {
            write!(f, "  {}", datagrams_text(datagrams))?;
        }
        if !self.chain.is_empty() {
            write!(f, "  via {}", Printable(&self.chain.join(" → ")))?;
        }
        if let Some(rule) = &self.rule {
            write!(f, "  ({})", Printable(rule))?;
        }
        self.fmt_end(f)
    }
}

impl FlowLine {
    /// Prints why it ended, if that is unusual.
    fn fmt_end(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.connect == Some(ConnectMode::Accepted) && self.ended.starts_with(CONNECT_FAILED) {
            f.write_str("  accepted first")?; // so the client's own connect has succeeded
        }
        match self.ended.as_str() {
            "closed" | "denied" | "answered" => Ok(()),
            "idle" | "stopped" if self.datagrams.is_some() => Ok(()), // the usual ends of UDP flows
            ended => write!(f, "  {}", Printable(ended)),
        }
    }

    fn seen_text(&self) -> Result<String, fmt::Error> {
        let mut text = seen(&self.seen)?;
        if self.datagrams.is_some() && self.seen == Seen::Raw {
            text = "udp".to_owned();
        }
        if let (Some(name), None) = (&self.name, self.seen.host()) {
            write!(text, " {}", Printable(name))?;
        }
        Ok(text)
    }
}

fn datagrams_text(datagrams: Datagrams) -> String {
    let Datagrams {
        up,
        down,
        denied,
        lost,
    } = datagrams;
    let mut text = format!("{up}+{down} datagrams");
    for (number, what) in [(denied, "denied"), (lost, "lost")] {
        if number > 0 {
            text.push_str(&format!(", {number} {what}"));
        }
    }
    text
}

fn write_query(text: &mut String, query: &QueryLine) -> fmt::Result {
    write!(
        text,
        " {} {}",
        Printable(&query.name),
        Printable(&query.record_type)
    )?;
    let addresses: Vec<_> = query.addresses.iter().map(IpAddr::to_string).collect();
    match &query.answer {
        None => text.write_str(" → nothing"),
        Some(_) if !addresses.is_empty() => write!(text, " → {}", addresses.join(",")),
        Some(answer) => write!(text, " → {}", Printable(answer)),
    }
}

fn seen(seen: &Seen) -> Result<String, fmt::Error> {
    let mut text = String::new();
    match seen {
        Seen::Dns { queries, more } => {
            text.push_str("dns");
            for (index, query) in queries.iter().enumerate() {
                text.push_str(if index > 0 { "," } else { "" });
                write_query(&mut text, query)?;
            }
            if *more > 0 {
                write!(text, ", {more} more")?;
            }
        }
        Seen::Quic { sni, alpn, .. } => write_handshake(&mut text, "quic", sni.as_deref(), alpn)?,
        Seen::Tls { sni, alpn, .. } => write_handshake(&mut text, "tls", sni.as_deref(), alpn)?,
        Seen::Http { host, method, path } => {
            write!(text, "http {} ", Printable(method))?;
            match host {
                Some(host) if !names_host(method, path) => {
                    let gap = if path.starts_with('/') { "" } else { " " }; // as in `OPTIONS *`
                    write!(text, "{}{gap}", Printable(bracketed(host)))?;
                }
                _ => {}
            }
            write!(text, "{}", Printable(path))?;
        }
        Seen::Raw => text.push_str("raw"),
        Seen::Silent => text.push_str("silent"),
        Seen::None => text.push('-'),
    }
    Ok(text)
}

fn write_handshake(
    text: &mut String,
    protocol: &str,
    sni: Option<&str>,
    alpn: &[String],
) -> fmt::Result {
    text.push_str(protocol);
    if let Some(host) = sni {
        write!(text, " {}", Printable(bracketed(host)))?;
    }
    for word in alpn {
        write!(text, " {}", Printable(word))?;
    }
    Ok(())
}

/// Whether the target of a request has the host in it: that of CONNECT, and an absolute one.
fn names_host(method: &str, target: &str) -> bool {
    let is_absolute = !target.starts_with('/') && target.contains("://");
    is_absolute || method.eq_ignore_ascii_case("CONNECT")
}

/// A host as in a URL: an IPv6 address has brackets.
fn bracketed(host: &str) -> Cow<'_, str> {
    match host.parse::<Ipv6Addr>() {
        Ok(_) => format!("[{host}]").into(),
        Err(_) => host.into(),
    }
}

/// A program's name for people: the base name of its executable, or the name of its task if the
/// executable is not known. The task is a thread, which many programs name after its work.
pub fn program_name<'a>(executable: &'a str, comm: &'a str) -> &'a str {
    match executable.rsplit('/').next() {
        Some(name) if !name.is_empty() => name,
        _ => comm,
    }
}

/// A number of bytes in the largest unit that makes it at least 1: "0 B", "1.2 KiB".
pub fn size(bytes: u64) -> String {
    let mut size = bytes as f64;
    let mut units = ["KiB", "MiB", "GiB", "TiB"].iter();
    let mut unit = "B";
    while size >= 1024.0 {
        let Some(larger) = units.next() else { break };
        (size, unit) = (size / 1024.0, larger);
    }
    if unit == "B" {
        return format!("{bytes} B");
    }
    format!("{size:.1} {unit}")
}

fn duration(milliseconds: f64) -> String {
    if milliseconds < 1000.0 {
        return format!("{milliseconds:.1} ms");
    }
    format!("{:.1} s", milliseconds / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::super::tests::line;
    use super::*;

    #[test]
    fn a_usual_line_is_in_columns() {
        assert_eq!(
            line().to_string(),
            "curl[4242]              198.51.100.7:443       tls example.com h2                    \
             allow      1.2 KiB up    34.0 KiB down    12.3 ms  via a → b"
        );
    }

    #[test]
    fn a_denied_line_names_the_rule_and_an_unusual_end_is_printed() {
        let mut line = line();
        line.verdict = FlowVerdict::Deny;
        line.rule = Some("deny *.example.com".into());
        line.ended = "denied".into();
        assert!(
            line.to_string()
                .ends_with("via a → b  (deny *.example.com)")
        );
        line.ended = "reset by client".into();
        assert!(
            line.to_string()
                .ends_with("(deny *.example.com)  reset by client")
        );
    }

    #[test]
    fn a_failed_line_says_why_and_whether_the_client_was_accepted_first() {
        let mut line = line();
        line.verdict = FlowVerdict::Failed;
        line.ended = "connect failed: connection refused".into();
        for (connect, end) in [
            (
                ConnectMode::Pended,
                "via a → b  connect failed: connection refused",
            ),
            (
                ConnectMode::Accepted,
                "via a → b  accepted first  connect failed: connection refused",
            ),
        ] {
            line.connect = Some(connect);
            let text = line.to_string();
            assert!(text.ends_with(end), "{text}");
            assert!(!line.is_given_up());
            assert!(text.contains("  failed     1.2 KiB up  "), "{text}");
        }
    }

    #[test]
    fn a_client_that_gave_up_has_sent_nothing() {
        let mut line = line();
        line.verdict = FlowVerdict::Failed;
        line.seen = Seen::None;
        line.ended = "client gave up".into();
        assert!(line.is_given_up());
        let text = line.to_string();
        assert!(text.contains("  198.51.100.7:443       -    "), "{text}");
        assert!(text.ends_with("via a → b  client gave up"), "{text}");
    }

    #[test]
    fn a_line_of_datagrams_has_queries_names_and_losses() {
        let query = |name: &str, answer: Option<&str>, addresses: &[&str]| QueryLine {
            name: name.into(),
            record_type: "A".into(),
            answer: answer.map(str::to_owned),
            addresses: addresses.iter().map(|one| one.parse().unwrap()).collect(),
            ttl: None,
            denied: false,
        };
        let mut line = line();
        line.datagrams = Some(Datagrams {
            up: 3,
            down: 2,
            denied: 0,
            lost: 1,
        });
        line.ended = "idle".into();
        line.seen = Seen::Dns {
            queries: vec![
                query("a.example", Some("NOERROR"), &["192.0.2.7", "192.0.2.8"]),
                query("b.example", Some("NXDOMAIN"), &[]),
                query("c\u{1b}", None, &[]),
            ],
            more: 1,
        };
        let text = line.to_string();
        let queries = "dns a.example A → 192.0.2.7,192.0.2.8, b.example A → NXDOMAIN, \
                       c\\u{1b} A → nothing, 1 more";
        assert!(text.contains(queries), "{text}");
        assert!(text.ends_with("3+2 datagrams, 1 lost  via a → b"), "{text}");
        line.seen = Seen::Raw;
        line.name = Some("d.example".into());
        assert!(line.to_string().contains("  udp d.example  "));
    }

    #[test]
    fn the_program_is_named_by_its_executable() {
        let mut line = line();
        let mut name = |executable: &str, comm: &str| {
            line.program.executable = executable.into();
            line.program.comm = comm.into();
            let text = line.to_string();
            text.split_whitespace().next().unwrap().to_owned()
        };
        let thread = "Chrome_ChildIOT";
        assert_eq!(name("/opt/google/chrome/chrome", thread), "chrome[4242]");
        assert_eq!(name("name-cut/isc/named", "isc-net-0000"), "named[4242]");
        assert_eq!(name("", thread), "Chrome_ChildIOT[4242]");
        assert_eq!(name("/", thread), "Chrome_ChildIOT[4242]");
    }

    #[test]
    fn a_host_is_printed_once_and_as_in_a_url() {
        let text = |host: Option<&str>, method: &str, path: &str| {
            seen(&Seen::Http {
                host: host.map(str::to_owned),
                method: method.into(),
                path: path.into(),
            })
            .unwrap()
        };
        let host = Some("b.example");
        assert_eq!(text(host, "GET", "/x?y"), "http GET b.example/x?y");
        assert_eq!(
            text(host, "GET", "/?u=http://c/"),
            "http GET b.example/?u=http://c/"
        );
        assert_eq!(
            text(host, "GET", "http://b.example:80/x"),
            "http GET http://b.example:80/x"
        );
        assert_eq!(
            text(host, "CONNECT", "b.example:443"),
            "http CONNECT b.example:443"
        );
        assert_eq!(
            text(host, "connect", "b.example:443"),
            "http connect b.example:443"
        );
        assert_eq!(text(host, "OPTIONS", "*"), "http OPTIONS b.example *");
        assert_eq!(text(None, "GET", "/x"), "http GET /x");
        assert_eq!(
            text(Some("2001:db8::1"), "GET", "/x"),
            "http GET [2001:db8::1]/x"
        );
        assert_eq!(
            text(Some("::1"), "CONNECT", "[::1]:443"),
            "http CONNECT [::1]:443"
        );
        let tls = Seen::Tls {
            sni: Some("2001:db8::1".into()),
            alpn: vec!["h2".into()],
            versions: Vec::new(),
        };
        assert_eq!(seen(&tls).unwrap(), "tls [2001:db8::1] h2");
    }

    #[test]
    fn what_acts_on_a_terminal_is_escaped() {
        let mut line = line();
        line.program.executable = "/tmp/a\x1b[2J".into();
        line.seen = Seen::Http {
            host: Some("b\u{202e}c\"\n".into()),
            method: "GET".into(),
            path: "/\u{9b}ü→".into(),
        };
        line.chain = vec!["via\u{200f}".into()];
        line.rule = Some("r\u{feff}".into());
        line.ended = "e\u{2028}".into();
        let text = line.to_string();
        assert!(
            text.ends_with(r"via via\u{200f}  (r\u{feff})  e\u{2028}"),
            "{text}"
        );
        assert!(text.starts_with(r"a\u{1b}[2J[4242]"), "{text}");
        assert!(
            text.contains(r#"http GET b\u{202e}c"\n/\u{9b}ü→"#),
            "{text}"
        );
    }

    #[test]
    fn sizes_and_durations_have_fitting_units() {
        let sizes = [0, 1023, 1024, 1 << 20, u64::MAX].map(size);
        assert_eq!(
            sizes,
            ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "16777216.0 TiB"]
        );
        assert_eq!(
            [0.04, 999.9, 61_000.0].map(duration),
            ["0.0 ms", "999.9 ms", "61.0 s"]
        );
    }
}
