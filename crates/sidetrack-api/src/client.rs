//! A client of the daemon, over its Unix socket.

use std::io;
use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Status, Streaming};

use crate::v1::sidetrack_client::SidetrackClient;
use crate::{MESSAGE_SIZE_MAX, SOCKET, SOCKET_VARIABLE, policy_error, v1};

/// A client with the API's calls, over one connection. Clones share the connection.
pub type Client = SidetrackClient<Channel>;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The daemon does not listen at the socket, or the caller has no permission to open it.
    #[error("cannot reach sidetrackd at {}: {source}; is it running?", .socket.display())]
    Connect {
        /// Path of the socket.
        socket: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The daemon refused the call with a policy error; nothing was changed.
    #[error(transparent)]
    Policy(#[from] sidetrack_policy::Error),
    /// The call failed with another status, for example because the caller has no permission.
    #[error("the call to sidetrackd failed: {}", .0.message())]
    Status(Box<Status>),
}

/// An open session. It ends when this value is dropped.
#[derive(Debug)]
pub struct Session {
    id: u64,
    events: Streaming<v1::SessionEvent>,
}

/// Connects to the daemon at `socket`, or at [`default_socket`] if there is none.
///
/// If the connection ends, the next call connects again. Errors: [`Error::Connect`].
pub async fn connect(socket: Option<&Path>) -> Result<Client, Error> {
    let socket = socket.map_or_else(default_socket, Path::to_path_buf);
    // The first connection is made here, since its error says what is wrong; the channel makes
    // later ones.
    let first = UnixStream::connect(&socket).await;
    let source = match first {
        Ok(stream) => return Ok(client(channel(socket, stream).await?)),
        Err(source) => source,
    };
    Err(Error::Connect { socket, source })
}

/// The path in the environment variable [`SOCKET_VARIABLE`], or else [`SOCKET`].
pub fn default_socket() -> PathBuf {
    std::env::var_os(SOCKET_VARIABLE).map_or_else(|| SOCKET.into(), PathBuf::from)
}

impl Session {
    /// Opens a session. It lasts until this value is dropped or the connection ends.
    ///
    /// Errors: [`Error::Policy`] and [`Error::Status`], as OpenSession in the proto file describes.
    pub async fn open(client: &mut Client, options: v1::SessionOptions) -> Result<Self, Error> {
        let mut events = client.open_session(options).await?.into_inner();
        match events.message().await?.and_then(|event| event.event) {
            Some(v1::session_event::Event::Opened(opened)) => Ok(Self {
                id: opened.session_id,
                events,
            }),
            _ => Err(Status::internal("the first event of the session is not `opened`").into()),
        }
    }

    /// Number of the session, for the field `session_id` of the other calls.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Waits for the session's next event; none if the session has ended.
    pub async fn event(&mut self) -> Result<Option<v1::session_event::Event>, Error> {
        Ok(self.events.message().await?.and_then(|event| event.event))
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        match policy_error(&status) {
            Some(error) => Self::Policy(error),
            None => Self::Status(Box::new(status)),
        }
    }
}

fn client(channel: Channel) -> Client {
    // There is no limit for sending: the daemon refuses a message that is too large with a better
    // error.
    Client::new(channel).max_decoding_message_size(MESSAGE_SIZE_MAX)
}

/// A channel over the connection `first` and, after it has ended, over new connections to the same
/// socket.
async fn channel(socket: PathBuf, first: UnixStream) -> Result<Channel, Error> {
    let mut first = Some(first);
    let connector = tower::service_fn({
        let socket = socket.clone();
        move |_: Uri| {
            let first = first.take();
            let socket = socket.clone();
            async move {
                let stream = match first {
                    Some(stream) => stream,
                    None => UnixStream::connect(socket).await?,
                };
                Ok::<_, io::Error>(TokioIo::new(stream))
            }
        }
    });
    // The host name is only used for the HTTP/2 pseudo-header :authority.
    let endpoint = Endpoint::from_static("http://sidetrackd");
    let connected = endpoint.connect_with_connector(connector).await;
    connected.map_err(|error| Error::Connect {
        socket,
        source: io::Error::other(error),
    })
}
