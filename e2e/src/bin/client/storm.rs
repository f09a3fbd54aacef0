//! Many connections to different addresses, each of which must answer with its own.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;

use crate::{ConnectPatiently, connect_nonblocking, open};

#[derive(clap::Args)]
pub(crate) struct Storm {
    #[arg(long)]
    threads: u32,
    #[arg(long)]
    count: u32,
    /// Go on, from the first destination again, until standard input ends.
    #[arg(long)]
    until_told: bool,
    /// Destinations are PREFIX with 24 bits counted up, all on this port.
    #[arg(long, default_value_t = 10)]
    prefix: u8,
    #[arg(long, default_value_t = 80)]
    port: u16,
    /// IPv6 destinations (fd00::/8) instead.
    #[arg(long)]
    ipv6: bool,
    #[arg(long)]
    mapped: bool,
    #[arg(long)]
    nonblocking: bool,
    /// Send a byte first: where the queue is full, only a client that speaks finds out.
    #[arg(long)]
    speak: bool,
}

pub(crate) fn run(options: &Storm) -> serde_json::Value {
    let failures: Arc<Mutex<BTreeMap<String, u64>>> = Arc::default();
    let told: Arc<AtomicBool> = Arc::default();
    if options.until_told {
        let told = Arc::clone(&told);
        thread::spawn(move || {
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            told.store(true, Ordering::Relaxed);
        });
    }
    let threads: Vec<_> = (0..options.threads)
        .map(|thread| {
            let failures = Arc::clone(&failures);
            let (count, first) = (options.count, thread * options.count);
            let (prefix, port) = (options.prefix, options.port);
            let told = Arc::clone(&told);
            let until_told = options.until_told;
            let (ipv6, mapped) = (options.ipv6, options.mapped);
            let (nonblocking, speak) = (options.nonblocking, options.speak);
            thread::spawn(move || {
                let mut good = 0_u64;
                for (at, number) in (first..first + count).cycle().enumerate() {
                    let ends = match until_told {
                        true => told.load(Ordering::Relaxed),
                        false => at == count as usize,
                    };
                    if ends {
                        break;
                    }
                    let to = destination(number, prefix, port, ipv6);
                    match ask(to, mapped, nonblocking, speak) {
                        Ok(answer) if answer == to.to_string() => good += 1,
                        other => {
                            let what = match other {
                                Ok(answer) => format!("answered {answer:?}"),
                                Err(error) => error.to_string(),
                            };
                            let mut failures = failures.lock().expect("no holder panics");
                            *failures.entry(what).or_default() += 1;
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

fn ask(to: SocketAddr, mapped: bool, nonblocking: bool, speak: bool) -> io::Result<String> {
    let (socket, address) = open(to, mapped)?;
    if nonblocking {
        connect_nonblocking(&socket, &address)?;
    } else {
        socket.connect_timeout_or_block(&address, false)?;
    }
    let mut stream = TcpStream::from(socket);
    let peer = stream.peer_addr()?;
    if speak {
        stream.write_all(b"?")?;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if SocketAddr::new(peer.ip().to_canonical(), peer.port()) != to {
        return Ok(format!("peer {peer} for {to}"));
    }
    Ok(answer)
}
