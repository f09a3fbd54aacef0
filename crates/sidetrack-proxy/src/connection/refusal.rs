//! The refusal that a denied client receives, in the protocol that it uses.

use crate::close_reason::CloseReason;
use crate::relay::{Peer, Progress};
use crate::seen::Seen;

/// How many bytes a denied client may send until then, before the connection is reset.
pub const REFUSAL_SIZE_MAX: usize = 1024 * 1024;

/// A TLS record with the fatal alert access_denied.
const ACCESS_DENIED: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 49];

/// A refusal that is being sent to the client.
#[derive(Debug)]
pub(super) struct Refusal {
    answer: Box<[u8]>,
    /// How many bytes of `answer` were sent.
    sent: usize,
    /// How many bytes the client may still send.
    unread_max: usize,
}

impl Refusal {
    /// The refusal for a client that began with `seen`: status 403 in HTTP, an alert in TLS. `None`
    /// for anything else, where the connection can only be reset.
    pub(super) fn new(seen: Option<&Seen>, rule: &str) -> Option<Self> {
        let answer = match seen {
            Some(Seen::Http { .. }) => forbidden(rule).into_bytes(),
            Some(Seen::Tls { .. }) => ACCESS_DENIED.to_vec(),
            _ => return None,
        };
        Some(Self {
            answer: answer.into(),
            sent: 0,
            unread_max: REFUSAL_SIZE_MAX,
        })
    }

    /// Sends the refusal, then reads until the client closes. To close with bytes unread would
    /// reset the connection, and the reset can overtake the refusal.
    ///
    /// Ends with [`CloseReason::Denied`], whatever happens.
    pub(super) fn advance(
        &mut self,
        client: &mut Peer,
        copy_buffer: &mut [u8],
    ) -> Result<Progress, CloseReason> {
        let progress = self.send_answer(client).and_then(|is_sent| match is_sent {
            true => self.drain(client, copy_buffer),
            false => Ok(Progress::Waiting),
        });
        progress.map_err(|_| CloseReason::Denied)
    }

    /// Returns whether all of the answer was sent, and the sending direction closed.
    fn send_answer(&mut self, client: &mut Peer) -> Result<bool, CloseReason> {
        if self.sent == self.answer.len() {
            return Ok(true);
        }
        if client.is_writable() {
            self.sent += client.send(&self.answer[self.sent..])?;
        }
        if self.sent < self.answer.len() {
            return Ok(false);
        }
        client.half_close()?;
        Ok(true)
    }

    /// Reads and discards what the client sends.
    fn drain(
        &mut self,
        client: &mut Peer,
        copy_buffer: &mut [u8],
    ) -> Result<Progress, CloseReason> {
        while let Some(read) = client.receive(copy_buffer)? {
            if read == 0 {
                client.deliver_on_close(); // otherwise the close would be a reset
                return Err(CloseReason::Denied);
            }
            self.unread_max = self
                .unread_max
                .checked_sub(read)
                .ok_or(CloseReason::Denied)?;
        }
        Ok(Progress::Waiting)
    }
}

fn forbidden(rule: &str) -> String {
    let body = format!("Sidetrack denied this connection: {rule}\n");
    format!(
        "HTTP/1.1 403 Forbidden\r\n\
         Content-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\n\
         Connection: close\r\n\
         \r\n\
         {body}",
        body.len()
    )
}
