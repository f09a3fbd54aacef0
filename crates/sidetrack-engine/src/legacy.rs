//! Legacy proxies: finds the processes that listen at an address, and duplicates their socket.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use procfs::net::{TcpNetEntry, TcpState};
use procfs::process::{FDTarget, Process};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::cgroup::to_io;
use crate::{Cgroup, Error};

/// The listening socket of a legacy proxy, and the processes that hold it.
#[derive(Debug)]
pub struct LegacyListener {
    /// A duplicate of a process's descriptor for this socket.
    pub socket: OwnedFd,
    /// The processes that hold it.
    pub holders: Vec<SocketHolder>,
    /// The cgroup of the first of these processes, in which the socket was most likely made.
    pub cgroup: Cgroup,
}

/// A process that holds a listening socket.
#[derive(Clone, Copy, Debug)]
pub struct SocketHolder {
    /// Its process id.
    pub pid: u32,
    /// Its start time, in hundredths of a second since boot.
    pub started: u64,
    /// The id of its cgroup.
    pub cgroup_id: u64,
}

/// Finds the TCP socket that listens at `address` in this network namespace.
///
/// A listener at the wildcard address serves any `address`.
///
/// Errors: [`Error::NoListener`], and [`Error::System`]: to duplicate a socket of another user's process needs
/// CAP_SYS_PTRACE.
pub fn find(address: SocketAddr) -> Result<LegacyListener, Error> {
    let inode = inode_of(address)?.ok_or(Error::NoListener(address))?;
    let mut holders = Vec::new();
    let mut duplicate = None;
    for process in procfs::process::all_processes()
        .map_err(|error| Error::system("list the processes")(to_io(error)))?
        .flatten()
    {
        let Some(descriptor) = descriptor_of(&process, inode) else {
            continue;
        };
        let Ok(stat) = process.stat() else { continue };
        let cgroup = Cgroup::of_process(Some(process.pid))?;
        holders.push(SocketHolder {
            pid: process.pid as u32,
            started: stat.starttime,
            cgroup_id: cgroup.id(),
        });
        if duplicate.is_none() {
            duplicate = Some((duplicate_of(process.pid, descriptor)?, cgroup));
        }
    }
    let (socket, cgroup) = duplicate.ok_or(Error::NoListener(address))?;
    Ok(LegacyListener {
        socket,
        holders,
        cgroup,
    })
}

/// The inode of the socket that listens at an address.
fn inode_of(address: SocketAddr) -> Result<Option<u64>, Error> {
    let table = match address.ip() {
        IpAddr::V4(_) => procfs::net::tcp(),
        IpAddr::V6(_) => procfs::net::tcp6(),
    };
    let table = table.map_err(|error| Error::system("read the table of sockets")(to_io(error)))?;
    let serves = |entry: &&TcpNetEntry| {
        let local = entry.local_address;
        entry.state == TcpState::Listen
            && local.port() == address.port()
            && (local.ip() == address.ip() || local.ip().is_unspecified())
    };
    Ok(table.iter().find(serves).map(|entry| entry.inode))
}

/// The descriptor by which a process holds the socket of this inode.
fn descriptor_of(process: &Process, inode: u64) -> Option<i32> {
    let found = process
        .fd()
        .ok()?
        .flatten()
        .find(|fd| matches!(fd.target, FDTarget::Socket(number) if number == inode));
    found.map(|fd| fd.fd)
}

fn duplicate_of(pid: i32, descriptor: i32) -> Result<OwnedFd, Error> {
    let pid = Pid::from_raw(pid).expect("/proc lists positive numbers");
    pidfd_open(pid, PidfdFlags::empty())
        .and_then(|process| pidfd_getfd(process, descriptor, PidfdGetfdFlags::empty()))
        .map_err(|error| Error::system("duplicate the proxy's listening socket")(error.into()))
}
