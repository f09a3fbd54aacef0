//! Lists, in pieces: made as they are fetched, so a slow reader costs no memory.

use sidetrack_api::v1;
use sidetrack_policy::set::{Entry, Object};
use sidetrack_policy::{Error, Filter, Objects, Provider, Service, Sublayer, Uuid};
use tonic::{Response, Status};

use super::Pieces;

/// Objects of one piece.
const PIECE_MAX: usize = 1024;

/// A kind of object with its message.
pub(super) trait Wire: Object + Send + Sync + TryFrom<Self::Message, Error = Error> {
    type Message: Send + 'static;
    fn message(entry: &Entry<Self>) -> Self::Message;
}

macro_rules! wire {
    ($($type:ident)+) => {
        $(impl Wire for $type {
            type Message = v1::$type;

            fn message(entry: &Entry<Self>) -> v1::$type {
                (&entry.object).into()
            }
        })+
    };
}

wire!(Provider Sublayer Service);

impl Wire for Filter {
    type Message = v1::Filter;

    fn message(entry: &Entry<Self>) -> v1::Filter {
        v1::Filter {
            owner: entry.author.owner.as_deref().unwrap_or_default().to_owned(),
            ..v1::Filter::from(&entry.object)
        }
    }
}

/// Goes through a set of objects, however long that takes: the set stays as it was.
pub(super) struct Objectwise<T> {
    objects: Objects,
    provider: Option<Uuid>,
    last: Option<Uuid>,
    kind: std::marker::PhantomData<T>,
}

impl<T> Objectwise<T> {
    /// Of one provider, or all.
    pub(super) fn new(objects: Objects, provider: Option<Uuid>) -> Self {
        Self {
            objects,
            provider,
            last: None,
            kind: std::marker::PhantomData,
        }
    }
}

impl<T: Wire> Iterator for Objectwise<T> {
    type Item = Result<T::Message, Status>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut rest = self.objects.entries_after::<T>(self.last);
        let next =
            rest.find(|entry| self.provider.is_none() || entry.object.provider() == self.provider)?;
        self.last = Some(next.object.identity().key);
        Some(Ok(T::message(next)))
    }
}

/// A list as an answer, in pieces.
pub(super) fn answer<T: Send + 'static, L: Send + 'static>(
    items: impl Iterator<Item = Result<T, Status>> + Send + 'static,
    list: impl Fn(Vec<T>) -> L + Send + 'static,
) -> Response<Pieces<L>> {
    let mut items = items;
    let pieces = std::iter::from_fn(move || {
        let piece: Result<Vec<T>, Status> = items.by_ref().take(PIECE_MAX).collect();
        match piece {
            Ok(piece) if piece.is_empty() => None,
            piece => Some(piece.map(&list)),
        }
    });
    Response::new(Box::pin(tokio_stream::iter(pieces)))
}
