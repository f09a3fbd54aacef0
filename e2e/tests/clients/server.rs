//! Servers of other products, in the test's network namespace or on the second host.

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use e2e::wait;

/// A running server. It is killed on drop.
pub(super) struct Server {
    child: Child,
}

impl Server {
    /// Starts it in this thread's namespaces, and waits until it listens.
    pub(super) fn start(command: &mut Command, listens: &str) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let server = Self {
            child: child.unwrap_or_else(|error| panic!("{command:?}: {error}")),
        };
        let address: SocketAddr = listens.parse().expect("an address and a port");
        wait::until(&format!("{command:?} listens"), || {
            TcpStream::connect(address).is_ok()
        });
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
