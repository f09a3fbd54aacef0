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

/// Greatest length of a name that is derived from a command, in characters. With a number that
/// makes it unique, it fits into a service's name.
const NAME_LENGTH_MAX: usize = 24;

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

/// Interpreters: after them, the name of the script says more than that of the program.
const INTERPRETERS: [&str; 9] = [
    "python", "node", "ruby", "perl", "php", "java", "lua", "bash", "sh",
];

/// Derives a name from a command: the file name of its program, or, if that is an interpreter, of
/// the script that it runs (`python3 -u proxy.py` becomes `proxy.py`). Words that set variables
/// and `env` come before the program.
fn program_name(command: &str) -> String {
    let words = command.split_whitespace();
    let mut words = words.skip_while(|word| word.contains('=') || file_name(word) == "env");
    let program = words.next().map_or("proxy", file_name);
    let version = |character: char| character.is_ascii_digit() || character == '.';
    let is_interpreter = INTERPRETERS.contains(&program.trim_end_matches(version));
    let script = words
        .find(|word| !word.starts_with('-'))
        .map(file_name)
        .filter(|_| is_interpreter);
    let name = script.unwrap_or(program);
    name.chars().take(NAME_LENGTH_MAX).collect()
}

/// The part of a path after its last slash; quotes around it are left out.
fn file_name(path: &str) -> &str {
    let path = path.trim_matches(['"', '\'']);
    path.rsplit('/').next().unwrap_or(path)
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
    fn a_command_is_named_after_its_program_or_script() {
        for (command, name) in [
            ("mx_proxy 10.0.0.1", "mx_proxy"),
            ("/usr/sbin/mx_proxy --to 10.0.0.1:25", "mx_proxy"),
            ("./proxy.py -v", "proxy.py"),
            ("python3 proxy.py", "proxy.py"),
            ("/usr/bin/python3.11 -u './x/proxy.py' 10.0.0.1", "proxy.py"),
            ("A=1 env B=2 node server.js", "server.js"),
            ("java -jar proxy.jar", "proxy.jar"),
            ("python3", "python3"),
            ("squid -f /etc/squid/squid.conf", "squid"),
            ("haproxy-2.8 -f h.cfg", "haproxy-2.8"),
        ] {
            assert_eq!(program_name(command), name, "{command}");
        }
        assert_eq!(
            program_name(&"ä".repeat(30)).chars().count(),
            NAME_LENGTH_MAX
        );
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
