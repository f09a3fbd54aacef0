//! Connections, and waiting for what they do.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use sidetrack_proxy::connection::{Carried, carry};
use sidetrack_proxy::{Pattern, Rules, Settings};
use socket2::SockRef;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// What takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.expect("not done in time")
}

/// Two ends of one connection.
pub(crate) async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (connected, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (connected.unwrap(), accepted.unwrap().0)
}

/// Closes with a reset.
pub(crate) fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

/// A client whose connection the proxy carries to an origin at `destination`, as it believes.
pub(crate) struct Diverted {
    pub(crate) client: TcpStream,
    pub(crate) origin: TcpListener,
    carried: JoinHandle<Carried>,
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
        let carried = tokio::spawn(async move {
            let connect = async {
                let (what, connected) = ("connect", TcpStream::connect(address).await);
                connected.map_err(|source| sidetrack::Error::System { what, source })
            };
            carry(
                accepted,
                destination,
                connect,
                &settings,
                std::future::pending(),
            )
            .await
        });
        Self {
            client,
            origin,
            carried,
        }
    }

    /// The origin's end of the proxy's connection.
    pub(crate) async fn accept(&self) -> TcpStream {
        in_time(self.origin.accept()).await.unwrap().0
    }

    /// What became of it, after the client has gone.
    pub(crate) async fn carried(self) -> Carried {
        drop(self.client);
        in_time(self.carried).await.unwrap()
    }

    /// As [`carried`](Self::carried), where the proxy must never have connected.
    pub(crate) async fn carried_nowhere(self) -> Carried {
        drop(self.client);
        let carried = in_time(self.carried).await.unwrap();
        // Whoever connected would be in the queue by now.
        self.origin
            .into_std()
            .unwrap()
            .accept()
            .expect_err("the proxy connected onward");
        assert_eq!(carried.connect_time, None);
        carried
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

/// Reads the end.
pub(crate) async fn expect_end(stream: &mut TcpStream) {
    assert_eq!(in_time(stream.read(&mut [0; 1])).await.unwrap(), 0);
}

/// Reads a reset.
pub(crate) async fn expect_reset(stream: &mut TcpStream) {
    let error = in_time(stream.read(&mut [0; 1])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}
