//! The calls of the API: which right each needs, and what it costs. A call is admitted by this table
//! before any of its bytes are decoded.

use crate::access::{Access, Denied, Peer};

/// The right that a caller must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    /// Every user may make the call.
    None,
    /// The right to read policy, flows and events.
    Read,
    /// The right to change policy.
    Write,
}

/// What a call costs, by which its bounds are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// A small request and a bounded answer.
    Call,
    /// A request with one object.
    Change,
    /// A whole policy.
    Policy,
    /// A long answer, for which all filters are evaluated.
    Explanation,
    /// A stream of answers that ends.
    List,
    /// A stream of answers that lasts until the client closes it.
    Follow,
    /// A session, which has its own bound.
    Session,
    /// A stream of questions about the API and of answers, which lasts until the client closes it.
    Reflection,
}

/// A call of the API.
#[derive(Debug)]
pub(super) struct Method {
    pub(super) right: Right,
    pub(super) class: Class,
}

/// The service of the API.
const SERVICE: &str = "/sidetrack.v1.Sidetrack/";
/// The call of the reflection service, which describes the API.
pub(super) const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// The calls of the API's service by name.
const METHODS: [(&str, Right, Class); 27] = [
    ("Version", Right::None, Class::Call),
    ("OpenSession", Right::Read, Class::Session),
    // A transaction that writes also needs the right to write; the call checks it.
    ("BeginTransaction", Right::Read, Class::Call),
    ("Commit", Right::Read, Class::Call),
    ("Abort", Right::Read, Class::Call),
    ("AddProvider", Right::Write, Class::Change),
    ("DeleteProvider", Right::Write, Class::Call),
    ("GetProvider", Right::Read, Class::Call),
    ("ListProviders", Right::Read, Class::List),
    ("AddSublayer", Right::Write, Class::Change),
    ("DeleteSublayer", Right::Write, Class::Call),
    ("GetSublayer", Right::Read, Class::Call),
    ("ListSublayers", Right::Read, Class::List),
    ("AddService", Right::Write, Class::Change),
    ("DeleteService", Right::Write, Class::Call),
    ("GetService", Right::Read, Class::Call),
    ("ListServices", Right::Read, Class::List),
    ("AddFilter", Right::Write, Class::Change),
    ("DeleteFilter", Right::Write, Class::Call),
    ("GetFilter", Right::Read, Class::Call),
    ("ListFilters", Right::Read, Class::List),
    ("ApplyPolicy", Right::Write, Class::Policy),
    ("RegisterService", Right::Write, Class::Call),
    ("GetState", Right::Read, Class::Call),
    ("ListFlows", Right::Read, Class::List),
    ("StreamEvents", Right::Read, Class::Follow),
    ("Explain", Right::Read, Class::Explanation),
];

impl Method {
    /// Finds the call of a request's path.
    pub(super) fn find(path: &str) -> Option<Self> {
        if path == REFLECTION {
            return Some(Self {
                right: Right::None,
                class: Class::Reflection,
            });
        }
        let name = path.strip_prefix(SERVICE)?;
        let mut methods = METHODS.iter();
        let (_, right, class) = *methods.find(|(known, ..)| *known == name)?;
        Some(Self { right, class })
    }

    /// Checks the caller's right. Errors: [`Denied`].
    pub(super) fn check(&self, access: &Access, peer: &Peer) -> Result<(), Denied> {
        match self.right {
            Right::None => Ok(()),
            Right::Read => access.check_read(peer),
            Right::Write => access.check_write(peer),
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn the_table_has_each_call_of_the_proto_file_once() {
        let files = FileDescriptorSet::decode(sidetrack_api::DESCRIPTOR)
            .unwrap()
            .file;
        let file = files
            .iter()
            .find(|file| file.package() == "sidetrack.v1")
            .unwrap();
        let [service] = &file.service[..] else {
            panic!("the API has one service");
        };
        let path = format!("/{}.{}/", file.package(), service.name());
        assert_eq!(path, SERVICE);
        let declared: Vec<&str> = service.method.iter().map(|method| method.name()).collect();
        let listed: Vec<&str> = METHODS.iter().map(|(name, ..)| *name).collect();
        assert_eq!(listed, declared);
        for method in &service.method {
            let path = format!("{SERVICE}{}", method.name());
            let class = Method::find(&path).unwrap().class;
            let stream = matches!(class, Class::List | Class::Follow | Class::Session);
            assert_eq!(stream, method.server_streaming(), "{path}");
            // Each call has one request, so a request can be bounded as a whole.
            assert!(!method.client_streaming(), "{path}");
        }
        assert!(Method::find(&format!("{SERVICE}Unknown")).is_none());
        assert!(Method::find("/other.Service/Version").is_none());
    }

    #[test]
    fn only_the_version_and_the_description_are_for_every_user() {
        let (access, peer) = (
            Access::default(),
            Peer {
                uid: 1000,
                ..Peer::default()
            },
        );
        let allowed = METHODS.iter().filter(|(name, ..)| {
            let method = Method::find(&format!("{SERVICE}{name}")).unwrap();
            method.check(&access, &peer).is_ok()
        });
        assert_eq!(
            allowed.map(|(name, ..)| *name).collect::<Vec<_>>(),
            ["Version"]
        );
        assert!(
            Method::find(REFLECTION)
                .unwrap()
                .check(&access, &peer)
                .is_ok()
        );
    }
}
