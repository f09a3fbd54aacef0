//! The client's actions with datagrams.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::json;
use socket2::{Protocol, Socket};

use crate::{TIMEOUT, address_of, failure, open_with};

#[derive(clap::Args)]
pub(crate) struct Datagrams {
    /// The destinations. One socket sends a datagram to each in turn.
    to: Vec<SocketAddr>,
    /// Use connect and send instead of sendto.
    #[arg(long)]
    connected: bool,
    /// Use an AF_INET6 socket for an IPv4 destination.
    #[arg(long)]
    mapped: bool,
    /// Bind the socket to this source address first.
    #[arg(long)]
    bind: Option<SocketAddr>,
    /// Bind the socket to this device, with SO_BINDTODEVICE.
    #[arg(long)]
    device: Option<String>,
    /// The text to send. Without it, the destination is sent.
    #[arg(long)]
    text: Option<String>,
    /// Number of bytes to send. The text is repeated or cut.
    #[arg(long)]
    size: Option<usize>,
    /// Number of rounds, each of which sends to all destinations.
    #[arg(long, default_value_t = 1)]
    times: usize,
    /// Do not wait for answers.
    #[arg(long)]
    no_reply: bool,
    /// Wait for a line on standard input before each round.
    #[arg(long)]
    stepwise: bool,
}

#[derive(clap::Args)]
pub(crate) struct Spray {
    /// Number of destinations for each socket.
    #[arg(long, default_value_t = 1)]
    destinations: u32,
    /// Number of sockets.
    #[arg(long, default_value_t = 1)]
    sockets: u32,
    /// The first destination. The next ones have the addresses that follow it.
    #[arg(long)]
    first: SocketAddr,
    /// Use connect and send instead of sendto.
    #[arg(long)]
    connected: bool,
}

pub(crate) fn run(options: &Datagrams) -> io::Result<serde_json::Value> {
    let mut reports = Vec::new();
    let socket = open(options.to[0], options)?;
    for _ in 0..options.times {
        if options.stepwise && io::stdin().read_line(&mut String::new())? == 0 {
            break;
        }
        for &to in &options.to {
            let report = exchange(&socket, to, options).unwrap_or_else(|error| failure(&error));
            if options.stepwise {
                println!("{report}");
            }
            reports.push(report);
        }
    }
    Ok(match reports.len() {
        1 => reports.remove(0),
        _ => json!(reports),
    })
}

/// Sends a datagram from a new socket, and reads the answer, whichever address it comes from.
pub(crate) fn ask(to: SocketAddr) -> io::Result<serde_json::Value> {
    let socket = open_any(to, TIMEOUT)?;
    socket.send_to(to.to_string().as_bytes(), to)?;
    let mut answer = [0; 2048];
    let (length, _) = socket.recv_from(&mut answer)?;
    Ok(json!({ "ok": true, "reply": String::from_utf8_lossy(&answer[..length]) }))
}

fn open(to: SocketAddr, options: &Datagrams) -> io::Result<Socket> {
    let (socket, _) = open_with(Protocol::UDP, to, options.mapped)?;
    if let Some(device) = &options.device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    if let Some(source) = options.bind {
        socket.bind(&source.into())?;
    }
    Ok(socket)
}

/// A socket of the destination's family, bound to a free port.
fn open_any(to: SocketAddr, timeout: Duration) -> io::Result<UdpSocket> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(timeout))?;
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
        send_until_sent(socket, &payload, target)?;
    }
    if options.no_reply {
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

/// Sends again if the call is interrupted, as programs do.
fn send_until_sent(socket: &Socket, payload: &[u8], to: SocketAddr) -> io::Result<()> {
    loop {
        match socket.send_to(payload, &to.into()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            sent => return sent.map(|_| ()),
        }
    }
}

fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    // UdpSocket receives into plain bytes, unlike Socket.
    let socket: UdpSocket = socket.try_clone()?.into();
    socket.recv_from(buffer)
}

/// Sends each destination its own address. Each must answer with it, and from it; answers that do
/// not are counted as `mixed_up`.
pub(crate) fn spray(options: &Spray) -> io::Result<serde_json::Value> {
    let mut mixed_up = 0;
    let mut answered = 0;
    let mut sockets = Vec::new();
    for _ in 0..options.sockets {
        sockets.push(open_any(options.first, TIMEOUT)?);
    }
    let started = Instant::now();
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
                collect(socket, &mut waiting, &mut answered, &mut mixed_up)?;
            }
        }
    }
    Ok(json!({
        "ok": mixed_up == 0,
        "answered": answered,
        "mixed_up": mixed_up,
        "seconds": started.elapsed().as_secs_f64(),
    }))
}

/// Most datagrams without an answer at one time, so that no socket's buffer overflows.
const WINDOW: usize = 32;

fn collect(
    socket: &UdpSocket,
    waiting: &mut BTreeMap<SocketAddr, String>,
    answered: &mut u32,
    mixed_up: &mut u32,
) -> io::Result<()> {
    let mut buffer = [0; 256];
    while !waiting.is_empty() {
        let (length, from) = socket.recv_from(&mut buffer)?;
        *answered += 1;
        match waiting.remove(&from) {
            Some(text) if text.as_bytes() == &buffer[..length] => {}
            _ => *mixed_up += 1,
        }
    }
    Ok(())
}

/// One socket sends one datagram to each of many destinations, and waits for no answer.
#[derive(clap::Args)]
pub(crate) struct Flood {
    /// Number of datagrams, which is the number of destinations.
    #[arg(long)]
    datagrams: u32,
    /// The first destination. The next ones have the addresses that follow it.
    #[arg(long)]
    first: SocketAddr,
}

pub(crate) fn flood(options: &Flood) -> io::Result<serde_json::Value> {
    let socket = open_any(options.first, TIMEOUT)?;
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

/// Sends datagrams directly to addresses of this host, as a program does that forges a redirected one.
#[derive(clap::Args)]
pub(crate) struct Forge {
    /// The addresses of listeners and flows.
    to: Vec<SocketAddr>,
    /// How long to wait for an answer, in milliseconds. None should come.
    #[arg(long, default_value_t = 200)]
    wait_ms: u64,
}

pub(crate) fn forge(options: &Forge) -> io::Result<serde_json::Value> {
    let mut answers = 0;
    for &to in &options.to {
        let socket = open_any(to, Duration::from_millis(options.wait_ms))?;
        socket.send_to(b"forged", to)?;
        answers += u32::from(socket.recv_from(&mut [0; 64]).is_ok());
    }
    Ok(json!({ "ok": true, "answers": answers }))
}
