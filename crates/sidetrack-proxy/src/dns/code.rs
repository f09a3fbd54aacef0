//! The numbers of DNS, and what people call them.

use std::fmt;

use hickory_proto::rr::{DNSClass, RecordType};

/// A type of record. Shown as "A", or as "TYPE65280" if it has no name here (RFC 3597, 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind(pub u16);

/// A class of records. Shown as "IN", or as "CLASS42" if it has no name here (RFC 3597, 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Class(pub u16);

/// What became of a query: the header's four bits, without those that EDNS adds. Shown as
/// "NXDOMAIN", or as "RCODE15" if it has no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rcode(pub u8);

impl Kind {
    /// An IPv4 address.
    pub const A: Self = Self(1);
    /// Another name for it.
    pub const CNAME: Self = Self(5);
    /// An IPv6 address.
    pub const AAAA: Self = Self(28);
    /// What the sender can do; no record of any name (RFC 6891).
    pub const OPT: Self = Self(41);
}

impl Class {
    /// The Internet.
    pub const IN: Self = Self(1);
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match RecordType::from(self.0) {
            RecordType::Unknown(number) => write!(f, "TYPE{number}"),
            known => write!(f, "{known}"),
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DNSClass::from(self.0) {
            DNSClass::Unknown(number) => write!(f, "CLASS{number}"),
            known => write!(f, "{known}"),
        }
    }
}

impl fmt::Display for Rcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match RCODES.get(usize::from(self.0)) {
            Some(name) => f.write_str(name),
            None => write!(f, "RCODE{}", self.0),
        }
    }
}

/// As IANA lists them, from 0.
const RCODES: [&str; 11] = [
    "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET",
    "NXRRSET", "NOTAUTH", "NOTZONE",
];
