//! Connections to the API's socket, with the credentials of their peers and a limit on their
//! number.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::codegen::tokio_stream::Stream;
use tonic::transport::server::Connected;
use tracing::warn;

use crate::access::Peer;

/// A connection, which counts towards the limit until it is dropped.
pub(super) struct Connection {
    stream: UnixStream,
    peer: Peer,
    _permit: OwnedSemaphorePermit,
}

/// A stream of accepted connections. Connections beyond the limit wait in the listener's backlog.
pub(super) struct Incoming {
    next: Pin<Box<dyn Future<Output = io::Result<Connection>> + Send>>,
    listener: Arc<UnixListener>,
    permits: Arc<Semaphore>,
}

impl Incoming {
    pub(super) fn new(listener: UnixListener, connections_max: usize) -> Self {
        let listener = Arc::new(listener);
        let permits = Arc::new(Semaphore::new(connections_max));
        Self {
            next: Box::pin(accept(Arc::clone(&listener), Arc::clone(&permits))),
            listener,
            permits,
        }
    }
}

async fn accept(listener: Arc<UnixListener>, permits: Arc<Semaphore>) -> io::Result<Connection> {
    let permit = permits.acquire_owned().await.map_err(io::Error::other)?;
    loop {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // For example, too many files are open: wait until some are closed.
                warn!("cannot accept a connection: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        match Peer::from_stream(&stream) {
            Ok(peer) => {
                return Ok(Connection {
                    stream,
                    peer,
                    _permit: permit,
                });
            }
            Err(error) => warn!("cannot read the credentials of a process that connected: {error}"),
        }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let result = std::task::ready!(self.next.as_mut().poll(context));
        let (listener, permits) = (Arc::clone(&self.listener), Arc::clone(&self.permits));
        self.next = Box::pin(accept(listener, permits));
        Poll::Ready(Some(result))
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
