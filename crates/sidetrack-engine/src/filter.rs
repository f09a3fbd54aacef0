//! The policy's vocabulary, and its lowering to what the kernel reads. Pure: no I/O.
//!
//! A policy is a list of filters, judged in order: the first that matches, and whose service the
//! connection has not yet seen, redirects it. Sublayers, weights and the other actions of WFP (spec
//! 4.4 to 4.7) will be lowered to the same list.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use sidetrack_abi::address;
use sidetrack_abi::kernel;
use zerocopy::FromZeros;

use crate::Error;

/// IPPROTO_TCP.
const TCP: u8 = 6;

/// Redirects what it matches to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Shown in flows and events.
    pub id: u64,
    /// To which service: [`crate::Service::number`].
    pub service: u32,
    /// Only destinations in this prefix.
    pub remote: Option<IpNet>,
    /// Only destination ports from the first to the last, both included.
    pub ports: Option<(u16, u16)>,
    /// If the service has no listener.
    pub on_absent: Absent,
    /// What the proxy is told besides.
    pub context: Context,
}

/// What becomes of a connection whose service has no listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Absent {
    /// connect fails with ECONNREFUSED (as WFP does with an unregistered callout).
    #[default]
    Block,
    /// As if the filter were not there.
    Permit,
}

/// A redirect context (WFP: localRedirectContext).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Context {
    /// There is none: CONTEXT answers ENODATA.
    #[default]
    None,
    /// These bytes, at most 4,000.
    Fixed(Vec<u8>),
    /// [`kernel::AutoContext`]: original destination, program, flow.
    Auto,
}

impl Filter {
    /// Everything to one service.
    pub fn redirect_all(service: u32) -> Self {
        Self {
            id: u64::from(service),
            service,
            remote: None,
            ports: None,
            on_absent: Absent::Block,
            context: Context::None,
        }
    }

    /// A prefix of one family never matches the other, not even one of length 0.
    fn matches(&self, destination: SocketAddr) -> bool {
        let address = destination.ip().to_canonical();
        let (low, high) = self.ports.unwrap_or((0, u16::MAX));
        self.remote.is_none_or(|prefix| prefix.contains(&address))
            && (low..=high).contains(&destination.port())
    }
}

/// Which filter decides: the index of the first, in order, that matches the destination, whose service
/// is not among those `seen`, and that is not to be passed over because its service is `absent`.
///
/// This is what a policy means: a property test holds the kernel side (`bpf/filter.h`) to it. If the
/// service of the filter found is absent, the connection is refused; `None`: it goes straight on. The
/// destination's family is that of the connection: an IPv4-mapped one is IPv4.
pub fn reference(
    filters: &[Filter],
    destination: SocketAddr,
    seen: &[u32],
    absent: &[u32],
) -> Option<usize> {
    filters.iter().position(|filter| {
        filter.matches(destination)
            && !seen.contains(&filter.service)
            && !(filter.on_absent == Absent::Permit && absent.contains(&filter.service))
    })
}

/// Gives a fixed context its number in the kernel, or none if there is no room.
pub(crate) type ContextNumbers<'a> = dyn FnMut(&[u8]) -> Result<u32, Error> + 'a;

/// Checks a policy and lowers it. `known` says whether a service exists.
pub(crate) fn lower(
    generation: u32,
    filters: &[Filter],
    known: &dyn Fn(u32) -> bool,
    contexts: &mut ContextNumbers<'_>,
) -> Result<Box<kernel::Policy>, Error> {
    if filters.len() > kernel::FILTERS_MAX {
        return Err(Error::TooManyFilters(filters.len()));
    }
    for (index, filter) in filters.iter().enumerate() {
        check(index, filter, known)?;
    }
    let mut policy = Box::new(kernel::Policy::new_zeroed());
    policy.generation = generation;
    policy.filter_count = filters.len() as u32;
    for (index, filter) in filters.iter().enumerate() {
        policy.place[filter.service as usize] = index as u16 + 1;
        policy.filters[index] = lower_filter(filter, contexts)?;
    }
    Ok(policy)
}

fn check(index: usize, filter: &Filter, known: &dyn Fn(u32) -> bool) -> Result<(), Error> {
    if !known(filter.service) {
        return Err(Error::UnknownService {
            index,
            service: filter.service,
        });
    }
    match (&filter.context, filter.ports) {
        (Context::Fixed(bytes), _) if bytes.len() > kernel::CONTEXT_SIZE_MAX => {
            Err(Error::ContextTooLong {
                index,
                length: bytes.len(),
            })
        }
        (_, Some((low, high))) if low > high => Err(Error::PortRange { index, low, high }),
        _ => Ok(()),
    }
}

fn lower_filter(
    filter: &Filter,
    contexts: &mut ContextNumbers<'_>,
) -> Result<kernel::Filter, Error> {
    let (remote_addr, remote_mask, family) = lower_prefix(filter.remote);
    let (port_low, port_high) = filter.ports.unwrap_or((0, u16::MAX));
    let context_id = match &filter.context {
        Context::Fixed(bytes) if !bytes.is_empty() => contexts(bytes)?,
        Context::None | Context::Fixed(_) => 0,
        Context::Auto => kernel::CONTEXT_AUTO,
    };
    Ok(kernel::Filter {
        id: filter.id,
        remote_addr,
        remote_mask,
        reserved: [0; 2],
        port_low,
        port_high,
        service: filter.service as u16,
        context_id,
        protocol: TCP,
        family,
        on_absent: match filter.on_absent {
            Absent::Block => kernel::ABSENT_BLOCK,
            Absent::Permit => kernel::ABSENT_PERMIT,
        },
        reserved2: 0,
    })
}

/// Address and mask of 16 bytes, and the family: a prefix of one family never matches the other.
fn lower_prefix(prefix: Option<IpNet>) -> ([u8; 16], [u8; 16], u8) {
    let Some(prefix) = prefix else {
        return ([0; 16], [0; 16], 0);
    };
    let (bits, family) = match prefix.addr() {
        IpAddr::V4(_) => (96 + prefix.prefix_len(), libc::AF_INET),
        IpAddr::V6(_) => (prefix.prefix_len(), libc::AF_INET6),
    };
    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
    let address = u128::from_be_bytes(address::to_bytes(prefix.addr())) & mask;
    (address.to_be_bytes(), mask.to_be_bytes(), family as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lower_one(filter: Filter) -> Result<kernel::Filter, Error> {
        lower(1, &[filter], &|service| service == 1, &mut |_| Ok(7)).map(|policy| policy.filters[0])
    }

    #[test]
    fn prefixes_become_masks_of_16_bytes() {
        let with = |text: &str| Filter {
            remote: Some(text.parse().unwrap()),
            ..Filter::redirect_all(1)
        };
        let v4 = lower_one(with("10.1.2.3/8")).unwrap();
        assert_eq!(v4.remote_addr[10..], [0xff, 0xff, 10, 0, 0, 0]);
        assert_eq!(v4.remote_mask[10..], [0xff, 0xff, 0xff, 0, 0, 0]);
        assert_eq!(v4.family, 2);
        let any6 = lower_one(with("::/0")).unwrap();
        assert_eq!((any6.remote_mask, any6.family), ([0; 16], 10));
        let host6 = lower_one(with("2001:db8::1/128")).unwrap();
        assert_eq!(host6.remote_mask, [0xff; 16]);
    }

    #[test]
    fn bad_filters_are_refused_with_their_index() {
        let unknown = lower_one(Filter::redirect_all(2)).unwrap_err();
        assert!(matches!(
            unknown,
            Error::UnknownService {
                index: 0,
                service: 2
            }
        ));
        let long = lower_one(Filter {
            context: Context::Fixed(vec![0; 4001]),
            ..Filter::redirect_all(1)
        });
        assert!(matches!(
            long,
            Err(Error::ContextTooLong { length: 4001, .. })
        ));
        let ports = lower_one(Filter {
            ports: Some((2, 1)),
            ..Filter::redirect_all(1)
        });
        assert!(matches!(ports, Err(Error::PortRange { .. })));
        let many = vec![Filter::redirect_all(1); 257];
        let many = lower(1, &many, &|_| true, &mut |_| Ok(1));
        assert!(matches!(many, Err(Error::TooManyFilters(257))));
    }

    #[test]
    fn contexts_are_none_numbered_or_automatic() {
        let with = |context| Filter {
            context,
            ..Filter::redirect_all(1)
        };
        assert_eq!(lower_one(with(Context::None)).unwrap().context_id, 0);
        assert_eq!(
            lower_one(with(Context::Fixed(vec![1]))).unwrap().context_id,
            7
        );
        assert_eq!(lower_one(with(Context::Auto)).unwrap().context_id, u32::MAX);
    }

    #[test]
    fn a_services_place_is_behind_its_last_filter() {
        let filters = [1, 2, 1].map(Filter::redirect_all);
        let policy = lower(1, &filters, &|_| true, &mut |_| Ok(1)).unwrap();
        assert_eq!(policy.place[..4], [0, 3, 2, 0]);
    }
}
