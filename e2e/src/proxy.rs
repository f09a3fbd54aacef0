//! Proxies and origins that the test process runs itself.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use sidetrack::{Flow, Listener};
use sidetrack_abi::kernel;
use sidetrack_engine::Service;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream as TokioStream;

use crate::sys;

/// A proxy at work in this process, until the process ends.
pub struct Running {
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    flows: Arc<Mutex<Vec<Flow>>>,
}

impl Running {
    /// The flows it has accepted so far.
    pub fn flows(&self) -> Vec<Flow> {
        self.flows.lock().expect("no holder panics").clone()
    }
}

/// A TCP server outside the scope.
pub struct Origin {
    /// Where it listens.
    pub address: SocketAddr,
    accepted: Arc<Mutex<u64>>,
}

/// The service as its proxy has it.
pub fn sdk(service: &Service) -> sidetrack::Service {
    sidetrack::Service::from_bytes(service.credentials()).expect("the engine's own")
}

pub(crate) fn answer(service: &Service) -> Running {
    serve(service, |mut stream, flow| {
        stream.write_all(flow.original_destination().to_string().as_bytes())
    })
}

pub(crate) fn relay(service: &Service) -> Running {
    serve(service, |stream, flow| {
        let onward = flow.connect().map_err(io::Error::other)?;
        both_ways(stream, onward)
    })
}

/// Runs a proxy with one thread a connection.
pub(crate) fn serve(
    service: &Service,
    handle: impl Fn(TcpStream, Flow) -> io::Result<()> + Send + Sync + 'static,
) -> Running {
    let listener = Listener::bind(&sdk(service)).expect("the listener is accepted");
    let running = Running {
        addresses: listener.addresses().expect("it is bound"),
        flows: Arc::default(),
    };
    let flows = Arc::clone(&running.flows);
    let handle = Arc::new(handle);
    thread::spawn(move || {
        loop {
            let (stream, flow) = listener.accept().expect("accept works").into_parts();
            flows.lock().expect("no holder panics").push(flow.clone());
            let handle = Arc::clone(&handle);
            thread::spawn(move || handle(stream, flow));
        }
    });
    running
}

/// Many connections at once, in two threads.
pub(crate) fn storm(service: &Service, relaying: bool) {
    storm_with(service, relaying, |flow| {
        flow.original_destination().to_string()
    });
}

/// The same, with another answer.
pub(crate) fn storm_with(service: &Service, relaying: bool, answer: fn(&Flow) -> String) {
    let service = sdk(service);
    let (ready, is_ready) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime can be made");
        runtime.block_on(async {
            let listener = sidetrack::tokio::Listener::bind(&service).expect("it is accepted");
            ready.send(()).expect("the test waits");
            loop {
                let (stream, flow) = listener.accept().await.expect("accept works");
                tokio::spawn(storm_one(stream, flow, relaying, answer));
            }
        });
    });
    is_ready.recv().expect("the proxy starts");
}

async fn storm_one(
    mut client: TokioStream,
    flow: Flow,
    relaying: bool,
    answer: fn(&Flow) -> String,
) -> io::Result<()> {
    if relaying {
        let mut onward = flow.connect_async().await.map_err(io::Error::other)?;
        copy_bidirectional(&mut client, &mut onward).await?;
    } else {
        client.write_all(answer(&flow).as_bytes()).await?;
    }
    Ok(())
}

/// A listener made by hand and marked as the service's.
pub fn listen_by_hand(service: &Service, address: &str, backlog: i32) -> TcpListener {
    let listener = listen_unmarked(address, backlog);
    assert_eq!(mark(&listener, service), 0, "the listener is accepted");
    listener
}

/// A listener made by hand, not marked.
pub fn listen_unmarked(address: &str, backlog: i32) -> TcpListener {
    let address: SocketAddr = address.parse().expect("an address");
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("may be set");
    socket.bind(&address.into()).expect("the address is free");
    socket.listen(backlog).expect("may listen");
    socket.into()
}

/// The same, with SO_REUSEPORT, as workers of one proxy have it.
pub fn listen_shared(address: SocketAddr) -> TcpListener {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
    socket.set_reuse_port(true).expect("may be set");
    socket
        .bind(&address.into())
        .expect("the address may be shared");
    socket.listen(16).expect("may listen");
    socket.into()
}

/// The option LISTEN. Returns 0, or the error's number.
pub fn mark(socket: impl AsFd, service: &Service) -> i32 {
    let value = service.credentials();
    sys::set_option(socket, kernel::SOL_SIDETRACK, kernel::LISTEN, value)
}

/// The same, for a process that was given the credentials in hexadecimal.
pub fn mark_by_hex(socket: impl AsFd, credentials: &str) -> i32 {
    let byte = |at: usize| u8::from_str_radix(&credentials[at..at + 2], 16).expect("hexadecimal");
    let value: Vec<u8> = (0..credentials.len()).step_by(2).map(byte).collect();
    sys::set_option(socket, kernel::SOL_SIDETRACK, kernel::LISTEN, &value)
}

/// Copies between the two until both have said all.
pub fn both_ways(client: TcpStream, onward: TcpStream) -> io::Result<()> {
    let (mut from, mut to) = (client.try_clone()?, onward.try_clone()?);
    let up = thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let (mut from, mut to) = (onward, client);
    io::copy(&mut from, &mut to)?;
    to.shutdown(Shutdown::Write)?;
    let _ = up.join();
    Ok(())
}

impl Origin {
    /// Says hello and its peer, then sends back what it gets.
    pub fn start(address: &str) -> Self {
        let listener = TcpListener::bind(address).expect("the origin's address is free");
        let origin = Self {
            address: listener.local_addr().expect("it is bound"),
            accepted: Arc::default(),
        };
        let accepted = Arc::clone(&origin.accepted);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                *accepted.lock().expect("no holder panics") += 1;
                thread::spawn(move || greet_and_echo(stream));
            }
        });
        origin
    }

    /// How many connections it has had.
    pub fn accepted(&self) -> u64 {
        *self.accepted.lock().expect("no holder panics")
    }
}

fn greet_and_echo(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(b"origin")?;
    let mut buffer = [0; 65536];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}
