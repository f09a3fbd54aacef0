//! The descriptors for pended connects, which the daemon hands over by its second socket.

use std::io::{self, ErrorKind, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use ::tokio::io::{AsyncWriteExt, Interest};
use ::tokio::net::UnixStream;
use ::tokio::time::{sleep, timeout};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use sidetrack_api::pended::{Answer, DESCRIPTORS_MAX};

use crate::{Error, Service, WhyAccepted};

/// How long it may take to get an answer. The daemon answers within milliseconds, unless it is putting a
/// large policy in force.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Delay before the daemon is asked again, if it had too many clients. It doubles each time.
const WAIT_MIN: Duration = Duration::from_millis(10);

/// Gives a service its descriptors, if the service pends connects and the daemon can hand them over.
/// Otherwise its listeners accept at once.
pub(super) async fn with_descriptors(service: Service, socket: &Path) -> Result<Service, Error> {
    let what = "get the descriptors for pended connects from sidetrackd";
    let answered = timeout(ANSWER_MAX, request_until_answered(&service, socket)).await;
    let answered = answered.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
    match answered.map_err(Error::system(what))? {
        Ok((ring, sender4, sender6)) => Ok(service.with_pended(ring, sender4, sender6)),
        Err(why) => Ok(service.without_pended(why)),
    }
}

/// The ring buffer, the IPv4 sender and the IPv6 sender.
type Descriptors = (OwnedFd, OwnedFd, Option<OwnedFd>);

async fn request_until_answered(
    service: &Service,
    socket: &Path,
) -> io::Result<Result<Descriptors, WhyAccepted>> {
    let mut wait = WAIT_MIN;
    loop {
        match request(service, socket).await {
            // A daemon of an earlier version has no such socket.
            Err(error) if is_no_socket(&error) => return Ok(Err(WhyAccepted::NoDescriptors)),
            // The daemon has too many clients, and has closed the connection.
            Err(error) if is_closed(&error) => {}
            other => return other,
        }
        sleep(wait).await;
        wait *= 2;
    }
}

fn is_no_socket(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::ConnectionRefused
    )
}

fn is_closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
    )
}

/// Asks once. The inner error: the service has to do without.
async fn request(service: &Service, socket: &Path) -> io::Result<Result<Descriptors, WhyAccepted>> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(service.option()).await?;
    let receive = || receive(stream.as_fd());
    let (answer, received) = stream.async_io(Interest::READABLE, receive).await?;
    let mut received = received.into_iter();
    match Answer::from_byte(answer) {
        Some(Answer::Descriptors) => match (received.next(), received.next()) {
            (Some(ring), Some(sender4)) => Ok(Ok((ring, sender4, received.next()))),
            _ => Err(io::Error::other("descriptors are missing in its answer")),
        },
        Some(Answer::Accepted) => Ok(Err(WhyAccepted::ServiceAccepts)),
        Some(Answer::Unavailable) => Ok(Err(WhyAccepted::NoDescriptors)),
        Some(Answer::BadCredentials) => Err(io::Error::other(
            "it does not know the credentials any more",
        )),
        None => Err(io::Error::other(format!("its answer {answer} is unknown"))),
    }
}

/// Receives one byte, and the descriptors that come with it.
fn receive(socket: BorrowedFd<'_>) -> io::Result<(u8, Vec<OwnedFd>)> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    if received.bytes == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let rights = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Ok((byte[0], rights.flatten().collect()))
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Read};
    use std::os::unix::net::{UnixListener, UnixStream as StdStream};
    use std::path::PathBuf;
    use std::thread;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

    use super::*;

    /// A daemon that answers one client after another, each with a byte and a number of descriptors.
    /// Without an answer, it closes the connection.
    struct FakeDaemon {
        socket: PathBuf,
        _folder: tempfile::TempDir,
    }

    impl FakeDaemon {
        fn start(answers: Vec<Option<(u8, usize)>>) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let socket = folder.path().join("pended.sock");
            let listener = UnixListener::bind(&socket).unwrap();
            thread::spawn(move || {
                for answer in answers {
                    let (mut stream, _) = listener.accept().unwrap();
                    let Some((byte, count)) = answer else {
                        continue;
                    };
                    let mut credentials = [0; 32];
                    stream.read_exact(&mut credentials).unwrap();
                    assert_eq!(credentials, [7; 32]);
                    send(&stream, byte, count);
                }
            });
            Self {
                socket,
                _folder: folder,
            }
        }

        /// How many descriptors a client gets.
        fn ask(&self) -> io::Result<Result<usize, WhyAccepted>> {
            let service = Service::from_bytes(&[7; 32]).unwrap();
            let runtime = ::tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let answered = request_until_answered(&service, &self.socket);
            let descriptors = runtime.block_on(answered)?;
            Ok(descriptors.map(|(_, _, sender6)| 2 + usize::from(sender6.is_some())))
        }
    }

    fn send(stream: &StdStream, byte: u8, count: usize) {
        let null = std::fs::File::open("/dev/null").unwrap();
        let descriptors = vec![null.as_fd(); count];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let bytes = [byte];
        let bytes = [IoSlice::new(&bytes)];
        sendmsg(stream, &bytes, &mut ancillary, SendFlags::empty()).unwrap();
    }

    #[test]
    fn a_service_that_pends_gets_its_descriptors() {
        for count in [2, 3] {
            let daemon = FakeDaemon::start(vec![Some((0, count))]);
            assert_eq!(daemon.ask().unwrap(), Ok(count));
        }
    }

    #[test]
    fn a_service_that_accepts_or_cannot_pend_does_without() {
        for (answer, why) in [
            (Answer::Accepted, WhyAccepted::ServiceAccepts),
            (Answer::Unavailable, WhyAccepted::NoDescriptors),
        ] {
            let daemon = FakeDaemon::start(vec![Some((answer as u8, 0))]);
            assert_eq!(daemon.ask().unwrap(), Err(why));
        }
        let earlier = FakeDaemon::start(Vec::new());
        std::fs::remove_file(&earlier.socket).unwrap();
        assert_eq!(earlier.ask().unwrap(), Err(WhyAccepted::NoDescriptors));
    }

    #[test]
    fn a_client_that_finds_too_many_others_asks_again() {
        let daemon = FakeDaemon::start(vec![None, None, Some((0, 3))]);
        assert_eq!(daemon.ask().unwrap(), Ok(3));
    }

    #[test]
    fn other_answers_are_errors() {
        for (byte, count) in [(Answer::BadCredentials as u8, 0), (9, 0), (0, 0), (0, 1)] {
            let daemon = FakeDaemon::start(vec![Some((byte, count))]);
            let error = daemon.ask().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Other, "{error}");
        }
    }
}
