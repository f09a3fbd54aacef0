//! Lists of objects as streams of messages. Each message is made when the client fetches it, so
//! that a slow client costs no memory.

use prost::Message;
use sidetrack_api::v1;
use sidetrack_policy::set::{Object, ObjectEntry};
use sidetrack_policy::{Error, Filter, Objects, Provider, Service, Sublayer, Uuid};
use tonic::Response;

use super::ListStream;

/// Maximum number of objects in one message of a list.
const OBJECTS_PER_MESSAGE_MAX: usize = 1024;
/// Number of bytes in one message of a list. The last object of the message may exceed it.
const BYTES_PER_MESSAGE_MAX: usize = 64 << 10;

/// A kind of object that has a message in the API.
pub(super) trait ApiObject:
    Object + Send + Sync + TryFrom<Self::Message, Error = Error>
{
    type Message: prost::Message + 'static;
    fn message(entry: &ObjectEntry<Self>) -> Self::Message;
}

macro_rules! api_object {
    ($($type:ident)+) => {
        $(impl ApiObject for $type {
            type Message = v1::$type;

            fn message(entry: &ObjectEntry<Self>) -> v1::$type {
                v1::$type {
                    user: entry.author.uid,
                    ..(&entry.object).into()
                }
            }
        })+
    };
}

api_object!(Provider Sublayer Service);

impl ApiObject for Filter {
    type Message = v1::Filter;

    fn message(entry: &ObjectEntry<Self>) -> v1::Filter {
        v1::Filter {
            user: entry.author.uid,
            owner: entry.author.owner.as_deref().unwrap_or_default().to_owned(),
            ..v1::Filter::from(&entry.object)
        }
    }
}

/// Iterates over the objects of one kind, as messages. It has its own copy of the set, so later
/// changes do not matter.
pub(super) struct ObjectMessages<T> {
    objects: Objects,
    provider: Option<Uuid>,
    last: Option<Uuid>,
    kind: std::marker::PhantomData<T>,
}

impl<T> ObjectMessages<T> {
    /// Iterates over the objects of one provider, or of all.
    pub(super) fn new(objects: Objects, provider: Option<Uuid>) -> Self {
        Self {
            objects,
            provider,
            last: None,
            kind: std::marker::PhantomData,
        }
    }
}

impl<T: ApiObject> Iterator for ObjectMessages<T> {
    type Item = T::Message;

    fn next(&mut self) -> Option<Self::Item> {
        let mut rest = self.objects.entries_after::<T>(self.last);
        let next =
            rest.find(|entry| self.provider.is_none() || entry.object.provider() == self.provider)?;
        self.last = Some(next.object.identity().key);
        Some(T::message(next))
    }
}

/// Returns a list as a response: a stream of messages, each with several objects. `list` makes a
/// message of its objects.
pub(super) fn response<T: Message + 'static, L: Send + 'static>(
    objects: impl Iterator<Item = T> + Send + 'static,
    list: impl Fn(Vec<T>) -> L + Send + 'static,
) -> Response<ListStream<L>> {
    let mut objects = objects;
    let messages = std::iter::from_fn(move || {
        let mut bytes = 0;
        let mut part = Vec::new();
        while bytes < BYTES_PER_MESSAGE_MAX && part.len() < OBJECTS_PER_MESSAGE_MAX {
            let Some(object) = objects.next() else { break };
            bytes += object.encoded_len();
            part.push(object);
        }
        (!part.is_empty()).then(|| Ok(list(part)))
    });
    Response::new(Box::pin(tokio_stream::iter(messages)))
}
