//! The client's action with many connections to different addresses. Each must be answered with its own
//! address.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::{ConnectWithTimeout, connect_nonblocking, open};

#[derive(Clone, clap::Args)]
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
    /// Send the destination as a line before reading. The answer must then be that line.
    #[arg(long)]
    send_destination: bool,
    /// Bind the sockets to explicit ports, with SO_REUSEADDR: each thread uses four ports in turn, and
    /// this one is the first of all.
    #[arg(long)]
    source_port: Option<u16>,
}

/// Number of ports that a thread uses in turn.
const SOURCE_PORTS: u16 = 4;

/// What one thread has seen.
#[derive(Default)]
struct Seen {
    good: u64,
    /// The longest time from connect until the answer, or the failure.
    longest: Duration,
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
            let (options, failures) = (options.clone(), Arc::clone(&failures));
            let stdin_ended = Arc::clone(&stdin_ended);
            thread::spawn(move || run_thread(&options, thread, &failures, &stdin_ended))
        })
        .collect();
    let seen = threads
        .into_iter()
        .map(|thread| thread.join().expect("no thread panics"));
    let total = seen.fold(Seen::default(), |total, one| Seen {
        good: total.good + one.good,
        longest: total.longest.max(one.longest),
    });
    let failures = failures.lock().expect("no holder panics").clone();
    json!({
        "good": total.good,
        "failures": failures,
        "longest_ms": total.longest.as_millis() as u64,
    })
}

fn run_thread(
    options: &Storm,
    thread: u32,
    failures: &Mutex<BTreeMap<String, u64>>,
    stdin_ended: &AtomicBool,
) -> Seen {
    let first = thread * options.count;
    let mut seen = Seen::default();
    for (at, number) in (first..first + options.count).cycle().enumerate() {
        let ends = match options.until_stdin_ends {
            true => stdin_ended.load(Ordering::Relaxed),
            false => at == options.count as usize,
        };
        if ends {
            break;
        }
        let to = destination(number, options.prefix, options.port, options.ipv6);
        let source_port = options.source_port.map(|base| {
            let in_turn = at as u16 % SOURCE_PORTS;
            base + thread as u16 * SOURCE_PORTS + in_turn
        });
        let start = Instant::now();
        let answer = connect_and_read(to, source_port, options);
        seen.longest = seen.longest.max(start.elapsed());
        let failure = match answer {
            Ok(answer) if answer == to.to_string() => {
                seen.good += 1;
                continue;
            }
            Ok(answer) => format!("answered {answer:?}"),
            Err(error) => error.to_string(),
        };
        let mut failures = failures.lock().expect("no holder panics");
        *failures.entry(failure).or_default() += 1;
    }
    seen
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
    source_port: Option<u16>,
    options: &Storm,
) -> io::Result<String> {
    let (socket, address) = open(to, options.mapped)?;
    if let Some(port) = source_port {
        socket.set_reuse_address(true)?;
        let any = match address.is_ipv6() {
            true => SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
            false => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
        };
        socket.bind(&any.into())?;
    }
    if options.nonblocking {
        connect_nonblocking(&socket, &address)?;
    } else {
        socket.connect_timeout_or_block(&address, false)?;
    }
    let mut stream = TcpStream::from(socket);
    let peer = stream.peer_addr()?;
    if options.send_first {
        stream.write_all(b"?")?;
    }
    if options.send_destination {
        stream.write_all(format!("{to}\n").as_bytes())?;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if SocketAddr::new(peer.ip().to_canonical(), peer.port()) != to {
        return Ok(format!("peer {peer} for {to}"));
    }
    Ok(answer)
}
