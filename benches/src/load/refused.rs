//! Connects to a port on which nobody listens, one after another.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::{DRAIN_MAX, REFUSED, REQUEST};

/// A client whose connects fail.
pub(crate) struct Refusals {
    /// Whether a proxy accepts the client first: then the connection fails, not the connect.
    is_accepted: bool,
    /// The number of connects.
    pub(crate) made: u64,
}

impl Refusals {
    pub(crate) fn new(is_accepted: bool) -> Self {
        Self {
            is_accepted,
            made: 0,
        }
    }

    /// Connects for this time. Returns how long it took each time until the client knew that it
    /// failed; sorted, in nanoseconds.
    pub(crate) fn run(&mut self, time: Duration) -> Result<Vec<u64>> {
        let (begun, mut times) = (Instant::now(), Vec::new());
        while begun.elapsed() < time {
            let connecting = Instant::now();
            self.fail()?;
            times.push(connecting.elapsed().as_nanos() as u64);
            self.made += 1;
        }
        times.sort_unstable();
        Ok(times)
    }

    fn fail(&self) -> Result<()> {
        match TcpStream::connect(REFUSED) {
            Ok(stream) if self.is_accepted => wait_for_end(stream),
            Ok(_) => bail!("a connect succeeded to a port on which nobody listens"),
            Err(error) => {
                let is_refused = error.kind() == ErrorKind::ConnectionRefused;
                ensure!(is_refused && !self.is_accepted, "connect: {error}");
                Ok(())
            }
        }
    }
}

fn wait_for_end(mut stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(DRAIN_MAX))?;
    match stream.write(REQUEST).and_then(|_| stream.read(&mut [0])) {
        Ok(0) => Ok(()),
        Ok(_) => bail!("bytes came from a port on which nobody listens"),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            bail!("the proxy did not end a connection")
        }
        Err(error) if is_reset(error.kind()) => Ok(()),
        Err(error) => Err(error).context("wait for the end of a connection"),
    }
}

fn is_reset(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}
