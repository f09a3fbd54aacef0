//! Fields: what a condition may ask about, and at which layers (specification, 4.4).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Code, Error, LayerKind};

/// Something a condition asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// The executable of the program that opened the chain's first connection, however many proxies
    /// are between (WFP: ALE_ORIGINAL_APP_ID). A path; matched by device and inode.
    App,
    /// The executable that connects now, be it a proxy (WFP: ALE_APP_ID).
    CurrentApp,
    /// The first program's effective user.
    User,
    /// The user that connects now (WFP: ALE_USER_ID).
    CurrentUser,
    /// The first program's cgroup. A path below the hierarchy's root.
    Cgroup,
    /// The cgroup of who connects now.
    CurrentCgroup,
    /// FLAGS: see [`flags`].
    Flags,
    /// IP_LOCAL_ADDRESS: unspecified if the socket is not bound.
    LocalAddress,
    /// IP_LOCAL_ADDRESS_TYPE: see [`address_type`].
    LocalAddressType,
    /// IP_LOCAL_PORT: 0 if the socket is not bound.
    LocalPort,
    /// IP_REMOTE_ADDRESS: where the program meant to go.
    RemoteAddress,
    /// IP_REMOTE_PORT.
    RemotePort,
    /// IP_DESTINATION_ADDRESS_TYPE.
    DestinationAddressType,
    /// IP_PROTOCOL: 6 or 17.
    Protocol,
    /// The network namespace, by its cookie (WFP: COMPARTMENT_ID).
    Netns,
    /// DIRECTION: 0 outbound, 1 inbound.
    Direction,
}

/// Bits of [`Field::Flags`] (WFP: FWP_CONDITION_FLAG_…).
pub mod flags {
    /// The remote address is a loopback one.
    pub const LOOPBACK: u64 = 0x1;
    /// The connection is redirected by this connect.
    pub const REDIRECTED: u64 = 0x10_0000;
    /// The connection carries redirect records: a proxy goes on.
    pub const PROXY_CONNECTION: u64 = 0x20_0000;
    /// All, with the names in policy files.
    pub const NAMES: [(&str, u64); 3] = [
        ("loopback", LOOPBACK),
        ("redirected", REDIRECTED),
        ("proxy_connection", PROXY_CONNECTION),
    ];
}

/// Values of the address types (WFP: NL_ADDRESS_TYPE).
pub mod address_type {
    /// 0.0.0.0 or ::.
    pub const UNSPECIFIED: u64 = 0;
    /// Of one host, loopback not included.
    pub const UNICAST: u64 = 1;
    /// Of a group.
    pub const MULTICAST: u64 = 3;
    /// 255.255.255.255.
    pub const BROADCAST: u64 = 4;
    /// 127.0.0.0/8 or ::1: Linux's own, WFP has it as a unicast one and a flag.
    pub const LOOPBACK: u64 = 5;
    /// All, with the names in policy files.
    pub const NAMES: [(&str, u64); 5] = [
        ("unspecified", UNSPECIFIED),
        ("unicast", UNICAST),
        ("multicast", MULTICAST),
        ("broadcast", BROADCAST),
        ("loopback", LOOPBACK),
    ];
}

/// What kind of value a field has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldType {
    /// An unsigned number, with its greatest value.
    Uint(u64),
    /// An address of the layer's family.
    Address,
    /// A file.
    App,
    /// A cgroup.
    Cgroup,
}

/// WFP's fields that say nothing on Linux, and why.
const ABSENT: &[(&str, &str)] = &[
    ("package_id", "packages with identities are Windows' own"),
    (
        "package_family_name",
        "packages with identities are Windows' own",
    ),
    (
        "security_attribute_fqbn_value",
        "signed binary names are Windows' own",
    ),
    (
        "local_interface",
        "the interface is chosen after this layer; use local_address or netns",
    ),
    ("remote_user_id", "it is of IPsec, which does not tell us"),
    (
        "remote_machine_id",
        "it is of IPsec, which does not tell us",
    ),
    (
        "interface_index",
        "the interface is chosen after this layer; use local_address or netns",
    ),
    ("interface_type", "Linux interfaces have no such type"),
    ("tunnel_type", "Linux interfaces have no such type"),
    (
        "compartment_id",
        "compartments are network namespaces here; use netns",
    ),
    ("reauthorize_reason", "a connection is authorised once"),
    ("peer_name", "there is no peer name resolution"),
    ("effective_name", "there is no effective name"),
    ("nap_context", "there is no network access protection"),
    ("sio_firewall_system_port", "there are no system ports"),
];

impl Field {
    /// All.
    pub const ALL: [Self; 16] = [
        Self::App,
        Self::CurrentApp,
        Self::User,
        Self::CurrentUser,
        Self::Cgroup,
        Self::CurrentCgroup,
        Self::Flags,
        Self::LocalAddress,
        Self::LocalAddressType,
        Self::LocalPort,
        Self::RemoteAddress,
        Self::RemotePort,
        Self::DestinationAddressType,
        Self::Protocol,
        Self::Netns,
        Self::Direction,
    ];

    /// As in policy files and in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::CurrentApp => "current_app",
            Self::User => "user",
            Self::CurrentUser => "current_user",
            Self::Cgroup => "cgroup",
            Self::CurrentCgroup => "current_cgroup",
            Self::Flags => "flags",
            Self::LocalAddress => "local_address",
            Self::LocalAddressType => "local_address_type",
            Self::LocalPort => "local_port",
            Self::RemoteAddress => "remote_address",
            Self::RemotePort => "remote_port",
            Self::DestinationAddressType => "destination_address_type",
            Self::Protocol => "protocol",
            Self::Netns => "netns",
            Self::Direction => "direction",
        }
    }

    /// What its values are.
    pub fn kind(self) -> FieldType {
        match self {
            Self::App | Self::CurrentApp => FieldType::App,
            Self::Cgroup | Self::CurrentCgroup => FieldType::Cgroup,
            Self::LocalAddress | Self::RemoteAddress => FieldType::Address,
            Self::LocalPort | Self::RemotePort => FieldType::Uint(0xffff),
            Self::LocalAddressType | Self::DestinationAddressType | Self::Protocol => {
                FieldType::Uint(0xff)
            }
            Self::User | Self::CurrentUser | Self::Flags | Self::Direction => {
                FieldType::Uint(0xffff_ffff)
            }
            Self::Netns => FieldType::Uint(u64::MAX),
        }
    }

    /// Whether it exists at a layer.
    pub fn is_at(self, layer: LayerKind) -> bool {
        use LayerKind::{AuthConnect, BindRedirect, ConnectRedirect, FlowEstablished};
        match self {
            Self::CurrentApp | Self::CurrentUser | Self::CurrentCgroup => {
                matches!(layer, ConnectRedirect | AuthConnect)
            }
            Self::RemoteAddress | Self::RemotePort => layer != BindRedirect,
            Self::DestinationAddressType => {
                matches!(layer, ConnectRedirect | AuthConnect | FlowEstablished)
            }
            Self::Direction => layer == FlowEstablished,
            _ => true,
        }
    }

    /// Checks that it exists at a layer. Errors: FWP_E_CONDITION_NOT_FOUND.
    pub(crate) fn require_at(self, layer: LayerKind) -> Result<(), Error> {
        if self.is_at(layer) {
            return Ok(());
        }
        Err(Error::new(
            Code::ConditionNotFound,
            format!("the field {self} does not exist at layer {}", layer.name()),
        ))
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Field {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(field) = Self::ALL.into_iter().find(|field| field.name() == text) {
            return Ok(field);
        }
        let message = match ABSENT.iter().find(|(name, _)| *name == text) {
            Some((_, why)) => format!("WFP's field {text} has no meaning on Linux: {why}"),
            None => format!("there is no field {text:?}"),
        };
        Err(Error::new(Code::ConditionNotFound, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_reads_back_and_windows_own_are_refused_by_name() {
        for field in Field::ALL {
            assert_eq!(field.name().parse::<Field>().unwrap(), field);
        }
        let error = "local_interface".parse::<Field>().unwrap_err();
        assert_eq!(error.code, Code::ConditionNotFound);
        assert!(error.message.contains("no meaning on Linux"), "{error}");
    }
}
