//! What redirect contexts look like that are known.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use sidetrack_abi::address;
use sidetrack_abi::kernel::{ABI_VERSION, AutoContext};
use zerocopy::FromBytes;

/// Bytes of a SOCKADDR_STORAGE.
const STORAGE: usize = 128;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 23; // on Windows
const AF_INET6_LINUX: u8 = 10;

/// What a context tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Where the connection was going.
    pub destination: SocketAddr,
    /// The program's process; 0 if it is not told.
    pub pid: u32,
    /// Its file; empty if it is not told.
    pub executable: String,
}

/// By whichever layout it has. `None` if it has neither.
pub(super) fn read(context: &[u8]) -> Option<Told> {
    read_automatic(context).or_else(|| read_storages(context))
}

/// Sidetrack's own (`struct sidetrack_auto_context`): a version, its own length, a protocol and a family that fit.
fn read_automatic(context: &[u8]) -> Option<Told> {
    let told = AutoContext::read_from_bytes(context).ok()?;
    let is_ours = told.version == ABI_VERSION
        && told.size as usize == context.len()
        && matches!(told.family, 2 | AF_INET6_LINUX | 23);
    is_ours.then(|| Told {
        destination: address::socket_address(told.remote_addr, told.remote_port),
        pid: told.pid,
        executable: String::from_utf8_lossy(address::text(&told.executable)).into_owned(),
    })
}

/// That of Microsoft's samples: one SOCKADDR_STORAGE or two, of which the first is the original destination.
fn read_storages(context: &[u8]) -> Option<Told> {
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
    Some(Told {
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
    fn the_automatic_context_is_known() {
        let told = read(automatic().as_bytes()).unwrap();
        assert_eq!(told.destination.to_string(), "10.1.2.3:443");
        assert_eq!((told.pid, told.executable.as_str()), (42, "/bin/curl"));
    }

    /// Spec 8.8, case 127.
    #[test]
    fn another_version_or_length_is_not_interpreted() {
        let mut other = automatic();
        other.version += 1;
        assert_eq!(read(other.as_bytes()), None);
        other = automatic();
        other.size -= 1;
        assert_eq!(read(other.as_bytes()), None);
        other = automatic();
        other.family = 3;
        assert_eq!(read(other.as_bytes()), None);
        for length in (0..512).filter(|length| ![128, 256, 296].contains(length)) {
            assert_eq!(read(&vec![2; length]), None, "{length}");
        }
    }

    #[test]
    fn addresses_of_the_samples_are_known() {
        let mut storages = [0; 256];
        storages[..8].copy_from_slice(&[2, 0, 0x01, 0xbb, 10, 1, 2, 3]);
        assert_eq!(
            read(&storages).unwrap().destination.to_string(),
            "10.1.2.3:443"
        );
        storages[0] = 23;
        storages[8..24].copy_from_slice(&Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).octets());
        assert_eq!(
            read(&storages[..128]).unwrap().destination.to_string(),
            "[fd00::1]:443"
        );
        storages[0] = 7;
        assert_eq!(read(&storages), None);
    }
}
