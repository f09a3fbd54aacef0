//! The known layouts of redirect contexts.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use sidetrack_abi::address;
use sidetrack_abi::kernel::{ABI_VERSION, AutoContext};
use zerocopy::FromBytes;

/// Size of a SOCKADDR_STORAGE in bytes.
const STORAGE: usize = 128;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 23; // on Windows
const AF_INET6_LINUX: u8 = 10;

/// What a redirect context says about a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedContext {
    /// The original destination.
    pub destination: SocketAddr,
    /// Process id of the program; 0 if the context does not have it.
    pub pid: u32,
    /// Path of the program's executable; empty if the context does not have it.
    pub executable: String,
}

/// Parses a context of any known layout. `None` if its layout is unknown.
pub(super) fn parse(context: &[u8]) -> Option<ParsedContext> {
    parse_automatic(context).or_else(|| parse_sockaddrs(context))
}

/// Parses Sidetrack's automatic context (`struct sidetrack_auto_context` in bpf/sidetrack.h). The
/// version, the size and the address family must match.
fn parse_automatic(context: &[u8]) -> Option<ParsedContext> {
    let parsed = AutoContext::read_from_bytes(context).ok()?;
    let is_ours = parsed.version == ABI_VERSION
        && parsed.size as usize == context.len()
        && matches!(parsed.family, 2 | AF_INET6_LINUX | 23);
    is_ours.then(|| ParsedContext {
        destination: address::socket_address(parsed.remote_addr, parsed.remote_port),
        pid: parsed.pid,
        executable: String::from_utf8_lossy(address::text(&parsed.executable)).into_owned(),
    })
}

/// Parses the layout of Microsoft's samples: one or two SOCKADDR_STORAGE, of which the first is the
/// original destination.
fn parse_sockaddrs(context: &[u8]) -> Option<ParsedContext> {
    if context.len() != STORAGE && context.len() != 2 * STORAGE {
        return None;
    }
    let family = u16::from_le_bytes([context[0], context[1]]);
    let port = u16::from_be_bytes([context[2], context[3]]);
    let destination = match family {
        AF_INET => {
            let octets: [u8; 4] = context[4..8].try_into().ok()?;
            SocketAddr::from((Ipv4Addr::from(octets), port))
        }
        AF_INET6 => {
            let octets: [u8; 16] = context[8..24].try_into().ok()?;
            SocketAddr::from((Ipv6Addr::from(octets), port))
        }
        _ => return None,
    };
    Some(ParsedContext {
        destination,
        pid: 0,
        executable: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    fn automatic() -> AutoContext {
        let mut executable = [0; 248];
        executable[..9].copy_from_slice(b"/bin/curl");
        AutoContext {
            version: ABI_VERSION,
            size: size_of::<AutoContext>() as u32,
            flow_id: 1,
            remote_addr: Ipv4Addr::new(10, 1, 2, 3).to_ipv6_mapped().octets(),
            remote_port: 443_u16.to_be_bytes(),
            protocol: 6,
            family: 2,
            pid: 42,
            uid: 0,
            reserved: 0,
            executable,
        }
    }

    #[test]
    fn the_automatic_context_is_parsed() {
        let parsed = parse(automatic().as_bytes()).unwrap();
        assert_eq!(parsed.destination.to_string(), "10.1.2.3:443");
        assert_eq!((parsed.pid, parsed.executable.as_str()), (42, "/bin/curl"));
    }

    /// Case 127 of docs/wfp.md, 8.8.
    #[test]
    fn another_version_or_length_is_rejected() {
        let mut other = automatic();
        other.version += 1;
        assert_eq!(parse(other.as_bytes()), None);
        other = automatic();
        other.size -= 1;
        assert_eq!(parse(other.as_bytes()), None);
        other = automatic();
        other.family = 3;
        assert_eq!(parse(other.as_bytes()), None);
        for length in (0..512).filter(|length| ![128, 256, 296].contains(length)) {
            assert_eq!(parse(&vec![2; length]), None, "{length}");
        }
    }

    #[test]
    fn addresses_of_the_samples_are_parsed() {
        let mut storages = [0; 256];
        storages[..8].copy_from_slice(&[2, 0, 0x01, 0xbb, 10, 1, 2, 3]);
        assert_eq!(
            parse(&storages).unwrap().destination.to_string(),
            "10.1.2.3:443"
        );
        storages[0] = 23;
        storages[8..24].copy_from_slice(&Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).octets());
        assert_eq!(
            parse(&storages[..128]).unwrap().destination.to_string(),
            "[fd00::1]:443"
        );
        storages[0] = 7;
        assert_eq!(parse(&storages), None);
    }
}
