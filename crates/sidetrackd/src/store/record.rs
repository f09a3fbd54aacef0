//! The encoding of an object in the store: a message of the API, and the object's author.

use prost::Message;
use redb::TableDefinition;
use sidetrack_api::v1;
use sidetrack_policy::set::{Author, Object, ObjectEntry};
use sidetrack_policy::{Filter, Lifetime, Provider, Service, Sublayer};

use super::error::RecordError;

/// A kind of object that is stored.
pub(super) trait Stored: Object {
    const TABLE: TableDefinition<'static, u128, &'static [u8]>;
    fn to_bytes(&self) -> Vec<u8>;
    fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError>;
}

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(bytes = "vec", tag = "1")]
    object: Vec<u8>,
    #[prost(uint32, tag = "2")]
    uid: u32,
    #[prost(string, tag = "3")]
    owner: String,
    #[prost(uint64, tag = "4")]
    id: u64,
    /// The session of a dynamic object; 0 for other objects.
    #[prost(uint64, tag = "5")]
    session: u64,
}

pub(super) fn encode<T: Stored>(entry: &ObjectEntry<T>) -> Vec<u8> {
    let record = Record {
        object: entry.object.to_bytes(),
        uid: entry.author.uid,
        owner: entry.author.owner.as_deref().unwrap_or_default().to_owned(),
        id: entry.object.id(),
        session: entry.author.session.unwrap_or_default(),
    };
    record.encode_to_vec()
}

pub(super) fn decode<T: Stored>(bytes: &[u8]) -> Result<ObjectEntry<T>, RecordError> {
    let record = Record::decode(bytes)?;
    let mut object = T::from_bytes(&record.object)?;
    object.set_id(record.id);
    let session = (record.session != 0).then_some(record.session);
    if session.is_some() {
        // The message has no flag for dynamic objects.
        *object.lifetime_mut() = Lifetime::Dynamic;
    }
    Ok(ObjectEntry {
        object,
        author: Author {
            session,
            uid: record.uid,
            owner: (!record.owner.is_empty()).then(|| record.owner.into()),
        },
    })
}

macro_rules! stored {
    ($($type:ident = $table:literal,)+) => {
        $(impl Stored for $type {
            const TABLE: TableDefinition<'static, u128, &'static [u8]> =
                TableDefinition::new($table);

            fn to_bytes(&self) -> Vec<u8> {
                v1::$type::from(self).encode_to_vec()
            }

            fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
                Ok(Self::try_from(v1::$type::decode(bytes)?)?)
            }
        })+
    };
}

stored! {
    Provider = "providers",
    Sublayer = "sublayers",
    Service = "services",
    Filter = "filters",
}
