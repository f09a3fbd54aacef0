//! A relay in a process without a free descriptor. This test has its own process, since the limit
//! is the process's.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sidetrack_proxy::Settings;
use sidetrack_proxy::close_reason::CloseReason;
use sidetrack_proxy::connections::relay_connection;
use sidetrack_proxy::reactor::Stop;
use sidetrack_proxy::relay::COPY_SIZE;
use sidetrack_proxy::upstream::Upstream;

/// An upstream that is connected already, and lowers the limit of descriptors in `connect` so that
/// none is free.
struct ConnectedUpstream(TcpStream);

impl Upstream for ConnectedUpstream {
    fn flow_id(&self) -> u64 {
        1
    }

    fn destination(&self) -> SocketAddr {
        "192.0.2.1:1".parse().unwrap()
    }

    fn connect(&self) -> Result<TcpStream, sidetrack::Error> {
        let connected = self.0.try_clone().unwrap();
        connected.set_nonblocking(true).unwrap();
        let none_left = Rlimit {
            current: Some(3),
            ..getrlimit(Resource::Nofile)
        };
        setrlimit(Resource::Nofile, none_left).unwrap();
        rustix::pipe::pipe().expect_err("a descriptor was left");
        Ok(connected)
    }
}

#[test]
fn without_descriptors_for_pipes_it_copies() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    accepted.set_nonblocking(true).unwrap();
    let connected = ConnectedUpstream(TcpStream::connect(address).unwrap());
    let (mut origin, _) = listener.accept().unwrap();

    let stop = Stop::new().unwrap();
    let relay =
        thread::spawn(move || relay_connection(accepted, connected, &Settings::default(), &stop));
    let size = 16 * COPY_SIZE;
    let sending = thread::spawn(move || {
        client.write_all(&vec![7; size]).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        client
    });
    let mut got = vec![0; size];
    origin.read_exact(&mut got).unwrap();
    assert!(got == vec![7; size]);
    drop(origin);
    let client = sending.join().unwrap();
    let relayed = relay.join().unwrap().unwrap().relayed;
    drop(client);
    assert_eq!(
        (relayed.reason, relayed.bytes_up),
        (CloseReason::Closed, size as u64)
    );
}
