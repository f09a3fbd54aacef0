//! Builds the request to the daemon from the command line.

use std::env;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sidetrack_api::{endpoint, v1};
use sidetrack_policy::{Family, Layer, LayerKind};

use crate::args::{self, ProtocolArg};
use crate::daemon::user_id;

/// A request to explain a connection or flow.
pub(super) struct ExplainQuery {
    /// The heading of the output, which describes the connection.
    pub(super) title: String,
    pub(super) request: v1::ExplainRequest,
}

/// Builds the request; a host name is resolved, and a bare program name is looked up in PATH.
pub(super) fn build(options: &args::ExplainArgs) -> Result<ExplainQuery> {
    use v1::explain_request::Subject;
    let (title, subject, family) = match (options.flow, &options.to) {
        (Some(flow), _) => (format!("flow {flow}"), Subject::FlowId(flow), Family::V4),
        (None, Some(to)) => {
            let remote = resolve(to)?;
            let connection = connection(options, remote)?;
            (
                title(&connection, to, remote),
                Subject::Connection(connection),
                Family::of(remote.ip()),
            )
        }
        (None, None) => bail!("nothing to explain: use --to HOST:PORT or --flow ID"),
    };
    let layer = options
        .layer
        .as_deref()
        .map(|name| parse_layer(name, family));
    let layer = layer
        .transpose()?
        .map_or(v1::Layer::Unspecified, Into::into);
    Ok(ExplainQuery {
        title,
        request: v1::ExplainRequest {
            subject: Some(subject),
            layer: layer.into(),
        },
    })
}

fn connection(options: &args::ExplainArgs, remote: SocketAddr) -> Result<v1::Connection> {
    if let Some(from) = options.from
        && from.is_ipv4() != remote.is_ipv4()
    {
        bail!("--from {from} and the destination {remote} are of different address families");
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
            ProtocolArg::Tcp => 6,
            ProtocolArg::Udp => 17,
        },
        netns: options.netns.unwrap_or(0),
    })
}

/// Describes the connection. `to` is the destination as the user wrote it, perhaps a host name.
fn title(connection: &v1::Connection, to: &str, remote: SocketAddr) -> String {
    let program = match connection.app.as_str() {
        "" => "any program",
        app => app,
    };
    let resolved = match to == remote.to_string() {
        true => String::new(),
        false => format!(" ({to})"),
    };
    let (protocol, uid) = (
        crate::format::protocol_name(connection.protocol),
        connection.uid,
    );
    format!("{program}, user {uid}, to {remote}{resolved} over {protocol}")
}

/// Returns the first address of HOST:PORT.
fn resolve(text: &str) -> Result<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        bail!("{text:?} has no port; write HOST:PORT, for example {text}:443");
    };
    if port.parse::<u16>().is_err() {
        bail!("{port:?} is not a port number; write HOST:PORT, with an IPv6 address in brackets");
    }
    let mut addresses = text
        .to_socket_addrs()
        .with_context(|| format!("cannot resolve the host name {host:?}"))?;
    addresses
        .next()
        .with_context(|| format!("the host name {host:?} has no address"))
}

/// Returns the absolute path of a program; a bare name is looked up in PATH.
fn find_program(program: &Path) -> Result<PathBuf> {
    if program.is_absolute() {
        return Ok(program.to_owned());
    }
    if program.components().count() > 1 {
        return std::path::absolute(program).context("cannot find the working directory");
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let mut candidates = env::split_paths(&path).map(|folder| folder.join(program));
    candidates.find(|file| file.is_file()).with_context(|| {
        format!(
            "there is no program {:?} in PATH; use its full path",
            program.display()
        )
    })
}

fn uid(name: &str) -> Result<u32> {
    let number = name.parse().ok().or_else(|| user_id(name));
    number.with_context(|| format!("there is no user {name:?}"))
}

/// Parses a layer; a name without address family stands for the layer of `family`.
fn parse_layer(name: &str, family: Family) -> Result<Layer> {
    match LayerKind::ALL.into_iter().find(|kind| kind.name() == name) {
        Some(kind) => Ok(Layer { kind, family }),
        None => Ok(name.parse::<Layer>()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    use crate::args::{Arguments, Command};

    /// Parses the arguments of `explain`, split at white space, and builds the request.
    fn build_from(arguments: &str) -> Result<ExplainQuery> {
        let arguments = ["sidetrack", "explain"]
            .into_iter()
            .chain(arguments.split_whitespace());
        match Arguments::try_parse_from(arguments)?.command {
            Command::Explain(options) => build(&options),
            _ => panic!("these are the arguments of `explain`"),
        }
    }

    #[test]
    fn request_describes_the_connection_on_the_command_line() {
        let query = build_from(
            "--app /usr/bin/curl --to [2001:db8::1]:443 --uid 1000 --layer auth-connect",
        )
        .unwrap();
        assert_eq!(
            query.title,
            "/usr/bin/curl, user 1000, to [2001:db8::1]:443 over tcp"
        );
        assert_eq!(query.request.layer(), v1::Layer::AuthConnectV6);
        let sh = build_from("--app sh --to 127.0.0.1:1 --proto udp --uid root").unwrap();
        let Some(v1::explain_request::Subject::Connection(connection)) = sh.request.subject else {
            panic!("the subject is a connection");
        };
        assert!(connection.app.ends_with("/sh") && connection.protocol == 17);
    }

    #[test]
    fn each_fault_is_reported_in_one_sentence() {
        let wrong = [
            "--to example.com",
            "--to 127.0.0.1:http",
            "--to 127.0.0.1:1 --uid no-such-user",
            "--to 127.0.0.1:1 --app no-such-program",
            "--to 127.0.0.1:1 --from [::1]:1",
            "--to 127.0.0.1:1 --layer connect",
        ];
        let messages = wrong.map(|arguments| {
            let error = build_from(arguments).err();
            error.expect("they are wrong").to_string()
        });
        insta::assert_snapshot!(messages.join("\n"));
        assert!(build_from("").is_err() && build_from("--flow 1 --to 127.0.0.1:1").is_err());
    }
}
