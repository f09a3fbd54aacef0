//! The opening: the client's first bytes, which are read to recognise the protocol and then passed on
//! unchanged.
//!
//! They are read and not peeked (`MSG_PEEK`), since a peeked socket stays readable, so that waiting
//! for a slow client would spin.

use super::loop_context::LoopContext;
use crate::close_reason::CloseReason;
use crate::relay::{COPY_SIZE, Direction, Peer, Progress};
use crate::seen::Seen;
use crate::sniff::{Sniffed, sniff};

/// The bytes read so far, and what was recognised in them. Holds at most
/// [`SNIFF_SIZE_MAX`](crate::sniff::SNIFF_SIZE_MAX) bytes and one chunk.
#[derive(Debug, Default)]
pub(super) struct Opening {
    /// What was read; empty after all of it was passed on.
    bytes: Vec<u8>,
    /// How many of `bytes` were passed on already.
    passed: usize,
    /// Number of bytes read in total.
    count: u64,
    /// What was recognised; `None` while undecided.
    seen: Option<Seen>,
}

impl Opening {
    /// Reads until the protocol is decided, or until the socket has no more for now.
    pub(super) fn read_until_decided(
        &mut self,
        client: &mut Peer,
        copy_buffer: &mut [u8],
    ) -> Result<(), CloseReason> {
        while !self.is_decided() && self.read_some(client, copy_buffer)? {}
        Ok(())
    }

    /// Reads one chunk, or the end of the stream. Returns false if there is nothing to read for now.
    fn read_some(
        &mut self,
        client: &mut Peer,
        copy_buffer: &mut [u8],
    ) -> Result<bool, CloseReason> {
        let Some(read) = client.receive(&mut copy_buffer[..COPY_SIZE])? else {
            return Ok(false);
        };
        self.bytes.reserve_exact(read);
        self.bytes.extend_from_slice(&copy_buffer[..read]);
        self.count += read as u64;
        if read == 0 {
            self.seen = Some(Seen::at_end(&self.bytes));
        } else if let Sniffed::Seen(seen) = sniff(&self.bytes) {
            self.seen = Some(seen);
        }
        Ok(true)
    }

    /// Passes the opening on to the origin, and reads more of it until the protocol is decided.
    /// After that, relays what follows.
    pub(super) fn pass_on(
        &mut self,
        client: &mut Peer,
        origin: &mut Peer,
        up: &mut Direction,
        context: &mut LoopContext<'_>,
    ) -> Result<Progress, CloseReason> {
        while up.flush(origin, context.pipes)? {
            up.send(&self.bytes[self.passed..], origin)?;
            self.passed = self.bytes.len();
            if self.is_decided() {
                (self.bytes, self.passed) = (Vec::new(), 0);
                return up.pump(client, origin, context.copy_buffer, context.pipes);
            }
            if !self.read_some(client, context.copy_buffer)? {
                break;
            }
        }
        Ok(Progress::Waiting)
    }

    /// Whether all of it was passed on by [`pass_on`](Self::pass_on), or it was empty.
    pub(super) fn is_passed_on(&self) -> bool {
        self.is_decided() && self.bytes.is_empty()
    }

    /// Whether the client has sent nothing so far, not even the end of the stream.
    pub(super) fn is_silent(&self) -> bool {
        self.count == 0 && !self.is_decided()
    }

    /// Number of bytes read.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Whether the protocol is decided, so that further bytes do not change what was seen.
    pub(super) fn is_decided(&self) -> bool {
        self.seen.is_some()
    }

    pub(super) fn seen(&self) -> Option<&Seen> {
        self.seen.as_ref()
    }

    pub(super) fn host(&self) -> Option<&str> {
        self.seen()?.host()
    }

    /// What was seen, taking the bytes so far for the whole.
    pub(super) fn into_seen(self) -> Seen {
        self.seen.unwrap_or_else(|| Seen::at_end(&self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use rustix::event::epoll::EventFlags;

    use super::*;
    use crate::sniff::{HEAD_SIZE_MAX, SNIFF_SIZE_MAX};

    #[test]
    fn memory_is_bounded_and_given_back() {
        let hello = b"\x16\x03\x01\x40\x00\x01\x00\xff\xf0".as_slice(); // a ClientHello of nearly 64 KiB
        for (beginning, limit) in [
            (b"GET / HTTP/1.1\r\nA: ".as_slice(), HEAD_SIZE_MAX),
            (hello, SNIFF_SIZE_MAX),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let mut accepted = Peer::client(listener.accept().unwrap().0);
            accepted.note(EventFlags::IN | EventFlags::RDHUP); // stays readable after a short read
            let mut bytes = beginning.to_vec();
            for _ in 0..32 {
                bytes.resize(bytes.len().next_multiple_of(0x4005), b'a');
                bytes.extend(&beginning[..5]); // the header of the next TLS record
            }
            let sending = thread::spawn(move || client.write_all(&bytes));
            let mut opening = Opening::default();
            opening
                .read_until_decided(&mut accepted, &mut [0; COPY_SIZE])
                .unwrap();
            assert_eq!(opening.seen(), Some(&Seen::Raw));
            let held = opening.bytes.len();
            assert!((limit..limit + COPY_SIZE).contains(&held), "{held} bytes");
            assert!(opening.bytes.capacity() <= limit + 2 * COPY_SIZE);
            drop(accepted); // ends the sending thread
            let _ = sending.join().unwrap();
        }
    }
}
