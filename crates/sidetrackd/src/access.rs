//! Who calls, and what it may. Known by the kernel's word on the socket's peer, never by the caller's.

use std::io;
use std::os::fd::AsFd;

use tokio::net::UnixStream;

use crate::{Error, config, sys};

/// The process that connected, as it was then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Its process; 0: in another pid namespace.
    pub pid: u32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group, and its supplementary ones.
    pub groups: Vec<u32>,
}

/// Who may do what.
#[derive(Clone, Debug, Default)]
pub struct Access {
    write_group: Option<u32>,
    read_group: Option<u32>,
    everyone_reads: bool,
}

impl Peer {
    /// Who is at the other end. Errors: the system's.
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
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
    /// As configured. Errors: a group that does not exist.
    pub fn new(config: &config::Access) -> anyhow::Result<Self> {
        Ok(Self {
            write_group: config.write_group.as_deref().map(group).transpose()?,
            read_group: config.read_group.as_deref().map(group).transpose()?,
            everyone_reads: config.everyone_reads,
        })
    }

    /// Whether a peer may change policy. Errors: [`Error::Denied`].
    pub fn check_write(&self, peer: &Peer) -> Result<(), Error> {
        if peer.uid == 0 || peer.is_in(self.write_group) {
            return Ok(());
        }
        Err(Error::Denied(format!(
            "user {} may not change policy; root may, and the members of access.write_group",
            peer.uid
        )))
    }

    /// Whether a peer may see policy, flows and events. Errors: [`Error::Denied`].
    pub fn check_read(&self, peer: &Peer) -> Result<(), Error> {
        let may = self.everyone_reads || peer.is_in(self.read_group);
        if may || self.check_write(peer).is_ok() {
            return Ok(());
        }
        Err(Error::Denied(format!(
            "user {} may not read policy; root may, and the members of access.write_group and \
             access.read_group",
            peer.uid
        )))
    }
}

fn group(name: &str) -> anyhow::Result<u32> {
    uzers::get_group_by_name(name)
        .map(|group| group.gid())
        .ok_or_else(|| anyhow::anyhow!("there is no group {name:?}; create it, or change [access]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_groups_may() {
        let access = Access {
            write_group: Some(10),
            read_group: Some(20),
            everyone_reads: false,
        };
        let peer = |uid, group| Peer {
            pid: 1,
            uid,
            groups: vec![group],
        };
        for (peer, reads, writes) in [
            (peer(0, 0), true, true),
            (peer(1000, 10), true, true),
            (peer(1000, 20), true, false),
            (peer(1000, 1000), false, false),
        ] {
            assert_eq!(access.check_read(&peer).is_ok(), reads, "{peer:?}");
            assert_eq!(access.check_write(&peer).is_ok(), writes, "{peer:?}");
        }
        let open = Access {
            everyone_reads: true,
            ..access
        };
        assert!(open.check_read(&peer(1000, 1000)).is_ok());
        assert!(open.check_write(&peer(1000, 1000)).is_err());
    }
}
