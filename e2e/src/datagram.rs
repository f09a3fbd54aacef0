//! Datagram proxies and origins that run in the test's own process.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use sidetrack::{Batch, DatagramListener, Flow};
use sidetrack_engine::RegisteredService;

use crate::proxy::sdk_service;

/// Most datagrams that one call receives.
const BATCH: usize = 64;
/// Room for one datagram, in bytes.
const SIZE: usize = 65_536;

/// A datagram proxy that runs in this process until the process ends.
pub struct RunningDatagramProxy {
    /// The proxy's sockets.
    pub listener: Arc<DatagramListener>,
    flows: Arc<Mutex<Vec<Arc<Flow>>>>,
    datagrams: Arc<AtomicU64>,
}

impl RunningDatagramProxy {
    /// The flows whose first datagram it has received so far.
    pub fn flows(&self) -> Vec<Arc<Flow>> {
        self.flows.lock().expect("no holder panics").clone()
    }

    /// Number of datagrams that it has received so far.
    pub fn datagrams(&self) -> u64 {
        self.datagrams.load(Ordering::Relaxed)
    }

    fn start(
        service: &RegisteredService,
        mut handle: impl FnMut(&Arc<DatagramListener>, &Arc<Flow>, &[u8]) + Send + 'static,
    ) -> Self {
        let listener =
            DatagramListener::bind(&sdk_service(service)).expect("the listener is marked");
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

pub(crate) fn echo(service: &RegisteredService) -> RunningDatagramProxy {
    RunningDatagramProxy::start(service, |listener, flow, payload| {
        let _ = listener.answer(flow, payload); // the client may have ended
    })
}

/// Relays each flow with its own outgoing socket, and its own thread for the answers.
pub(crate) fn relay(service: &RegisteredService) -> RunningDatagramProxy {
    let mut outgoing: HashMap<u64, UdpSocket> = HashMap::new();
    RunningDatagramProxy::start(service, move |listener, flow, payload| {
        let socket = outgoing.entry(flow.id()).or_insert_with(|| {
            let socket = flow
                .connect_datagrams()
                .expect("the outgoing socket connects");
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

/// A UDP server that sends each datagram back to its sender.
pub struct EchoOrigin {
    /// The address that it is bound to.
    pub address: SocketAddr,
    datagrams: Arc<AtomicU64>,
}

impl EchoOrigin {
    /// Starts it at this address.
    pub fn start(address: &str) -> Self {
        let socket = UdpSocket::bind(address).expect("the origin's address is free");
        let origin = Self {
            address: socket.local_addr().expect("the socket is bound"),
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

    /// Number of datagrams that it has received so far.
    pub fn datagrams(&self) -> u64 {
        self.datagrams.load(Ordering::Relaxed)
    }
}
