//! The proxy of pended.rs with an event loop: one thread holds all connects and answers them. Only
//! the relay, which is not the subject here, takes threads.
//!
//! sudo sidetrack run --via exec:target/debug/examples/pended_loop -- curl http://127.0.0.1:8000/

use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::{error, io, thread};

use rustix::event::{PollFd, PollFlags, poll};
use sidetrack::{Connection, Error, Listener, Notice, Pending, Service};

/// What the loop knows, by the ids of the flows.
#[derive(Default)]
struct Flows {
    /// Clients that are held while the outgoing socket connects.
    connecting: HashMap<u64, (Pending, TcpStream)>,
    /// Clients that were let through and have not been accepted, by their outgoing sockets.
    completed: HashMap<u64, TcpStream>,
}

fn main() -> Result<(), Box<dyn error::Error>> {
    let listener = Listener::bind(&Service::from_env()?.pended())?;
    let Some(notices) = listener.pended_fd() else {
        let why = listener.why_accepted().map(|why| why.to_string());
        return Err(why.unwrap_or_default().into());
    };
    let mut flows = Flows::default();
    loop {
        let connecting: Vec<u64> = flows.connecting.keys().copied().collect();
        let mut waits = vec![PollFd::from_borrowed_fd(notices, PollFlags::IN)];
        waits.extend((listener.sockets()).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let origins = connecting.iter().map(|id| &flows.connecting[id].1);
        waits.extend(origins.map(|origin| PollFd::new(origin, PollFlags::OUT)));
        poll(&mut waits, None)?;
        let ready: Vec<bool> = waits.iter().map(|fd| !fd.revents().is_empty()).collect();
        let (accepting, connected) = ready[1..].split_at(ready.len() - 1 - connecting.len());

        for (id, _) in connecting.iter().zip(connected).filter(|(_, is)| **is) {
            flows.connected(*id)?;
        }
        // Afterwards, since the clients that were just let through are accepted by the next poll.
        for (socket, _) in accepting.iter().enumerate().filter(|(_, is)| **is) {
            while let Some(client) = listener.try_accept(socket)? {
                flows.accepted(client)?;
            }
        }
        while let Some(notice) = listener.try_pended()? {
            match notice {
                Notice::Pending(pending) => flows.begin(pending)?,
                Notice::Gone(id) => flows.gone(id),
            }
        }
    }
}

impl Flows {
    fn begin(&mut self, pending: Pending) -> Result<(), Error> {
        let line = format!("-> {}\n", pending.original_destination());
        eprint!("{line}");
        match pending.connect_nonblocking() {
            Ok(origin) => drop(self.connecting.insert(pending.flow_id(), (pending, origin))),
            // Such as ENETUNREACH: known at once.
            Err(Error::System { source, .. }) => pending.refuse(&source)?,
            Err(error) => eprintln!("{error}"), // `pending` is dropped, which refuses the connect
        }
        Ok(())
    }

    /// The outgoing socket has connected, or failed to.
    fn connected(&mut self, id: u64) -> Result<(), Box<dyn error::Error>> {
        let Some((pending, origin)) = self.connecting.remove(&id) else {
            return Ok(());
        };
        match origin.take_error()? {
            Some(error) => {
                drop(origin); // closed before the client learns of it
                pending.refuse(&error)?;
            }
            None => match pending.complete_nonblocking() {
                Ok(id) => drop(self.completed.insert(id, origin)),
                Err(Error::ClientGone) => {} // `origin` is closed
                Err(error) => eprintln!("{error}"),
            },
        }
        Ok(())
    }

    fn accepted(&mut self, client: Connection) -> io::Result<()> {
        let (client, flow) = client.into_parts();
        if let Some(origin) = self.completed.remove(&flow.id()) {
            client.set_nonblocking(false)?;
            origin.set_nonblocking(false)?;
            thread::spawn(move || relay(&client, &origin));
        }
        Ok(())
    }

    /// The client has given up. Its outgoing socket is closed.
    fn gone(&mut self, id: u64) {
        self.connecting.remove(&id);
        self.completed.remove(&id);
    }
}

fn relay(client: &TcpStream, origin: &TcpStream) -> io::Result<()> {
    thread::scope(|scope| {
        scope.spawn(|| copy(client, origin));
        copy(origin, client)
    })
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
    io::copy(&mut from, &mut to)?;
    to.shutdown(Shutdown::Write)
}
