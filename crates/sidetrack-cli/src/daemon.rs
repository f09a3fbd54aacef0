//! Calls to the daemon: the connection, errors, and conversions of what it returns.

use std::future::Future;
use std::io;

use anyhow::{Context, Result, anyhow};
use jiff::Timestamp;
use sidetrack_api::client::{self, Error};
use sidetrack_api::{Client, Session, v1};
use sidetrack_policy::Lifetime;
use tonic::{Status, Streaming};

use crate::args::DaemonArgs;

/// Connects to the daemon and runs `call` with the client.
pub(crate) fn with_daemon<T, F: Future<Output = Result<T>>>(
    daemon: &DaemonArgs,
    call: impl FnOnce(Client) -> F,
) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    runtime.block_on(async {
        let client = client::connect(daemon.socket.as_deref()).await;
        call(client.map_err(connect_error)?).await
    })
}

/// Converts an error of the connection to the daemon into a message that says what to do.
fn connect_error(error: Error) -> anyhow::Error {
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
            "sidetrackd is not running (no process listens at {socket}); \
             start it with `systemctl start sidetrackd` or `sudo sidetrackd`"
        ),
        io::ErrorKind::PermissionDenied => anyhow!(
            "you have no permission to connect to sidetrackd at {socket}; \
             use sudo, or join a group that its configuration admits"
        ),
        _ => anyhow!("cannot connect to sidetrackd at {socket}: {source}"),
    }
}

/// Converts the status of a failed call into an error with the daemon's message.
pub(crate) fn status_error(status: Status) -> anyhow::Error {
    Error::from(status).into()
}

/// Opens a session that is named after the subcommand. Dropping it ends the session.
pub(crate) async fn open_session(client: &mut Client, command: &str) -> Result<Session> {
    let options = v1::SessionOptions {
        name: format!("sidetrack {command}"),
        ..Default::default()
    };
    Ok(Session::open(client, options).await?)
}

/// Collects all messages of a stream.
pub(crate) async fn collect_stream<T>(mut stream: Streaming<T>) -> Result<Vec<T>> {
    let mut all = Vec::new();
    while let Some(message) = stream.message().await.map_err(status_error)? {
        all.push(message);
    }
    Ok(all)
}

/// Converts a lifetime from its protobuf number. An unknown number counts as static.
pub(crate) fn lifetime_from_wire(number: i32) -> Lifetime {
    match v1::Lifetime::try_from(number) {
        Ok(v1::Lifetime::Dynamic) => Lifetime::Dynamic,
        Ok(v1::Lifetime::Persistent) => Lifetime::Persistent,
        Ok(v1::Lifetime::BootTime) => Lifetime::BootTime,
        Ok(v1::Lifetime::BuiltIn) => Lifetime::BuiltIn,
        Ok(v1::Lifetime::Static | v1::Lifetime::Unspecified) | Err(_) => Lifetime::Static,
    }
}

/// Formats nanoseconds since 1970 as date and time (RFC 3339) in UTC, with milliseconds.
pub(crate) fn time_text(unix_ns: u64) -> String {
    // Every number of 64 bits is a time before the year 2555, which a timestamp can have.
    let time = Timestamp::from_nanosecond(unix_ns.into()).unwrap_or(Timestamp::MAX);
    format!("{time:.3}")
}

/// Looks up the id of the user with this name.
pub(crate) fn user_id(name: &str) -> Option<u32> {
    uzers::get_user_by_name(name).map(|user| user.uid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_milliseconds_that_are_cut_off() {
        for (unix_ns, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00.000Z"),
            (1_795_000_000_999_999_999, "2026-11-18T11:06:40.999Z"),
            (u64::MAX, "2554-07-21T23:34:33.709Z"),
        ] {
            assert_eq!(time_text(unix_ns), text);
        }
    }
}
