//! Asking the daemon.

use std::future::Future;
use std::io;

use anyhow::{Context, Result, anyhow};
use sidetrack_api::client::{self, Error};
use sidetrack_api::{Client, Session, v1};
use sidetrack_policy::Lifetime;
use tonic::{Status, Streaming};

use crate::args::Daemon;

/// Runs a conversation with the daemon.
pub(crate) fn ask<T, F: Future<Output = Result<T>>>(
    daemon: &Daemon,
    talk: impl FnOnce(Client) -> F,
) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let client = client::connect(daemon.socket.as_deref()).await;
        talk(client.map_err(unreachable)?).await
    })
}

/// What to do about a daemon that does not answer.
fn unreachable(error: Error) -> anyhow::Error {
    let Error::Connect { socket, source } = &error else {
        return error.into();
    };
    let socket = socket.display();
    match source.kind() {
        io::ErrorKind::NotFound => anyhow!(
            "sidetrackd is not running (no socket at {socket}); \
             start it with `systemctl start sidetrackd` or `sudo sidetrackd`"
        ),
        io::ErrorKind::ConnectionRefused => anyhow!(
            "sidetrackd is not running (nobody listens at {socket}); \
             start it with `systemctl start sidetrackd` or `sudo sidetrackd`"
        ),
        io::ErrorKind::PermissionDenied => anyhow!(
            "you may not talk to sidetrackd ({socket} is closed to you); \
             use sudo, or join the group that its configuration names"
        ),
        _ => anyhow!("cannot reach sidetrackd at {socket}: {source}"),
    }
}

/// What a refusal says.
pub(crate) fn refused(status: Status) -> anyhow::Error {
    Error::from(status).into()
}

/// Opens a session for a command. It lasts until it is dropped.
pub(crate) async fn session(client: &mut Client, command: &str) -> Result<Session> {
    let options = v1::SessionOptions {
        name: format!("sidetrack {command}"),
        ..Default::default()
    };
    Ok(Session::open(client, options).await?)
}

/// All pieces of an answer.
pub(crate) async fn whole<T>(mut stream: Streaming<T>) -> Result<Vec<T>> {
    let mut all = Vec::new();
    while let Some(piece) = stream.message().await.map_err(refused)? {
        all.push(piece);
    }
    Ok(all)
}

/// How long an object lives, as the daemon says.
pub(crate) fn lifetime(number: i32) -> Lifetime {
    match v1::Lifetime::try_from(number) {
        Ok(v1::Lifetime::Dynamic) => Lifetime::Dynamic,
        Ok(v1::Lifetime::Persistent) => Lifetime::Persistent,
        Ok(v1::Lifetime::BootTime) => Lifetime::BootTime,
        Ok(v1::Lifetime::BuiltIn) => Lifetime::BuiltIn,
        Ok(v1::Lifetime::Static | v1::Lifetime::Unspecified) | Err(_) => Lifetime::Static,
    }
}

/// Nanoseconds since 1970 as a time of day, in UTC.
pub(crate) fn time(unix_ns: u64) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(unix_ns);
    humantime::format_rfc3339_millis(time).to_string()
}

/// A user's number, by name or number.
pub(crate) fn user(name: &str) -> Option<u32> {
    uzers::get_user_by_name(name).map(|user| user.uid())
}
