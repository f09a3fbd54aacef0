//! The clients and origins of the tests, and functions that wait for them.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sidetrack_proxy::connections::relay_connection;
use sidetrack_proxy::outcome::Outcome;
use sidetrack_proxy::reactor::Stop;
use sidetrack_proxy::upstream::Upstream;
use sidetrack_proxy::{Pattern, Rules, Settings};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

/// How long a test waits for anything before it fails.
const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.expect("not done in time")
}

/// Makes a connection, and returns its two sockets.
pub(crate) async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (connected, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (connected.unwrap(), accepted.unwrap().0)
}

/// Closes a connection with a reset.
pub(crate) fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

/// An upstream that goes where the test wants it.
pub(crate) struct TestUpstream {
    destination: SocketAddr,
    connect: Box<dyn Fn() -> io::Result<std::net::TcpStream> + Send>,
}

impl TestUpstream {
    /// An upstream that connects to `address`, although the client asked for `destination`.
    pub(crate) fn address(destination: SocketAddr, address: SocketAddr) -> Self {
        let connect = move || {
            let kind = Type::STREAM.nonblocking();
            let socket = Socket::new(Domain::for_address(address), kind, None)?;
            match socket.connect(&address.into()) {
                Err(error) if error.raw_os_error() != Some(in_progress()) => Err(error),
                _ => Ok(socket.into()),
            }
        };
        let connect = Box::new(connect);
        Self {
            destination,
            connect,
        }
    }

    /// An upstream that is connected already, by `origin`.
    pub(crate) fn connected(origin: TcpStream) -> Self {
        let origin = Mutex::new(Some(origin.into_std().unwrap()));
        Self {
            destination: "192.0.2.1:1".parse().unwrap(),
            connect: Box::new(move || Ok(origin.lock().unwrap().take().unwrap())),
        }
    }
}

fn in_progress() -> i32 {
    rustix::io::Errno::INPROGRESS.raw_os_error()
}

impl Upstream for TestUpstream {
    fn flow_id(&self) -> u64 {
        1
    }

    fn destination(&self) -> SocketAddr {
        self.destination
    }

    fn connect(&self) -> Result<std::net::TcpStream, sidetrack::Error> {
        (self.connect)().map_err(|source| {
            let what = "connect";
            sidetrack::Error::System { what, source }
        })
    }
}

/// Relays one connection in a thread.
pub(crate) fn relay(
    accepted: TcpStream,
    upstream: TestUpstream,
    settings: Settings,
    stop: Arc<Stop>,
) -> JoinHandle<Outcome> {
    let accepted = accepted.into_std().unwrap();
    spawn_blocking(move || relay_connection(accepted, upstream, &settings, &stop).unwrap())
}

/// A client whose connection the proxy relays. The client believes that the origin has the address
/// `destination`.
pub(crate) struct Diverted {
    pub(crate) client: TcpStream,
    pub(crate) origin: TcpListener,
    pub(crate) relay: JoinHandle<Outcome>,
}

impl Diverted {
    pub(crate) async fn start(deny: &[&str], allow: &[&str]) -> Self {
        Self::to("192.0.2.1:443", settings(deny, allow)).await
    }

    pub(crate) async fn to(destination: &str, settings: Settings) -> Self {
        let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = origin.local_addr().unwrap();
        let destination: SocketAddr = destination.parse().unwrap();
        let (client, accepted) = pair().await;
        let upstream = TestUpstream::address(destination, address);
        let relay = relay(accepted, upstream, settings, Arc::new(Stop::new().unwrap()));
        Self {
            client,
            origin,
            relay,
        }
    }

    /// The origin's socket of the proxy's connection.
    pub(crate) async fn accept(&self) -> TcpStream {
        in_time(self.origin.accept()).await.unwrap().0
    }

    /// Closes the client's socket, and returns the outcome of the connection.
    pub(crate) async fn outcome(self) -> Outcome {
        drop(self.client);
        in_time(self.relay).await.unwrap()
    }

    /// The same as [`outcome`](Self::outcome). Checks that the proxy has not connected to the origin.
    pub(crate) async fn outcome_without_connect(self) -> Outcome {
        drop(self.client);
        let outcome = in_time(self.relay).await.unwrap();
        // If the proxy had connected, the connection would be in the listener's backlog by now.
        self.origin
            .into_std()
            .unwrap()
            .accept()
            .expect_err("the proxy connected to the origin");
        assert_eq!(outcome.connect_time, None);
        outcome
    }
}

pub(crate) fn settings(deny: &[&str], allow: &[&str]) -> Settings {
    let parse = |texts: &[&str]| -> Vec<Pattern> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    };
    let mut settings = Settings::default();
    settings.rules = Rules::new(parse(deny), parse(allow));
    settings
}

/// Reads exactly `wanted`.
pub(crate) async fn expect(stream: &mut TcpStream, wanted: &[u8]) {
    let mut got = vec![0; wanted.len()];
    in_time(stream.read_exact(&mut got)).await.unwrap();
    assert_eq!(got, wanted);
}

/// Reads the end of the stream.
pub(crate) async fn expect_end(stream: &mut TcpStream) {
    assert_eq!(in_time(stream.read(&mut [0; 1])).await.unwrap(), 0);
}

/// Reads a reset.
pub(crate) async fn expect_reset(stream: &mut TcpStream) {
    let error = in_time(stream.read(&mut [0; 1])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}
