//! A QUIC server as an origin.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, Incoming, ServerConfig};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;

/// Most bytes that a stream may carry.
const SIZE_MAX: usize = 16 << 20;

/// The server of `shop.example`. It speaks the protocol `h3`, and sends the bytes of each stream back.
pub struct QuicOrigin {
    /// The address that it is bound to.
    pub address: SocketAddr,
    folder: TempDir,
}

impl QuicOrigin {
    /// Starts it at a free port of this address.
    pub fn start(ip: &str) -> Self {
        let address = SocketAddr::new(ip.parse::<IpAddr>().expect("an IP address"), 0);
        let folder = TempDir::new().expect("a temporary folder");
        let certified = generate_simple_self_signed(["shop.example".to_owned()]);
        let certified = certified.expect("the certificate is made");
        fs::write(folder.path().join("certificate"), certified.cert.der())
            .expect("the certificate is written");
        let (sender, bound) = mpsc::channel();
        thread::spawn(move || serve(address, &certified, &sender));
        Self {
            address: bound.recv().expect("the server starts"),
            folder,
        }
    }

    /// The path of its certificate (DER), which clients must trust.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("certificate")
    }
}

fn serve(
    address: SocketAddr,
    certified: &CertifiedKey<rcgen::KeyPair>,
    bound: &mpsc::Sender<SocketAddr>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }
        .enable_all()
        .build()
        .expect("the runtime starts");
    runtime.block_on(async {
        let endpoint =
            Endpoint::server(configuration(certified), address).expect("the address is free");
        let address = endpoint.local_addr().expect("the endpoint is bound");
        bound.send(address).expect("the test waits");
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(echo(incoming));
        }
    });
}

fn configuration(certified: &CertifiedKey<rcgen::KeyPair>) -> ServerConfig {
    let key =
        PrivateKeyDer::try_from(certified.signing_key.serialize_der()).expect("the key is valid");
    let mut tls = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .expect("key and certificate belong together");
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let tls = QuicServerConfig::try_from(tls).expect("the configuration has QUIC's initial suite");
    ServerConfig::with_crypto(Arc::new(tls))
}

async fn echo(incoming: Incoming) -> Option<()> {
    let connection = incoming.await.ok()?;
    loop {
        let (mut to, mut from) = connection.accept_bi().await.ok()?;
        let sent = from.read_to_end(SIZE_MAX).await.ok()?;
        to.write_all(&sent).await.ok()?;
        to.finish().ok()?;
    }
}
