//! The setup of each case: where connections go, where they arrive, how the original destination is
//! queried, and the proof that they took this path.

mod direct;
mod empty;
mod netfilter;
pub(crate) mod policy;
pub(crate) mod sidetrack;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Socket, Type};

use crate::connect::case::ConnectCase;

/// The port that clients connect to.
pub(crate) const PORT: u16 = 80;
/// The backlog of the listeners.
const BACKLOG: i32 = 4096;
/// The destination of the probe. It shows that the rules or filters, which match nothing else, are
/// in force.
const PROBE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), PORT);

/// A case that is set up in this process's namespace.
pub(crate) trait ConnectSetup {
    /// The listener at which connections arrive.
    fn listener(&self) -> &TcpListener;

    /// The destination of the connection with this number; each number has a different address. By
    /// default it is an address at which a connection arrives undiverted.
    fn destination(&self, number: u32) -> SocketAddrV4 {
        local_destination(number)
    }

    /// Queries the original destination of an accepted socket. By default there is nothing to
    /// query, and the result is `None`.
    fn query(&self, _accepted: &TcpStream) -> Result<Option<SocketAddr>> {
        Ok(None)
    }

    /// Fails unless the counters show exactly the `made` connections since the setup on this path.
    fn check(&self, made: u64) -> Result<()>;
}

/// Sets up a case in the namespace of this process.
pub(crate) fn open(case: ConnectCase) -> Result<Box<dyn ConnectSetup>> {
    Ok(match case {
        ConnectCase::None => Box::new(direct::Direct::open()?),
        ConnectCase::Sidetrack => Box::new(sidetrack::Redirected::open()?),
        ConnectCase::Unmatched => Box::new(sidetrack::Bystander::open_in_scope()?),
        ConnectCase::Outside => Box::new(sidetrack::Bystander::open_outside()?),
        ConnectCase::Nft => Box::new(netfilter::Redirected::open()?),
        ConnectCase::NftUnmatched => Box::new(netfilter::Bystander::open()?),
        ConnectCase::Filters10 => Box::new(sidetrack::Bystander::open_under(10)?),
        ConnectCase::Filters1000 => Box::new(sidetrack::Bystander::open_under(1_000)?),
        ConnectCase::Filters100000 => Box::new(sidetrack::Bystander::open_under(100_000)?),
        ConnectCase::NftLinear => Box::new(netfilter::Bystander::open_linear()?),
        ConnectCase::NftSet => Box::new(netfilter::Bystander::open_set()?),
        ConnectCase::EmptyElsewhere => Box::new(empty::Empty::open_elsewhere()?),
        ConnectCase::EmptyInScope => Box::new(empty::Empty::open_in_scope()?),
    })
}

/// An address in the loopback range, which nothing diverts.
pub(crate) fn local_destination(number: u32) -> SocketAddrV4 {
    numbered(Ipv4Addr::new(127, 0, 0, 0), number)
}

/// An address that is not local.
fn remote_destination(number: u32) -> SocketAddrV4 {
    numbered(Ipv4Addr::new(10, 0, 0, 0), number)
}

fn numbered(base: Ipv4Addr, number: u32) -> SocketAddrV4 {
    let address = u32::from(base) | ((number + 1) & 0x00ff_ffff);
    SocketAddrV4::new(address.into(), PORT)
}

pub(crate) fn listen(port: u16, device: Option<&[u8]>) -> Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).context("create a listener")?;
    socket.bind_device(device).context("bind to a device")?;
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    socket.bind(&address.into()).context("bind a listener")?;
    socket.listen(BACKLOG).context("listen")?;
    Ok(socket.into())
}

/// Connects the probe, and returns the accepted socket.
fn probe(listener: &TcpListener) -> Result<TcpStream> {
    let client = TcpStream::connect(PROBE).context("connect the probe")?;
    let (accepted, _) = listener.accept().context("accept the probe")?;
    close(client)?;
    Ok(accepted)
}

/// Closes by a reset, so that no socket remains in TIME_WAIT.
pub(crate) fn close(client: TcpStream) -> Result<()> {
    socket2::SockRef::from(&client)
        .set_linger(Some(std::time::Duration::ZERO))
        .context("set SO_LINGER")
}

/// Fails if a counter differs from the number of connections.
fn expect(what: &str, counted: u64, made: u64) -> Result<()> {
    ensure!(
        counted == made,
        "{made} connections were made, but {what} says {counted}: this round measured something else"
    );
    Ok(())
}
