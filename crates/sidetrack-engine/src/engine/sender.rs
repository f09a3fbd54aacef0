//! Senders: raw sockets by which a service completes or refuses its pended flows.
//!
//! A raw socket could send any packet. So a program at the egress of the cgroup in which senders are made
//! permits only packets about pended flows of the sender's service.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::net::AddressFamily;
use sidetrack_abi::kernel::{self, Listen, SOCKET_SENDER};
use zerocopy::IntoBytes;

use super::program::ProgramSet;
use super::{Engine, update};
use crate::{Cgroup, Error, sys};

/// The senders of a service: for IPv4, and for IPv6 if the host has it.
pub type Senders = (OwnedFd, Option<OwnedFd>);

/// Makes the senders of a service in this process, which must be in a cgroup of [`Engine::attach_sender`]
/// below a home of the service.
///
/// Errors: [`Error::System`]; among others without CAP_NET_RAW.
pub fn senders_of(listen: &Listen) -> Result<Senders, Error> {
    for_both_families(|family| {
        let socket = sys::raw_socket(family).map_err(Error::system("make a raw socket"))?;
        sys::mark_listener(socket.as_fd(), listen)
            .map_err(Error::system("make a raw socket a sender"))?;
        Ok(socket)
    })
}

/// Makes one for IPv4, and one for IPv6 if the host has it.
fn for_both_families(
    make: impl Fn(AddressFamily) -> Result<OwnedFd, Error>,
) -> Result<Senders, Error> {
    let v4 = make(AddressFamily::INET)?;
    let v6 = match make(AddressFamily::INET6) {
        Err(Error::System { source, .. }) if source.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            None
        }
        made => Some(made?),
    };
    Ok((v4, v6))
}

impl Engine {
    /// Makes a cgroup one in which senders are made: from now on they are restricted.
    ///
    /// Errors: [`Error::Bpf`].
    pub fn attach_sender(&mut self, cgroup: &Cgroup) -> Result<(), Error> {
        self.attach(ProgramSet::Sender, cgroup)
    }

    /// Makes the senders of a service in this process's cgroup, for IPv4, and for IPv6 if the host has it.
    ///
    /// Errors: [`Error::Bpf`], [`Error::System`]; the latter without CAP_NET_RAW.
    pub fn senders(&mut self, service: u32) -> Result<Senders, Error> {
        self.attach_sender(&Cgroup::of_process(None)?)?;
        for_both_families(|family| self.sender(service, family))
    }

    fn sender(&self, service: u32, family: AddressFamily) -> Result<OwnedFd, Error> {
        let socket = sys::raw_socket(family).map_err(Error::system("make a raw socket"))?;
        let cookie = sys::netns_cookie(socket.as_fd())
            .map_err(Error::system("find the network namespace of a socket"))?;
        let entry = kernel::Socket {
            netns_cookie: cookie,
            service,
            role: SOCKET_SENDER,
            epoch: self.read_service(service)?.map_or(0, |value| value.epoch),
            ..kernel::Socket::default()
        };
        update(
            &self.skeleton.maps.sidetrack_sockets,
            &socket.as_raw_fd(),
            entry.as_bytes(),
            "make a raw socket a sender",
        )?;
        Ok(socket)
    }
}
