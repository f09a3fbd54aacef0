//! How a denied client is told, in the language it speaks.

use std::time::Duration;

use crate::close_reason::CloseReason;
use crate::relay::{Peer, Progress};
use crate::sniff::Seen;

/// How long a denied client may take to read its answer and close, before it is cut off.
pub const REFUSAL_WAIT: Duration = Duration::from_secs(1);
/// What a denied client may go on sending until then, in bytes.
pub const REFUSAL_SIZE_MAX: usize = 1024 * 1024;

/// A fatal alert, access_denied, in a TLS record of its own.
const ACCESS_DENIED: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 49];

/// An answer on its way to the client.
#[derive(Debug)]
pub(super) struct Refusal {
    answer: Box<[u8]>,
    sent: usize,
    /// What the client may still send.
    unread_max: usize,
}

impl Refusal {
    /// HTTP is answered with 403 and TLS with an alert; anything else is reset.
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

    /// Tells the client, and reads on to its end: closing with bytes unread would be a reset, which can
    /// overtake the answer.
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

    fn drain(
        &mut self,
        client: &mut Peer,
        copy_buffer: &mut [u8],
    ) -> Result<Progress, CloseReason> {
        while let Some(read) = client.receive(copy_buffer)? {
            if read == 0 {
                client.deliver_on_close(); // else its close is a reset
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
