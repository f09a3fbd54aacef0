//! What is known of a connection when a layer asks, and what a policy's paths stand for.

use std::net::{IpAddr, SocketAddr};

use crate::field::{address_type, flags};
use crate::{Family, Field, Layer};

/// Cgroups below the hierarchy's root that a condition can name by `prefix`: so many levels.
pub const CGROUP_LEVELS_MAX: usize = sidetrack_abi::kernel::CGROUP_LEVELS_MAX;

/// A connection at a layer. What a layer has no field for is left at its default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldValues {
    /// Who asks.
    pub layer: Layer,
    /// Who opened the chain's first connection.
    pub program: Program,
    /// Who connects now: the same, or a proxy.
    pub current: Program,
    /// The socket's own address; unspecified and 0 if it is not bound.
    pub local: SocketAddr,
    /// Where it goes; where it comes from, if inbound.
    pub remote: SocketAddr,
    /// IPPROTO_TCP, IPPROTO_UDP.
    pub protocol: u8,
    /// The network namespace's cookie.
    pub netns: u64,
    /// The connection came in.
    pub inbound: bool,
    /// This connect is redirected.
    pub redirected: bool,
    /// It carries redirect records.
    pub proxied: bool,
}

/// A program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// Its executable.
    pub app: FileId,
    /// Its user.
    pub user: u32,
    /// Its cgroups, from below the root down to its own.
    pub cgroups: Vec<u64>,
}

/// A file, as the kernel tells files apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FileId {
    /// As the kernel numbers devices: major << 20 | minor.
    pub device: u32,
    /// On that device.
    pub inode: u64,
}

/// A cgroup, as the kernel tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CgroupId {
    /// Its number; 0 never is one.
    pub id: u64,
    /// How deep it is; the root has 0.
    pub level: u32,
}

/// Tells what a policy's paths stand for. What is not there matches nothing.
pub trait Host {
    /// The file at a path.
    fn file(&self, path: &str) -> Option<FileId>;
    /// The cgroup at a path below the hierarchy's root.
    fn cgroup(&self, path: &str) -> Option<CgroupId>;
}

impl FieldValues {
    /// The value of a field with numbers or addresses; addresses as 16 bytes, IPv4 as IPv4-mapped.
    pub fn value(&self, field: Field) -> u128 {
        match field {
            Field::App => self.program.app.key(),
            Field::CurrentApp => self.current.app.key(),
            Field::User => self.program.user.into(),
            Field::CurrentUser => self.current.user.into(),
            Field::Cgroup => self.program.cgroup().into(),
            Field::CurrentCgroup => self.current.cgroup().into(),
            Field::Flags => self.flags().into(),
            Field::LocalAddress => address_key(self.local.ip()),
            Field::LocalAddressType => type_of(self.local.ip()).into(),
            Field::LocalPort => self.local.port().into(),
            Field::RemoteAddress => address_key(self.remote.ip()),
            Field::RemotePort => self.remote.port().into(),
            Field::DestinationAddressType => type_of(self.remote.ip()).into(),
            Field::Protocol => self.protocol.into(),
            Field::Netns => self.netns.into(),
            Field::Direction => u128::from(self.inbound),
        }
    }

    /// All values as the kernel has them, the upper half first: the fields, then the cgroups' levels.
    pub fn values(&self) -> [[u64; 2]; sidetrack_abi::kernel::FIELDS] {
        let mut values = [[0; 2]; sidetrack_abi::kernel::FIELDS];
        for field in Field::ALL {
            let value = self.value(field);
            values[field as usize] = [(value >> 64) as u64, value as u64];
        }
        for (at, program) in [(0, &self.program), (CGROUP_LEVELS_MAX, &self.current)] {
            let levels = program.cgroups.iter().take(CGROUP_LEVELS_MAX);
            for (level, &id) in levels.enumerate() {
                values[Field::ALL.len() + at + level] = [0, id];
            }
        }
        values
    }

    fn flags(&self) -> u64 {
        let loopback = type_of(self.remote.ip()) == address_type::LOOPBACK;
        [
            (loopback, flags::LOOPBACK),
            (self.redirected, flags::REDIRECTED),
            (self.proxied, flags::PROXY_CONNECTION),
        ]
        .into_iter()
        .filter_map(|(set, bit)| set.then_some(bit))
        .sum()
    }
}

impl Program {
    /// Its own cgroup; 0 for the root.
    fn cgroup(&self) -> u64 {
        self.cgroups.last().copied().unwrap_or(0)
    }
}

impl FileId {
    pub(crate) fn key(self) -> u128 {
        u128::from(self.device) << 64 | u128::from(self.inode)
    }
}

/// An address as a number of 128 bits.
pub(crate) fn address_key(address: IpAddr) -> u128 {
    u128::from_be_bytes(sidetrack_abi::address::to_bytes(address))
}

/// The greatest address of a family.
pub(crate) fn address_max(family: Family) -> u128 {
    match family {
        Family::V4 => address_key(IpAddr::V4([255; 4].into())),
        Family::V6 => u128::MAX,
    }
}

/// The least address of a family.
pub(crate) fn address_min(family: Family) -> u128 {
    match family {
        Family::V4 => address_key(IpAddr::V4([0; 4].into())),
        Family::V6 => 0,
    }
}

/// See [`address_type`].
pub fn type_of(address: IpAddr) -> u64 {
    if address.is_unspecified() {
        address_type::UNSPECIFIED
    } else if address.is_loopback() {
        address_type::LOOPBACK
    } else if address.is_multicast() {
        address_type::MULTICAST
    } else if address == IpAddr::V4([255; 4].into()) {
        address_type::BROADCAST
    } else {
        address_type::UNICAST
    }
}
