//! An origin that answers at every address of its network namespace, over TCP and UDP.

use std::io::{self, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use socket2::SockRef;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// Room for one datagram, in bytes.
const SIZE: usize = 65_536;

/// It sends one line of each connection, and each datagram, back. It ends with the process, or when
/// it is dropped.
pub struct AnyAddressOrigin {
    _runtime: Runtime,
}

impl AnyAddressOrigin {
    /// Starts it at this port of all addresses, of both families.
    pub fn start(port: u16) -> io::Result<Self> {
        let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind(address))?;
        runtime.spawn(serve_streams(listener));
        let socket = UdpSocket::bind(address)?;
        let state = UdpSocketState::new((&socket).into())?;
        // No device has the addresses from which it answers over IPv6.
        SockRef::from(&socket).set_freebind_v6(true)?;
        socket.set_nonblocking(false)?;
        std::thread::spawn(move || serve_datagrams(&socket, &state));
        Ok(Self { _runtime: runtime })
    }
}

async fn serve_streams(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(answer(stream));
    }
}

async fn answer(stream: TcpStream) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    stream.write_all(line.as_bytes()).await?;
    stream.shutdown().await
}

/// Answers each datagram from the address to which it was sent.
fn serve_datagrams(socket: &UdpSocket, state: &UdpSocketState) -> io::Result<()> {
    let mut buffer = vec![0; SIZE];
    loop {
        let mut metas = [RecvMeta::default()];
        let mut buffers = [IoSliceMut::new(&mut buffer)];
        state.recv(socket.into(), &mut buffers, &mut metas)?;
        let [meta] = metas;
        // Datagrams that the kernel has joined have the same length, except for the last one.
        for contents in buffer[..meta.len].chunks(meta.stride.max(1)) {
            let transmit = Transmit {
                destination: meta.addr,
                ecn: None,
                contents,
                segment_size: None,
                src_ip: meta.dst_ip,
            };
            let _ = state.send(socket.into(), &transmit); // the client may have ended
        }
    }
}
