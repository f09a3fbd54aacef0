//! A proxy as a process of its own: it may be killed, fork, or be one that knows nothing of us.
//!
//! Moves itself to the cgroup of PROXY_CGROUP first. Prints its addresses, a JSON array.
#![deny(unsafe_code)]

use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use sidetrack::{Batch, DatagramListener, Flow, Listener, Service};
use socket2::SockRef;

#[derive(Parser)]
struct Arguments {
    kind: Kind,
    /// Of a worker: connect there, relay between that and standard input and output. Of one that comes
    /// and goes: listen there.
    to: Option<SocketAddr>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// Answers with the original destination.
    Answer,
    /// Goes on with the records.
    Relay,
    /// Goes on, but forgets the records.
    Forget,
    /// Listens by itself, asks SO_ORIGINAL_DST, and goes on.
    Legacy,
    /// The same, but another process of its own goes on.
    LegacyForking,
    /// That process.
    Worker,
    /// Sends datagrams back.
    EchoDatagrams,
    /// Shares a port with others of its service, and ends at once.
    ComeAndGo,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(cgroup) = env::var_os("PROXY_CGROUP") {
        let pid = std::process::id().to_string();
        fs::write(Path::new(&cgroup).join("cgroup.procs"), pid)?;
    }
    match arguments.kind {
        Kind::Worker => work(arguments.to.context("a worker needs a destination")?),
        Kind::ComeAndGo => come_and_go(arguments.to.context("an address to listen at")?),
        Kind::EchoDatagrams => echo_datagrams(),
        Kind::Legacy | Kind::LegacyForking => serve_legacy(arguments.kind),
        _ => serve(arguments.kind),
    }
}

fn tell(addresses: &[SocketAddr]) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(addresses)?);
    Ok(())
}

fn serve(kind: Kind) -> anyhow::Result<()> {
    let listener = Listener::bind(&service()?)?;
    tell(&listener.addresses()?)?;
    loop {
        let (stream, flow) = listener.accept()?.into_parts();
        thread::spawn(move || handle(kind, stream, &flow));
    }
}

fn echo_datagrams() -> anyhow::Result<()> {
    let listener = DatagramListener::bind(&service()?)?;
    tell(&listener.addresses()?)?;
    let mut batch = Batch::new(16, 2048);
    loop {
        listener.receive(&mut batch)?;
        for datagram in batch.iter() {
            listener.answer(datagram.flow(), datagram.payload())?;
        }
    }
}

/// By the credentials it was given, or, if PROXY_SERVICE names one, from the daemon.
fn service() -> anyhow::Result<Service> {
    let Ok(name) = env::var("PROXY_SERVICE") else {
        return Ok(Service::from_env()?);
    };
    let mut api = e2e::Api::connect(None);
    let session = api.session(false);
    Ok(api.register(&session, &name))
}

fn handle(kind: Kind, mut client: TcpStream, flow: &Flow) -> io::Result<()> {
    let to = flow.original_destination();
    match kind {
        Kind::Relay => e2e::both_ways(client, flow.connect().map_err(io::Error::other)?),
        Kind::Forget => e2e::both_ways(client, TcpStream::connect(to)?),
        _ => client.write_all(to.to_string().as_bytes()),
    }
}

fn come_and_go(at: SocketAddr) -> anyhow::Result<()> {
    let listener = e2e::listen_shared(at);
    let credentials = env::var(sidetrack::LISTEN_VARIABLE)?;
    match e2e::mark_by_hex(&listener, &credentials) {
        0 => tell(&[listener.local_addr()?]),
        errno => Err(io::Error::from_raw_os_error(errno).into()),
    }
}

fn serve_legacy(kind: Kind) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    tell(&[listener.local_addr()?])?;
    for client in listener.incoming() {
        let client = client?;
        thread::spawn(move || -> io::Result<()> {
            let to = SockRef::from(&client).original_dst_v4()?;
            let to = to.as_socket().ok_or(io::ErrorKind::Unsupported)?;
            match kind {
                Kind::LegacyForking => fork_worker(client, to),
                _ => e2e::both_ways(client, TcpStream::connect(to)?),
            }
        });
    }
    Ok(())
}

fn fork_worker(client: TcpStream, to: SocketAddr) -> io::Result<()> {
    let mut worker = Command::new(env::current_exe()?)
        .args(["worker", &to.to_string()])
        .env_remove("PROXY_CGROUP")
        .stdin(std::os::fd::OwnedFd::from(client.try_clone()?))
        .stdout(std::os::fd::OwnedFd::from(client))
        .spawn()?;
    worker.wait()?;
    Ok(())
}

fn work(to: SocketAddr) -> anyhow::Result<()> {
    let onward = TcpStream::connect(to)?;
    let mut upward = onward.try_clone()?;
    thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut upward);
        let _ = upward.shutdown(Shutdown::Write);
    });
    let mut client = io::stdout().lock();
    let mut buffer = [0; 4096];
    loop {
        match (&onward).read(&mut buffer)? {
            0 => return Ok(()),
            length => client.write_all(&buffer[..length])?,
        }
        client.flush()?;
    }
}
