//! The client's action with many connections to different addresses. Each must be answered with its own
//! address.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;

use crate::{ConnectWithTimeout, connect_nonblocking, open};

#[derive(clap::Args)]
pub(crate) struct Storm {
    /// Number of threads.
    #[arg(long)]
    threads: u32,
    /// Number of connections of each thread, each to another destination.
    #[arg(long)]
    count: u32,
    /// Start again with the first destination until standard input ends.
    #[arg(long)]
    until_stdin_ends: bool,
    /// The first byte of the IPv4 destinations. The other 24 bits are counted up.
    #[arg(long, default_value_t = 10)]
    prefix: u8,
    /// The port of all destinations.
    #[arg(long, default_value_t = 80)]
    port: u16,
    /// Use IPv6 destinations (fd00::/8).
    #[arg(long)]
    ipv6: bool,
    /// Use AF_INET6 sockets for IPv4 destinations.
    #[arg(long)]
    mapped: bool,
    /// Make each connect non-blocking, and poll.
    #[arg(long)]
    nonblocking: bool,
    /// Send a byte before reading. If the accept queue is full, only a client that sends notices it.
    #[arg(long)]
    send_first: bool,
}

pub(crate) fn run(options: &Storm) -> serde_json::Value {
    let failures: Arc<Mutex<BTreeMap<String, u64>>> = Arc::default();
    let stdin_ended: Arc<AtomicBool> = Arc::default();
    if options.until_stdin_ends {
        let stdin_ended = Arc::clone(&stdin_ended);
        thread::spawn(move || {
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            stdin_ended.store(true, Ordering::Relaxed);
        });
    }
    let threads: Vec<_> = (0..options.threads)
        .map(|thread| {
            let failures = Arc::clone(&failures);
            let (count, first) = (options.count, thread * options.count);
            let (prefix, port) = (options.prefix, options.port);
            let stdin_ended = Arc::clone(&stdin_ended);
            let until_stdin_ends = options.until_stdin_ends;
            let (ipv6, mapped) = (options.ipv6, options.mapped);
            let (nonblocking, send_first) = (options.nonblocking, options.send_first);
            thread::spawn(move || {
                let mut good = 0_u64;
                for (at, number) in (first..first + count).cycle().enumerate() {
                    let ends = match until_stdin_ends {
                        true => stdin_ended.load(Ordering::Relaxed),
                        false => at == count as usize,
                    };
                    if ends {
                        break;
                    }
                    let to = destination(number, prefix, port, ipv6);
                    match connect_and_read(to, mapped, nonblocking, send_first) {
                        Ok(answer) if answer == to.to_string() => good += 1,
                        other => {
                            let failure = match other {
                                Ok(answer) => format!("answered {answer:?}"),
                                Err(error) => error.to_string(),
                            };
                            let mut failures = failures.lock().expect("no holder panics");
                            *failures.entry(failure).or_default() += 1;
                        }
                    }
                }
                good
            })
        })
        .collect();
    let good: u64 = threads
        .into_iter()
        .map(|thread| thread.join().expect("no thread panics"))
        .sum();
    let failures = failures.lock().expect("no holder panics").clone();
    json!({ "good": good, "failures": failures })
}

fn destination(number: u32, prefix: u8, port: u16, ipv6: bool) -> SocketAddr {
    let [_, a, b, c] = number.to_be_bytes();
    match ipv6 {
        true => SocketAddr::from((
            [0xfd00, 0, 0, 0, 0, 0, a.into(), (number & 0xffff) as u16],
            port,
        )),
        false => SocketAddr::from((Ipv4Addr::new(prefix, a, b, c), port)),
    }
}

fn connect_and_read(
    to: SocketAddr,
    mapped: bool,
    nonblocking: bool,
    send_first: bool,
) -> io::Result<String> {
    let (socket, address) = open(to, mapped)?;
    if nonblocking {
        connect_nonblocking(&socket, &address)?;
    } else {
        socket.connect_timeout_or_block(&address, false)?;
    }
    let mut stream = TcpStream::from(socket);
    let peer = stream.peer_addr()?;
    if send_first {
        stream.write_all(b"?")?;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if SocketAddr::new(peer.ip().to_canonical(), peer.port()) != to {
        return Ok(format!("peer {peer} for {to}"));
    }
    Ok(answer)
}
