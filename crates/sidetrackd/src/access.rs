//! Which user calls, and what that user may do. The kernel identifies the process at the other end
//! of the socket (SO_PEERCRED, SO_PEERGROUPS); nothing that the caller claims about
//! itself counts.

use std::io;
use std::os::fd::AsFd;

use sidetrack_api::config;
use sidetrack_policy::set::Reach;
use tokio::net::UnixStream;

use crate::sys;

/// The process that connected, with the credentials that it had at that time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Its process id; 0 if it is not in the daemon's pid namespace.
    pub pid: u32,
    /// Its effective user id.
    pub uid: u32,
    /// Its effective group id, and its supplementary ones.
    pub groups: Vec<u32>,
}

/// The permissions that the configuration gives, with the ids of its groups.
#[derive(Clone, Debug, Default)]
pub struct Access {
    host_group: Option<u32>,
    write_group: Option<u32>,
    read_group: Option<u32>,
    everyone_reads: bool,
}

/// The caller may not make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It is not known which process calls.
    #[error("the process that calls cannot be identified")]
    UnknownCaller,
    /// The caller may not change policy.
    #[error(
        "user {uid} may not change policy; only root and the members of access.write_group and \
         access.host_group may"
    )]
    Write {
        /// The caller's user id.
        uid: u32,
    },
    /// The caller may not read policy, flows and events.
    #[error(
        "user {uid} may not read policy; only root and the members of access.write_group, \
         access.host_group and access.read_group may"
    )]
    Read {
        /// The caller's user id.
        uid: u32,
    },
}

/// The configuration names a group that does not exist. The field is its name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no group {0:?}; create it, or change [access]")]
pub struct UnknownGroup(pub String);

impl Peer {
    /// Reads the credentials of the process at the other end of a socket. Errors: the kernel's.
    pub fn from_stream(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let mut groups = sys::peer_groups(stream.as_fd())?;
        groups.push(credentials.gid());
        Ok(Self {
            pid: credentials.pid().unwrap_or_default().unsigned_abs(),
            uid: credentials.uid(),
            groups,
        })
    }

    fn is_in(&self, group: Option<u32>) -> bool {
        group.is_some_and(|group| self.groups.contains(&group))
    }
}

impl Access {
    /// Looks up the groups of a configuration.
    ///
    /// Errors: one of them does not exist.
    pub fn new(config: &config::Access) -> Result<Self, UnknownGroup> {
        Ok(Self {
            host_group: config.host_group.as_deref().map(group_id).transpose()?,
            write_group: config.write_group.as_deref().map(group_id).transpose()?,
            read_group: config.read_group.as_deref().map(group_id).transpose()?,
            everyone_reads: config.everyone_reads,
        })
    }

    /// Succeeds if a peer may change policy. Errors: [`Denied::Write`].
    pub fn check_write(&self, peer: &Peer) -> Result<(), Denied> {
        if self.is_unrestricted(peer) || peer.is_in(self.write_group) {
            return Ok(());
        }
        Err(Denied::Write { uid: peer.uid })
    }

    /// Returns whose connections the filters of a peer apply to.
    pub fn reach(&self, peer: &Peer) -> Reach {
        match self.is_unrestricted(peer) {
            true => Reach::Host,
            false => Reach::OwnUser,
        }
    }

    fn is_unrestricted(&self, peer: &Peer) -> bool {
        peer.uid == 0 || peer.is_in(self.host_group)
    }

    /// Succeeds if a peer may read policy, flows and events. Errors: [`Denied::Read`].
    pub fn check_read(&self, peer: &Peer) -> Result<(), Denied> {
        let may_read = self.everyone_reads || peer.is_in(self.read_group);
        if may_read || self.check_write(peer).is_ok() {
            return Ok(());
        }
        Err(Denied::Read { uid: peer.uid })
    }
}

fn group_id(name: &str) -> Result<u32, UnknownGroup> {
    uzers::get_group_by_name(name)
        .map(|group| group.gid())
        .ok_or_else(|| UnknownGroup(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_configured_groups_have_access() {
        let access = Access {
            host_group: Some(5),
            write_group: Some(10),
            read_group: Some(20),
            everyone_reads: false,
        };
        let peer = |uid, group| Peer {
            pid: 1,
            uid,
            groups: vec![group],
        };
        for (peer, reads, writes, reach) in [
            (peer(0, 0), true, true, Reach::Host),
            (peer(1000, 5), true, true, Reach::Host),
            (peer(1000, 10), true, true, Reach::OwnUser),
            (peer(1000, 20), true, false, Reach::OwnUser),
            (peer(1000, 1000), false, false, Reach::OwnUser),
        ] {
            assert_eq!(access.check_read(&peer).is_ok(), reads, "{peer:?}");
            assert_eq!(access.check_write(&peer).is_ok(), writes, "{peer:?}");
            assert_eq!(access.reach(&peer), reach, "{peer:?}");
        }
        let open = Access {
            everyone_reads: true,
            ..access
        };
        assert!(open.check_read(&peer(1000, 1000)).is_ok());
        assert!(open.check_write(&peer(1000, 1000)).is_err());
    }
}
