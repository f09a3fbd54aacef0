//! The client's action that makes connections and UDP flows at a constant rate until standard input
//! ends, each to another destination. It writes what became of each to a file.

use std::fs::File;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use e2e::exchange::{Exchange, Protocol};
use rustix::process::Uid;
use rustix::thread::set_thread_uid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{interval, timeout};

/// How long an exchange over TCP may take. The client then gives up, as a user does.
const STREAM_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the client waits for the answer to a datagram.
const DATAGRAM_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
pub(crate) struct Load {
    /// Number of exchanges that begin in each second.
    #[arg(long)]
    rate: u32,
    /// The port of all destinations.
    #[arg(long)]
    port: u16,
    /// The user that makes the connections.
    #[arg(long)]
    uid: u32,
    /// The file to which a line of JSON is written for each exchange.
    #[arg(long)]
    report: PathBuf,
}

pub(crate) fn run(options: &Load) -> io::Result<()> {
    let report = File::create(&options.report)?;
    // This process still has one thread, so this is the user of the whole process.
    set_thread_uid(Uid::from_raw(options.uid))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(exchange_until_stdin_ends(options, report))
}

async fn exchange_until_stdin_ends(options: &Load, report: File) -> io::Result<()> {
    let report = Arc::new(Mutex::new(report));
    let mut stdin_ends =
        tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink()));
    let mut ticks = interval(Duration::from_secs(1) / options.rate);
    let mut exchanges = tokio::task::JoinSet::new();
    for number in 0.. {
        tokio::select! {
            _ = &mut stdin_ends => break,
            _ = ticks.tick() => {}
        }
        let (to, report) = (destination(number, options.port), Arc::clone(&report));
        exchanges.spawn(async move {
            let mut exchange = Exchange::begin(protocol(number), to);
            let result = match exchange.protocol {
                Protocol::Tcp => timeout(STREAM_TIMEOUT, over_tcp(to, number)).await,
                Protocol::Udp => timeout(DATAGRAM_TIMEOUT, over_udp(to, number)).await,
            };
            exchange.end(result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())));
            let mut line = serde_json::to_vec(&exchange)?;
            line.push(b'\n');
            report.lock().expect("no holder panics").write_all(&line)
        });
        while let Some(written) = exchanges.try_join_next() {
            written??;
        }
    }
    while let Some(written) = exchanges.join_next().await {
        written??;
    }
    Ok(())
}

/// TCP and UDP take turns.
fn protocol(number: u32) -> Protocol {
    match number % 2 {
        0 => Protocol::Tcp,
        _ => Protocol::Udp,
    }
}

/// The destination of this exchange only. Two exchanges over IPv4 are followed by two over IPv6.
fn destination(number: u32, port: u16) -> SocketAddr {
    let [_, a, b, c] = number.to_be_bytes();
    match number / 2 % 2 {
        0 => SocketAddr::from((Ipv4Addr::new(10, a, b, c), port)),
        _ => {
            let [high, low] = [(number >> 16) as u16, number as u16];
            SocketAddr::from((Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, high, low), port))
        }
    }
}

async fn over_tcp(to: SocketAddr, number: u32) -> io::Result<()> {
    let mut stream = TcpStream::connect(to).await?;
    let question = format!("{number}\n");
    stream.write_all(question.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    must_be_equal(answer.as_bytes(), question.as_bytes())
}

async fn over_udp(to: SocketAddr, number: u32) -> io::Result<()> {
    let any = match to {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(to).await?;
    let question = number.to_string();
    socket.send(question.as_bytes()).await?;
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer).await?;
    must_be_equal(&answer[..length], question.as_bytes())
}

fn must_be_equal(answer: &[u8], question: &[u8]) -> io::Result<()> {
    match answer == question {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "the answer is {:?}",
            String::from_utf8_lossy(answer)
        ))),
    }
}
