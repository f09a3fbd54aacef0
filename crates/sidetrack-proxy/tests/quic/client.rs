//! Tests with the first datagrams of a quinn client, received by a socket on the loopback device.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint};
use rustls::RootCertStore;
use sidetrack_proxy::sniff::quic::{Hello, InitialReader, Reading, Version};
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// How long a test waits for a datagram before it fails.
const DEADLINE: Duration = Duration::from_secs(30);

fn config(alpn: &[String]) -> ClientConfig {
    let mut tls = rustls::ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    tls.alpn_protocols = alpn.iter().map(|name| name.clone().into_bytes()).collect();
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
}

fn endpoint() -> Endpoint {
    Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap()
}

/// A server that never answers.
async fn silent() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

async fn next(socket: &UdpSocket) -> Vec<u8> {
    let mut bytes = vec![0; 65_536];
    let received = timeout(DEADLINE, socket.recv(&mut bytes)).await;
    bytes.truncate(received.expect("no datagram in time").unwrap());
    bytes
}

fn hello(sni: &str, alpn: &[String]) -> Reading {
    Reading::Hello(Hello {
        sni: Some(sni.into()),
        alpn: alpn.to_vec(),
        version: Version::V1,
    })
}

#[tokio::test]
async fn the_first_datagram_names_the_server() {
    let (socket, address) = silent().await;
    let alpn = ["h3".into(), "x".into()];
    let client = endpoint();
    let _connecting = client.connect_with(config(&alpn), address, "Www.example.com");
    let reading = InitialReader::new().datagram(&next(&socket).await);
    assert_eq!(reading, hello("www.example.com", &alpn));
}

#[tokio::test]
async fn a_long_hello_in_several_datagrams_is_read_in_any_order() {
    let (socket, address) = silent().await;
    let alpn: Vec<_> = (0..200).map(|n| format!("protocol-{n:03}")).collect();
    let client = endpoint();
    let _connecting = client.connect_with(config(&alpn), address, "example.com");
    let mut reader = InitialReader::new();
    let mut datagrams = Vec::new();
    loop {
        datagrams.push(next(&socket).await);
        match reader.datagram(datagrams.last().unwrap()) {
            Reading::NeedMore => {}
            reading => {
                assert_eq!(reading, hello("example.com", &alpn[..16]));
                break;
            }
        }
    }
    assert!((2..=3).contains(&datagrams.len()));

    let mut reader = InitialReader::new();
    let last = datagrams
        .iter()
        .rev()
        .map(|one| reader.datagram(one))
        .last();
    assert_eq!(last, Some(hello("example.com", &alpn[..16])));
}

#[tokio::test]
async fn several_connections_of_one_socket_are_read() {
    let (socket, address) = silent().await;
    let client = endpoint();
    let mut reader = InitialReader::new();
    let first = client.connect_with(config(&[]), address, "a.example");
    assert_eq!(
        reader.datagram(&next(&socket).await),
        hello("a.example", &[])
    );
    drop(first); // it sends CONNECTION_CLOSE, also in an Initial packet
    let _second = client.connect_with(config(&[]), address, "b.example");
    loop {
        let reading = reader.datagram(&next(&socket).await);
        if reading == hello("b.example", &[]) {
            break;
        }
        assert_eq!(reading, hello("a.example", &[]));
    }
}
