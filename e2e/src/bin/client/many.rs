//! The client's action with many connects at once, each to another address.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::TIMEOUT;

#[derive(clap::Args)]
pub(crate) struct Many {
    /// Number of connections.
    #[arg(long)]
    count: u32,
}

/// Starts all connects, then waits for each, and reads until its end.
pub(crate) fn run(options: &Many) -> io::Result<serde_json::Value> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised)?;
    let sockets: Vec<_> = (0..options.count).map(start).collect::<io::Result<_>>()?;
    let (mut good, mut failures) = (0_u64, BTreeMap::<String, u64>::new());
    for (to, socket) in sockets {
        match finish(socket) {
            Ok(reply) if reply == to.to_string() => good += 1,
            Ok(reply) => *failures.entry(format!("replied {reply:?}")).or_default() += 1,
            Err(error) => *failures.entry(error.to_string()).or_default() += 1,
        }
    }
    Ok(json!({ "good": good, "failures": failures }))
}

fn start(number: u32) -> io::Result<(SocketAddr, Socket)> {
    let [_, a, b, c] = number.to_be_bytes();
    let to = SocketAddr::from((Ipv4Addr::new(10, a, b, c), 80));
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok((to, socket)),
    }
}

fn finish(socket: Socket) -> io::Result<String> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = left.try_into().map_err(io::Error::other)?;
        let mut waited = [PollFd::new(&socket, PollFlags::OUT)];
        match poll(&mut waited, Some(&left)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    let mut reply = String::new();
    TcpStream::from(socket).read_to_string(&mut reply)?;
    Ok(reply)
}
