use std::cell::RefCell;
use std::io::{Read, Write};
use std::iter;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use super::source::{NoPending, Notice};
use super::*;
use crate::reactor::LISTENER_PAUSE;

const DEADLINE: Duration = Duration::from_secs(10);

/// A source with a test's listener, whose connections all go to `origin`.
struct Local {
    listener: TcpListener,
    origin: SocketAddr,
}

struct TestUpstream(SocketAddr);

impl Upstream for TestUpstream {
    fn flow_id(&self) -> u64 {
        1
    }

    fn destination(&self) -> SocketAddr {
        self.0
    }

    fn connect(&self) -> Result<TcpStream, Error> {
        let stream = TcpStream::connect(self.0).map_err(accept_error)?;
        stream.set_nonblocking(true).map_err(accept_error)?;
        Ok(stream)
    }
}

impl ConnectionSource for Local {
    type Upstream = TestUpstream;
    type Pending = NoPending<TestUpstream>;

    fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        iter::once(self.listener.as_fd())
    }

    fn accept(&self, _: usize) -> Result<Option<(TcpStream, TestUpstream)>, Error> {
        let (stream, _) = self.listener.accept().map_err(accept_error)?;
        stream.set_nonblocking(true).map_err(accept_error)?;
        Ok(Some((stream, TestUpstream(self.origin))))
    }

    fn notices(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn next_notice(&self) -> Result<Option<Notice<NoPending<TestUpstream>>>, Error> {
        Ok(None)
    }
}

fn accept_error(source: io::Error) -> Error {
    let what = "accept";
    Error::System { what, source }
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Runs an event loop for `connections_max` connections in a thread. Returns the outcomes, and the
/// thread.
fn serve(
    listener: TcpListener,
    origin: SocketAddr,
    connections_max: usize,
    stop: Arc<Stop>,
) -> (
    mpsc::Receiver<Outcome>,
    thread::JoinHandle<Result<(), Error>>,
) {
    listener.set_nonblocking(true).unwrap();
    let (send, ended) = mpsc::channel();
    let served = thread::spawn(move || {
        let (local, settings) = (Local { listener, origin }, Settings::default());
        let on_end = |_, outcome| send.send(outcome).unwrap();
        ConnectionLoop::new(&local, &settings, &stop, connections_max, None, &on_end)?.run()
    });
    (ended, served)
}

/// Connects through the loop, and waits until the origin has received a byte. Returns the client's
/// and the origin's socket.
fn connect(proxy: SocketAddr, origin: &TcpListener) -> (TcpStream, TcpStream) {
    let mut client = TcpStream::connect(proxy).unwrap();
    client.write_all(b"\0").unwrap();
    let (mut at_origin, _) = origin.accept().unwrap();
    at_origin.read_exact(&mut [0]).unwrap();
    (client, at_origin)
}

#[test]
fn a_stop_waits_for_open_connections_and_then_closes_them() {
    for (grace, wanted) in [
        (DEADLINE, CloseReason::Closed),
        (Duration::ZERO, CloseReason::Stopped),
    ] {
        let ((proxy, proxy_address), (origin, origin_address)) = (listener(), listener());
        let stop = Arc::new(Stop::new().unwrap());
        let (ended, served) = serve(proxy, origin_address, 8, Arc::clone(&stop));
        let open = connect(proxy_address, &origin);
        stop.stop(grace);
        if wanted == CloseReason::Closed {
            drop(open);
        }
        let outcome = ended.recv_timeout(DEADLINE).unwrap();
        assert_eq!(
            (outcome.relayed.reason, outcome.relayed.bytes_up),
            (wanted, 1)
        );
        served.join().unwrap().unwrap();
        TcpStream::connect(proxy_address).unwrap_err();
    }
}

#[test]
fn no_more_than_the_largest_number_of_connections_are_accepted() {
    let ((proxy, proxy_address), (origin, origin_address)) = (listener(), listener());
    let stop = Arc::new(Stop::new().unwrap());
    let (ended, served) = serve(proxy, origin_address, 2, Arc::clone(&stop));
    let first = connect(proxy_address, &origin);
    let second = connect(proxy_address, &origin);
    let mut third = TcpStream::connect(proxy_address).unwrap(); // in the listener's backlog
    third.write_all(b"\0").unwrap();
    origin.set_nonblocking(true).unwrap();
    // The loop handles events during this time, and does not accept the third one.
    let (mut client, mut at_origin) = second;
    for _ in 0..100 {
        client.write_all(b"x").unwrap();
        at_origin.read_exact(&mut [0]).unwrap();
    }
    origin.accept().expect_err("a third one was accepted");
    origin.set_nonblocking(false).unwrap();
    drop(first);
    origin.accept().unwrap().0.read_exact(&mut [0]).unwrap();
    assert_eq!(
        ended.recv_timeout(DEADLINE).unwrap().relayed.reason,
        CloseReason::Closed
    );
    stop.stop(Duration::ZERO);
    served.join().unwrap().unwrap();
}

/// A source that always has a waiting connection, and fails to accept it.
struct Failing {
    listener: TcpListener,
    /// What accept returns, the last one first.
    errors: RefCell<Vec<Error>>,
}

impl ConnectionSource for Failing {
    type Upstream = TestUpstream;
    type Pending = NoPending<TestUpstream>;

    fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        iter::once(self.listener.as_fd())
    }

    fn accept(&self, _: usize) -> Result<Option<(TcpStream, TestUpstream)>, Error> {
        Err(self.errors.borrow_mut().pop().unwrap())
    }

    fn notices(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn next_notice(&self) -> Result<Option<Notice<NoPending<TestUpstream>>>, Error> {
        Ok(None)
    }
}

#[test]
fn errors_that_pass_pause_the_loop_and_final_ones_end_it() {
    let (listener, address) = listener();
    let _waiting = TcpStream::connect(address).unwrap();
    let no_descriptors = accept_error(io::Error::from_raw_os_error(24)); // EMFILE
    let errors = vec![Error::NoEngine, no_descriptors, Error::NoContext];
    let errors = RefCell::new(errors);
    let failing = Failing { listener, errors };
    let (settings, stop) = (Settings::default(), Stop::new().unwrap());
    let begun = Instant::now();
    let on_end = |_, _| unreachable!("none was accepted");
    let ended = ConnectionLoop::new(&failing, &settings, &stop, 8, None, &on_end)
        .unwrap()
        .run();
    assert!(matches!(ended, Err(Error::NoEngine)));
    assert!(begun.elapsed() >= 2 * LISTENER_PAUSE);
}
