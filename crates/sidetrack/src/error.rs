//! What can go wrong for a proxy, by whose fault it is.

use std::io;
use std::net::SocketAddr;

/// Why a call of this crate failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // The host's fault.
    /// The option is unknown where this socket was made: no engine is attached to its cgroup.
    #[cfg_attr(
        windows,
        error(
            "this system does not know the redirect control codes (WSAEOPNOTSUPP); they need Windows 8 or later"
        )
    )]
    #[cfg_attr(
        unix,
        error(
            "no Sidetrack engine is attached to the cgroup in which this socket was made; \
         start the proxy with `sidetrack run --via exec:…` or register it with sidetrackd, and make its \
         listener after that"
        )
    )]
    NoEngine,
    /// The engine speaks another version of the ABI.
    #[error("the engine speaks ABI version {engine}, this SDK speaks {sdk}; update the older one")]
    Version {
        /// What the engine answered.
        engine: u32,
        /// What this crate was built for.
        sdk: u32,
    },
    /// The daemon cannot be reached, or refuses.
    #[cfg(all(unix, feature = "daemon"))]
    #[error(transparent)]
    Daemon(#[from] sidetrack_api::client::Error),
    /// A system call failed.
    #[error("cannot {what}")]
    System {
        /// What was being done.
        what: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },

    // The peer's fault.
    /// Connected straight to the proxy: there is no flow to tell of (spec 1.6: WSAEINVAL, 0 bytes).
    #[error("this connection was not redirected to this service")]
    NotRedirected,
    /// The filter that redirected gave no context.
    #[error("this connection has no redirect context")]
    NoContext,
    /// The program asked for the proxy's own listener.
    #[error("{0} is this proxy's own listener; connecting would loop")]
    SelfConnect(SocketAddr),

    /// The context is there, and has neither of the layouts that this crate knows.
    #[cfg(any(windows, test))]
    #[error(
        "the redirect context's {0} bytes have no layout that is known; read them with Flow::query_with"
    )]
    UnknownContext(usize),

    // The caller's fault.
    /// A listener, or a socket that is not connected.
    #[error("this socket is not connected")]
    NotConnected,
    /// The options are for TCP and UDP sockets; MPTCP ones are another protocol.
    #[error(
        "this is neither a TCP nor a UDP socket; make it with IPPROTO_TCP (Go: SetMultipathTCP(false))"
    )]
    NotTcp,
    /// Records must be set before connect.
    #[error("this socket is connected already; set the records before connect")]
    AlreadyConnected,
    /// The records are not a token of this engine, or the flow ended too long ago.
    #[error("these redirect records are unknown to the engine, or their flow ended over 60 s ago")]
    BadRecords,
    /// LISTEN was refused.
    #[error(
        "the engine refused this listener: its service or secret is unknown, \
         or the socket is not listening"
    )]
    BadSecret,
    /// All listeners of a service have one address for each family.
    #[error("this service already listens at another address of the same family")]
    OtherListener,
    /// The variable with the service's credentials is missing.
    #[cfg_attr(
        windows,
        error(
            "{0} is not set; it holds the address that the driver redirects to, such as 127.0.0.1:8080"
        )
    )]
    #[cfg_attr(
        unix,
        error("{0} is not set; `sidetrack run --via exec:…` sets it for the proxies it starts")
    )]
    NoCredentials(&'static str),
    /// The variable holds something else.
    #[cfg_attr(windows, error("{0} does not hold an address and a port"))]
    #[cfg_attr(
        unix,
        error("{0} does not hold a service's credentials (64 hexadecimal digits)")
    )]
    BadCredentials(&'static str),
}

impl Error {
    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}
