//! Connections with numbers: each goes to another address, which is its number, and sends it. Both
//! proxies and the origin record what they see.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::net::{self, SocketAddr};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use e2e::Host;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::listen;
use sidetrack::tokio::Listener;
use sidetrack::{Error, Notice, Pending};
use socket2::SockRef;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

/// The port of all destinations.
const PORT: u16 = 80;

/// How often each number was seen.
type Numbers = Arc<Mutex<BTreeMap<SocketAddr, u32>>>;

/// Connections of the client's action `storm`.
pub(super) struct Load {
    threads: u32,
    count: u32,
    options: Vec<String>,
}

impl Load {
    /// This number of threads, each with this number of connections.
    pub(super) fn of(threads: u32, count: u32) -> Self {
        Self {
            threads,
            count,
            options: Vec::new(),
        }
    }

    /// The same with more options.
    pub(super) fn with(mut self, options: &[&str]) -> Self {
        self.options
            .extend(options.iter().map(|&one| one.to_owned()));
        self
    }

    pub(super) fn total(&self) -> u32 {
        self.threads * self.count
    }

    /// The arguments of the client.
    pub(super) fn arguments(&self) -> Vec<String> {
        let (threads, count) = (self.threads.to_string(), self.count.to_string());
        let port = PORT.to_string();
        let fixed = [
            "storm",
            "--threads",
            &threads,
            "--count",
            &count,
            "--port",
            &port,
            "--send-destination",
        ];
        let fixed = fixed.into_iter().map(str::to_owned);
        fixed.chain(self.options.iter().cloned()).collect()
    }
}

/// Two services that pend, in a chain, with a proxy each in this process, and an origin.
pub(super) struct Services {
    seen: [Numbers; 2],
    pub(super) origin: NumberOrigin,
    _runtime: Runtime,
}

impl Services {
    pub(super) fn start(host: &mut Host) -> Self {
        let origin = NumberOrigin::start();
        let runtime = runtime(2);
        let services = ["a", "b"].map(|name| host.pended_service(name));
        let seen = [Numbers::default(), Numbers::default()];
        for ((_, sdk), seen) in services.iter().zip(&seen) {
            let _runtime = runtime.enter();
            let listener = Listener::bind(sdk).expect("the listener is marked");
            runtime.spawn(relay_all(listener, Arc::clone(seen)));
        }
        host.redirect_all(&[&services[0].0, &services[1].0]);
        Self {
            seen,
            origin,
            _runtime: runtime,
        }
    }

    /// Checks that both proxies and the origin have seen each number once, and no other one.
    pub(super) fn assert_each_once(&self, load: &Load) {
        let places = [
            ("proxy a", &self.seen[0]),
            ("proxy b", &self.seen[1]),
            ("origin", &self.origin.seen),
        ];
        for (place, numbers) in places {
            let numbers = numbers.lock().expect("no holder panics");
            assert_eq!(numbers.len(), load.total() as usize, "{place}");
            let others: Vec<_> = numbers.iter().filter(|(_, times)| **times != 1).collect();
            assert!(others.is_empty(), "{place}: {others:?}");
        }
        self.origin.assert_not_mixed();
    }
}

fn runtime(threads: usize) -> Runtime {
    let runtime = Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build();
    runtime.expect("the runtime starts")
}

async fn relay_all(listener: Listener, seen: Numbers) {
    loop {
        let pending = listener.pended().await.expect("a connect is held");
        record(&seen, pending.original_destination());
        tokio::spawn(relay(pending));
    }
}

async fn relay(pending: Pending) {
    match pending.connect_async().await {
        Ok(mut origin) => {
            if let Ok(mut client) = pending.complete_async(&origin).await {
                let _ = copy_bidirectional(&mut client, &mut origin).await;
            }
        }
        Err(Error::System { source, .. }) => {
            let _ = pending.refuse(&source);
        }
        Err(_) => {} // which refuses the client
    }
}

/// An origin at every address, which expects that each client sends the address that it connects to.
pub(super) struct NumberOrigin {
    seen: Numbers,
    mixed: Arc<Mutex<Vec<String>>>,
    _runtime: Runtime,
}

impl NumberOrigin {
    pub(super) fn start() -> Self {
        let runtime = runtime(1);
        let any = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, PORT));
        let listener = runtime.block_on(TcpListener::bind(any));
        let listener = listener.expect("the namespace is new");
        listen(&listener, 4096).expect("the socket listens already");
        let (seen, mixed) = (Numbers::default(), Arc::<Mutex<Vec<String>>>::default());
        let origin = Self {
            seen: Arc::clone(&seen),
            mixed: Arc::clone(&mixed),
            _runtime: runtime,
        };
        origin._runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&seen), Arc::clone(&mixed)));
            }
        });
        origin
    }

    pub(super) fn assert_not_mixed(&self) {
        let mixed = self.mixed.lock().expect("no holder panics");
        assert!(mixed.is_empty(), "{mixed:?}");
    }

    /// Number of connections that sent what they had to.
    pub(super) fn answered(&self) -> u64 {
        let seen = self.seen.lock().expect("no holder panics");
        seen.values().map(|&times| u64::from(times)).sum()
    }
}

async fn answer(stream: TcpStream, seen: Numbers, mixed: Arc<Mutex<Vec<String>>>) {
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let number = SocketAddr::new(local.ip().to_canonical(), local.port());
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    if stream.read_line(&mut line).await.is_err() || line.is_empty() {
        return; // the client or a proxy has ended
    }
    if line.trim_end() != number.to_string() {
        let mut mixed = mixed.lock().expect("no holder panics");
        mixed.push(format!("{number} was sent {line:?}"));
    }
    record(&seen, number);
    let _ = stream.write_all(line.trim_end().as_bytes()).await;
    let _ = stream.shutdown().await;
}

fn record(numbers: &Numbers, number: SocketAddr) {
    let mut numbers = numbers.lock().expect("no holder panics");
    *numbers.entry(number).or_default() += 1;
}

/// Accepts each connect that is held, and answers it with its destination.
pub(super) fn answer_each(listener: &sidetrack::Listener) {
    while let Ok(pending) = listener.pended() {
        let destination = pending.original_destination().to_string();
        if let Ok(mut stream) = pending.accept() {
            let _ = SockRef::from(&stream).set_tcp_nodelay(true);
            let _ = stream.write_all(destination.as_bytes());
        }
    }
}

/// How long no further connect must come before a batch is completed.
const BATCH_ENDS: Duration = Duration::from_millis(5);

/// Completes all connects that are held, before any of them is accepted. Answers each with its
/// destination.
pub(super) fn answer_in_batches(listener: &sidetrack::Listener) {
    let notices = listener.pended_fd().expect("the listener pends");
    let listening = listener.sockets().next().expect("there is one for IPv4");
    let wait = Timespec::try_from(BATCH_ENDS).expect("it is short");
    let mut held = Vec::new();
    loop {
        while let Some(notice) = listener.try_pended().expect("notices are read") {
            if let Notice::Pending(pending) = notice {
                held.push(pending);
            }
        }
        let mut waited = [
            PollFd::new(&notices, PollFlags::IN),
            PollFd::new(&listening, PollFlags::IN),
        ];
        if poll(&mut waited, Some(&wait)).expect("the descriptors are open") == 0 {
            for pending in held.drain(..) {
                let _ = pending.complete_nonblocking(); // its client may have gone
            }
        }
        while let Some(connection) = listener.try_accept(0).expect("accept works") {
            let (stream, flow) = connection.into_parts();
            let destination = flow.original_destination();
            thread::spawn(move || answer_as(stream, destination));
        }
    }
}

/// Reads the client's line, and answers it.
fn answer_as(mut stream: net::TcpStream, destination: SocketAddr) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let mut line = String::new();
    io::BufReader::new(&stream).read_line(&mut line)?;
    stream.write_all(destination.to_string().as_bytes())
}
