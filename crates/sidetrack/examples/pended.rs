//! A proxy whose clients are accepted only if the origin accepts. Otherwise their connect fails with
//! the origin's error, as without a proxy.
//!
//! sudo sidetrack run --via exec:target/debug/examples/pended -- curl http://127.0.0.1:8000/

use std::net::{Shutdown, TcpStream};
use std::{error, io, thread};

use sidetrack::{Error, Listener, Pending, Service};

fn main() -> Result<(), Box<dyn error::Error>> {
    let listener = Listener::bind(&Service::from_env()?.pended())?;
    if let Some(why) = listener.why_accepted() {
        return Err(why.to_string().into()); // or serve it as passthrough.rs does
    }
    loop {
        let pending = listener.pended()?;
        thread::spawn(move || {
            let destination = pending.original_destination();
            if let Err(error) = pass(pending) {
                eprintln!("{destination}: {error}");
            }
        });
    }
}

fn pass(pending: Pending) -> Result<(), Box<dyn error::Error>> {
    let program = pending.flow()?.program().executable.display();
    let line = format!("{program} -> {}\n", pending.original_destination());
    eprint!("{line}");
    let origin = match pending.connect() {
        Ok(origin) => origin,
        Err(Error::System { source, .. }) => {
            pending.refuse(&source)?; // the program's connect fails with the same error
            return Err(source.into());
        }
        Err(error) => return Err(error.into()), // `pending` is dropped, which refuses the connect
    };
    let client = pending.complete(&origin)?; // the program's connect succeeds
    thread::scope(|scope| {
        scope.spawn(|| copy(&client, &origin));
        copy(&origin, &client)
    })?;
    Ok(())
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
    io::copy(&mut from, &mut to)?;
    to.shutdown(Shutdown::Write)
}
