//! The encoding of an object in the store: a message of the API, and the object's author.

use prost::Message;
use redb::TableDefinition;
use sidetrack_api::v1;
use sidetrack_policy::set::{Author, Object, ObjectEntry, Reach};
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
    /// Whose connections the author's filters apply to: `HOST` or `OWN_USER`; 0 in records of
    /// versions that did not record it.
    #[prost(uint32, tag = "6")]
    reach: u32,
}

const HOST: u32 = 1;
const OWN_USER: u32 = 2;

fn reach(number: u32, uid: u32) -> Reach {
    match number {
        HOST => Reach::Host,
        // Root's filters have always applied to the connections of all users.
        0 if uid == 0 => Reach::Host,
        0 => Reach::Unrecorded,
        _ => Reach::OwnUser,
    }
}

fn reach_number(reach: Reach) -> u32 {
    match reach {
        Reach::Host => HOST,
        Reach::OwnUser => OWN_USER,
        Reach::Unrecorded => 0,
    }
}

pub(super) fn encode<T: Stored>(entry: &ObjectEntry<T>) -> Vec<u8> {
    let record = Record {
        object: entry.object.to_bytes(),
        uid: entry.author.uid,
        owner: entry.author.owner.as_deref().unwrap_or_default().to_owned(),
        id: entry.object.id(),
        session: entry.author.session.unwrap_or_default(),
        reach: reach_number(entry.author.reach),
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
            reach: reach(record.reach, record.uid),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of a filter's record by versions without the field `reach`.
    fn old_record(uid: u32) -> Vec<u8> {
        let layer = sidetrack_policy::LayerKind::AuthConnect.both()[0];
        let filter = Filter::new("old", layer, sidetrack_policy::Action::Block);
        let author = Author {
            uid,
            reach: Reach::Unrecorded,
            ..Author::default()
        };
        let object = filter;
        encode(&ObjectEntry { object, author })
    }

    #[test]
    fn the_reach_of_an_old_record_is_that_of_all_users() {
        for (uid, reach) in [(0, Reach::Host), (1000, Reach::Unrecorded)] {
            let entry = decode::<Filter>(&old_record(uid)).unwrap();
            assert_eq!(entry.author.reach, reach);
        }
    }

    #[test]
    fn the_reach_of_an_author_is_recorded() {
        for reach in [Reach::Host, Reach::OwnUser, Reach::Unrecorded] {
            let mut entry = decode::<Filter>(&old_record(1000)).unwrap();
            entry.author.reach = reach;
            let read = decode::<Filter>(&encode(&entry)).unwrap();
            assert_eq!(read.author, entry.author);
        }
    }
}
