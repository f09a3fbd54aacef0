//! The UDP sockets of a service for async programs.

use std::io;
use std::net::SocketAddr;

use ::tokio::io::Interest;
use ::tokio::net::UdpSocket;
use ::tokio::select;

use crate::datagram::is_transient;
use crate::{Batch, Error, Flow, Service, Unreachable};

/// The UDP sockets of a service, in a tokio runtime. See [`crate::DatagramListener`].
#[derive(Debug)]
pub struct DatagramListener {
    inner: crate::DatagramListener,
    /// Duplicates of the descriptors of `inner.sockets`, in the same order, registered with the
    /// runtime.
    async_sockets: Vec<UdpSocket>,
}

impl DatagramListener {
    /// Opens the sockets as [`crate::DatagramListener::bind`] does, with the same errors.
    ///
    /// # Panics
    ///
    /// If it is called outside of a tokio runtime.
    pub fn bind(service: &Service) -> Result<Self, Error> {
        let inner = crate::DatagramListener::bind(service)?;
        let async_sockets = (inner.sockets.iter())
            .map(|socket| UdpSocket::from_std(socket.try_clone()?))
            .collect::<io::Result<_>>()
            .map_err(Error::system("hand the sockets to tokio"))?;
        Ok(Self {
            inner,
            async_sockets,
        })
    }

    /// Waits for datagrams and receives them, as [`crate::DatagramListener::receive`] does, with
    /// the same errors.
    ///
    /// Cancel safe: if the future is dropped, no received datagram is lost.
    pub async fn receive(&self, batch: &mut Batch) -> Result<(), Error> {
        loop {
            let index = self.readable().await?;
            let taken = self.attempt(index, Interest::READABLE, || {
                self.inner.try_receive(index, batch)
            });
            match taken {
                None => {}
                Some(Ok(())) if batch.is_empty() => {}
                Some(Err(Error::System { source, .. })) if is_transient(&source) => {}
                Some(taken) => return taken,
            }
        }
    }

    /// Sends an answer, as [`crate::DatagramListener::answer`] does. Waits while the socket's send
    /// buffer is full.
    ///
    /// Cancel safe: if the future is dropped while it waits, nothing has been sent.
    pub async fn answer(&self, flow: &Flow, payload: &[u8]) -> Result<(), Error> {
        self.answer_all(&[(flow, payload)]).await.map(|_| ())
    }

    /// Sends several answers, as [`crate::DatagramListener::answer_all`] does. Waits until at least
    /// one can be sent.
    ///
    /// Cancel safe: if the future is dropped while it waits, nothing has been sent.
    pub async fn answer_all(&self, answers: &[(&Flow, &[u8])]) -> Result<usize, Error> {
        let Some((first, _)) = answers.first() else {
            return Ok(0);
        };
        let index = usize::from(!first.is_ipv4());
        let socket = self.async_sockets.get(index).ok_or(Error::NotRedirected)?;
        loop {
            let answered =
                self.attempt(index, Interest::WRITABLE, || self.inner.answer_all(answers));
            if let Some(answered) = answered {
                return answered;
            }
            let ready = socket.writable().await;
            ready.map_err(Error::system("wait to answer"))?;
        }
    }

    /// Reports to the client of a flow that its datagrams do not arrive; see
    /// [`crate::DatagramListener::report`].
    pub fn report(&self, flow: &Flow, why: Unreachable) -> Result<(), Error> {
        self.inner.report(flow, why)
    }

    /// Removes a flow from the table; see [`crate::DatagramListener::forget`].
    pub fn forget(&self, flow: &Flow) {
        self.inner.forget(flow);
    }

    /// Number of datagrams that were not redirected to this service; see
    /// [`crate::DatagramListener::refused`].
    pub fn refused(&self) -> u64 {
        self.inner.refused()
    }

    /// The addresses of the sockets; see [`crate::DatagramListener::addresses`].
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.inner.addresses()
    }

    /// Waits until a socket may have a datagram, and returns its index.
    async fn readable(&self) -> Result<usize, Error> {
        let (index, ready) = match &self.async_sockets[..] {
            [v4, v6, ..] => select! {
                ready = v4.readable() => (0, ready),
                ready = v6.readable() => (1, ready),
            },
            [v4] => (0, v4.readable().await),
            [] => unreachable!("bind always makes the IPv4 one"),
        };
        ready.map_err(Error::system("wait for a datagram"))?;
        Ok(index)
    }

    /// Calls a non-blocking function of `inner`. Returns `None` if it would block; the runtime then
    /// waits for the socket's next event.
    fn attempt<T>(
        &self,
        socket: usize,
        interest: Interest,
        call: impl FnOnce() -> Result<T, Error>,
    ) -> Option<Result<T, Error>> {
        let called = self.async_sockets[socket].try_io(interest, || match call() {
            Err(Error::System { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => {
                Err(source)
            }
            called => Ok(called),
        });
        called.ok()
    }
}
