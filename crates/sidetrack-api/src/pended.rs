//! The protocol of the daemon's second socket, which hands a proxy the descriptors for pended
//! connects. docs/daemon.md describes it.
//!
//! The proxy sends the credentials of its service. The daemon answers with one byte, an [`Answer`],
//! and closes the connection. With [`Answer::Descriptors`] come the descriptors (SCM_RIGHTS): of the
//! ring buffer, of the IPv4 sender and, if the host has IPv6, of the IPv6 sender.

use std::path::{Path, PathBuf};

/// Number of bytes of the credentials: the value of the socket option LISTEN.
pub const CREDENTIALS_SIZE: usize = 32;
/// Greatest number of descriptors of an answer.
pub const DESCRIPTORS_MAX: usize = 3;

/// Name of the socket, which is in the same folder as the API's.
const SOCKET_NAME: &str = "pended.sock";

/// The daemon's answer: one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The descriptors come with it.
    Descriptors = 0,
    /// The service accepts its connects, so its proxy needs no descriptors.
    Accepted = 1,
    /// These are not the credentials of a service.
    BadCredentials = 2,
    /// Pended connects are not available on this host.
    Unavailable = 3,
}

impl Answer {
    /// Reads the answer; `None` if there is none of this number.
    pub fn from_byte(byte: u8) -> Option<Self> {
        let all = [
            Self::Descriptors,
            Self::Accepted,
            Self::BadCredentials,
            Self::Unavailable,
        ];
        all.into_iter().find(|answer| *answer as u8 == byte)
    }
}

/// The path of the socket, from that of the API's socket.
pub fn socket(api_socket: &Path) -> PathBuf {
    api_socket.with_file_name(SOCKET_NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_next_to_the_apis() {
        let path = socket(Path::new(crate::SOCKET));
        assert_eq!(path, Path::new("/run/sidetrack/pended.sock"));
        assert_eq!(socket(Path::new("api.sock")), Path::new("pended.sock"));
    }

    #[test]
    fn each_answer_has_its_number() {
        let known = (0..=u8::MAX).filter_map(|byte| Some((byte, Answer::from_byte(byte)?)));
        for (byte, answer) in known.clone() {
            assert_eq!(answer as u8, byte);
        }
        assert_eq!(known.count(), 4);
    }
}
