//! The numbers of DNS and their names: types, classes and response codes.

use std::fmt;

use hickory_proto::rr::{DNSClass, RecordType};

/// A record type. `Display` prints "A", or "TYPE65280" if the type is not known here (RFC 3597, 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DnsType(pub u16);

/// A class of records. `Display` prints "IN", or "CLASS42" if the class is not known here (RFC
/// 3597, 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DnsClass(pub u16);

/// A response code: the header's four bits, below the eight that EDNS adds (RFC 6891, 6.1.3).
/// `Display` prints "NXDOMAIN", or "RCODE15" if the code has no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rcode(pub u16);

impl DnsType {
    /// An IPv4 address.
    pub const A: Self = Self(1);
    /// An alias: the canonical name of the record's name.
    pub const CNAME: Self = Self(5);
    /// An IPv6 address.
    pub const AAAA: Self = Self(28);
    /// The pseudo-record of EDNS, with the sender's capabilities (RFC 6891).
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

/// The names of the response codes from 0, as IANA lists them.
const RCODES: [&str; 11] = [
    "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET",
    "NXRRSET", "NOTAUTH", "NOTZONE",
];
/// The names of the response codes from [`EDNS_RCODES_FIRST`].
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
