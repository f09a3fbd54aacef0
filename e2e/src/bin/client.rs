//! The client program, whose connections and datagrams the tests redirect.
//!
//! It first moves itself to the cgroup that the environment variable CLIENT_CGROUP names, so that
//! its sockets belong there. It prints its report as JSON: an object, or an array of objects if the
//! action makes several connections or sends several datagrams.
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
#[path = "client/load.rs"]
mod load;
#[path = "client/many.rs"]
mod many;
#[path = "client/quic.rs"]
mod quic;
#[path = "client/storm.rs"]
mod storm;
#[path = "client/sys.rs"]
#[allow(unsafe_code)]
mod sys;

/// How long a read or a connect may take. A call that hangs is a failure of the test, and must end.
const TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Connect, read until the end, and report what came.
    Connect(Connect),
    /// The same as connect, for each destination that is read from standard input. For `udp`
    /// before a destination, sends a datagram and reads the answer. Prints one JSON object for each.
    ConnectEach(ConnectEach),
    /// Make many connections to different addresses. Each must be answered with its own address.
    Storm(storm::Storm),
    /// Make many connections at once. Each must be answered with its own address.
    Many(many::Many),
    /// Connect and send datagrams at a constant rate until standard input ends, each to another
    /// destination. The report is a file.
    Load(load::Load),
    /// With one socket: connect, disconnect with AF_UNSPEC, and connect to another address.
    Reconnect {
        first: SocketAddr,
        second: SocketAddr,
        /// Bind the socket to this device, with SO_BINDTODEVICE.
        #[arg(long)]
        device: Option<String>,
        /// Make the first connect non-blocking, and do not wait for it.
        #[arg(long)]
        no_wait: bool,
    },
    /// Connect two sockets with the same source port to two destinations. Both are open at once.
    SamePort {
        port: u16,
        first: SocketAddr,
        second: SocketAddr,
    },
    /// Send datagrams, and report their answers.
    Datagrams(datagram::Datagrams),
    /// Send datagrams from many sockets to many destinations. Each must be answered by its own
    /// destination.
    Spray(datagram::Spray),
    /// Send many datagrams, each to another destination, without waiting for answers.
    Flood(datagram::Flood),
    /// Send datagrams to a service's listener or to a flow's address, without a redirect.
    Forge(datagram::Forge),
    /// Connect by QUIC, send bytes, and read the same number of bytes.
    Quic(quic::Quic),
    /// Execute another program instead of this one.
    Exec {
        #[arg(last = true)]
        command: Vec<String>,
    },
}

#[derive(clap::Args)]
struct ConnectEach {
    #[command(flatten)]
    options: Options,
}

#[derive(clap::Args)]
struct Connect {
    to: SocketAddr,
    #[command(flatten)]
    options: Options,
    /// Number of connections, made one after another.
    #[arg(long, default_value_t = 1)]
    times: u32,
}

#[derive(clap::Args)]
struct Options {
    /// Bind the socket to this source address first.
    #[arg(long)]
    bind: Option<SocketAddr>,
    /// Bind the socket to this device, with SO_BINDTODEVICE.
    #[arg(long)]
    device: Option<String>,
    /// Use an AF_INET6 socket for an IPv4 destination.
    #[arg(long)]
    mapped: bool,
    /// Make the connect non-blocking, and poll.
    #[arg(long)]
    nonblocking: bool,
    /// Send this text with MSG_FASTOPEN, without a connect.
    #[arg(long)]
    fastopen: Option<String>,
    /// Set TCP_FASTOPEN_CONNECT.
    #[arg(long)]
    fastopen_connect: bool,
    /// Send this text after the connect, then read "origin" and as many bytes as were sent.
    #[arg(long)]
    send: Option<String>,
    /// Use a Multipath TCP socket.
    #[arg(long)]
    mptcp: bool,
    /// Close the connection with a reset.
    #[arg(long)]
    abort: bool,
    /// Wait for a line on standard input before closing the connection.
    #[arg(long)]
    hold: bool,
}

fn main() -> io::Result<()> {
    if let Some(cgroup) = env::var_os("CLIENT_CGROUP") {
        let pid = std::process::id().to_string();
        fs::write(Path::new(&cgroup).join("cgroup.procs"), pid)?;
    }
    let report = match Arguments::parse().action {
        Action::Connect(connect) => connect_times(&connect),
        Action::ConnectEach(each) => return connect_each(&each.options),
        Action::Storm(options) => storm::run(&options),
        Action::Many(options) => many::run(&options)?,
        Action::Load(options) => return load::run(&options),
        Action::Reconnect {
            first,
            second,
            device,
            no_wait,
        } => reconnect([first, second], device, no_wait)?,
        Action::SamePort {
            port,
            first,
            second,
        } => connect_both_from_port(port, first, second),
        Action::Datagrams(options) => {
            datagram::run(&options).unwrap_or_else(|error| failure(&error))
        }
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
    println!("{report}");
    Ok(())
}

fn connect_each(options: &Options) -> io::Result<()> {
    for line in io::stdin().lines() {
        let line = line?;
        let (address, is_udp) = match line.strip_prefix("udp ") {
            Some(address) => (address, true),
            None => (line.as_str(), false),
        };
        let to = address.parse().map_err(io::Error::other)?;
        let report = match is_udp {
            true => datagram::ask(to).unwrap_or_else(|error| failure(&error)),
            false => connect_or_fail(to, options),
        };
        println!("{report}");
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
    open_with(Protocol::TCP, to, mapped)
}

fn open_with(protocol: Protocol, to: SocketAddr, mapped: bool) -> io::Result<(Socket, SockAddr)> {
    let to = address_of(to, mapped);
    let kind = match protocol {
        Protocol::UDP => Type::DGRAM,
        _ => Type::STREAM,
    };
    let socket = Socket::new(Domain::for_address(to), kind, Some(protocol))?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    Ok((socket, to.into()))
}

/// The destination for the kind of socket: with `mapped`, an IPv4 address becomes an IPv4-mapped one.
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
    let (socket, to) = open_with(protocol, to, options.mapped)?;
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
    let report = json!({
        "ok": true,
        "peer": stream.peer_addr().map(|peer| peer.to_string()).unwrap_or_default(),
        "local": stream.local_addr()?.to_string(),
        "reply": reply,
    });
    if options.hold {
        println!("{report}");
        io::stdin().read_line(&mut String::new())?;
    }
    if options.abort {
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    }
    Ok(report)
}

trait ConnectWithTimeout {
    fn connect_timeout_or_block(&self, to: &SockAddr, deferred: bool) -> io::Result<()>;
}

impl ConnectWithTimeout for Socket {
    /// A blocking connect with a time-out. With TCP_FASTOPEN_CONNECT (`deferred`) the first write
    /// connects, and EINPROGRESS is no error.
    fn connect_timeout_or_block(&self, to: &SockAddr, deferred: bool) -> io::Result<()> {
        self.set_write_timeout(Some(TIMEOUT))?; // the kernel applies it to connect too
        let result = self.connect(to);
        match result {
            Err(error) if deferred && error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
            other => other,
        }
    }
}

fn connect_nonblocking(socket: &Socket, to: &SockAddr) -> io::Result<()> {
    socket.connect_timeout(to, TIMEOUT) // non-blocking connect, then poll, then SO_ERROR
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
    no_wait: bool,
) -> io::Result<serde_json::Value> {
    let (socket, _) = open(to[0], false)?;
    socket.bind_device(device.as_ref().map(String::as_bytes))?;
    let mut reports = Vec::new();
    for (to, nonblocking) in to.into_iter().zip([no_wait, false]) {
        socket.set_nonblocking(nonblocking)?;
        reports.push(reconnect_once(&socket, to).unwrap_or_else(|error| failure(&error)));
        sys::disconnect(&socket)?;
    }
    Ok(json!(reports))
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

fn connect_both_from_port(port: u16, first: SocketAddr, second: SocketAddr) -> serde_json::Value {
    let mut open_until_the_end = Vec::new();
    let reports: Vec<_> = [first, second]
        .into_iter()
        .map(|to| match connect_from_port(port, to) {
            Ok((stream, reply)) => {
                open_until_the_end.push(stream);
                json!({ "ok": true, "reply": reply })
            }
            Err(error) => failure(&error),
        })
        .collect();
    json!(reports)
}

fn connect_from_port(port: u16, to: SocketAddr) -> io::Result<(TcpStream, String)> {
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
