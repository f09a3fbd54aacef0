//! No bytes panic the API's decoding, its conversions or the rules; what is taken reads back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use sidetrack_api::v1;
use sidetrack_policy::set::{Author, Desired, Object};
use sidetrack_policy::{Error, Filter, Objects, Provider, Service, Sublayer, Uuid};

fuzz_target!(|bytes: &[u8]| {
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
    let mut singly = Objects::default();
    add(&mut singly, &desired.providers);
    add(&mut singly, &desired.sublayers);
    add(&mut singly, &desired.services);
    add(&mut singly, &desired.filters);
    let mut whole = Objects::default();
    if whole.apply(desired.clone(), &author).is_ok() {
        let again = whole.apply(desired, &author).expect("the same again");
        assert!(again.changes.is_empty());
    }
});

/// The objects that are ones. Each must read back from what it is written as.
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
        // Refused or not: it must not panic.
        let _ = objects.add(object.clone(), &Author::default(), || Uuid::from_u128(number));
    }
}
