//! The field values of a connection at a layer, and how a policy's paths are resolved.

use std::net::{IpAddr, SocketAddr};

use crate::field::{address_type, flags};
use crate::{Family, Field, Layer};

/// Number of levels below the root of the hierarchy at which a `prefix` condition can name a cgroup.
pub const CGROUP_LEVELS_MAX: usize = sidetrack_abi::kernel::CGROUP_LEVELS_MAX;

/// The values of all fields of one connection, as read for one layer.
///
/// A value for which the layer has no field keeps its default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldValues {
    /// Layer at which the connection is classified.
    pub layer: Layer,
    /// Original program: it opened the first connection of the chain.
    pub program: Program,
    /// Current program: the original program, or a proxy.
    pub current: Program,
    /// Local address and port; the unspecified address and 0 if the socket is not bound.
    pub local: SocketAddr,
    /// Original destination of an outbound connection; source of an inbound one.
    pub remote: SocketAddr,
    /// IPPROTO_TCP or IPPROTO_UDP.
    pub protocol: u8,
    /// Cookie of the network namespace.
    pub netns: u64,
    /// True if the connection is inbound.
    pub inbound: bool,
    /// True if this connect is redirected.
    pub redirected: bool,
    /// True if the connection carries redirect records.
    pub proxied: bool,
}

/// What conditions can test about a program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// Executable of the program.
    pub app: FileId,
    /// Real user id of the program.
    pub user: u32,
    /// Ids of its cgroup and of all cgroups above it, from below the root downwards. Empty for a
    /// program in the root.
    pub cgroups: Vec<u64>,
    /// True if the program is elevated: its real, effective and saved user ids, or group ids, are not
    /// all the same, as in a set-user-ID program.
    pub elevated: bool,
}

/// A file, identified as the kernel does it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Device, as the kernel numbers it: major << 20 | minor.
    pub device: u32,
    /// Inode number on that device.
    pub inode: u64,
}

/// A cgroup, identified as the kernel does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CgroupId {
    /// Id of the cgroup; never 0.
    pub id: u64,
    /// Level below the root of the hierarchy; the root has level 0.
    pub level: u32,
}

/// Resolves the paths of a policy on a host. A path that does not exist there equals no executable
/// and no cgroup.
pub trait Host {
    /// The file at an absolute path; none if there is no file.
    fn file(&self, path: &str) -> Option<FileId>;
    /// The cgroup at a path below the root of the hierarchy; none if there is no cgroup.
    fn cgroup(&self, path: &str) -> Option<CgroupId>;
}

/// A host on which no path exists, for policies that are evaluated apart from a host.
#[derive(Clone, Copy, Debug)]
pub struct EmptyHost;

impl Host for EmptyHost {
    fn file(&self, _: &str) -> Option<FileId> {
        None
    }

    fn cgroup(&self, _: &str) -> Option<CgroupId> {
        None
    }
}

impl FieldValues {
    /// The value of a field as the 128 bits that the kernel tests.
    ///
    /// An address is its 16 bytes in network order, an IPv4 address in its IPv4-mapped form; a file
    /// has its device in the upper and its inode in the lower 64 bits; a cgroup is its id, and the
    /// root is 0.
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

    /// All values in the kernel's layout, each with its upper 64 bits first: first the fields in
    /// the order of [`Field::ALL`], then the cgroups of the original program by level, then those
    /// of the current program.
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
    /// Id of the program's cgroup; 0 for the root.
    fn cgroup(&self) -> u64 {
        self.cgroups.last().copied().unwrap_or(0)
    }
}

impl FileId {
    /// The device in the upper 64 bits, the inode in the lower.
    pub(crate) fn key(self) -> u128 {
        u128::from(self.device) << 64 | u128::from(self.inode)
    }
}

/// An address as a number of 128 bits; an IPv4 address in its IPv4-mapped form.
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

/// The type of an address: one of the constants in [`address_type`].
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
