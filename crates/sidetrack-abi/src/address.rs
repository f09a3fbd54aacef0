//! The addresses of the ABI: 16 bytes, IPv4 as IPv4-mapped IPv6, with ports in network order.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Returns the 16 bytes of an address, for IPv4 those of `::ffff:a.b.c.d`.
pub fn to_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Returns the address that 16 bytes stand for; an IPv4-mapped one is returned as IPv4.
pub fn from_bytes(bytes: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(bytes).to_canonical()
}

/// Returns the socket address of an address and a port in network order.
pub fn socket_address(bytes: [u8; 16], port: [u8; 2]) -> SocketAddr {
    SocketAddr::new(from_bytes(bytes), u16::from_be_bytes(port))
}

/// Returns the bytes of a field before its first NUL; all of them if it has none.
pub fn text(field: &[u8]) -> &[u8] {
    let end = field
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(field.len());
    &field[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_is_written_as_mapped_and_read_as_ipv4() {
        let v4: IpAddr = "192.0.2.7".parse().unwrap();
        assert_eq!(to_bytes(v4)[10..], [0xff, 0xff, 192, 0, 2, 7]);
        assert_eq!(from_bytes(to_bytes(v4)), v4);
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        assert_eq!(from_bytes(to_bytes(v6)), v6);
    }

    #[test]
    fn ports_are_in_network_order() {
        let address = socket_address(to_bytes("::1".parse().unwrap()), [0x01, 0xbb]);
        assert_eq!(address, "[::1]:443".parse().unwrap());
    }

    #[test]
    fn text_ends_at_the_first_nul_or_with_the_field() {
        assert_eq!(text(b"curl\0xx"), b"curl");
        assert_eq!(text(b"full"), b"full");
    }
}
