//! How a denied client is told, in the language it speaks.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::end::How;
use crate::relay::{Peer, end_well, read_chunk, shutdown, write_all};
use crate::sniff::Seen;

/// How long a denied client may take to read its answer and close, before it is cut off.
pub const REFUSAL_WAIT: Duration = Duration::from_secs(1);
/// What a denied client may go on sending until then, in bytes.
pub const REFUSAL_SIZE_MAX: usize = 1024 * 1024;

/// A fatal alert, access_denied, in a TLS record of its own.
const ACCESS_DENIED: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 49];

/// Answers HTTP with 403 and TLS with an alert; resets anything else.
pub(super) async fn refuse(client: &TcpStream, seen: Option<&Seen>, rule: &str) {
    let told = match seen {
        Some(Seen::Http { .. }) => tell(client, forbidden(rule).as_bytes()).await,
        Some(Seen::Tls { .. }) => tell(client, &ACCESS_DENIED).await,
        _ => false,
    };
    if told {
        end_well(client); // else its drop is a reset
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

/// Whether the client took the answer and closed.
async fn tell(client: &TcpStream, answer: &[u8]) -> bool {
    let client = Peer::client(client);
    let telling = async {
        write_all(client, answer, &Default::default()).await?;
        shutdown(client)?;
        drain(client).await
    };
    matches!(timeout(REFUSAL_WAIT, telling).await, Ok(Ok(true)))
}

/// Reads on to the end: closing with bytes unread would be a reset, which can overtake the answer.
async fn drain(client: Peer<'_>) -> Result<bool, How> {
    let mut left = REFUSAL_SIZE_MAX;
    loop {
        match read_chunk(client, &mut Vec::new()).await? {
            0 => return Ok(true),
            read if read > left => return Ok(false),
            read => left -= read,
        }
    }
}
