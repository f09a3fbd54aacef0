//! Held clients without the kernel side: notices come from the test, and clients connect when they
//! are completed.

use std::io::{self, Read, Write};
use std::iter;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use super::super::source::{ConnectionSource, Notice};
use super::super::{ConnectionLoop, PendedLoops, prepare};
use super::*;
use crate::outcome::{ConnectMode, FlowVerdict, Outcome};
use crate::reactor::Stop;
use crate::rules::Rules;
use crate::settings::Settings;

const DEADLINE: Duration = Duration::from_secs(20);
/// Where the clients want to go, as far as rules are concerned.
const DESTINATION: &str = "192.0.2.1:80";

/// What the loops and the test have in common.
struct Service {
    listener: TcpListener,
    /// A semaphore that counts `notices`.
    ring: OwnedFd,
    notices: Mutex<VecDeque<Notice<TestPending>>>,
    clients: Arc<Clients>,
}

/// The clients that were let through.
#[derive(Default)]
struct Clients {
    /// The flows of the clients with these addresses.
    flows: Mutex<HashMap<SocketAddr, u64>>,
    /// See [`Arrival::InPairs`].
    first_of_pair: Mutex<Option<TestPending>>,
}

/// What a test sees, in the order in which it happens.
#[derive(Debug)]
enum Seen {
    Line(u64, Outcome),
    Connected(u64, TcpStream),
    Refused(u64, i32),
}

/// When a client connects after it was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrival {
    AtOnce,
    /// When a second client is let through.
    InPairs,
    Never,
}

struct TestUpstream {
    flow_id: u64,
    origin: SocketAddr,
}

impl Upstream for TestUpstream {
    fn flow_id(&self) -> u64 {
        self.flow_id
    }

    fn destination(&self) -> SocketAddr {
        DESTINATION.parse().unwrap()
    }

    fn connect(&self) -> Result<TcpStream, Error> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).unwrap();
        match socket.connect(&self.origin.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => {
                Err(system_error(error))
            }
            _ => Ok(socket.into()),
        }
    }
}

struct TestPending {
    flow_id: u64,
    origin: SocketAddr,
    proxy: SocketAddr,
    arrival: Arrival,
    clients: Arc<Clients>,
    seen: mpsc::Sender<Seen>,
}

impl PendingConnect for TestPending {
    type Upstream = TestUpstream;

    fn flow_id(&self) -> u64 {
        self.flow_id
    }

    fn destination(&self) -> SocketAddr {
        DESTINATION.parse().unwrap()
    }

    fn upstream(&self) -> Result<TestUpstream, Error> {
        let (flow_id, origin) = (self.flow_id, self.origin);
        Ok(TestUpstream { flow_id, origin })
    }

    fn connect(&self) -> Result<TcpStream, Error> {
        self.upstream()?.connect()
    }

    fn check_route(&self) -> Result<(), Error> {
        Ok(())
    }

    fn listening_socket(&self) -> usize {
        0
    }

    fn complete(self) -> Result<(), Error> {
        let (clients, arrival) = (Arc::clone(&self.clients), self.arrival);
        match arrival {
            Arrival::AtOnce => self.arrive(),
            Arrival::InPairs => {
                let mut first = clients.first_of_pair.lock().unwrap();
                match first.take() {
                    Some(first) => [first, self].into_iter().for_each(Self::arrive),
                    None => *first = Some(self),
                }
            }
            Arrival::Never => {}
        }
        Ok(())
    }

    fn refuse(self, error: &io::Error) {
        let number = error.raw_os_error().unwrap();
        let _ = self.seen.send(Seen::Refused(self.flow_id, number));
    }
}

impl TestPending {
    /// Connects to the proxy as the client of this flow.
    fn arrive(self) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        socket.bind(&any.into()).unwrap();
        let client = socket.local_addr().unwrap().as_socket().unwrap();
        self.clients
            .flows
            .lock()
            .unwrap()
            .insert(client, self.flow_id);
        socket.connect(&self.proxy.into()).unwrap();
        let _ = self.seen.send(Seen::Connected(self.flow_id, socket.into()));
    }
}

impl ConnectionSource for Service {
    type Upstream = TestUpstream;
    type Pending = TestPending;

    fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        iter::once(self.listener.as_fd())
    }

    fn accept(&self, _: usize) -> Result<Option<(TcpStream, TestUpstream)>, Error> {
        match self.listener.accept() {
            Ok((stream, client)) => {
                stream.set_nonblocking(true).unwrap();
                let flow_id = self.clients.flows.lock().unwrap()[&client];
                let origin = self.listener.local_addr().unwrap(); // not used, as it is connected
                Ok(Some((stream, TestUpstream { flow_id, origin })))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(system_error(error)),
        }
    }

    fn notices(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ring.as_fd())
    }

    fn next_notice(&self) -> Result<Option<Notice<TestPending>>, Error> {
        let notice = self.notices.lock().unwrap().pop_front();
        if notice.is_some() {
            rustix::io::read(&self.ring, &mut [0; 8]).unwrap();
        }
        Ok(notice)
    }
}

fn system_error(source: io::Error) -> Error {
    let what = "connect to the destination";
    Error::System { what, source }
}

/// Event loops, which run in threads.
struct Running {
    service: Arc<Service>,
    stop: Arc<Stop>,
    threads: Vec<JoinHandle<()>>,
    sender: mpsc::Sender<Seen>,
    seen: mpsc::Receiver<Seen>,
}

impl Running {
    /// Starts loops, each for so many connections at a time.
    fn start(deny: &[&str], loops: usize, connections_max: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        prepare(listener.as_fd());
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::SEMAPHORE;
        let service = Arc::new(Service {
            listener,
            ring: eventfd(0, flags).unwrap(),
            notices: Mutex::default(),
            clients: Arc::default(),
        });
        let (sender, seen) = mpsc::channel();
        let mut settings = Settings::default();
        let deny = deny.iter().map(|text| text.parse().unwrap()).collect();
        settings.rules = Rules::new(deny, vec![]);
        let stop = Arc::new(Stop::new().unwrap());
        let shared = Arc::new(PendedLoops::new(loops).unwrap());
        let threads = (0..loops).map(|index| {
            let (service, stop, shared) =
                (Arc::clone(&service), Arc::clone(&stop), Arc::clone(&shared));
            let (settings, sender) = (settings.clone(), sender.clone());
            thread::spawn(move || {
                let on_end = |upstream: TestUpstream, outcome| {
                    let _ = sender.send(Seen::Line(upstream.flow_id, outcome));
                };
                let pended = Some((&*shared, index));
                ConnectionLoop::new(
                    &*service,
                    &settings,
                    &stop,
                    connections_max,
                    pended,
                    &on_end,
                )
                .and_then(|mut one| one.run())
                .unwrap();
            })
        });
        Self {
            threads: threads.collect(),
            service,
            stop,
            sender,
            seen,
        }
    }

    /// A client's connect to `origin` is held from now on.
    fn hold(&self, flow_id: u64, origin: SocketAddr, arrival: Arrival) {
        self.notify(Notice::Pending(TestPending {
            flow_id,
            origin,
            proxy: self.service.listener.local_addr().unwrap(),
            arrival,
            clients: Arc::clone(&self.service.clients),
            seen: self.sender.clone(),
        }));
    }

    fn notify(&self, notice: Notice<TestPending>) {
        self.service.notices.lock().unwrap().push_back(notice);
        rustix::io::write(&self.service.ring, &1_u64.to_ne_bytes()).unwrap();
    }

    fn next(&self) -> Seen {
        self.seen.recv_timeout(DEADLINE).unwrap()
    }

    /// The next that is seen must be that this client was let through.
    fn connected(&self, flow_id: u64) -> TcpStream {
        match self.next() {
            Seen::Connected(id, client) if id == flow_id => client,
            other => panic!("{other:?}"),
        }
    }

    /// The next that is seen must be the line of this client.
    fn line(&self, flow_id: u64) -> Outcome {
        match self.next() {
            Seen::Line(id, outcome) if id == flow_id => outcome,
            other => panic!("{other:?}"),
        }
    }

    /// The next that is seen must be the refusal of this client. Returns the error.
    fn refused(&self, flow_id: u64) -> Errno {
        match self.next() {
            Seen::Refused(id, number) if id == flow_id => Errno::from_raw_os_error(number),
            other => panic!("{other:?}"),
        }
    }

    fn stop(self, grace: Duration) -> mpsc::Receiver<Seen> {
        self.stop.stop(grace);
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.seen
    }
}

fn origin() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An origin that does not answer a SYN, as its accept queue is full.
fn black_hole() -> (Socket, TcpStream, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let queued = TcpStream::connect(address).unwrap();
    (socket, queued, address)
}

fn accept_and_echo(origin: &TcpListener) {
    echo_byte(origin.accept().unwrap().0);
}

fn echo_byte(mut stream: TcpStream) {
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    stream.write_all(&byte).unwrap();
}

fn exchange(client: &mut TcpStream, byte: u8) {
    let mut answer = [0];
    client.write_all(&[byte]).unwrap();
    client.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [byte]);
}

#[test]
fn a_client_is_let_through_when_its_origin_has_accepted() {
    let (origin, address) = origin();
    let running = Running::start(&[], 1, 8);
    running.hold(7, address, Arrival::AtOnce);
    let mut client = running.connected(7);
    let echo = thread::spawn(move || accept_and_echo(&origin));
    exchange(&mut client, b'x');
    echo.join().unwrap();
    drop(client);
    let outcome = running.line(7);
    assert_eq!(outcome.connect, Some(ConnectMode::Pended));
    assert_eq!(outcome.flow_verdict(), FlowVerdict::Allow);
    assert_eq!(outcome.relayed.reason, CloseReason::Closed);
    assert_eq!(
        (outcome.relayed.bytes_up, outcome.relayed.bytes_down),
        (1, 1)
    );
    running.stop(DEADLINE);
}

#[test]
fn a_client_is_refused_with_the_error_of_its_origin_after_its_line() {
    let (_, address) = origin(); // closed again
    let running = Running::start(&[], 1, 8);
    running.hold(7, address, Arrival::AtOnce);
    let outcome = running.line(7);
    assert_eq!(running.refused(7), Errno::CONNREFUSED);
    let ended = outcome.relayed.reason.to_string();
    assert_eq!(ended, "connect failed: connection refused");
    assert_eq!(outcome.connect, Some(ConnectMode::Pended));
    assert_eq!(outcome.flow_verdict(), FlowVerdict::Failed);
    running.stop(DEADLINE);
}

#[test]
fn a_denied_address_is_refused_and_the_origin_sees_nothing() {
    let (origin, address) = origin();
    let running = Running::start(&["192.0.2.0/24"], 1, 8);
    running.hold(7, address, Arrival::AtOnce);
    assert_eq!(running.line(7).flow_verdict(), FlowVerdict::Deny);
    assert_eq!(running.refused(7), Errno::ACCESS);
    running.stop(DEADLINE);
    origin.set_nonblocking(true).unwrap();
    origin.accept().expect_err("the proxy has connected");
}

#[test]
fn a_client_whose_host_must_be_known_is_accepted_first() {
    let (origin, address) = origin();
    let running = Running::start(&["denied.example"], 1, 8);
    running.hold(7, address, Arrival::AtOnce);
    let mut client = running.connected(7);
    let head = b"GET / HTTP/1.1\r\nHost: denied.example\r\n\r\n";
    client.write_all(head).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    drop(client);
    let outcome = running.line(7);
    assert_eq!(outcome.connect, Some(ConnectMode::Accepted));
    assert_eq!(outcome.flow_verdict(), FlowVerdict::Deny);
    running.stop(DEADLINE);
    origin.set_nonblocking(true).unwrap();
    origin.accept().expect_err("the proxy has connected");
}

#[test]
fn a_client_may_give_up_while_it_is_held() {
    let (_hole, _queued, address) = black_hole();
    let running = Running::start(&[], 2, 8);
    for flow_id in 0..20 {
        running.hold(flow_id, address, Arrival::AtOnce);
        running.notify(Notice::Gone(flow_id));
        let outcome = running.line(flow_id);
        assert_eq!(outcome.relayed.reason, CloseReason::ClientGaveUp);
        assert_eq!(outcome.flow_verdict(), FlowVerdict::Failed);
        assert_eq!(running.refused(flow_id), Errno::CONNREFUSED); // which reaches no client any more
    }
    running.stop(DEADLINE);
}

#[test]
fn a_client_that_does_not_arrive_keeps_its_origin_until_it_is_gone() {
    let (origin, address) = origin();
    let running = Running::start(&[], 1, 8);
    running.hold(7, address, Arrival::Never);
    let (mut at_origin, _) = origin.accept().unwrap();
    running.notify(Notice::Gone(7));
    let outcome = running.line(7);
    assert_eq!(outcome.relayed.reason, CloseReason::ClientGaveUp);
    assert_eq!(outcome.flow_verdict(), FlowVerdict::Failed);
    let error = at_origin.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    running.stop(DEADLINE);
}

#[test]
fn held_clients_wait_for_room_and_may_give_up() {
    let (_hole, _queued, address) = black_hole();
    let (origin, open) = origin();
    let running = Running::start(&[], 1, 1);
    running.hold(1, address, Arrival::AtOnce);
    running.hold(2, open, Arrival::AtOnce);
    running.hold(3, open, Arrival::AtOnce);
    running.notify(Notice::Gone(2));
    assert_eq!(running.line(2).relayed.reason, CloseReason::ClientGaveUp);
    running.refused(2);
    running.notify(Notice::Gone(1));
    running.line(1);
    running.refused(1);
    let mut client = running.connected(3); // now there is room
    let echo = thread::spawn(move || accept_and_echo(&origin));
    exchange(&mut client, b'x');
    echo.join().unwrap();
    running.stop(Duration::ZERO);
}

#[test]
fn a_stop_refuses_what_is_held() {
    let (_hole, _queued, address) = black_hole();
    let running = Running::start(&[], 1, 8);
    running.hold(1, address, Arrival::AtOnce);
    running.hold(2, address, Arrival::AtOnce);
    running.notify(Notice::Gone(1));
    running.line(1); // so the other one was begun with
    running.refused(1);
    let seen = running.stop(Duration::ZERO);
    let Ok(Seen::Line(2, outcome)) = seen.recv() else {
        panic!("no line");
    };
    assert_eq!(outcome.relayed.reason, CloseReason::Stopped);
    assert!(matches!(seen.recv(), Ok(Seen::Refused(2, _))));
}

#[test]
fn a_stopped_loop_begins_with_no_further_client() {
    let (_hole, _queued, address) = black_hole();
    let running = Running::start(&[], 1, 8);
    running.hold(1, address, Arrival::AtOnce);
    running.hold(2, address, Arrival::AtOnce);
    running.notify(Notice::Gone(2));
    running.line(2);
    running.refused(2);
    running.stop.stop(DEADLINE); // it waits for the first one
    running.hold(3, address, Arrival::AtOnce);
    assert_eq!(running.line(3).relayed.reason, CloseReason::Stopped);
    assert_eq!(running.refused(3), Errno::CONNREFUSED);
    running.notify(Notice::Gone(1));
    running.line(1);
    running.refused(1);
    running.stop(Duration::ZERO);
}

#[test]
fn each_client_reaches_the_loop_that_holds_it() {
    const CLIENTS: u64 = 200;
    let (origin, address) = origin();
    let echo = thread::spawn(move || {
        for _ in 0..CLIENTS {
            let (stream, _) = origin.accept().unwrap();
            thread::spawn(move || echo_byte(stream));
        }
    });
    let running = Running::start(&[], 4, 1000);
    for flow_id in 0..CLIENTS {
        // The loop that lets the second one of a pair through accepts the first one too.
        running.hold(flow_id, address, Arrival::InPairs);
    }
    let mut lines = 0;
    while lines < CLIENTS {
        match running.next() {
            Seen::Connected(flow_id, mut client) => exchange(&mut client, flow_id as u8),
            Seen::Line(flow_id, outcome) => {
                assert_eq!(outcome.relayed.reason, CloseReason::Closed, "{flow_id}");
                assert_eq!(outcome.connect, Some(ConnectMode::Pended), "{flow_id}");
                lines += 1;
            }
            Seen::Refused(flow_id, error) => panic!("{flow_id} was refused: {error}"),
        }
    }
    echo.join().unwrap();
    running.stop(DEADLINE);
}
