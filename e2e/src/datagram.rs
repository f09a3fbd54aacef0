//! Proxies and origins of datagrams that the test process runs itself.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use sidetrack::{Batch, DatagramListener, Flow};
use sidetrack_engine::Service;

use crate::proxy::sdk;

/// Datagrams taken at once.
const BATCH: usize = 64;
const SIZE: usize = 65_536;

/// A proxy of datagrams at work in this process, until the process ends.
pub struct RunningDatagrams {
    /// Its sockets.
    pub listener: Arc<DatagramListener>,
    flows: Arc<Mutex<Vec<Arc<Flow>>>>,
    datagrams: Arc<AtomicU64>,
}

impl RunningDatagrams {
    /// The flows it has been told of so far.
    pub fn flows(&self) -> Vec<Arc<Flow>> {
        self.flows.lock().expect("no holder panics").clone()
    }

    /// The datagrams it has taken so far.
    pub fn datagrams(&self) -> u64 {
        self.datagrams.load(Ordering::Relaxed)
    }

    fn start(
        service: &Service,
        mut handle: impl FnMut(&Arc<DatagramListener>, &Arc<Flow>, &[u8]) + Send + 'static,
    ) -> Self {
        let listener = DatagramListener::bind(&sdk(service)).expect("the listener is accepted");
        let running = Self {
            listener: Arc::new(listener),
            flows: Arc::default(),
            datagrams: Arc::default(),
        };
        let listener = Arc::clone(&running.listener);
        let flows = Arc::clone(&running.flows);
        let datagrams = Arc::clone(&running.datagrams);
        thread::spawn(move || {
            let mut batch = Batch::new(BATCH, SIZE);
            loop {
                listener.receive(&mut batch).expect("receive works");
                for datagram in batch.iter() {
                    datagrams.fetch_add(1, Ordering::Relaxed);
                    if datagram.is_first() {
                        let mut flows = flows.lock().expect("no holder panics");
                        flows.push(Arc::clone(datagram.flow()));
                    }
                    handle(&listener, datagram.flow(), datagram.payload());
                }
            }
        });
        running
    }
}

pub(crate) fn echo(service: &Service) -> RunningDatagrams {
    RunningDatagrams::start(service, |listener, flow, payload| {
        let _ = listener.answer(flow, payload); // its client may be gone
    })
}

/// Goes on with a socket and a thread for each flow.
pub(crate) fn relay(service: &Service) -> RunningDatagrams {
    let mut onward: HashMap<u64, UdpSocket> = HashMap::new();
    RunningDatagrams::start(service, move |listener, flow, payload| {
        let socket = onward.entry(flow.id()).or_insert_with(|| {
            let socket = flow.connect_datagrams().expect("goes on");
            let back = socket.try_clone().expect("a descriptor is free");
            let (listener, flow) = (Arc::clone(listener), Arc::clone(flow));
            thread::spawn(move || {
                let mut buffer = vec![0; SIZE];
                while let Ok(length) = back.recv(&mut buffer) {
                    let _ = listener.answer(&flow, &buffer[..length]);
                }
            });
            socket
        });
        let _ = socket.send(payload);
    })
}

/// A UDP server outside the scope, which sends back what it gets.
pub struct EchoOrigin {
    /// Where it is.
    pub address: SocketAddr,
    datagrams: Arc<AtomicU64>,
}

impl EchoOrigin {
    /// At this address.
    pub fn start(address: &str) -> Self {
        let socket = UdpSocket::bind(address).expect("the origin's address is free");
        let origin = Self {
            address: socket.local_addr().expect("it is bound"),
            datagrams: Arc::default(),
        };
        let datagrams = Arc::clone(&origin.datagrams);
        thread::spawn(move || {
            let mut buffer = vec![0; SIZE];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                datagrams.fetch_add(1, Ordering::Relaxed);
                let _ = socket.send_to(&buffer[..length], from);
            }
        });
        origin
    }

    /// How many datagrams it has had.
    pub fn datagrams(&self) -> u64 {
        self.datagrams.load(Ordering::Relaxed)
    }
}
