//! A QUIC server outside the scope.

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

/// What a stream may bring.
const SIZE_MAX: usize = 16 << 20;

/// `shop.example`, which speaks `h3` and sends each stream back.
pub struct QuicOrigin {
    /// Where it is.
    pub address: SocketAddr,
    folder: TempDir,
}

impl QuicOrigin {
    /// At a free port of this address.
    pub fn start(ip: &str) -> Self {
        let at = SocketAddr::new(ip.parse::<IpAddr>().expect("an address"), 0);
        let folder = TempDir::new().expect("a folder can be made");
        let certified = generate_simple_self_signed(["shop.example".to_owned()]);
        let certified = certified.expect("a certificate can be made");
        fs::write(folder.path().join("certificate"), certified.cert.der()).expect("it is ours");
        let (sender, bound) = mpsc::channel();
        thread::spawn(move || serve(at, &certified, &sender));
        Self {
            address: bound.recv().expect("its address is free"),
            folder,
        }
    }

    /// The file with its certificate (DER), for clients to trust.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("certificate")
    }
}

fn serve(
    at: SocketAddr,
    certified: &CertifiedKey<rcgen::KeyPair>,
    bound: &mpsc::Sender<SocketAddr>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let endpoint = Endpoint::server(configuration(certified), at).expect("a free address");
        let address = endpoint.local_addr().expect("it is bound");
        bound.send(address).expect("the test waits");
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(echo(incoming));
        }
    });
}

fn configuration(certified: &CertifiedKey<rcgen::KeyPair>) -> ServerConfig {
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).expect("a key");
    let mut tls = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .expect("key and certificate belong together");
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let tls = QuicServerConfig::try_from(tls).expect("it has the initial suite");
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
