//! A proxy of datagrams: says whose they are, goes on, and sends the answers back.
//!
//! sudo sidetrack run --via exec:target/debug/examples/datagrams -- dig @192.0.2.53 example.com

use std::collections::HashMap;
use std::net::UdpSocket;
use std::sync::Arc;
use std::{error, thread};

use sidetrack::{Batch, DatagramListener, Error, Flow, Service};

/// The longest datagram there is.
const SIZE: usize = 65_535;

fn main() -> Result<(), Box<dyn error::Error>> {
    let listener = Arc::new(DatagramListener::bind(&Service::from_env()?)?);
    let mut onward = HashMap::new(); // by flow; a proxy for more than a while ends idle ones
    let mut batch = Batch::new(32, SIZE);
    loop {
        listener.receive(&mut batch)?;
        for datagram in batch.iter() {
            if datagram.is_first() {
                match go_on(&listener, datagram.flow()) {
                    Ok(socket) => drop(onward.insert(datagram.flow().id(), socket)),
                    Err(error) => eprintln!("{}: {error}", datagram.flow().original_destination()),
                }
            }
            if let Some(socket) = onward.get(&datagram.flow().id()) {
                let _ = socket.send(datagram.payload()); // datagrams may be lost
            }
        }
    }
}

fn go_on(listener: &Arc<DatagramListener>, flow: &Arc<Flow>) -> Result<UdpSocket, Error> {
    let program = flow.program().executable.display();
    eprintln!("{program} -> {}", flow.original_destination());
    let socket = flow.connect_datagrams()?; // with the redirect records set
    if let Ok(back) = socket.try_clone() {
        let (listener, flow) = (Arc::clone(listener), Arc::clone(flow));
        thread::spawn(move || {
            let mut buffer = vec![0; SIZE];
            while let Ok(length) = back.recv(&mut buffer) {
                let _ = listener.answer(&flow, &buffer[..length]);
            }
        });
    }
    Ok(socket)
}
