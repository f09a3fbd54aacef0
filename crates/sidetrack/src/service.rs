//! The credentials of a service, as issued by the engine.

use std::env;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use sidetrack_abi::kernel::Listen;
use zerocopy::{FromBytes, IntoBytes};

use crate::pended::{Notices, WhyAccepted};
use crate::{Error, sys};

/// Name of the environment variable that holds the credentials of the service: the value of the
/// option LISTEN as 64 hexadecimal digits. `sidetrack run --via exec:…` sets it.
pub const LISTEN_VARIABLE: &str = "SIDETRACK_LISTEN";
/// Name of the environment variable that holds the name of the service. `sidetrack run` sets it.
pub const NAME_VARIABLE: &str = "SIDETRACK_NAME";
/// Name of the environment variable that holds the numbers of the descriptors for pended connects,
/// which the process has inherited: of the service's ring buffer, of its sender for IPv4, and of
/// that for IPv6, which is "-" if there is none. For example "3,4,5". `sidetrack run` sets it.
pub const PENDED_VARIABLE: &str = "SIDETRACK_PENDED";

/// The credentials of one service, for its listeners of TCP and UDP, IPv4 and IPv6.
///
/// A service is a redirect target with a name. In WFP it is a redirect handle (docs/wfp.md, 3.1).
/// The credentials are the value of the option LISTEN, 32 bytes (`struct sidetrack_listen` in
/// bpf/sidetrack.h). `Debug` does not print the secret in them.
#[derive(Clone)]
pub struct Service {
    listen: Listen,
    /// Whether listeners are to pend.
    asks_pended: bool,
    /// What is needed for that, or why it is not there.
    notices: Result<Arc<Notices>, WhyAccepted>,
}

impl Service {
    /// Reads the credentials from the environment variable [`LISTEN_VARIABLE`], and takes the
    /// descriptors that [`PENDED_VARIABLE`] names, if it is set.
    ///
    /// # Errors
    ///
    /// [`Error::NoCredentials`] if the variable is not set, [`Error::BadCredentials`] if it does
    /// not hold 64 hexadecimal digits. Bad descriptors are no error; see
    /// [`Listener::why_accepted`](crate::Listener::why_accepted).
    pub fn from_env() -> Result<Self, Error> {
        let text = env::var(LISTEN_VARIABLE).map_err(|_| Error::NoCredentials(LISTEN_VARIABLE))?;
        let mut service = Self::from_hex(&text).ok_or(Error::BadCredentials(LISTEN_VARIABLE))?;
        if let Ok(text) = env::var(PENDED_VARIABLE) {
            service.notices = inherited(&text);
        }
        Ok(service)
    }

    /// Asks that the service's listeners pend connects: the proxy learns of a connect before the
    /// client is accepted, and lets it succeed or fail ([`Listener::pended`]).
    ///
    /// The policy must allow it (`connect = "pended"` of the service), and the proxy must have been
    /// given the descriptors for it. If not, the listeners accept first, as without this call, and
    /// [`Listener::why_accepted`] says why.
    ///
    /// [`Listener::pended`]: crate::Listener::pended
    /// [`Listener::why_accepted`]: crate::Listener::why_accepted
    pub fn pended(mut self) -> Self {
        self.asks_pended = true;
        self
    }

    /// Takes the descriptors for pended connects: the service's ring buffer, and its senders for
    /// IPv4 and IPv6. [`from_env`](Self::from_env) and a registration with the daemon do it by
    /// themselves.
    ///
    /// A ring buffer has one reader at a time. All clones of this value share one; do not give the
    /// same ring buffer to several services, or several processes.
    pub fn with_pended(
        mut self,
        ring: OwnedFd,
        sender4: OwnedFd,
        sender6: Option<OwnedFd>,
    ) -> Self {
        let notices = Notices::new(ring, sender4, sender6);
        self.notices = notices
            .map(Arc::new)
            .map_err(|_| WhyAccepted::BadDescriptors);
        self
    }

    /// The same service without descriptors, for this reason.
    #[cfg(feature = "daemon")]
    pub(crate) fn without_pended(mut self, why: WhyAccepted) -> Self {
        self.notices = Err(why);
        self
    }

    /// Parses credentials of 64 hexadecimal digits. `None` if `text` is anything else.
    pub fn from_hex(text: &str) -> Option<Self> {
        Some(Self::of(Listen::from_hex(text)?))
    }

    /// Takes credentials as the bytes of the option LISTEN, as the daemon returns them. `None` if
    /// they are not 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self::of(Listen::read_from_bytes(bytes).ok()?))
    }

    fn of(listen: Listen) -> Self {
        Self {
            listen,
            asks_pended: false,
            notices: Err(WhyAccepted::NoDescriptors),
        }
    }

    /// The value of the option LISTEN.
    pub(crate) fn option(&self) -> &[u8] {
        self.listen.as_bytes()
    }

    /// What listeners need to pend, if they are asked to.
    pub(crate) fn notices(&self) -> Option<Result<&Arc<Notices>, WhyAccepted>> {
        let notices = self.notices.as_ref().map_err(|why| *why);
        self.asks_pended.then_some(notices)
    }
}

/// The descriptors that were last taken from the environment, and their text.
static INHERITED: Mutex<Option<(String, Weak<Notices>)>> = Mutex::new(None);

/// Takes inherited descriptors. As long as they are used, the same text gives the same value, as a
/// ring buffer has one reader.
fn inherited(text: &str) -> Result<Arc<Notices>, WhyAccepted> {
    let mut last = INHERITED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((of, notices)) = &*last
        && of == text
        && let Some(notices) = notices.upgrade()
    {
        return Ok(notices);
    }
    let [ring, sender4, sender6] = duplicate_inherited(text).ok_or(WhyAccepted::BadDescriptors)?;
    let (Some(ring), Some(sender4)) = (ring, sender4) else {
        return Err(WhyAccepted::BadDescriptors);
    };
    let notices = Notices::new(ring, sender4, sender6);
    let notices = Arc::new(notices.map_err(|_| WhyAccepted::BadDescriptors)?);
    *last = Some((text.to_owned(), Arc::downgrade(&notices)));
    Ok(notices)
}

/// Duplicates the three descriptors of [`PENDED_VARIABLE`]; "-" gives `None`.
fn duplicate_inherited(text: &str) -> Option<[Option<OwnedFd>; 3]> {
    let duplicate = |number: &str| match number {
        "-" => Some(None),
        number => sys::duplicate_inherited(number.parse().ok()?)
            .ok()
            .map(Some),
    };
    let mut numbers = text.split(',').map(duplicate);
    let three = [numbers.next()??, numbers.next()??, numbers.next()??];
    numbers.next().is_none().then_some(three)
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("number", &self.listen.service)
            .finish_non_exhaustive() // without the secret
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_64_hexadecimal_digits() {
        let service = Service::from_hex(&"0a".repeat(32)).unwrap();
        assert_eq!(service.option(), [0x0a; 32]);
        for bad in [
            "",
            "0a",
            &"0g".repeat(32),
            &"0a".repeat(33),
            &"ä".repeat(32),
        ] {
            assert!(Service::from_hex(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn descriptors_that_are_no_ring_buffer_and_senders_are_refused() {
        let bad = [
            "",
            "3",
            "x,y,z",
            "-1,-1,-1",
            "-,-,-",
            "0,1,2",
            "900,901,902",
            "0,1,2,3",
        ];
        for text in bad {
            assert_eq!(
                inherited(text).unwrap_err(),
                WhyAccepted::BadDescriptors,
                "{text}"
            );
        }
        let service = Service::from_bytes(&[1; 32]).unwrap();
        assert!(service.notices().is_none());
        let asked = service.pended();
        assert_eq!(
            asked.notices().unwrap().unwrap_err(),
            WhyAccepted::NoDescriptors
        );
    }

    #[test]
    fn the_secret_is_not_printed() {
        let service = Service::from_hex(&"7f".repeat(32)).unwrap();
        assert!(!format!("{service:?}").contains("127"));
    }
}
