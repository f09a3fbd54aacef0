//! A client of the daemon, over its Unix socket.

use std::io;
use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Status, Streaming};

use crate::v1::sidetrack_client::SidetrackClient;
use crate::{MESSAGE_SIZE_MAX, SOCKET, SOCKET_VARIABLE, policy_error, v1};

/// The contract's calls, over one connection. Clones share it.
pub type Client = SidetrackClient<Channel>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens at the socket, or it may not be opened.
    #[error("cannot reach sidetrackd at {}: {source}; is it running?", .socket.display())]
    Connect {
        /// Where it was looked for.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Policy's rules say no; nothing was changed.
    #[error(transparent)]
    Policy(#[from] sidetrack_policy::Error),
    /// Anything else the daemon said.
    #[error("sidetrackd refuses: {}", .0.message())]
    Status(Box<Status>),
}

/// A session: it ends when this is dropped.
#[derive(Debug)]
pub struct Session {
    id: u64,
    events: Streaming<v1::SessionEvent>,
}

/// Connects to the daemon at `socket`; none: at SIDETRACK_SOCKET's, or at [`SOCKET`].
pub async fn connect(socket: Option<&Path>) -> Result<Client, Error> {
    let socket = socket.map_or_else(default_socket, Path::to_path_buf);
    // Tried once by hand, for an error that says what is wrong; the channel connects again by itself.
    let first = UnixStream::connect(&socket).await;
    let source = match first {
        Ok(stream) => return Ok(client(channel(socket, stream).await?)),
        Err(source) => source,
    };
    Err(Error::Connect { socket, source })
}

/// The socket that [`connect`] takes if it is told none.
pub fn default_socket() -> PathBuf {
    std::env::var_os(SOCKET_VARIABLE).map_or_else(|| SOCKET.into(), PathBuf::from)
}

impl Session {
    /// Opens one. It lasts until it is dropped, or the connection goes.
    pub async fn open(client: &mut Client, options: v1::SessionOptions) -> Result<Self, Error> {
        let mut events = client.open_session(options).await?.into_inner();
        match events.message().await?.and_then(|event| event.event) {
            Some(v1::session_event::Event::Opened(opened)) => Ok(Self {
                id: opened.session_id,
                events,
            }),
            _ => Err(Status::internal("the session's first event is not that it is open").into()),
        }
    }

    /// Its number, for the other calls.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What the daemon tells it next; none: the session has ended.
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
    // What is too large to send is the daemon's to say: it says it better.
    Client::new(channel).max_decoding_message_size(MESSAGE_SIZE_MAX)
}

/// A channel over `first`, and, should that go, over another connection to the same socket.
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
    // The name is for HTTP/2's :authority only.
    let endpoint = Endpoint::from_static("http://sidetrackd");
    let connected = endpoint.connect_with_connector(connector).await;
    connected.map_err(|error| Error::Connect {
        socket,
        source: io::Error::other(error),
    })
}
