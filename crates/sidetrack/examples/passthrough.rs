//! A minimal proxy. It prints the program and the original destination of each connection, connects
//! to the original destination, and copies bytes in both directions.
//!
//! sudo sidetrack run --via exec:target/debug/examples/passthrough -- curl http://127.0.0.1:8000/

use std::net::{Shutdown, TcpStream};
use std::{error, io, thread};

use sidetrack::{Flow, Listener, Service};

fn main() -> Result<(), Box<dyn error::Error>> {
    let listener = Listener::bind(&Service::from_env()?)?;
    loop {
        let (client, flow) = listener.accept()?.into_parts();
        thread::spawn(move || {
            if let Err(error) = pass(&client, &flow) {
                eprintln!("{}: {error}", flow.original_destination());
            }
        });
    }
}

fn pass(client: &TcpStream, flow: &Flow) -> Result<(), Box<dyn error::Error>> {
    let program = flow.program().executable.display();
    let line = format!("{program} -> {}\n", flow.original_destination());
    eprint!("{line}");
    let origin = flow.connect()?; // with the redirect records set
    thread::scope(|scope| {
        scope.spawn(|| copy(client, &origin));
        copy(&origin, client)
    })?;
    Ok(())
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
    io::copy(&mut from, &mut to)?;
    to.shutdown(Shutdown::Write)
}
