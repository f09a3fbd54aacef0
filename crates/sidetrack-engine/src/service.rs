//! Services: redirection identities (WFP: redirect handles).

use std::fmt::Write as _;

use sidetrack_abi::kernel::{self, Listen};
use sidetrack_policy::{Absent, Context, Records, Uuid};
use zerocopy::IntoBytes;

use crate::Error;

/// What a service is to be.
#[derive(Clone, Debug)]
pub struct ServiceSpec {
    /// The object's key; a random one is made by [`ServiceSpec::new`].
    pub key: Uuid,
    /// 1 to 31 bytes; shown in flows.
    pub name: String,
    /// What its own connects without records get.
    pub records: RecordsMode,
    /// Every process in its cgroup is the service's, not only who marked the listener.
    pub owns_cgroup: bool,
    /// What a filter that does not say does while nobody listens.
    pub on_absent: Absent,
    /// What the proxy is told besides, by a filter that does not say.
    pub context: Context,
}

/// What a connect of the service's own, without records, gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordsMode {
    /// It is blocked and reported. `permit_own` lets it go straight on instead.
    Required {
        /// For proxies with traffic of their own, such as updates.
        permit_own: bool,
    },
    /// It goes on from behind the service's place: for proxies that know nothing of records.
    Legacy,
}

/// A service of an engine.
#[derive(Clone)]
pub struct Service {
    /// Its number, for filters.
    pub number: u32,
    pub(crate) listen: Listen,
}

impl ServiceSpec {
    /// A service whose proxy sets records.
    pub fn new(name: &str) -> Self {
        Self {
            key: Uuid::new_v4(),
            name: name.to_owned(),
            records: RecordsMode::Required { permit_own: false },
            owns_cgroup: false,
            on_absent: Absent::Block,
            context: Context::None,
        }
    }

    /// A service whose proxy knows nothing of records.
    pub fn legacy(name: &str) -> Self {
        Self {
            records: RecordsMode::Legacy,
            ..Self::new(name)
        }
    }

    /// A service as an object of a policy describes it.
    pub fn of_object(service: &sidetrack_policy::Service) -> Self {
        Self {
            key: service.identity.key,
            name: service.identity.name.clone(),
            records: match service.records {
                Records::Required => RecordsMode::Required { permit_own: false },
                Records::RequiredOrOwn => RecordsMode::Required { permit_own: true },
                Records::Legacy => RecordsMode::Legacy,
            },
            owns_cgroup: false,
            on_absent: service.on_absent,
            context: service.context.clone(),
        }
    }

    /// What an earlier engine wrote down. `owns_cgroup` is not among it.
    pub(crate) fn from_kernel(value: &kernel::Service) -> Self {
        let name = sidetrack_abi::address::text(&value.name);
        Self {
            key: Uuid::from_bytes(value.key),
            name: String::from_utf8_lossy(name).into_owned(),
            records: match value.records {
                kernel::RECORDS_LEGACY => RecordsMode::Legacy,
                _ => RecordsMode::Required {
                    permit_own: value.flags & kernel::OWN_TRAFFIC_PERMIT != 0,
                },
            },
            owns_cgroup: false,
            on_absent: Absent::Block,
            context: Context::None,
        }
    }

    pub(crate) fn lower(&self, secret: [u8; 16]) -> Result<kernel::Service, Error> {
        let bytes = self.name.as_bytes();
        let fits = (1..kernel::NAME_SIZE).contains(&bytes.len());
        if !fits || self.name.chars().any(char::is_control) {
            return Err(Error::ServiceName(self.name.clone()));
        }
        let mut name = [0; kernel::NAME_SIZE];
        name[..bytes.len()].copy_from_slice(bytes);
        let (records, flags) = match self.records {
            RecordsMode::Required { permit_own: false } => (kernel::RECORDS_REQUIRED, 0),
            RecordsMode::Required { permit_own: true } => {
                (kernel::RECORDS_REQUIRED, kernel::OWN_TRAFFIC_PERMIT)
            }
            RecordsMode::Legacy => (kernel::RECORDS_LEGACY, 0),
        };
        Ok(kernel::Service {
            secret,
            key: self.key.into_bytes(),
            name,
            records,
            flags,
            listeners4: 0,
            listeners6: 0,
            addr4: [0; 4],
            port4: [0; 2],
            port6: [0; 2],
            addr6: [0; 16],
            epoch: u32::from_ne_bytes(std::array::from_fn(|at| secret[at])),
            datagrams4: 0,
            datagrams6: 0,
            datagram_port4: [0; 2],
            datagram_port6: [0; 2],
        })
    }
}

impl Service {
    /// What its proxy must bring: the LISTEN option's value.
    pub fn credentials(&self) -> &[u8] {
        self.listen.as_bytes()
    }

    /// The same in hexadecimal, for an environment variable.
    pub fn credentials_hex(&self) -> String {
        self.credentials()
            .iter()
            .fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}"); // a String takes everything
                text
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_1_to_31_bytes() {
        for good in ["a", "Überwachung", &"x".repeat(31)] {
            assert!(ServiceSpec::new(good).lower([1; 16]).is_ok(), "{good}");
        }
        for bad in ["", "a\nb", &"x".repeat(32)] {
            assert!(ServiceSpec::new(bad).lower([1; 16]).is_err(), "{bad}");
        }
    }
}
