//! No bytes make the count of a request's parts, the API's decoding, its conversions or a set of
//! objects panic. Objects that are read from messages are the same if they are converted to messages
//! and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use sidetrack_api::v1;
use sidetrack_policy::set::{Author, Desired, Object};
use sidetrack_policy::{Error, Objects, Uuid};

fuzz_target!(|bytes: &[u8]| {
    if sidetrack_api::count::check::<v1::ApplyPolicyRequest>(bytes).is_err() {
        return;
    }
    let Ok(request) = v1::ApplyPolicyRequest::decode(bytes) else {
        return;
    };
    let author = Author {
        owner: Some(request.owner.as_str().into()),
        ..Author::default()
    };
    let desired = Desired {
        providers: read(request.providers),
        sublayers: read(request.sublayers),
        services: read(request.services),
        filters: read(request.filters),
    };
    let mut added = Objects::default();
    add(&mut added, &desired.providers);
    add(&mut added, &desired.sublayers);
    add(&mut added, &desired.services);
    add(&mut added, &desired.filters);
    let mut applied = Objects::default();
    if applied.apply(desired.clone(), &author).is_ok() {
        let again = applied.apply(desired, &author).expect("the same policy is accepted again");
        assert!(again.changes.is_empty());
    }
});

/// The messages that are objects. Each must be the same after another conversion to a message and
/// back.
fn read<W, T>(wire: Vec<W>) -> Vec<T>
where
    T: Object + TryFrom<W, Error = Error>,
    W: for<'a> From<&'a T>,
{
    let objects: Vec<T> = wire.into_iter().filter_map(|wire| wire.try_into().ok()).collect();
    for object in &objects {
        assert_eq!(T::try_from(W::from(object)).as_ref(), Ok(object));
    }
    objects
}

fn add<T: Object>(objects: &mut Objects, each: &[T]) {
    for (number, object) in (1..).zip(each) {
        // The object may be refused, but nothing must panic.
        let _ = objects.add(object.clone(), &Author::default(), || Uuid::from_u128(number));
    }
}
