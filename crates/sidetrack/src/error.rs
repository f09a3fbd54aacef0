//! The error type of the SDK, grouped by who can fix the error.

use std::io;
use std::net::SocketAddr;

/// The reason why a call of this crate failed.
///
/// docs/proxies.md lists the errno of the kernel side behind each variant.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // Errors of the host.
    /// No engine is attached to the cgroup in which the socket was created, so the kernel does not
    /// know the socket option. On Windows: the system does not know the control code.
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
    /// The engine uses another version of the ABI (`SIDETRACK_ABI_VERSION` in bpf/sidetrack.h).
    #[error("the engine uses ABI version {engine}, this SDK uses {sdk}; update the older one")]
    Version {
        /// The engine's version.
        engine: u32,
        /// The version that this crate was built for.
        sdk: u32,
    },
    /// The service's ring buffer contains something else than notices of this ABI. What was unread is
    /// skipped; the clients send their SYNs again.
    #[cfg(unix)]
    #[error("the service's ring buffer contains something else than notices of held connects")]
    DamagedNotices,
    /// The daemon cannot be reached, or it refused a request.
    #[cfg(all(unix, feature = "daemon"))]
    #[error(transparent)]
    Daemon(#[from] sidetrack_api::client::Error),
    /// A system call failed.
    #[error("cannot {what}")]
    System {
        /// What the call should have done, to be read after "cannot".
        what: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },

    // Errors of the connection.
    /// The connection was not redirected to this service: its client connected straight to the
    /// listener's address. On Windows: WSAEINVAL with 0 bytes (docs/wfp.md, 1.6).
    #[error("this connection was not redirected to this service")]
    NotRedirected,
    /// The filter that redirected the connection gave no context.
    #[error("this connection has no redirect context")]
    NoContext,
    /// The destination is this proxy's own listener.
    #[error("{0} is this proxy's own listener; connecting would loop")]
    SelfConnect(SocketAddr),

    /// The client of a pended connect has given up: it closed its socket, or its time-out is over; or
    /// the listener that held the connect was dropped. Close the outgoing connection.
    #[cfg(unix)]
    #[error("the client has given up its connect")]
    ClientGone,

    /// The context has none of the layouts that this crate knows; the value is its length in bytes.
    #[cfg(any(windows, test))]
    #[error(
        "the redirect context of {0} bytes has an unknown layout; read it with Flow::query_with"
    )]
    UnknownContext(usize),

    // Errors of the caller.
    /// The listener accepts first ([`Listener::is_pended`](crate::Listener::is_pended)), because its
    /// service was not asked to pend ([`Service::pended`](crate::Service::pended)), or for the reason
    /// that [`Listener::why_accepted`](crate::Listener::why_accepted) returns.
    #[cfg(unix)]
    #[error(
        "this listener accepts first: its service was not asked to pend connects (`Service::pended`), or \
         cannot (`Listener::why_accepted` says why)"
    )]
    NotPended,
    /// The socket is a listener, or it is not connected.
    #[error("this socket is not connected")]
    NotConnected,
    /// The socket is neither a TCP nor a UDP socket. An MPTCP socket is neither.
    #[error(
        "this is neither a TCP nor a UDP socket; make it with IPPROTO_TCP (Go: SetMultipathTCP(false))"
    )]
    NotTcp,
    /// The socket is already connected; records must be set before connect.
    #[error("this socket is connected already; set the records before connect")]
    AlreadyConnected,
    /// The records are not a token of this engine, or their flow ended more than 60 seconds ago.
    #[error(
        "these redirect records are unknown to the engine, or their flow ended more than 60 s ago"
    )]
    BadRecords,
    /// The engine refused the option LISTEN, because the credentials are wrong or the socket does
    /// not listen.
    #[error(
        "the engine refused this listener: its service or secret is unknown, \
         or the socket is not listening"
    )]
    BadSecret,
    /// The service already has a listener of this family at another address. All listeners of a
    /// service have one address for each family.
    #[error("this service already listens at another address of the same family")]
    OtherListener,
    /// The environment variable with the service's credentials is not set. The value is its name.
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
    /// The environment variable, or the named source, does not hold credentials. The value is its
    /// name.
    #[cfg_attr(windows, error("{0} does not hold an address and a port"))]
    #[cfg_attr(
        unix,
        error("{0} does not hold a service's credentials (64 hexadecimal digits)")
    )]
    BadCredentials(&'static str),
}

impl Error {
    /// Turns the `io::Error` of a system call into [`Error::System`].
    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}
