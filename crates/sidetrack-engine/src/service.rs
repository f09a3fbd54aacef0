//! Services: redirect targets, which WFP calls redirect handles.

use std::fmt::Write as _;

use sidetrack_abi::kernel::{self, Listen};
use sidetrack_policy::{Absent, ConnectMode, RecordsMode, RedirectContext, Uuid};
use zerocopy::IntoBytes;

use crate::Error;

/// The properties of a service.
#[derive(Clone, Debug)]
pub struct ServiceSpec {
    /// Key of the object; [`ServiceSpec::new`] makes a random one.
    pub key: Uuid,
    /// Name that flows show: 1 to 31 bytes without control characters.
    pub name: String,
    /// How its own connects without records are treated.
    pub records: RecordsMode,
    /// Whether its records work for the destination of their flow only.
    pub records_bound: bool,
    /// Whether its listeners may be marked by LISTEN_PENDED.
    pub connect: ConnectMode,
    /// Whether every process in its cgroup belongs to the service, and not only the one that marked the listener
    /// with its descendants.
    pub owns_cgroup: bool,
    /// What a filter without its own `on_absent` does while the service has no listener.
    pub on_absent: Absent,
    /// The redirect context that the proxy gets from a filter without its own.
    pub context: RedirectContext,
}

/// A service that an engine has added.
#[derive(Clone)]
pub struct RegisteredService {
    /// Its number, by which flows and events name it.
    pub number: u32,
    /// Its key, by which filters name it.
    pub key: Uuid,
    pub(crate) listen: Listen,
}

impl ServiceSpec {
    /// A service whose proxy sets records.
    pub fn new(name: &str) -> Self {
        Self {
            key: Uuid::new_v4(),
            name: name.to_owned(),
            records: RecordsMode::Required,
            records_bound: false,
            connect: ConnectMode::Accepted,
            owns_cgroup: false,
            on_absent: Absent::Block,
            context: RedirectContext::None,
        }
    }

    /// A service of a legacy proxy, which does not set records.
    pub fn legacy(name: &str) -> Self {
        Self {
            records: RecordsMode::Legacy,
            ..Self::new(name)
        }
    }

    /// Whether a service of these properties is, to the kernel, the other one: the name and what the
    /// kernel knows of its records are the same.
    pub fn is_same_to_kernel(&self, other: &Self) -> bool {
        let settings = |spec: &Self| (spec.records, spec.records_bound);
        self.name == other.name && settings(self) == settings(other)
    }

    /// A service as described by an object of the full model.
    pub fn of_object(service: &sidetrack_policy::Service) -> Self {
        Self {
            key: service.identity.key,
            name: service.identity.name.clone(),
            records: service.records,
            records_bound: service.records_bound,
            connect: service.connect,
            owns_cgroup: false,
            on_absent: service.on_absent,
            context: service.context.clone(),
        }
    }

    /// Reads a service that an earlier engine wrote to the kernel, which does not contain all properties: of
    /// `connect`, `owns_cgroup`, `on_absent` and `context` it has the defaults.
    pub(crate) fn from_kernel(value: &kernel::Service) -> Self {
        let name = sidetrack_abi::address::text(&value.name);
        Self {
            key: Uuid::from_bytes(value.key),
            name: String::from_utf8_lossy(name).into_owned(),
            records: match (value.records, value.flags & kernel::OWN_TRAFFIC_PERMIT) {
                (kernel::RECORDS_LEGACY, _) => RecordsMode::Legacy,
                (_, 0) => RecordsMode::Required,
                _ => RecordsMode::RequiredOrOwn,
            },
            records_bound: value.flags & kernel::RECORDS_BOUND != 0,
            connect: ConnectMode::Accepted,
            owns_cgroup: false,
            on_absent: Absent::Block,
            context: RedirectContext::None,
        }
    }

    /// The service in the kernel's form, without listeners. Errors: [`Error::ServiceName`].
    pub(crate) fn to_kernel(&self, secret: [u8; 16]) -> Result<kernel::Service, Error> {
        let bytes = self.name.as_bytes();
        let fits = (1..kernel::NAME_SIZE).contains(&bytes.len());
        if !fits || self.name.chars().any(char::is_control) {
            return Err(Error::ServiceName(self.name.clone()));
        }
        let mut name = [0; kernel::NAME_SIZE];
        name[..bytes.len()].copy_from_slice(bytes);
        let (records, flags) = match self.records {
            RecordsMode::Required => (kernel::RECORDS_REQUIRED, 0),
            RecordsMode::RequiredOrOwn => (kernel::RECORDS_REQUIRED, kernel::OWN_TRAFFIC_PERMIT),
            RecordsMode::Legacy => (kernel::RECORDS_LEGACY, 0),
        };
        let bound = match self.records_bound {
            true => kernel::RECORDS_BOUND,
            false => 0,
        };
        Ok(kernel::Service {
            secret,
            key: self.key.into_bytes(),
            name,
            records,
            flags: flags | bound,
            listeners4: 0,
            listeners6: 0,
            addr4: [0; 4],
            port4: [0; 2],
            port6: [0; 2],
            addr6: [0; 16],
            epoch: u32::from_ne_bytes(std::array::from_fn(|index| secret[index])),
            datagrams4: 0,
            datagrams6: 0,
            datagram_port4: [0; 2],
            datagram_port6: [0; 2],
            pended_listeners: 0,
        })
    }
}

impl RegisteredService {
    /// The credentials for its proxy: the value of the option LISTEN.
    pub fn credentials(&self) -> &[u8] {
        self.listen.as_bytes()
    }

    /// The credentials in hexadecimal, for an environment variable.
    pub fn credentials_hex(&self) -> String {
        self.credentials()
            .iter()
            .fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
                text
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_has_the_settings_for_records() {
        let bound = ServiceSpec {
            records: RecordsMode::RequiredOrOwn,
            records_bound: true,
            ..ServiceSpec::new("a")
        };
        let free = ServiceSpec {
            records_bound: false,
            ..bound.clone()
        };
        for spec in [&bound, &free] {
            let read = ServiceSpec::from_kernel(&spec.to_kernel([1; 16]).unwrap());
            assert!(read.is_same_to_kernel(spec));
        }
        assert!(!free.is_same_to_kernel(&bound));
    }

    #[test]
    fn names_have_1_to_31_bytes() {
        for good in ["a", "Überwachung", &"x".repeat(31)] {
            assert!(ServiceSpec::new(good).to_kernel([1; 16]).is_ok(), "{good}");
        }
        for bad in ["", "a\nb", &"x".repeat(32)] {
            assert!(ServiceSpec::new(bad).to_kernel([1; 16]).is_err(), "{bad}");
        }
    }
}
