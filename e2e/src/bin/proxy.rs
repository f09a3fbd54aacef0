//! A proxy as a separate process, which a test may kill, which may fork, or which may be a legacy
//! proxy.
//!
//! It first moves itself to the cgroup that the environment variable PROXY_CGROUP names. It prints
//! its addresses as a JSON array.
#![deny(unsafe_code)]

use std::env;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use sidetrack::{Batch, DatagramListener, Flow, Listener, Service};
use socket2::SockRef;

#[derive(Parser)]
struct Arguments {
    kind: ProxyKind,
    /// The destination of a worker, or the address at which `listen-and-exit` listens.
    address: Option<SocketAddr>,
}

#[derive(Clone, Copy, ValueEnum)]
enum ProxyKind {
    /// Answer each connection with its original destination.
    Answer,
    /// Relay each connection to its original destination, with the records.
    Relay,
    /// The same, with pended connects: connect onward first.
    RelayPended,
    /// Relay each connection to its original destination, without the records.
    WithoutRecords,
    /// Listen without the SDK, get the destination by SO_ORIGINAL_DST, and relay.
    Legacy,
    /// The same, but a child process makes the outgoing connection.
    LegacyForking,
    /// The child process of `legacy-forking`: connect to the address, and relay between that
    /// connection and standard input and output.
    Worker,
    /// Answer each datagram with the same bytes.
    EchoDatagrams,
    /// Register, and become the built-in proxy. Its flow lines are appended to the file that the
    /// environment variable PROXY_LINES names.
    Inspect,
    /// Listen at the address with SO_REUSEPORT, mark the listener as the service's, and exit.
    ListenAndExit,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(cgroup) = env::var_os("PROXY_CGROUP") {
        let pid = std::process::id().to_string();
        fs::write(Path::new(&cgroup).join("cgroup.procs"), pid)?;
    }
    match arguments.kind {
        ProxyKind::Worker => work(arguments.address.context("a worker needs a destination")?),
        ProxyKind::ListenAndExit => listen_and_exit(
            arguments
                .address
                .context("listen-and-exit needs an address")?,
        ),
        ProxyKind::EchoDatagrams => echo_datagrams(),
        ProxyKind::RelayPended => relay_pended(),
        ProxyKind::Inspect => become_built_in(),
        ProxyKind::Legacy | ProxyKind::LegacyForking => serve_legacy(arguments.kind),
        _ => serve(arguments.kind),
    }
}

fn print_addresses(addresses: &[SocketAddr]) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(addresses)?);
    Ok(())
}

fn serve(kind: ProxyKind) -> anyhow::Result<()> {
    let listener = Listener::bind(&service()?)?;
    print_addresses(&listener.addresses()?)?;
    loop {
        let (stream, flow) = listener.accept()?.into_parts();
        thread::spawn(move || handle(kind, stream, &flow));
    }
}

fn relay_pended() -> anyhow::Result<()> {
    let listener = Listener::bind(&service()?.pended())?;
    if let Some(why) = listener.why_accepted() {
        anyhow::bail!("{why}");
    }
    print_addresses(&listener.addresses()?)?;
    loop {
        let pending = listener.pended()?;
        thread::spawn(move || e2e::relay_pending(pending));
    }
}

fn echo_datagrams() -> anyhow::Result<()> {
    let listener = DatagramListener::bind(&service()?)?;
    print_addresses(&listener.addresses()?)?;
    let mut batch = Batch::new(16, 2048);
    loop {
        listener.receive(&mut batch)?;
        for datagram in batch.iter() {
            listener.answer(datagram.flow(), datagram.payload())?;
        }
    }
}

fn become_built_in() -> anyhow::Result<()> {
    let lines = env::var_os("PROXY_LINES").context("PROXY_LINES is not set")?;
    let lines = File::options().append(true).create(true).open(lines)?;
    let sidetrack = env::current_exe()?.with_file_name("sidetrack");
    let mut api = e2e::Api::connect(None);
    let session = api.session(false);
    let credentials = api.register_as_hex(&session, &env::var("PROXY_SERVICE")?);
    let error = Command::new(sidetrack)
        .args(["proxy", "--json", "--idle-timeout", "1"])
        .env(sidetrack::LISTEN_VARIABLE, credentials)
        .stdout(lines)
        .exec();
    Err(error.into())
}

/// The service of this proxy. If the environment variable PROXY_SERVICE names one, the proxy registers
/// itself with the daemon; otherwise it has the credentials from its environment.
fn service() -> anyhow::Result<Service> {
    let Ok(name) = env::var("PROXY_SERVICE") else {
        return Ok(Service::from_env()?);
    };
    let mut api = e2e::Api::connect(None);
    let session = api.session(false);
    Ok(api.register(&session, &name))
}

fn handle(kind: ProxyKind, mut client: TcpStream, flow: &Flow) -> io::Result<()> {
    let to = flow.original_destination();
    match kind {
        ProxyKind::Relay => e2e::copy_both_ways(client, flow.connect().map_err(io::Error::other)?),
        ProxyKind::WithoutRecords => e2e::copy_both_ways(client, TcpStream::connect(to)?),
        _ => client.write_all(to.to_string().as_bytes()),
    }
}

fn listen_and_exit(address: SocketAddr) -> anyhow::Result<()> {
    let listener = e2e::listen_shared(address);
    let credentials = env::var(sidetrack::LISTEN_VARIABLE)?;
    match e2e::mark_by_hex(&listener, &credentials) {
        0 => print_addresses(&[listener.local_addr()?]),
        errno => Err(io::Error::from_raw_os_error(errno).into()),
    }
}

fn serve_legacy(kind: ProxyKind) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    print_addresses(&[listener.local_addr()?])?;
    for client in listener.incoming() {
        let client = client?;
        thread::spawn(move || -> io::Result<()> {
            let to = SockRef::from(&client).original_dst_v4()?;
            let to = to.as_socket().ok_or(io::ErrorKind::Unsupported)?;
            match kind {
                ProxyKind::LegacyForking => fork_worker(client, to),
                _ => e2e::copy_both_ways(client, TcpStream::connect(to)?),
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
    let outgoing = TcpStream::connect(to)?;
    let mut upstream = outgoing.try_clone()?;
    thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut upstream);
        let _ = upstream.shutdown(Shutdown::Write);
    });
    let mut client = io::stdout().lock();
    let mut buffer = [0; 4096];
    loop {
        match (&outgoing).read(&mut buffer)? {
            0 => return Ok(()),
            length => client.write_all(&buffer[..length])?,
        }
        client.flush()?;
    }
}
