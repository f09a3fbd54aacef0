//! Reads requests of gRPC's C core, which Python, Ruby, PHP and C++ use. It sends the percent-encoded
//! path of the socket as `:authority`, and the HTTP library refuses an authority with a percent
//! sign. No part of the daemon uses the authority, so each percent sign becomes a hyphen.
//!
//! The length of the value stays the same. So the client's HPACK table and the library's agree, and
//! no other byte of the connection changes (RFC 7541; RFC 9113, 4.1 and 6.2).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

/// Size of the client's preface, which precedes the first frame.
const PREFACE_SIZE: usize = 24;
/// Size of a frame's header.
const HEADER_SIZE: usize = 9;
/// Maximum size of a frame's payload that the HTTP library accepts.
const PAYLOAD_SIZE_MAX: usize = 16 << 10;
/// Number of bytes that are read at a time where a frame begins.
const READ_SIZE: usize = 4 << 10;
/// The type of a frame with the headers of a request.
const HEADERS: u8 = 1;
/// Flags of such a frame.
const END_HEADERS: u8 = 0x04;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;
/// Size of the priority in such a frame.
const PRIORITY_SIZE: usize = 5;
/// The name of the header, and its index in HPACK's static table.
const AUTHORITY: &[u8] = b":authority";
const AUTHORITY_INDEX: usize = 1;

/// A connection whose requests have an authority that the HTTP library accepts.
pub(super) struct AuthorityStream {
    stream: UnixStream,
    frames: Frames,
}

/// The bytes from a client, as frames.
#[derive(Debug)]
struct Frames {
    /// Bytes that have been read and not handed on.
    buffer: Vec<u8>,
    /// Number of bytes that can be handed on without a further look at them.
    checked: usize,
}

impl AuthorityStream {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            frames: Frames::new(),
        }
    }
}

impl Frames {
    fn new() -> Self {
        Self {
            buffer: Vec::new(),
            checked: PREFACE_SIZE,
        }
    }

    /// Hands on as many bytes as possible.
    fn hand_on(&mut self, out: &mut ReadBuf<'_>) {
        let mut begin = 0;
        while out.remaining() > 0 {
            if self.checked == 0 {
                self.check_frame(begin);
            }
            let rest = &self.buffer[begin..];
            let count = rest.len().min(self.checked).min(out.remaining());
            if count == 0 {
                break;
            }
            out.put_slice(&rest[..count]);
            self.checked -= count;
            begin += count;
        }
        self.buffer.drain(..begin);
    }

    /// Checks the frame that begins in the buffer here, once enough of it is there.
    fn check_frame(&mut self, begin: usize) {
        let bytes = &mut self.buffer[begin..];
        let Some((header, payload)) = bytes.split_at_mut_checked(HEADER_SIZE) else {
            return;
        };
        let size = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let (kind, flags) = (header[3], header[4]);
        if kind == HEADERS && flags & END_HEADERS != 0 && size <= PAYLOAD_SIZE_MAX {
            let Some(payload) = payload.get_mut(..size) else {
                return;
            };
            // A malformed frame is left to the HTTP library, which refuses it.
            let _ = replace_in_headers(flags, payload);
        }
        self.checked = HEADER_SIZE + size;
    }
}

/// Replaces the percent signs in the authority of a frame's payload. Returns `None` where the payload
/// is malformed.
fn replace_in_headers(flags: u8, payload: &mut [u8]) -> Option<()> {
    let mut rest = payload;
    if flags & PADDED != 0 {
        let (padding, after) = rest.split_first_mut()?;
        let size = after.len().checked_sub((*padding).into())?;
        rest = &mut after[..size];
    }
    if flags & PRIORITY != 0 {
        rest = rest.get_mut(PRIORITY_SIZE..)?;
    }
    while let Some(&first) = rest.first() {
        // The kinds of fields and the sizes of their first numbers: RFC 7541, 6.
        let (bits, has_value) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        let name_index;
        (name_index, rest) = integer(rest, bits)?;
        if !has_value {
            continue;
        }
        let mut is_authority = name_index == AUTHORITY_INDEX;
        if name_index == 0 {
            let name;
            (name, _, rest) = string(rest)?;
            is_authority = name == AUTHORITY;
        }
        let (value, coded, after) = string(rest)?;
        // The C core does not use Huffman codes here.
        if is_authority && !coded {
            let signs = value.iter_mut().filter(|byte| **byte == b'%');
            signs.for_each(|byte| *byte = b'-');
        }
        rest = after;
    }
    Some(())
}

/// Splits an integer with a prefix of this many bits from the bytes (RFC 7541, 5.1).
fn integer(bytes: &mut [u8], bits: u32) -> Option<(usize, &mut [u8])> {
    let max = (1 << bits) - 1;
    let (first, mut rest) = bytes.split_first_mut()?;
    let mut value = usize::from(*first) & max;
    if value < max {
        return Some((value, rest));
    }
    let mut shift = 0;
    loop {
        let (next, after) = rest.split_first_mut()?;
        rest = after;
        // No number in a frame is larger.
        if shift > 21 {
            return None;
        }
        value += usize::from(*next & 0x7f) << shift;
        shift += 7;
        if *next & 0x80 == 0 {
            return Some((value, rest));
        }
    }
}

/// Splits a string from the bytes (RFC 7541, 5.2). Returns it, whether it has a Huffman code, and the
/// rest.
fn string(bytes: &mut [u8]) -> Option<(&mut [u8], bool, &mut [u8])> {
    let coded = bytes.first()? & 0x80 != 0;
    let (size, rest) = integer(bytes, 7)?;
    let (string, rest) = rest.split_at_mut_checked(size)?;
    Some((string, coded, rest))
}

impl AsyncRead for AuthorityStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, frames } = &mut *self;
        let filled = out.filled().len();
        loop {
            frames.hand_on(out);
            if out.filled().len() > filled || out.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            // The rest of a checked frame does not need the buffer.
            if frames.checked > 0 {
                let size = frames.checked.min(out.remaining());
                let mut part = ReadBuf::new(out.initialize_unfilled_to(size));
                ready!(Pin::new(stream).poll_read(context, &mut part))?;
                let count = part.filled().len();
                out.advance(count);
                frames.checked -= count;
                return Poll::Ready(Ok(()));
            }
            let mut bytes = [0; READ_SIZE];
            let mut part = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut *stream).poll_read(context, &mut part))?;
            if part.filled().is_empty() {
                // The end. A frame that is cut off is left to the HTTP library.
                frames.checked = usize::MAX;
                frames.hand_on(out);
                return Poll::Ready(Ok(()));
            }
            frames.buffer.extend_from_slice(part.filled());
        }
    }
}

impl AsyncWrite for AuthorityStream {
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

#[cfg(test)]
mod tests;
