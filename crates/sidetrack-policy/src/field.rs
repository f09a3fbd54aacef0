//! Fields: the properties of a connection that conditions test, and the layers that have them
//! (docs/wfp.md, 4.4).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Code, Error, LayerKind};

/// A property of a connection that a condition tests.
///
/// *Original program* means the program that opened the first connection of the chain; *current
/// program* means the one that connects now, which may be a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// Executable of the original program, however many proxies are in between (WFP:
    /// ALE_ORIGINAL_APP_ID). The value is a path; the executable is compared by device and inode.
    App,
    /// Executable of the current program (WFP: ALE_APP_ID).
    CurrentApp,
    /// Real user id of the original program.
    User,
    /// Real user id of the current program (WFP: ALE_USER_ID).
    CurrentUser,
    /// Cgroup of the original program, as a path below the root of the hierarchy.
    Cgroup,
    /// Cgroup of the current program, as a path below the root of the hierarchy.
    CurrentCgroup,
    /// Bits that describe the connection: see [`flags`] (WFP: FLAGS).
    Flags,
    /// Local address; unspecified if the socket is not bound (WFP: IP_LOCAL_ADDRESS).
    LocalAddress,
    /// Type of the local address: see [`address_type`] (WFP: IP_LOCAL_ADDRESS_TYPE).
    LocalAddressType,
    /// Local port; 0 if the socket is not bound (WFP: IP_LOCAL_PORT).
    LocalPort,
    /// Remote address: the original destination, at every hop (WFP: IP_REMOTE_ADDRESS).
    RemoteAddress,
    /// Remote port: the port of the original destination, at every hop (WFP: IP_REMOTE_PORT).
    RemotePort,
    /// Type of the remote address: see [`address_type`] (WFP: IP_DESTINATION_ADDRESS_TYPE).
    DestinationAddressType,
    /// Transport protocol: 6 for TCP, 17 for UDP (WFP: IP_PROTOCOL).
    Protocol,
    /// Cookie of the network namespace (WFP: COMPARTMENT_ID).
    Netns,
    /// 0 for outbound, 1 for inbound (WFP: DIRECTION).
    Direction,
}

/// Bits of [`Field::Flags`] (WFP: FWP_CONDITION_FLAG_…).
pub mod flags {
    /// The remote address is a loopback address.
    pub const LOOPBACK: u64 = 0x1;
    /// This connect is redirected.
    pub const REDIRECTED: u64 = 0x10_0000;
    /// The connection carries redirect records: it is a proxy's outgoing connection.
    pub const PROXY_CONNECTION: u64 = 0x20_0000;
    /// All flags, with their names in policy files.
    pub const NAMES: [(&str, u64); 3] = [
        ("loopback", LOOPBACK),
        ("redirected", REDIRECTED),
        ("proxy_connection", PROXY_CONNECTION),
    ];
}

/// Values of [`Field::LocalAddressType`] and [`Field::DestinationAddressType`] (WFP:
/// NL_ADDRESS_TYPE).
pub mod address_type {
    /// The address is 0.0.0.0 or ::.
    pub const UNSPECIFIED: u64 = 0;
    /// The address belongs to one host and is not a loopback address.
    pub const UNICAST: u64 = 1;
    /// The address belongs to a multicast group.
    pub const MULTICAST: u64 = 3;
    /// The address is 255.255.255.255.
    pub const BROADCAST: u64 = 4;
    /// The address is in 127.0.0.0/8 or is ::1. WFP does not have this type: there, a loopback
    /// address is a unicast address, and a flag is set.
    pub const LOOPBACK: u64 = 5;
    /// All types, with their names in policy files.
    pub const NAMES: [(&str, u64); 5] = [
        ("unspecified", UNSPECIFIED),
        ("unicast", UNICAST),
        ("multicast", MULTICAST),
        ("broadcast", BROADCAST),
        ("loopback", LOOPBACK),
    ];
}

/// The type of a field's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldType {
    /// Unsigned integer; the number is the greatest possible value.
    Uint(u64),
    /// IP address of the layer's family.
    Address,
    /// Executable file.
    App,
    /// Cgroup.
    Cgroup,
}

/// Names of WFP's fields that have no meaning on Linux, each with the reason.
const WITHOUT_MEANING: &[(&str, &str)] = &[
    ("package_id", "only Windows has packages with identities"),
    (
        "package_family_name",
        "only Windows has packages with identities",
    ),
    (
        "security_attribute_fqbn_value",
        "only Windows has signed binary names",
    ),
    (
        "local_interface",
        "the interface is chosen after this layer; use local_address or netns",
    ),
    (
        "remote_user_id",
        "WFP has it from IPsec, and IPsec on Linux does not report it",
    ),
    (
        "remote_machine_id",
        "WFP has it from IPsec, and IPsec on Linux does not report it",
    ),
    (
        "interface_index",
        "the interface is chosen after this layer; use local_address or netns",
    ),
    ("interface_type", "Linux interfaces have no such type"),
    ("tunnel_type", "Linux interfaces have no such type"),
    (
        "compartment_id",
        "Linux has network namespaces instead of compartments; use netns",
    ),
    ("reauthorize_reason", "a connection is authorised only once"),
    ("peer_name", "Linux has no peer name resolution"),
    ("effective_name", "Linux has no effective names"),
    ("nap_context", "Linux has no network access protection"),
    ("sio_firewall_system_port", "Linux has no system ports"),
];

impl Field {
    /// All fields. A field's index here is its number in the kernel's image.
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

    /// Name in policy files, for example `remote_port`. The API has the same name in upper case.
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

    /// The reason why a field of WFP, given by its name in lower case, has no meaning on Linux. None
    /// if Linux has the field, or WFP does not.
    pub fn unsupported_reason(name: &str) -> Option<&'static str> {
        let mut unsupported = WITHOUT_MEANING.iter();
        unsupported
            .find(|(unsupported, _)| *unsupported == name)
            .map(|(_, reason)| *reason)
    }

    /// Type of the field's values.
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

    /// True if the field exists at the layer.
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

    /// Checks that the field exists at the layer. Errors: FWP_E_CONDITION_NOT_FOUND.
    pub(crate) fn require_at(self, layer: LayerKind) -> Result<(), Error> {
        if self.is_at(layer) {
            return Ok(());
        }
        Err(Error::new(
            Code::ConditionNotFound,
            format!(
                "the layer {} does not have the field {self}; use another layer or field",
                layer.name()
            ),
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
        let message = match Self::unsupported_reason(text) {
            Some(reason) => format!("WFP's field {text} has no meaning on Linux: {reason}"),
            None => format!("there is no field {text:?}; docs/policy.md lists the fields"),
        };
        Err(Error::new(Code::ConditionNotFound, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_parsed_from_its_name_and_fields_of_windows_are_refused() {
        for field in Field::ALL {
            assert_eq!(field.name().parse::<Field>().unwrap(), field);
        }
        let error = "local_interface".parse::<Field>().unwrap_err();
        assert_eq!(error.code, Code::ConditionNotFound);
        assert!(error.message.contains("no meaning on Linux"), "{error}");
    }
}
