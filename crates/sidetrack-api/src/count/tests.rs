//! Tests of the count of a request's parts.

use super::*;
use crate::v1;

/// Encodes a field with a length.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    prost::encoding::encode_varint(value.len() as u64, &mut bytes);
    bytes.extend(value);
    bytes
}

fn empty_parts(number: u8, count: usize) -> Vec<u8> {
    field(number, &[]).repeat(count)
}

#[track_caller]
fn assert_refused<M: Name>(bytes: &[u8], code: Code) {
    let refusal = check::<M>(bytes).unwrap_err();
    assert_eq!(crate::policy_error(&refusal).unwrap().code, code);
}

#[test]
fn the_objects_of_a_policy_are_counted_before_they_are_decoded() {
    type Policy = v1::ApplyPolicyRequest;
    for (number, max, code) in [
        (4, 1024, Code::OutOfBounds),
        (5, 65_536, Code::TooManySublayers),
        (6, 255, Code::TooManyCallouts),
        (7, FILTERS_MAX, Code::OutOfBounds),
    ] {
        check::<Policy>(&empty_parts(number, max)).unwrap();
        assert_refused::<Policy>(&empty_parts(number, max + 1), code);
    }
}

#[test]
fn the_conditions_of_each_filter_are_counted() {
    let filter = |conditions| field(2, &empty_parts(11, conditions));
    check::<v1::AddFilterRequest>(&filter(CONDITIONS_MAX)).unwrap();
    assert_refused::<v1::AddFilterRequest>(&filter(CONDITIONS_MAX + 1), Code::OutOfBounds);
    // A field that is not repeated, but is given twice, counts as well.
    let filters = field(7, &empty_parts(11, CONDITIONS_MAX)).repeat(PARTS_MAX / CONDITIONS_MAX);
    assert_refused::<v1::ApplyPolicyRequest>(&filters, Code::OutOfBounds);
}

#[test]
fn values_within_values_have_a_limit() {
    let nested = |depth| (0..depth).fold(Vec::new(), |value, _| field(5, &field(1, &value)));
    let request = |depth| field(2, &field(11, &field(3, &nested(depth))));
    check::<v1::AddFilterRequest>(&request(6)).unwrap();
    assert_refused::<v1::AddFilterRequest>(&request(7), Code::OutOfBounds);
}

#[test]
fn bytes_that_are_no_message_are_refused() {
    for bytes in [
        &[0xff][..],      // half of a key
        &[0x3a, 5, 0],    // a value that is longer than the request
        &[0x3a, 1, 0x3b], // within a filter: half of a key
        &[0x3b, 0x3c],    // a group
        &[0x3d, 1, 2, 3], // half of a number of 4 bytes
    ] {
        let refusal = check::<v1::ApplyPolicyRequest>(bytes).unwrap_err();
        assert_eq!(refusal.code(), tonic::Code::InvalidArgument, "{bytes:?}");
    }
}

#[test]
fn responses_are_not_counted() {
    check::<v1::FilterList>(&empty_parts(1, FILTERS_MAX + 1)).unwrap();
}

/// Fails if a request gets a repeated field of messages without a limit.
#[test]
fn every_repeated_part_of_a_request_has_a_limit() {
    let files = FileDescriptorSet::decode(DESCRIPTOR).unwrap().file;
    let methods: usize = files
        .iter()
        .flat_map(|file| &file.service)
        .map(|s| s.method.len())
        .sum();
    assert!(methods > 20 && TYPES.requests.len() > 10);
    let mut messages = Vec::new();
    for message in files.iter().flat_map(|file| &file.message_type) {
        collect(".sidetrack.v1", message, &mut messages);
    }
    let mut reached: Vec<usize> = TYPES.requests.values().copied().collect();
    let mut next = 0;
    while let Some(&index) = reached.get(next) {
        next += 1;
        let kind = &TYPES.types[index];
        assert!(kind.fields.len() <= FIELDS_MAX);
        let (name, message) = &messages[index];
        for field in &kind.fields {
            let declared = message
                .field
                .iter()
                .find(|one| one.number() as u32 == field.number);
            let repeated = declared.unwrap().label() == Label::Repeated;
            assert_eq!(
                repeated,
                field.limit.is_some(),
                "field {} of {name}",
                field.number
            );
            if !reached.contains(&field.message) {
                reached.push(field.message);
            }
        }
    }
}
