//! The client's datagrams.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::json;
use socket2::{Protocol, Socket};

use crate::{PATIENCE, address_of, failure, open_of};

#[derive(clap::Args)]
pub(crate) struct Datagrams {
    /// One datagram to each, in turn, from one socket.
    to: Vec<SocketAddr>,
    /// connect, then send; instead of sendto.
    #[arg(long)]
    connected: bool,
    /// An AF_INET6 socket for an IPv4 destination.
    #[arg(long)]
    mapped: bool,
    /// Bind to this source first.
    #[arg(long)]
    bind: Option<SocketAddr>,
    /// SO_BINDTODEVICE.
    #[arg(long)]
    device: Option<String>,
    /// What to send; the destination otherwise.
    #[arg(long)]
    text: Option<String>,
    /// Bytes to send, of `text` again and again.
    #[arg(long)]
    size: Option<usize>,
    /// How often to all.
    #[arg(long, default_value_t = 1)]
    times: usize,
    /// Do not wait for answers.
    #[arg(long)]
    forget: bool,
    /// Wait for a line on standard input before each round.
    #[arg(long)]
    stepwise: bool,
}

#[derive(clap::Args)]
pub(crate) struct Spray {
    /// One socket to so many destinations.
    #[arg(long, default_value_t = 1)]
    destinations: u32,
    /// So many sockets.
    #[arg(long, default_value_t = 1)]
    sockets: u32,
    /// The first destination; the others follow by address.
    #[arg(long)]
    first: SocketAddr,
    /// connect, then send.
    #[arg(long)]
    connected: bool,
}

pub(crate) fn run(options: &Datagrams) -> io::Result<serde_json::Value> {
    let mut told = Vec::new();
    let socket = open(options.to[0], options)?;
    for _ in 0..options.times {
        if options.stepwise && io::stdin().read_line(&mut String::new())? == 0 {
            break;
        }
        for &to in &options.to {
            let one = exchange(&socket, to, options).unwrap_or_else(|error| failure(&error));
            if options.stepwise {
                println!("{one}");
            }
            told.push(one);
        }
    }
    Ok(match told.len() {
        1 => told.remove(0),
        _ => json!(told),
    })
}

fn open(to: SocketAddr, options: &Datagrams) -> io::Result<Socket> {
    let (socket, _) = open_of(Protocol::UDP, to, options.mapped)?;
    if let Some(device) = &options.device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    if let Some(source) = options.bind {
        socket.bind(&source.into())?;
    }
    Ok(socket)
}

/// A socket of the destination's family, at a port of its own.
fn open_any(to: SocketAddr, patience: Duration) -> io::Result<UdpSocket> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(patience))?;
    Ok(socket)
}

fn exchange(socket: &Socket, to: SocketAddr, options: &Datagrams) -> io::Result<serde_json::Value> {
    let text = options.text.clone().unwrap_or_else(|| to.to_string());
    let payload: Vec<u8> = match options.size {
        None => text.clone().into_bytes(),
        Some(size) => text.bytes().cycle().take(size).collect(),
    };
    let target = address_of(to, options.mapped);
    if options.connected {
        socket.connect(&target.into())?;
        socket.send(&payload)?;
    } else {
        send_again(socket, &payload, target)?;
    }
    if options.forget {
        return Ok(json!({ "ok": true }));
    }
    let mut buffer = vec![0; 65_536];
    let (length, from) = receive(socket, &mut buffer)?;
    let peer = socket.peer_addr().ok().and_then(|peer| peer.as_socket());
    Ok(json!({
        "ok": true,
        "reply": String::from_utf8_lossy(&buffer[..length.min(200)]),
        "length": length,
        "from": from.to_string(),
        "peer": peer.map(|peer| peer.to_string()),
        "local": socket.local_addr()?.as_socket().map(|local| local.to_string()),
    }))
}

/// A program that is interrupted sends again.
fn send_again(socket: &Socket, payload: &[u8], to: SocketAddr) -> io::Result<()> {
    loop {
        match socket.send_to(payload, &to.into()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            sent => return sent.map(|_| ()),
        }
    }
}

fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    // A UdpSocket of the same descriptor receives into plain bytes.
    let socket: UdpSocket = socket.try_clone()?.into();
    socket.recv_from(buffer)
}

/// Every destination is sent its own name, and must answer with it, from where it is.
pub(crate) fn spray(options: &Spray) -> io::Result<serde_json::Value> {
    let mut crossed = 0;
    let mut answered = 0;
    let mut sockets = Vec::new();
    for _ in 0..options.sockets {
        sockets.push(open_any(options.first, PATIENCE)?);
    }
    let began = Instant::now();
    for (number, socket) in sockets.iter().enumerate() {
        let mut waiting = BTreeMap::new();
        for index in 0..options.destinations {
            let to = nth(options.first, index);
            let text = format!("{to} of {number}");
            if options.connected {
                socket.connect(to)?;
                socket.send(text.as_bytes())?;
            } else {
                socket.send_to(text.as_bytes(), to)?;
            }
            waiting.insert(to, text);
            if waiting.len() >= WINDOW || index + 1 == options.destinations {
                collect(socket, &mut waiting, &mut answered, &mut crossed)?;
            }
        }
    }
    Ok(json!({
        "ok": crossed == 0,
        "answered": answered,
        "crossed": crossed,
        "seconds": began.elapsed().as_secs_f64(),
    }))
}

/// Datagrams on their way at once: no socket's buffer overflows.
const WINDOW: usize = 32;

fn collect(
    socket: &UdpSocket,
    waiting: &mut BTreeMap<SocketAddr, String>,
    answered: &mut u32,
    crossed: &mut u32,
) -> io::Result<()> {
    let mut buffer = [0; 256];
    while !waiting.is_empty() {
        let (length, from) = socket.recv_from(&mut buffer)?;
        *answered += 1;
        match waiting.remove(&from) {
            Some(text) if text.as_bytes() == &buffer[..length] => {}
            _ => *crossed += 1,
        }
    }
    Ok(())
}

/// One socket to as many destinations, each once, and no answer awaited.
#[derive(clap::Args)]
pub(crate) struct Flood {
    #[arg(long)]
    datagrams: u32,
    /// The first destination; the others follow by address.
    #[arg(long)]
    first: SocketAddr,
}

pub(crate) fn flood(options: &Flood) -> io::Result<serde_json::Value> {
    let socket = open_any(options.first, PATIENCE)?;
    let (mut sent, mut refused, mut errno) = (0, 0, None);
    for index in 0..options.datagrams {
        match socket.send_to(b"flood", nth(options.first, index)) {
            Ok(_) => sent += 1,
            Err(error) => {
                refused += 1;
                errno = error.raw_os_error();
            }
        }
    }
    Ok(json!({ "ok": true, "sent": sent, "refused": refused, "errno": errno }))
}

fn nth(first: SocketAddr, index: u32) -> SocketAddr {
    match first {
        SocketAddr::V4(v4) => (Ipv4Addr::from_bits(v4.ip().to_bits() + index), v4.port()).into(),
        SocketAddr::V6(v6) => {
            let ip = Ipv6Addr::from_bits(v6.ip().to_bits() + u128::from(index));
            (ip, v6.port()).into()
        }
    }
}

/// Sends to addresses of this host by hand, as somebody who forges does.
#[derive(clap::Args)]
pub(crate) struct Forge {
    /// Where to.
    to: Vec<SocketAddr>,
    /// How long an answer would be waited for, in milliseconds.
    #[arg(long, default_value_t = 200)]
    wait: u64,
}

pub(crate) fn forge(options: &Forge) -> io::Result<serde_json::Value> {
    let mut answers = 0;
    for &to in &options.to {
        let socket = open_any(to, Duration::from_millis(options.wait))?;
        socket.send_to(b"forged", to)?;
        answers += u32::from(socket.recv_from(&mut [0; 64]).is_ok());
    }
    Ok(json!({ "ok": true, "answers": answers }))
}
