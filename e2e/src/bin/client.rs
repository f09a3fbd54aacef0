//! The programs whose connections the tests divert.
//!
//! Moves itself to the cgroup of CLIENT_CGROUP first, so that its sockets belong there. Prints one
//! JSON object.
#![deny(unsafe_code)]

use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use clap::{Parser, Subcommand};
use serde_json::json;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

#[path = "client/datagram.rs"]
mod datagram;
#[path = "client/quic.rs"]
mod quic;
#[path = "client/storm.rs"]
mod storm;
#[path = "client/sys.rs"]
#[allow(unsafe_code)]
mod sys;

/// How long a read or connect may take: a hang is a finding, and must end.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Connect, read all there is, tell.
    Connect(Connect),
    /// As connect, for each destination that comes on standard input; one JSON object each.
    Ask(Ask),
    /// Many connections to different addresses; each must answer with its own.
    Storm(storm::Storm),
    /// One socket: connect, dissolve by AF_UNSPEC, connect elsewhere.
    Reconnect {
        first: SocketAddr,
        second: SocketAddr,
        /// SO_BINDTODEVICE.
        #[arg(long)]
        device: Option<String>,
        /// Connect without blocking, and do not wait for the first.
        #[arg(long)]
        hurry: bool,
    },
    /// Two sockets with one source port to two destinations, open at once.
    Twins {
        port: u16,
        first: SocketAddr,
        second: SocketAddr,
    },
    /// Send datagrams, and tell what comes back.
    Datagrams(datagram::Datagrams),
    /// Many destinations, many sockets; each datagram must come back from where it went.
    Spray(datagram::Spray),
    /// Many datagrams, each to another destination.
    Flood(datagram::Flood),
    /// Send to addresses that are not meant for it.
    Forge(datagram::Forge),
    /// Connect by QUIC, send, and read as much back.
    Quic(quic::Quic),
    /// Become another program.
    Exec {
        #[arg(last = true)]
        command: Vec<String>,
    },
}

#[derive(clap::Args)]
struct Ask {
    #[command(flatten)]
    options: Options,
}

#[derive(clap::Args)]
struct Connect {
    to: SocketAddr,
    #[command(flatten)]
    options: Options,
    /// How often, one after the other.
    #[arg(long, default_value_t = 1)]
    times: u32,
}

#[derive(clap::Args)]
struct Options {
    /// Bind to this source first.
    #[arg(long)]
    bind: Option<SocketAddr>,
    /// SO_BINDTODEVICE.
    #[arg(long)]
    device: Option<String>,
    /// An AF_INET6 socket for an IPv4 destination.
    #[arg(long)]
    mapped: bool,
    /// connect without blocking, then poll.
    #[arg(long)]
    nonblocking: bool,
    /// Send by MSG_FASTOPEN, without connect.
    #[arg(long)]
    fastopen: Option<String>,
    /// TCP_FASTOPEN_CONNECT.
    #[arg(long)]
    fastopen_connect: bool,
    /// Send this once connected, then read as much back.
    #[arg(long)]
    send: Option<String>,
    /// A Multipath TCP socket.
    #[arg(long)]
    mptcp: bool,
    /// Close with a reset.
    #[arg(long)]
    abort: bool,
    /// Wait for a line on standard input before closing.
    #[arg(long)]
    hold: bool,
}

fn main() -> io::Result<()> {
    if let Some(cgroup) = env::var_os("CLIENT_CGROUP") {
        let pid = std::process::id().to_string();
        fs::write(Path::new(&cgroup).join("cgroup.procs"), pid)?;
    }
    let told = match Arguments::parse().action {
        Action::Connect(connect) => connect_times(&connect),
        Action::Ask(ask) => return ask_each(&ask.options),
        Action::Storm(options) => storm::run(&options),
        Action::Reconnect {
            first,
            second,
            device,
            hurry,
        } => reconnect([first, second], device, hurry)?,
        Action::Twins {
            port,
            first,
            second,
        } => twins(port, first, second),
        Action::Datagrams(options) => datagram::run(&options)?,
        Action::Spray(options) => datagram::spray(&options)?,
        Action::Flood(options) => datagram::flood(&options)?,
        Action::Forge(options) => datagram::forge(&options)?,
        Action::Quic(options) => {
            quic::run(&options).unwrap_or_else(|error| failure(&io::Error::other(error)))
        }
        Action::Exec { command } => {
            return Err(Command::new(&command[0])
                .args(&command[1..])
                .env_remove("CLIENT_CGROUP")
                .exec());
        }
    };
    println!("{told}");
    Ok(())
}

fn ask_each(options: &Options) -> io::Result<()> {
    for line in io::stdin().lines() {
        let to = line?.parse().map_err(io::Error::other)?;
        println!("{}", connect_or_fail(to, options));
    }
    Ok(())
}

fn connect_or_fail(to: SocketAddr, options: &Options) -> serde_json::Value {
    connect(to, options).unwrap_or_else(|error| failure(&error))
}

fn connect_times(connect: &Connect) -> serde_json::Value {
    let mut last = json!(null);
    for _ in 0..connect.times {
        last = connect_or_fail(connect.to, &connect.options);
        if last["ok"] != true {
            break;
        }
    }
    last
}

fn failure(error: &io::Error) -> serde_json::Value {
    json!({ "ok": false, "errno": error.raw_os_error(), "error": error.to_string() })
}

fn open(to: SocketAddr, mapped: bool) -> io::Result<(Socket, SockAddr)> {
    open_of(Protocol::TCP, to, mapped)
}

fn open_of(protocol: Protocol, to: SocketAddr, mapped: bool) -> io::Result<(Socket, SockAddr)> {
    let to = address_of(to, mapped);
    let kind = match protocol {
        Protocol::UDP => Type::DGRAM,
        _ => Type::STREAM,
    };
    let socket = Socket::new(Domain::for_address(to), kind, Some(protocol))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok((socket, to.into()))
}

/// As an AF_INET6 socket has it, if it is to be one.
fn address_of(to: SocketAddr, mapped: bool) -> SocketAddr {
    match to {
        SocketAddr::V4(v4) if mapped => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
        other => other,
    }
}

fn connect(to: SocketAddr, options: &Options) -> io::Result<serde_json::Value> {
    let protocol = if options.mptcp {
        Protocol::MPTCP
    } else {
        Protocol::TCP
    };
    let (socket, to) = open_of(protocol, to, options.mapped)?;
    if let Some(device) = &options.device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    if let Some(source) = options.bind {
        socket.set_reuse_address(true)?;
        socket.bind(&source.into())?;
    }
    if options.fastopen_connect {
        sys::set_fastopen_connect(&socket)?;
    }
    match &options.fastopen {
        Some(text) => sys::send_fastopen(&socket, text.as_bytes(), &to)?,
        None if options.nonblocking => connect_nonblocking(&socket, &to)?,
        None => socket.connect_timeout_or_block(&to, options.fastopen_connect)?,
    }
    let mut stream = TcpStream::from(socket);
    let reply = exchange(&mut stream, options)?;
    let told = json!({
        "ok": true,
        "peer": stream.peer_addr().map(|peer| peer.to_string()).unwrap_or_default(),
        "local": stream.local_addr()?.to_string(),
        "reply": reply,
    });
    if options.hold {
        println!("{told}");
        io::stdin().read_line(&mut String::new())?;
    }
    if options.abort {
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    }
    Ok(told)
}

trait ConnectPatiently {
    fn connect_timeout_or_block(&self, to: &SockAddr, deferred: bool) -> io::Result<()>;
}

impl ConnectPatiently for Socket {
    /// A blocking connect that ends. Fast open defers the connect itself, so there it must block.
    fn connect_timeout_or_block(&self, to: &SockAddr, deferred: bool) -> io::Result<()> {
        self.set_write_timeout(Some(PATIENCE))?; // the kernel applies it to connect too
        let result = self.connect(to);
        match result {
            Err(error) if deferred && error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
            other => other,
        }
    }
}

fn connect_nonblocking(socket: &Socket, to: &SockAddr) -> io::Result<()> {
    socket.connect_timeout(to, PATIENCE) // non-blocking connect, then poll, then SO_ERROR
}

fn exchange(stream: &mut TcpStream, options: &Options) -> io::Result<String> {
    let mut reply = Vec::new();
    match &options.send {
        None => {
            stream.take(1 << 20).read_to_end(&mut reply)?;
        }
        Some(text) => {
            stream.write_all(text.as_bytes())?;
            let mut greeting = vec![0; "origin".len() + text.len()];
            stream.read_exact(&mut greeting)?;
            reply = greeting;
        }
    }
    Ok(String::from_utf8_lossy(&reply).into_owned())
}

fn reconnect(
    to: [SocketAddr; 2],
    device: Option<String>,
    hurry: bool,
) -> io::Result<serde_json::Value> {
    let (socket, _) = open(to[0], false)?;
    socket.bind_device(device.as_ref().map(String::as_bytes))?;
    let mut told = Vec::new();
    for (to, hurried) in to.into_iter().zip([hurry, false]) {
        socket.set_nonblocking(hurried)?;
        told.push(reconnect_once(&socket, to).unwrap_or_else(|error| failure(&error)));
        sys::dissolve(&socket)?;
    }
    Ok(json!(told))
}

fn reconnect_once(socket: &Socket, to: SocketAddr) -> io::Result<serde_json::Value> {
    socket.connect_timeout_or_block(&to.into(), false)?;
    let mut answer = [0; 64];
    let length = { socket }.read(&mut answer)?;
    Ok(json!({
        "reply": String::from_utf8_lossy(&answer[..length]),
        "peer": socket.peer_addr()?.as_socket().map(|peer| peer.to_string()),
    }))
}

fn twins(port: u16, first: SocketAddr, second: SocketAddr) -> serde_json::Value {
    let mut open_until_the_end = Vec::new();
    let told: Vec<_> = [first, second]
        .into_iter()
        .map(|to| match twin(port, to) {
            Ok((stream, reply)) => {
                open_until_the_end.push(stream);
                json!({ "ok": true, "reply": reply })
            }
            Err(error) => failure(&error),
        })
        .collect();
    json!(told)
}

fn twin(port: u16, to: SocketAddr) -> io::Result<(TcpStream, String)> {
    let (socket, address) = open(to, false)?;
    socket.set_reuse_address(true)?;
    let any = match to {
        SocketAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], port)),
        SocketAddr::V6(_) => SocketAddr::from(([0; 8], port)),
    };
    socket.bind(&any.into())?;
    socket.connect_timeout_or_block(&address, false)?;
    let mut stream = TcpStream::from(socket);
    let mut answer = [0; 64];
    let length = stream.read(&mut answer)?;
    Ok((
        stream,
        String::from_utf8_lossy(&answer[..length]).into_owned(),
    ))
}
