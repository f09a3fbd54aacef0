//! The client's first bytes: read to be looked at, then passed on unchanged.
//!
//! Read, not peeked: a peeked socket stays readable, and waiting for a slow client would spin.

use std::mem;
use std::sync::atomic::Ordering;

use tokio::net::TcpStream;

use crate::end::How;
use crate::relay::{Peer, Progress, read_chunk};
use crate::sniff::{Seen, Sniffed, sniff};

/// Holds at most [`SNIFF_SIZE_MAX`](crate::sniff::SNIFF_SIZE_MAX) bytes and one chunk.
#[derive(Debug, Default)]
pub(super) struct Opening {
    bytes: Vec<u8>,
    /// How many of `bytes` were passed on already.
    taken: usize,
    over: bool,
    seen: Option<Seen>,
}

impl Opening {
    /// Reads until decided. Cancel safe.
    pub(super) async fn read_on(
        &mut self,
        client: &TcpStream,
        progress: &Progress,
    ) -> Result<(), How> {
        while !self.is_decided() {
            self.read_some(client, progress).await?;
        }
        Ok(())
    }

    /// Reads one chunk, or the end. Cancel safe.
    pub(super) async fn read_some(
        &mut self,
        client: &TcpStream,
        progress: &Progress,
    ) -> Result<(), How> {
        let read = read_chunk(Peer::client(client), &mut self.bytes).await?;
        progress.sniffed.fetch_add(read as u64, Ordering::Relaxed);
        self.over = read == 0;
        if self.over {
            self.seen = Some(Seen::at_end(&self.bytes));
        } else if let Sniffed::Seen(seen) = sniff(&self.bytes) {
            self.seen = Some(seen);
        }
        Ok(())
    }

    /// What was not passed on yet; the caller passes it on. Once decided, nothing is kept.
    pub(super) fn take(&mut self) -> Vec<u8> {
        if self.is_decided() {
            let mut bytes = mem::take(&mut self.bytes);
            bytes.drain(..mem::take(&mut self.taken));
            return bytes;
        }
        let new = self.bytes[self.taken..].to_vec();
        self.taken = self.bytes.len();
        new
    }

    /// Whether further bytes change nothing.
    pub(super) fn is_decided(&self) -> bool {
        self.seen.is_some()
    }

    /// Whether the client will send no more.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    pub(super) fn seen(&self) -> Option<&Seen> {
        self.seen.as_ref()
    }

    pub(super) fn host(&self) -> Option<&str> {
        self.seen()?.host()
    }

    /// What was seen, as if there came no more.
    pub(super) fn into_seen(self) -> Seen {
        self.seen.unwrap_or_else(|| Seen::at_end(&self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::relay::COPY_SIZE;
    use crate::sniff::{HEAD_SIZE_MAX, SNIFF_SIZE_MAX};

    #[tokio::test]
    async fn memory_is_bounded_and_given_back() {
        let hello = b"\x16\x03\x01\x40\x00\x01\x00\xff\xf0".as_slice(); // of nearly 64 KiB
        for (beginning, limit) in [
            (b"GET / HTTP/1.1\r\nA: ".as_slice(), HEAD_SIZE_MAX),
            (hello, SNIFF_SIZE_MAX),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap())
                .await
                .unwrap();
            let (accepted, _) = listener.accept().await.unwrap();
            let mut bytes = beginning.to_vec();
            for _ in 0..32 {
                bytes.resize(bytes.len().next_multiple_of(0x4005), b'a');
                bytes.extend(&beginning[..5]); // where a TLS record would begin
            }
            let sending = tokio::spawn(async move { client.write_all(&bytes).await });
            let mut opening = Opening::default();
            opening
                .read_on(&accepted, &Progress::default())
                .await
                .unwrap();
            assert_eq!(opening.seen(), Some(&Seen::Raw));
            let held = opening.bytes.len();
            assert!((limit..limit + COPY_SIZE).contains(&held), "{held} bytes");
            assert!(opening.bytes.capacity() <= limit + 2 * COPY_SIZE);
            assert_eq!((opening.take().len(), opening.bytes.capacity()), (held, 0));
            sending.abort();
        }
    }
}
