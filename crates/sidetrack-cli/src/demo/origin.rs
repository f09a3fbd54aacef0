//! The origins of the demo: HTTP, TLS, DNS and UDP echo servers on loopback. They are not in the
//! scope of its runs.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::NamedTempFile;

/// How long an origin waits for a client to send.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Limit of the bytes of an HTTP request's head.
const HEAD_SIZE_MAX: u64 = 16 * 1024;

/// The address to which the DNS server resolves every name.
const ADDRESS: [u8; 4] = [192, 0, 2, 7];

/// The running origins. Their threads run until the process ends.
pub(super) struct Origins {
    /// Address of the HTTP server.
    pub(super) http: SocketAddr,
    /// Address of the HTTPS server.
    pub(super) tls: SocketAddr,
    /// UDP address of the DNS server, which answers every query with [`ADDRESS`].
    pub(super) dns: SocketAddr,
    /// UDP address of the echo server.
    pub(super) echo: SocketAddr,
    /// The certificate that clients must trust, as PEM.
    pub(super) ca_file: NamedTempFile,
    /// Number of connections and datagrams at all origins.
    connections: Arc<AtomicU64>,
}

impl Origins {
    pub(super) fn start() -> Result<Self> {
        let names = vec!["bank.example".to_owned(), "127.0.0.1".to_owned()];
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(names).context("cannot generate a certificate")?;
        let key = PrivateKeyDer::try_from(signing_key.serialize_der())
            .map_err(|error| anyhow::anyhow!("cannot parse the generated key: {error}"))?;
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()?
                .with_no_client_auth()
                .with_single_cert(vec![cert.der().clone()], key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut ca_file =
            NamedTempFile::new().context("cannot create a file for the certificate")?;
        ca_file.write_all(cert.pem().as_bytes())?;
        readable_by_all(&ca_file)?; // the client runs as the user who called sudo

        let connections = Arc::new(AtomicU64::new(0));
        let config = Arc::new(config);
        let http = serve(&connections, |stream| {
            answer_request(&stream, "HTTP")?;
            close(&stream)
        })?;
        let tls = serve(&connections, move |stream| {
            let session = ServerConnection::new(Arc::clone(&config)).map_err(io::Error::other)?;
            let mut stream = StreamOwned::new(session, stream);
            answer_request(&mut stream, "TLS")?;
            stream.conn.send_close_notify();
            stream.flush()?;
            close(&stream.sock)
        })?;
        let dns = serve_datagrams(&connections, answer_query)?;
        let echo = serve_datagrams(&connections, |datagram| Some(datagram.to_vec()))?;
        Ok(Self {
            http,
            tls,
            dns,
            echo,
            ca_file,
            connections,
        })
    }

    /// Returns the number of connections and datagrams that all origins have got so far.
    pub(super) fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Starts a TCP server, with a thread for each connection. Returns its address.
fn serve(
    connections: &Arc<AtomicU64>,
    handle: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let connections = Arc::clone(connections);
    let handle = Arc::new(handle);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            connections.fetch_add(1, Ordering::SeqCst);
            let handle = Arc::clone(&handle);
            thread::spawn(move || {
                stream.set_read_timeout(Some(READ_TIMEOUT))?;
                handle(stream)
            });
        }
    });
    Ok(address)
}

/// Starts a UDP server in a thread. Returns its address.
fn serve_datagrams(
    datagrams: &Arc<AtomicU64>,
    answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static,
) -> io::Result<SocketAddr> {
    let socket = UdpSocket::bind(("127.0.0.1", 0))?;
    let address = socket.local_addr()?;
    let datagrams = Arc::clone(datagrams);
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            datagrams.fetch_add(1, Ordering::SeqCst);
            if let Some(answer) = answer(&buffer[..length]) {
                let _ = socket.send_to(&answer, client); // it fails if the client is gone
            }
        }
    });
    Ok(address)
}

/// Returns the response to a DNS query: a header, the question, and one address. `None` if the
/// query is not valid.
fn answer_query(query: &[u8]) -> Option<Vec<u8>> {
    let name = query.get(12..)?.iter().position(|byte| *byte == 0)?;
    let mut response = query.get(..12 + name + 5)?.to_vec();
    response[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    response.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4]); // the queried name, A, IN, 300 s
    response.extend(ADDRESS);
    Some(response)
}

/// Reads one HTTP request and answers it.
fn answer_request(stream: impl Read + Write, kind: &str) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    let mut limited = reader.by_ref().take(HEAD_SIZE_MAX);
    while !head.ends_with("\r\n\r\n") {
        if limited.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let request = head.lines().next().unwrap_or_default();
    let body = format!("Hello from the {kind} origin, to: {request}\n");
    let length = body.len();
    let response =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    let stream = reader.get_mut();
    stream.write_all(response.as_bytes())?;
    stream.flush()
}

/// Shuts the connection down, and reads until the client closes it: closing with unread bytes would
/// reset it.
fn close(mut stream: &TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    io::copy(&mut stream, &mut io::sink()).map(drop)
}

fn readable_by_all(file: &NamedTempFile) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.as_file()
        .set_permissions(std::fs::Permissions::from_mode(0o644))
}
