//! How a connection goes, in each case: where to, where it arrives, what it is asked, and the proof
//! that it went that way.

mod direct;
mod empty;
mod netfilter;
pub(crate) mod policy;
pub(crate) mod sidetrack;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Socket, Type};

use crate::connect::case::Case;

/// The port that programs ask for.
const PORT: u16 = 80;
/// Connections ready before accept.
const BACKLOG: i32 = 4096;
/// Where the probe goes that shows that rules or filters which match nothing else are alive.
const PROBE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), PORT);

/// A case, set up.
pub(crate) trait Way {
    /// Where connections arrive.
    fn listener(&self) -> &TcpListener;

    /// Where the connection of this number goes: each has an address of its own. As it stands, where
    /// nothing diverts.
    fn destination(&self, number: u32) -> SocketAddrV4 {
        local_destination(number)
    }

    /// Asks the accepted socket for its original destination; `None` where there is none to ask for, as
    /// it stands.
    fn query(&self, _accepted: &TcpStream) -> Result<Option<SocketAddr>> {
        Ok(None)
    }

    /// Fails unless exactly these connections, made since the start, went this way.
    fn check(&self, made: u64) -> Result<()>;
}

/// Sets a case up, in this process's namespace.
pub(crate) fn open(case: Case) -> Result<Box<dyn Way>> {
    Ok(match case {
        Case::None => Box::new(direct::Direct::open()?),
        Case::Sidetrack => Box::new(sidetrack::Redirected::open()?),
        Case::Unmatched => Box::new(sidetrack::Bystander::open_in_scope()?),
        Case::Outside => Box::new(sidetrack::Bystander::open_outside()?),
        Case::Nft => Box::new(netfilter::Redirected::open()?),
        Case::NftUnmatched => Box::new(netfilter::Bystander::open()?),
        Case::Filters10 => Box::new(sidetrack::Bystander::open_under(10)?),
        Case::Filters1000 => Box::new(sidetrack::Bystander::open_under(1_000)?),
        Case::Filters100000 => Box::new(sidetrack::Bystander::open_under(100_000)?),
        Case::NftLinear => Box::new(netfilter::Bystander::open_linear()?),
        Case::NftSet => Box::new(netfilter::Bystander::open_set()?),
        Case::EmptyElsewhere => Box::new(empty::Empty::open_elsewhere()?),
        Case::EmptyInScope => Box::new(empty::Empty::open_in_scope()?),
    })
}

/// An address of the loopback range: there nothing diverts.
fn local_destination(number: u32) -> SocketAddrV4 {
    numbered(Ipv4Addr::new(127, 0, 0, 0), number)
}

/// An address that is not here.
fn remote_destination(number: u32) -> SocketAddrV4 {
    numbered(Ipv4Addr::new(10, 0, 0, 0), number)
}

fn numbered(base: Ipv4Addr, number: u32) -> SocketAddrV4 {
    let address = u32::from(base) | ((number + 1) & 0x00ff_ffff);
    SocketAddrV4::new(address.into(), PORT)
}

fn listen(port: u16, device: Option<&[u8]>) -> Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).context("make a listener")?;
    socket.bind_device(device).context("bind to a device")?;
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    socket.bind(&address.into()).context("bind a listener")?;
    socket.listen(BACKLOG).context("listen")?;
    Ok(socket.into())
}

/// Makes the probe's connection.
fn probe(listener: &TcpListener) -> Result<TcpStream> {
    let client = TcpStream::connect(PROBE).context("connect the probe")?;
    let (accepted, _) = listener.accept().context("accept the probe")?;
    close(client)?;
    Ok(accepted)
}

/// Closes by a reset: nothing stays behind in TIME_WAIT.
pub(crate) fn close(client: TcpStream) -> Result<()> {
    socket2::SockRef::from(&client)
        .set_linger(Some(std::time::Duration::ZERO))
        .context("set SO_LINGER")
}

fn expect(what: &str, counted: u64, made: u64) -> Result<()> {
    ensure!(
        counted == made,
        "{made} connections were made, but {what} says {counted}: this round measured something else"
    );
    Ok(())
}
