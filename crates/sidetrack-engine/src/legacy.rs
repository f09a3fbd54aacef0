//! Proxies that know nothing of us: find who listens at an address, and borrow the socket.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use procfs::net::{TcpNetEntry, TcpState};
use procfs::process::{FDTarget, Process};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::cgroup::to_io;
use crate::{Cgroup, Error};

/// A listening socket and the processes that hold it.
#[derive(Debug)]
pub struct Listener {
    /// A descriptor of the same socket.
    pub socket: OwnedFd,
    /// Who holds it.
    pub holders: Vec<Holder>,
    /// The cgroup of the first holder, in which the socket was most likely made.
    pub cgroup: Cgroup,
}

/// A process that holds a listening socket.
#[derive(Clone, Copy, Debug)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// When it started, in hundredths of a second since boot.
    pub started: u64,
    /// Its cgroup, as the kernel numbers it.
    pub cgroup_id: u64,
}

/// Finds the TCP socket that listens at `address` in this network namespace.
///
/// A listener at the wildcard address serves any address asked for. Errors: [`Error::NoListener`],
/// [`Error::System`] (taking a socket of another user's process needs CAP_SYS_PTRACE).
pub fn find(address: SocketAddr) -> Result<Listener, Error> {
    let inode = inode_of(address)?.ok_or(Error::NoListener(address))?;
    let mut holders = Vec::new();
    let mut borrowed = None;
    for process in procfs::process::all_processes()
        .map_err(|error| Error::system("list the processes")(to_io(error)))?
        .flatten()
    {
        let Some(descriptor) = descriptor_of(&process, inode) else {
            continue;
        };
        let Ok(stat) = process.stat() else { continue };
        let cgroup = Cgroup::of_process(Some(process.pid))?;
        holders.push(Holder {
            pid: process.pid as u32,
            started: stat.starttime,
            cgroup_id: cgroup.id(),
        });
        if borrowed.is_none() {
            borrowed = Some((borrow(process.pid, descriptor)?, cgroup));
        }
    }
    let (socket, cgroup) = borrowed.ok_or(Error::NoListener(address))?;
    Ok(Listener {
        socket,
        holders,
        cgroup,
    })
}

fn inode_of(address: SocketAddr) -> Result<Option<u64>, Error> {
    let table = match address.ip() {
        IpAddr::V4(_) => procfs::net::tcp(),
        IpAddr::V6(_) => procfs::net::tcp6(),
    };
    let table = table.map_err(|error| Error::system("read the table of sockets")(to_io(error)))?;
    let serves = |entry: &&TcpNetEntry| {
        let at = entry.local_address;
        entry.state == TcpState::Listen
            && at.port() == address.port()
            && (at.ip() == address.ip() || at.ip().is_unspecified())
    };
    Ok(table.iter().find(serves).map(|entry| entry.inode))
}

fn descriptor_of(process: &Process, inode: u64) -> Option<i32> {
    let found = process
        .fd()
        .ok()?
        .flatten()
        .find(|fd| matches!(fd.target, FDTarget::Socket(number) if number == inode));
    found.map(|fd| fd.fd)
}

fn borrow(pid: i32, descriptor: i32) -> Result<OwnedFd, Error> {
    let pid = Pid::from_raw(pid).expect("/proc lists positive numbers");
    pidfd_open(pid, PidfdFlags::empty())
        .and_then(|process| pidfd_getfd(process, descriptor, PidfdGetfdFlags::empty()))
        .map_err(|error| Error::system("borrow the proxy's listening socket")(error.into()))
}
