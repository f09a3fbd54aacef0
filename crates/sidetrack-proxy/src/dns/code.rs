//! The numbers of DNS, and what people call them.

use std::fmt;

use hickory_proto::rr::{DNSClass, RecordType};

/// A type of record. Shown as "A", or as "TYPE65280" if it has no name here (RFC 3597, 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DnsType(pub u16);

/// A class of records. Shown as "IN", or as "CLASS42" if it has no name here (RFC 3597, 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DnsClass(pub u16);

/// What became of a query: the header's four bits, below the eight that EDNS adds (RFC 6891, 6.1.3).
/// Shown as "NXDOMAIN", or as "RCODE15" if it has no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rcode(pub u16);

impl DnsType {
    /// An IPv4 address.
    pub const A: Self = Self(1);
    /// Another name for it.
    pub const CNAME: Self = Self(5);
    /// An IPv6 address.
    pub const AAAA: Self = Self(28);
    /// What the sender can do; no record of any name (RFC 6891).
    pub const OPT: Self = Self(41);
}

impl DnsClass {
    /// The Internet.
    pub const IN: Self = Self(1);
}

impl fmt::Display for DnsType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match RecordType::from(self.0) {
            RecordType::Unknown(number) => write!(f, "TYPE{number}"),
            known => write!(f, "{known}"),
        }
    }
}

impl fmt::Display for DnsClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DNSClass::from(self.0) {
            DNSClass::Unknown(number) => write!(f, "CLASS{number}"),
            known => write!(f, "{known}"),
        }
    }
}

impl fmt::Display for Rcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = usize::from(self.0);
        let of_edns = || EDNS_RCODES.get(number.checked_sub(EDNS_RCODES_FIRST)?);
        match RCODES.get(number).or_else(of_edns) {
            Some(name) => f.write_str(name),
            None => write!(f, "RCODE{number}"),
        }
    }
}

/// As IANA lists them, from 0.
const RCODES: [&str; 11] = [
    "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET",
    "NXRRSET", "NOTAUTH", "NOTZONE",
];
/// The same from here.
const EDNS_RCODES: [&str; 8] = [
    "BADVERS",
    "BADKEY",
    "BADTIME",
    "BADMODE",
    "BADNAME",
    "BADALG",
    "BADTRUNC",
    "BADCOOKIE",
];
const EDNS_RCODES_FIRST: usize = 16;
