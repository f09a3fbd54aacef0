//! Proxies and origins that run in the test's own process.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use sidetrack::{Flow, Listener};
use sidetrack_abi::kernel;
use sidetrack_engine::RegisteredService;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream as TokioStream;

use crate::sys;

/// A proxy that runs in this process until the process ends.
pub struct RunningProxy {
    /// The addresses at which it listens.
    pub addresses: Vec<SocketAddr>,
    flows: Arc<Mutex<Vec<Flow>>>,
}

impl RunningProxy {
    /// The flows whose connections it has accepted so far.
    pub fn flows(&self) -> Vec<Flow> {
        self.flows.lock().expect("no holder panics").clone()
    }
}

/// A TCP server. It sends `origin` to each client, and then sends back what it receives.
pub struct Origin {
    /// The address at which it listens.
    pub address: SocketAddr,
    accepted: Arc<Mutex<u64>>,
}

/// The engine's service as the SDK's type, which a proxy has.
pub fn sdk_service(service: &RegisteredService) -> sidetrack::Service {
    let credentials = service.credentials();
    sidetrack::Service::from_bytes(credentials).expect("the engine's credentials are valid")
}

pub(crate) fn answer(service: &RegisteredService) -> RunningProxy {
    serve(service, |mut stream, flow| {
        stream.write_all(flow.original_destination().to_string().as_bytes())
    })
}

pub(crate) fn relay(service: &RegisteredService) -> RunningProxy {
    serve(service, |stream, flow| {
        let outgoing = flow.connect().map_err(io::Error::other)?;
        copy_both_ways(stream, outgoing)
    })
}

/// Starts a proxy that calls this function for each connection, in a new thread.
pub(crate) fn serve(
    service: &RegisteredService,
    handle: impl Fn(TcpStream, Flow) -> io::Result<()> + Send + Sync + 'static,
) -> RunningProxy {
    let listener = Listener::bind(&sdk_service(service)).expect("the listener is marked");
    let running = RunningProxy {
        addresses: listener.addresses().expect("the listener is bound"),
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

/// Starts an asynchronous proxy, with two threads, for many connections at once. It relays, or
/// answers with the original destination.
pub(crate) fn storm(service: &RegisteredService, relaying: bool) {
    storm_with(service, relaying, |flow| {
        flow.original_destination().to_string()
    });
}

/// The same as [`storm`], with the answer that this function returns.
pub(crate) fn storm_with(service: &RegisteredService, relaying: bool, answer: fn(&Flow) -> String) {
    let service = sdk_service(service);
    let (ready, is_ready) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("the runtime starts");
        runtime.block_on(async {
            let listener =
                sidetrack::tokio::Listener::bind(&service).expect("the listener is marked");
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
        let mut outgoing = flow.connect_async().await.map_err(io::Error::other)?;
        copy_bidirectional(&mut client, &mut outgoing).await?;
    } else {
        client.write_all(answer(&flow).as_bytes()).await?;
    }
    Ok(())
}

/// Makes a listener without the SDK, and marks it as the service's.
pub fn listen_marked(service: &RegisteredService, address: &str, backlog: i32) -> TcpListener {
    let listener = listen_unmarked(address, backlog);
    assert_eq!(mark(&listener, service), 0, "the listener is marked");
    listener
}

/// Makes a listener without the SDK, and does not mark it.
pub fn listen_unmarked(address: &str, backlog: i32) -> TcpListener {
    let address: SocketAddr = address.parse().expect("an address and a port");
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("the option is set");
    socket.bind(&address.into()).expect("the address is free");
    socket.listen(backlog).expect("the socket listens");
    socket.into()
}

/// Makes a listener with SO_REUSEPORT, as the workers of one proxy do, and does not mark it.
pub fn listen_shared(address: SocketAddr) -> TcpListener {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
    socket.set_reuse_port(true).expect("the option is set");
    socket
        .bind(&address.into())
        .expect("the address may be shared");
    socket.listen(16).expect("the socket listens");
    socket.into()
}

/// Sets the option LISTEN. Returns 0, or the error number.
pub fn mark(socket: impl AsFd, service: &RegisteredService) -> i32 {
    let value = service.credentials();
    sys::set_option(socket, kernel::SOL_SIDETRACK, kernel::LISTEN, value)
}

/// The same as [`mark`], for a process that has the credentials in hexadecimal.
pub fn mark_by_hex(socket: impl AsFd, credentials: &str) -> i32 {
    let byte = |at: usize| {
        u8::from_str_radix(&credentials[at..at + 2], 16).expect("the credentials are hexadecimal")
    };
    let value: Vec<u8> = (0..credentials.len()).step_by(2).map(byte).collect();
    sys::set_option(socket, kernel::SOL_SIDETRACK, kernel::LISTEN, &value)
}

/// Copies bytes in both directions until both ends have closed theirs, or one end was reset.
pub fn copy_both_ways(client: TcpStream, outgoing: TcpStream) -> io::Result<()> {
    let (from, to) = (client.try_clone()?, outgoing.try_clone()?);
    let up = thread::spawn(move || copy_one_way(from, to));
    copy_one_way(outgoing, client)?;
    let _ = up.join();
    Ok(())
}

fn copy_one_way(mut from: TcpStream, mut to: TcpStream) -> io::Result<()> {
    let copied = io::copy(&mut from, &mut to);
    match copied {
        Ok(_) => to.shutdown(Shutdown::Write),
        // The other direction waits for these sockets, and must not wait in vain.
        Err(error) => {
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
            Err(error)
        }
    }
}

impl Origin {
    /// Starts it at this address.
    pub fn start(address: &str) -> Self {
        let listener = TcpListener::bind(address).expect("the origin's address is free");
        let origin = Self {
            address: listener.local_addr().expect("the listener is bound"),
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

    /// Number of connections that it has accepted so far.
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
