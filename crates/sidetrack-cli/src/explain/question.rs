//! What is asked, from what was said.

use std::env;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sidetrack_api::{endpoint, v1};
use sidetrack_policy::{Family, Layer, LayerKind};

use crate::args::{self, Protocol};
use crate::daemon::user;

/// A question, and how it is put to people.
pub(super) struct Question {
    pub(super) title: String,
    pub(super) request: v1::ExplainRequest,
}

pub(super) fn question(options: &args::Explain) -> Result<Question> {
    use v1::explain_request::Subject;
    let (title, subject, family) = match (options.flow, &options.to) {
        (Some(flow), _) => (format!("flow {flow}"), Subject::FlowId(flow), Family::V4),
        (None, Some(to)) => {
            let remote = resolve(to)?;
            let connection = connection(options, remote)?;
            let title = title(&connection, to, remote);
            (
                title,
                Subject::Connection(connection),
                Family::of(remote.ip()),
            )
        }
        (None, None) => bail!("say what to explain: --to HOST:PORT, or --flow ID"),
    };
    let layer = options.layer.as_deref().map(|name| layer(name, family));
    let layer = layer
        .transpose()?
        .map_or(v1::Layer::Unspecified, Into::into);
    Ok(Question {
        title,
        request: v1::ExplainRequest {
            subject: Some(subject),
            layer: layer.into(),
        },
    })
}

fn connection(options: &args::Explain, remote: SocketAddr) -> Result<v1::Connection> {
    if let Some(from) = options.from
        && from.is_ipv4() != remote.is_ipv4()
    {
        bail!("{from} and {remote} are of different families");
    }
    let app = options.app.as_deref().map(find_program).transpose()?;
    Ok(v1::Connection {
        app: app.map_or(String::new(), |path| path.display().to_string()),
        uid: match &options.uid {
            Some(name) => uid(name)?,
            None => rustix::process::geteuid().as_raw(),
        },
        cgroup: options.cgroup.clone().unwrap_or_default(),
        local: options.from.map(endpoint),
        remote: Some(endpoint(remote)),
        protocol: match options.proto {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        },
        netns: options.netns.unwrap_or(0),
    })
}

fn title(connection: &v1::Connection, said: &str, remote: SocketAddr) -> String {
    let program = match connection.app.as_str() {
        "" => "any program",
        app => app,
    };
    let resolved = match said == remote.to_string() {
        true => String::new(),
        false => format!(" ({said})"),
    };
    let (protocol, uid) = (
        crate::endpoint::protocol(connection.protocol),
        connection.uid,
    );
    format!("{program}, user {uid}, to {remote}{resolved} by {protocol}")
}

/// The first address of HOST:PORT.
fn resolve(text: &str) -> Result<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        bail!("{text:?} has no port; write {text}:443");
    };
    if port.parse::<u16>().is_err() {
        bail!("{port:?} is no port; write HOST:PORT, an IPv6 address in brackets");
    }
    let mut all = text
        .to_socket_addrs()
        .with_context(|| format!("cannot find the address of {host:?}"))?;
    all.next()
        .with_context(|| format!("{host:?} has no address"))
}

/// A path as it is; a bare name is looked for in PATH.
fn find_program(program: &Path) -> Result<PathBuf> {
    if program.is_absolute() {
        return Ok(program.to_owned());
    }
    if program.components().count() > 1 {
        return std::path::absolute(program).context("find the working directory");
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places = env::split_paths(&path).map(|folder| folder.join(program));
    places.find(|place| place.is_file()).with_context(|| {
        format!(
            "there is no program {:?} in PATH; give its path",
            program.display()
        )
    })
}

fn uid(name: &str) -> Result<u32> {
    let number = name.parse().ok().or_else(|| user(name));
    number.with_context(|| format!("there is no user {name:?}"))
}

/// A layer, or the one of a family.
fn layer(name: &str, family: Family) -> Result<Layer> {
    match LayerKind::ALL.into_iter().find(|kind| kind.name() == name) {
        Some(kind) => Ok(Layer { kind, family }),
        None => Ok(name.parse::<Layer>()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    use crate::args::{Arguments, Task};

    fn said(words: &str) -> Result<Question> {
        let words = ["sidetrack", "explain"]
            .into_iter()
            .chain(words.split_whitespace());
        match Arguments::try_parse_from(words)?.task {
            Task::Explain(options) => question(&options),
            _ => panic!("it is an explain"),
        }
    }

    #[test]
    fn a_connection_is_asked_about_as_it_was_said() {
        let question =
            said("--app /usr/bin/curl --to [2001:db8::1]:443 --uid 1000 --layer auth-connect")
                .unwrap();
        assert_eq!(
            question.title,
            "/usr/bin/curl, user 1000, to [2001:db8::1]:443 by tcp"
        );
        assert_eq!(question.request.layer(), v1::Layer::AuthConnectV6);
        let sh = said("--app sh --to 127.0.0.1:1 --proto udp --uid root").unwrap();
        let Some(v1::explain_request::Subject::Connection(connection)) = sh.request.subject else {
            panic!("it is a connection");
        };
        assert!(connection.app.ends_with("/sh") && connection.protocol == 17);
    }

    #[test]
    fn what_cannot_be_asked_is_told() {
        let wrong = [
            "--to example.com",
            "--to 127.0.0.1:http",
            "--to 127.0.0.1:1 --uid nobody-of-this-name",
            "--to 127.0.0.1:1 --app no-such-program",
            "--to 127.0.0.1:1 --from [::1]:1",
            "--to 127.0.0.1:1 --layer connect",
        ];
        let told = wrong.map(|words| said(words).err().expect("it is wrong").to_string());
        insta::assert_snapshot!(told.join("\n"));
        assert!(said("").is_err() && said("--flow 1 --to 127.0.0.1:1").is_err());
    }
}
