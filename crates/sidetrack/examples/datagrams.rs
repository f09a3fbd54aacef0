//! A UDP proxy. It prints the program and the original destination of each flow, forwards the
//! datagrams, and sends the answers back to the client.
//!
//! Run it with a command whose datagrams it receives:
//!
//! sudo sidetrack run --via exec:target/debug/examples/datagrams -- dig @192.0.2.53 example.com

use std::collections::HashMap;
use std::net::UdpSocket;
use std::sync::Arc;
use std::{error, thread};

use sidetrack::{Batch, DatagramListener, Error, Flow, Service};

/// Larger than the longest possible payload of a datagram, in bytes.
const SIZE: usize = 65_535;

fn main() -> Result<(), Box<dyn error::Error>> {
    let listener = Arc::new(DatagramListener::bind(&Service::from_env()?)?);
    let mut upstreams = HashMap::new(); // by flow id; a long-running proxy must remove idle flows
    let mut batch = Batch::new(32, SIZE);
    loop {
        listener.receive(&mut batch)?;
        for datagram in batch.iter() {
            if datagram.is_first() {
                match open_upstream(&listener, datagram.flow()) {
                    Ok(socket) => drop(upstreams.insert(datagram.flow().id(), socket)),
                    Err(error) => eprintln!("{}: {error}", datagram.flow().original_destination()),
                }
            }
            if let Some(socket) = upstreams.get(&datagram.flow().id()) {
                let _ = socket.send(datagram.payload()); // a lost datagram is not an error
            }
        }
    }
}

/// Opens the outgoing socket of a flow, and starts a thread that sends the answers to the client.
fn open_upstream(listener: &Arc<DatagramListener>, flow: &Arc<Flow>) -> Result<UdpSocket, Error> {
    let program = flow.program().executable.display();
    // One write for each line, as the proxies of a chain may share standard error.
    let line = format!("{program} -> {}\n", flow.original_destination());
    eprint!("{line}");
    let socket = flow.connect_datagrams()?; // sets the redirect records before it connects
    if let Ok(receiver) = socket.try_clone() {
        let (listener, flow) = (Arc::clone(listener), Arc::clone(flow));
        thread::spawn(move || {
            let mut buffer = vec![0; SIZE];
            while let Ok(length) = receiver.recv(&mut buffer) {
                let _ = listener.answer(&flow, &buffer[..length]);
            }
        });
    }
    Ok(socket)
}
