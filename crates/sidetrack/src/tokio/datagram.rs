//! Datagrams in async programs.

use std::io;
use std::net::SocketAddr;

use ::tokio::io::Interest;
use ::tokio::net::UdpSocket;
use ::tokio::select;

use crate::datagram::is_passing;
use crate::{Batch, Error, Flow, Service, Unreachable};

/// A service's UDP sockets in a tokio runtime; see [`crate::DatagramListener`].
#[derive(Debug)]
pub struct DatagramListener {
    inner: crate::DatagramListener,
    /// Descriptors of the same sockets, in the same order, to wait on.
    waits: Vec<UdpSocket>,
}

impl DatagramListener {
    /// As [`crate::DatagramListener::bind`]; must be called within a runtime.
    pub fn bind(service: &Service) -> Result<Self, Error> {
        let inner = crate::DatagramListener::bind(service)?;
        let waits = (inner.sockets.iter())
            .map(|socket| UdpSocket::from_std(socket.try_clone()?))
            .collect::<io::Result<_>>()
            .map_err(Error::system("hand the sockets to tokio"))?;
        Ok(Self { inner, waits })
    }

    /// As [`crate::DatagramListener::receive`].
    ///
    /// Cancel safe: datagrams are taken by the call that returns them, or stay in the queue.
    pub async fn receive(&self, batch: &mut Batch) -> Result<(), Error> {
        loop {
            let index = self.readable().await?;
            let taken = self.attempt(index, Interest::READABLE, || {
                self.inner.try_receive(index, batch)
            });
            match taken {
                None => {}
                Some(Ok(())) if batch.is_empty() => {}
                Some(Err(Error::System { source, .. })) if is_passing(&source) => {}
                Some(taken) => return taken,
            }
        }
    }

    /// As [`crate::DatagramListener::answer`], waiting while the socket's buffer is full.
    ///
    /// Cancel safe: dropped while it waits, it has sent nothing.
    pub async fn answer(&self, flow: &Flow, payload: &[u8]) -> Result<(), Error> {
        self.answer_all(&[(flow, payload)]).await.map(|_| ())
    }

    /// As [`crate::DatagramListener::answer_all`]; waits until one can be sent at least.
    ///
    /// Cancel safe: dropped while it waits, it has sent nothing.
    pub async fn answer_all(&self, answers: &[(&Flow, &[u8])]) -> Result<usize, Error> {
        let Some((first, _)) = answers.first() else {
            return Ok(0);
        };
        let index = usize::from(!first.is_ipv4());
        let socket = self.waits.get(index).ok_or(Error::NotRedirected)?;
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

    /// As [`crate::DatagramListener::report`].
    pub fn report(&self, flow: &Flow, why: Unreachable) -> Result<(), Error> {
        self.inner.report(flow, why)
    }

    /// As [`crate::DatagramListener::forget`].
    pub fn forget(&self, flow: &Flow) {
        self.inner.forget(flow);
    }

    /// As [`crate::DatagramListener::refused`].
    pub fn refused(&self) -> u64 {
        self.inner.refused()
    }

    /// As [`crate::DatagramListener::addresses`].
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.inner.addresses()
    }

    /// The index of a socket that has something, perhaps.
    async fn readable(&self) -> Result<usize, Error> {
        let (index, ready) = match &self.waits[..] {
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

    /// `None`, and the runtime knows, if it would block.
    fn attempt<T>(
        &self,
        socket: usize,
        interest: Interest,
        call: impl FnOnce() -> Result<T, Error>,
    ) -> Option<Result<T, Error>> {
        let called = self.waits[socket].try_io(interest, || match call() {
            Err(Error::System { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => {
                Err(source)
            }
            called => Ok(called),
        });
        called.ok()
    }
}
