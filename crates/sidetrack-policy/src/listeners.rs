//! The listeners of a service, which decide for which connections it is absent.

use std::fmt;

use crate::Family;
use crate::field_values::FieldValues;
use crate::redirect::Protocol;

const UDP: u8 = Protocol::Udp as u8;

/// How many listeners a service has now, by protocol and family. Over UDP, a listener is a socket
/// that the service marked with the option LISTEN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listeners {
    /// TCP over IPv4.
    pub tcp4: u32,
    /// TCP over IPv6.
    pub tcp6: u32,
    /// UDP over IPv4.
    pub udp4: u32,
    /// UDP over IPv6.
    pub udp6: u32,
}

impl Listeners {
    /// The numbers for TCP: over IPv4, and over IPv6.
    pub fn tcp(self) -> (u32, u32) {
        (self.tcp4, self.tcp6)
    }

    /// The numbers for UDP: over IPv4, and over IPv6.
    pub fn udp(self) -> (u32, u32) {
        (self.udp4, self.udp6)
    }

    /// True if there is no listener at all.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// True if there is none for connections of this protocol and family: then the service is
    /// absent for them.
    pub fn is_absent(self, protocol: u8, family: Family) -> bool {
        let (v4, v6) = match protocol {
            UDP => self.udp(),
            _ => self.tcp(),
        };
        match family {
            Family::V4 => v4 == 0,
            Family::V6 => v6 == 0,
        }
    }
}

impl fmt::Display for Listeners {
    /// Prints which there are, such as `tcp4, tcp6, udp4`; `none` if there are none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            ("tcp4", self.tcp4),
            ("tcp6", self.tcp6),
            ("udp4", self.udp4),
            ("udp6", self.udp6),
        ];
        let present = all.into_iter().filter(|(_, number)| *number > 0);
        let names: Vec<_> = present.map(|(name, _)| name).collect();
        match names.is_empty() {
            true => f.write_str("none"),
            false => f.write_str(&names.join(", ")),
        }
    }
}

/// The numbers of the services that are absent for a connection, of those that are given with their
/// listeners.
pub fn absent_services(
    services: impl IntoIterator<Item = (u16, Listeners)>,
    field_values: &FieldValues,
) -> Vec<u16> {
    let (protocol, family) = (field_values.protocol, field_values.layer.family);
    let absent = |listeners: Listeners| listeners.is_absent(protocol, family);
    services
        .into_iter()
        .filter(|(_, listeners)| absent(*listeners))
        .map(|(number, _)| number)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_absent_where_it_has_no_listener() {
        let each = [
            (
                6,
                Family::V4,
                Listeners {
                    tcp4: 1,
                    ..Listeners::default()
                },
                "tcp4",
            ),
            (
                6,
                Family::V6,
                Listeners {
                    tcp6: 1,
                    ..Listeners::default()
                },
                "tcp6",
            ),
            (
                17,
                Family::V4,
                Listeners {
                    udp4: 1,
                    ..Listeners::default()
                },
                "udp4",
            ),
            (
                17,
                Family::V6,
                Listeners {
                    udp6: 1,
                    ..Listeners::default()
                },
                "udp6",
            ),
        ];
        for (protocol, family, _, name) in each {
            for (_, _, listeners, other) in each {
                let is_other = name != other;
                assert_eq!(
                    listeners.is_absent(protocol, family),
                    is_other,
                    "{name} {other}"
                );
                assert_eq!(listeners.to_string(), other);
            }
        }
        assert_eq!(Listeners::default().to_string(), "none");
        assert!(Listeners::default().is_empty());
        let all = Listeners {
            tcp4: 1,
            tcp6: 2,
            udp4: 3,
            udp6: 4,
        };
        assert_eq!(all.to_string(), "tcp4, tcp6, udp4, udp6");
    }
}
