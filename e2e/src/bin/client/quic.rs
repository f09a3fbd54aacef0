//! The client's action with QUIC.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{HandshakeData, QuicClientConfig};
use quinn::{ClientConfig, Connection, Endpoint};
use rustls::RootCertStore;
use serde_json::json;
use tokio::time::timeout;

#[derive(clap::Args)]
pub(crate) struct Quic {
    to: SocketAddr,
    /// The server's name, for SNI and its certificate.
    #[arg(long, default_value = "shop.example")]
    name: String,
    /// A file with the server's certificate, in DER.
    #[arg(long)]
    trust: PathBuf,
    /// The protocols to offer by ALPN.
    #[arg(long)]
    alpn: Vec<String>,
    /// Use an AF_INET6 socket for an IPv4 destination.
    #[arg(long)]
    mapped: bool,
    /// Number of bytes to send.
    #[arg(long, default_value_t = 200_000)]
    size: usize,
    /// How long the whole exchange may take, in milliseconds.
    #[arg(long, default_value_t = 15_000)]
    timeout_ms: u64,
}

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

pub(crate) fn run(options: &Quic) -> Result<serde_json::Value> {
    let runtime = tokio::runtime::Runtime::new()?;
    let limit = Duration::from_millis(options.timeout_ms);
    runtime.block_on(async { timeout(limit, exchange(options)).await? })
}

async fn exchange(options: &Quic) -> Result<serde_json::Value> {
    let local: IpAddr = match options.to {
        SocketAddr::V4(_) if !options.mapped => Ipv4Addr::UNSPECIFIED.into(),
        _ => Ipv6Addr::UNSPECIFIED.into(),
    };
    let endpoint = Endpoint::client((local, 0).into())?;
    let connecting = endpoint.connect_with(configuration(options)?, options.to, &options.name)?;
    let connection = connecting.await?;
    let sent: Vec<u8> = (0..options.size).map(|index| index as u8).collect();
    let (mut to, mut from) = connection.open_bi().await?;
    let (written, read) = tokio::join!(
        async {
            to.write_all(&sent).await?;
            Ok::<_, Box<dyn Error + Send + Sync>>(to.finish()?)
        },
        from.read_to_end(options.size)
    );
    written?;
    let mut peer = connection.remote_address();
    peer.set_ip(peer.ip().to_canonical());
    let report = json!({
        "ok": true,
        "same": read? == sent,
        "alpn": alpn_of(&connection),
        "peer": peer.to_string(),
    });
    connection.close(0_u32.into(), b"");
    endpoint.wait_idle().await;
    Ok(report)
}

fn configuration(options: &Quic) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(std::fs::read(&options.trust)?.into())?;
    let mut tls = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = (options.alpn.iter())
        .map(|name| name.clone().into_bytes())
        .collect();
    Ok(ClientConfig::new(Arc::new(QuicClientConfig::try_from(
        tls,
    )?)))
}

/// The protocol that both sides agreed on by ALPN.
fn alpn_of(connection: &Connection) -> Option<String> {
    let data = connection.handshake_data()?.downcast::<HandshakeData>();
    let protocol = data.ok()?.protocol?;
    Some(String::from_utf8_lossy(&protocol).into_owned())
}
