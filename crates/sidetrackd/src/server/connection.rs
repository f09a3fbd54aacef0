//! Connections to the daemon's sockets: each has the credentials of its peer, and counts towards the
//! quota of the peer's user until it is closed.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Handle as Runtime;
use tracing::{debug, warn};

use super::admission::Admission;
use super::authority::AuthorityStream;
use super::{CALLS_PER_CONNECTION_MAX, HEADERS_SIZE_MAX, SEND_BUFFER_MAX, WINDOW};
use crate::access::Peer;
use crate::quota::{Portion, Quota, QuotaExceeded};

/// How long the server waits before it accepts again, after it could not.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Minimum interval between two log lines about connections that were refused.
const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Accepts connections and starts a task for each, which `serve` makes: root's in this runtime, and those
/// of other users in `others`.
pub(super) async fn accept_all<T: Future<Output = ()> + Send + 'static>(
    listener: UnixListener,
    quota: Arc<Quota>,
    others: Runtime,
    serve: impl Fn(std::os::unix::net::UnixStream, Peer, Portion) -> T,
) -> Infallible {
    let mut refusals = Refusals::default();
    loop {
        let (stream, peer) = match accept(&listener).await {
            Ok(accepted) => accepted,
            Err(error) => {
                // For example, too many files are open: wait until some are closed.
                warn!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let portion = match quota.take(peer.uid) {
            Ok(portion) => portion,
            Err(full) => {
                refusals.log(full);
                continue;
            }
        };
        let is_root = peer.uid == 0;
        let connection = serve(stream, peer, portion);
        if is_root {
            tokio::spawn(connection);
        } else {
            others.spawn(connection);
        }
    }
}

/// Accepts a connection, and reads the credentials of its peer. Errors: the kernel's.
async fn accept(listener: &UnixListener) -> io::Result<(std::os::unix::net::UnixStream, Peer)> {
    let (stream, _) = listener.accept().await?;
    let peer = Peer::from_stream(&stream)?;
    // The runtime that serves the connection registers it again.
    Ok((stream.into_std()?, peer))
}

/// Serves a connection to the API until its client closes it, or until it is closed because nothing
/// happens on it.
pub(super) async fn serve(
    stream: std::os::unix::net::UnixStream,
    peer: Peer,
    portion: Portion,
    admission: Admission,
) {
    let _portion = portion;
    let stream = match UnixStream::from_std(stream) {
        Ok(stream) => TokioIo::new(AuthorityStream::new(stream)),
        Err(error) => return warn!("cannot serve a connection: {error}"),
    };
    let (pid, uid) = (peer.pid, peer.uid);
    let client = admission.client(peer);
    let activity = Arc::clone(&client.activity);
    let service = service_fn(move |request| {
        let (admission, client) = (admission.clone(), client.clone());
        async move { Ok::<_, Infallible>(admission.answer(client, request).await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(CALLS_PER_CONNECTION_MAX)
        .initial_connection_window_size(WINDOW)
        .initial_stream_window_size(WINDOW)
        .max_header_list_size(HEADERS_SIZE_MAX)
        .max_send_buf_size(SEND_BUFFER_MAX)
        .serve_connection(stream, service);
    tokio::select! {
        result = connection => if let Err(error) = result {
            debug!("a connection of process {pid} of user {uid} failed: {error}");
        },
        overdue = activity.overdue(), if uid != 0 => {
            debug!("closed a connection of process {pid} of user {uid}: {overdue}");
        }
    }
}

/// Logs connections that are refused, but not each one.
#[derive(Default)]
struct Refusals {
    logged: Option<Instant>,
    unlogged: usize,
}

impl Refusals {
    fn log(&mut self, full: QuotaExceeded) {
        let recent = |logged: Instant| logged.elapsed() < REFUSAL_LOG_INTERVAL;
        if self.logged.is_some_and(recent) {
            self.unlogged += 1;
            return;
        }
        warn!(
            "a connection was refused: {full} ({} more were refused since the last such line)",
            self.unlogged
        );
        *self = Self {
            logged: Some(Instant::now()),
            unlogged: 0,
        };
    }
}
