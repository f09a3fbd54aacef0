//! The values of `--via`: the proxies of a chain.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// One proxy of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// The built-in proxy, optionally with a name.
    Inspect(Option<String>),
    /// A proxy that `run` starts with this command.
    Exec(String),
    /// A legacy proxy that already listens at this address and reads SO_ORIGINAL_DST.
    Tcp(SocketAddr),
}

impl FromStr for Via {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "inspect" {
            return Ok(Self::Inspect(None));
        }
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        match kind {
            "inspect" if !rest.is_empty() => Ok(Self::Inspect(Some(rest.to_owned()))),
            "inspect" => Err("a name is missing after inspect:".to_owned()),
            "exec" if !rest.trim().is_empty() => Ok(Self::Exec(rest.to_owned())),
            "exec" => Err("a command is missing after exec:".to_owned()),
            "tcp" => rest
                .strip_prefix("//")
                .and_then(|address| address.parse().ok())
                .map(Self::Tcp)
                .ok_or_else(|| {
                    "an address and a port are needed, as in tcp://127.0.0.1:9999".to_owned()
                }),
            _ => {
                Err("it is none of inspect, inspect:NAME, exec:COMMAND, tcp://ADDR:PORT".to_owned())
            }
        }
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inspect(None) => f.write_str("inspect"),
            Self::Inspect(Some(name)) => write!(f, "inspect:{name}"),
            Self::Exec(command) => write!(f, "exec:{command}"),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// Pairs each proxy with a unique name, for flow lines and messages.
pub(crate) fn named(vias: &[Via]) -> Vec<(String, Via)> {
    let mut named: Vec<(String, Via)> = Vec::new();
    for via in vias {
        let wanted = match via {
            Via::Inspect(None) => "inspect".to_owned(),
            Via::Inspect(Some(name)) => name.clone(),
            Via::Exec(command) => program_name(command),
            Via::Tcp(address) => address.to_string(),
        };
        let taken = |name: &str| named.iter().any(|(other, _)| other == name);
        let name = (1..)
            .map(|number| match number {
                1 => wanted.clone(),
                _ => format!("{wanted}-{number}"),
            })
            .find(|name| !taken(name))
            .expect("some number is free");
        named.push((name, via.clone()));
    }
    named
}

/// Derives a name from a command: the file name of its first word with a dot (`python3 proxy.py`
/// becomes `proxy.py`), or else of its first word.
fn program_name(command: &str) -> String {
    let words: Vec<&str> = command.split_whitespace().collect();
    let file = words
        .iter()
        .find(|word| word.contains('.') && !word.starts_with('-'))
        .or(words.first())
        .map_or("proxy", |word| word.rsplit('/').next().unwrap_or(word));
    file.chars().take(24).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_can_be_parsed() {
        for text in [
            "inspect",
            "inspect:dlp",
            "exec:python3 proxy.py",
            "tcp://[::1]:9",
        ] {
            assert_eq!(text.parse::<Via>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn errors_say_what_is_missing() {
        for (text, part) in [
            ("inspekt", "none of"),
            ("inspect:", "name is missing"),
            ("exec: ", "command is missing"),
            ("tcp://localhost:80", "an address and a port"),
            ("tcp://127.0.0.1", "an address and a port"),
        ] {
            let error = text.parse::<Via>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn names_are_unique() {
        let vias = [
            "inspect",
            "inspect",
            "inspect:a",
            "exec:python3 ./x/proxy.py -v",
            "inspect",
        ]
        .map(|text| text.parse().unwrap());
        let names: Vec<_> = named(&vias).into_iter().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            ["inspect", "inspect-2", "a", "proxy.py", "inspect-3"]
        );
    }
}
