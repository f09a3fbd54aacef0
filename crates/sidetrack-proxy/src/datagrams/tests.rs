use std::collections::HashMap;
use std::iter;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{PoisonError, mpsc};
use std::thread;

use sidetrack::Unreachable;

use super::*;
use crate::close_reason::CloseReason;
use crate::reactor::LISTENER_PAUSE;
use crate::upstream::DatagramUpstream;

const DEADLINE: Duration = Duration::from_secs(10);

/// A flow of a test: all datagrams of one client, on their way to one origin.
struct TestFlow {
    id: u64,
    client: SocketAddr,
    origin: SocketAddr,
}

impl DatagramUpstream for TestFlow {
    fn id(&self) -> u64 {
        self.id
    }

    fn destination(&self) -> SocketAddr {
        self.origin
    }

    fn connect(&self) -> Result<UdpSocket, Error> {
        let connect = || {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket.connect(self.origin)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        connect().map_err(system_error)
    }
}

/// A source with a socket of the test, to which clients send without redirection.
struct Local {
    listener: UdpSocket,
    origin: SocketAddr,
    flows: Mutex<HashMap<SocketAddr, Arc<TestFlow>>>,
    /// Whether receiving fails, for a reason that may pass.
    is_failing: AtomicBool,
    /// How often receiving was tried while it failed.
    failed: AtomicUsize,
}

impl Local {
    /// A source whose flows all go to `origin`.
    fn new(origin: SocketAddr) -> Self {
        let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self {
            listener,
            origin,
            flows: Mutex::default(),
            is_failing: AtomicBool::new(false),
            failed: AtomicUsize::new(0),
        }
    }

    fn flow(&self, client: SocketAddr) -> Arc<TestFlow> {
        let mut flows = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        let id = flows.len() as u64;
        let flow = flows.entry(client).or_insert_with(|| {
            Arc::new(TestFlow {
                id,
                client,
                origin: self.origin,
            })
        });
        Arc::clone(flow)
    }
}

impl DatagramSource for Local {
    type Flow = TestFlow;
    type Batch = Vec<(Arc<TestFlow>, Vec<u8>)>;

    fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        iter::once(self.listener.as_fd())
    }

    fn new_batch(&self) -> Self::Batch {
        Vec::new()
    }

    fn receive(&self, _: usize, batch: &mut Self::Batch) -> Result<(), Error> {
        batch.clear();
        if self.is_failing.load(Ordering::Relaxed) {
            self.failed.fetch_add(1, Ordering::Relaxed);
            return Err(no_memory());
        }
        let mut buffer = [0; 1500];
        let (length, client) = self.listener.recv_from(&mut buffer).map_err(system_error)?;
        batch.push((self.flow(client), buffer[..length].to_vec()));
        Ok(())
    }

    fn datagrams(batch: &Self::Batch) -> impl Iterator<Item = ClientDatagram<'_, TestFlow>> {
        (batch.iter()).map(|(flow, payload)| ClientDatagram { flow, payload })
    }

    fn answer_all(&self, answers: &[(&TestFlow, &[u8])]) -> Result<usize, Error> {
        for (flow, payload) in answers {
            (self.listener.send_to(payload, flow.client)).map_err(system_error)?;
        }
        Ok(answers.len())
    }

    fn report(&self, _: &TestFlow, _: Unreachable) -> Result<(), Error> {
        Ok(())
    }

    fn forget(&self, flow: &TestFlow) {
        let mut flows = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        flows.remove(&flow.client);
    }
}

fn system_error(source: io::Error) -> Error {
    let what = "use a socket of a test";
    Error::System { what, source }
}

fn no_memory() -> Error {
    system_error(io::Error::from_raw_os_error(12)) // ENOMEM
}

/// A socket that waits at most [`DEADLINE`] for a datagram.
fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// Receives a datagram, which must be `wanted`. Returns who sent it.
fn expect(socket: &UdpSocket, wanted: &[u8]) -> SocketAddr {
    let mut buffer = [0; 1500];
    let (length, from) = socket.recv_from(&mut buffer).expect("no datagram in time");
    assert_eq!(&buffer[..length], wanted);
    from
}

/// Stops a loop also if the test panics.
struct StopOnDrop<'a>(&'a Stop);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop(Duration::ZERO);
    }
}

/// Runs a loop for `source` until `test` has ended, which is given the outcomes of flows.
fn with_loop(
    source: &Local,
    test: impl FnOnce(&Stop, &mpsc::Receiver<(Outcome, Datagrams)>),
) -> Counts {
    let (send, ended) = mpsc::channel();
    let (settings, names, stop) = (Settings::default(), Mutex::default(), Stop::new().unwrap());
    let stop = &stop;
    thread::scope(|scope| {
        let served = scope.spawn(move || {
            let on_end = |_: &TestFlow, outcome, datagrams| {
                let _ = send.send((outcome, datagrams)); // the test may not wait for it
            };
            DatagramLoop::new(source, &settings, &names, stop, &on_end)?.run()
        });
        let stopped = StopOnDrop(stop);
        test(stop, &ended);
        drop(stopped);
        served.join().unwrap().unwrap()
    })
}

#[test]
fn a_stop_ends_the_flows_after_their_datagrams_were_relayed() {
    let (client, origin) = (socket(), socket());
    let source = Local::new(origin.local_addr().unwrap());
    let listener = source.listener.local_addr().unwrap();
    with_loop(&source, |stop, ended| {
        client.send_to(b"question", listener).unwrap();
        let relay = expect(&origin, b"question");
        origin.send_to(b"answer", relay).unwrap();
        expect(&client, b"answer");
        stop.stop(Duration::ZERO);
        let (outcome, datagrams) = ended.recv_timeout(DEADLINE).unwrap();
        assert_eq!(outcome.relayed.reason, CloseReason::Stopped);
        assert_eq!(
            (outcome.relayed.bytes_up, outcome.relayed.bytes_down),
            (8, 6)
        );
        assert_eq!((datagrams.up, datagrams.down), (1, 1));
    });
    assert!(source.flows.lock().unwrap().is_empty());
}

#[test]
fn a_listener_whose_receive_fails_does_not_delay_answers() {
    const ANSWERS: usize = 100;
    let (client, origin) = (socket(), socket());
    let source = Local::new(origin.local_addr().unwrap());
    let listener = source.listener.local_addr().unwrap();
    with_loop(&source, |_, _| {
        client.send_to(b"first", listener).unwrap();
        let relay = expect(&origin, b"first");
        source.is_failing.store(true, Ordering::Relaxed);
        client.send_to(b"second", listener).unwrap(); // stays in the listener's buffer
        for number in 0..ANSWERS {
            let answer = number.to_ne_bytes();
            origin.send_to(&answer, relay).unwrap();
            expect(&client, &answer);
        }
        // A loop that slept after each failure would have relayed one answer for each.
        let failed = source.failed.load(Ordering::Relaxed);
        assert!((1..ANSWERS / 2).contains(&failed), "{failed} failures");
        source.is_failing.store(false, Ordering::Relaxed);
        expect(&origin, b"second"); // the listener is heard again
    });
}

/// A source whose listener is always readable, and whose receive always fails.
struct Failing {
    listener: UdpSocket,
    /// What receive returns, the last one first.
    errors: Mutex<Vec<Error>>,
}

impl DatagramSource for Failing {
    type Flow = TestFlow;
    type Batch = ();

    fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        iter::once(self.listener.as_fd())
    }

    fn new_batch(&self) {}

    fn receive(&self, _: usize, (): &mut ()) -> Result<(), Error> {
        Err(self.errors.lock().unwrap().pop().unwrap())
    }

    fn datagrams((): &()) -> impl Iterator<Item = ClientDatagram<'_, TestFlow>> {
        iter::empty()
    }

    fn answer_all(&self, _: &[(&TestFlow, &[u8])]) -> Result<usize, Error> {
        unreachable!("there is no flow")
    }

    fn report(&self, _: &TestFlow, _: Unreachable) -> Result<(), Error> {
        unreachable!("there is no flow")
    }

    fn forget(&self, _: &TestFlow) {}
}

#[test]
fn errors_that_pass_pause_the_listener_and_final_ones_end_the_loop() {
    let invalid = system_error(io::ErrorKind::InvalidInput.into());
    for last in [invalid, Error::NoEngine] {
        let listener = socket();
        let address = listener.local_addr().unwrap();
        socket().send_to(b"waiting", address).unwrap();
        let none = system_error(io::ErrorKind::WouldBlock.into());
        let errors = Mutex::new(vec![last, no_memory(), Error::NoContext, none]);
        let failing = Failing { listener, errors };
        let (settings, names, stop) = (Settings::default(), Mutex::default(), Stop::new().unwrap());
        let begun = Instant::now();
        let on_end = |_: &TestFlow, _, _| unreachable!("there is no flow");
        let ended = DatagramLoop::new(&failing, &settings, &names, &stop, &on_end)
            .unwrap()
            .run();
        assert!(matches!(ended, Err(Error::NoEngine)));
        assert!(begun.elapsed() >= 2 * LISTENER_PAUSE);
    }
}
