//! Counts the parts of an encoded request: the messages in it, such as filters, conditions and
//! values. An empty filter has 2 bytes when it is encoded and hundreds when it is decoded, so a
//! request is counted before memory is allocated for its parts.
//!
//! The API's descriptor says which fields of a message are messages themselves.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use prost::encoding::{WireType, decode_key, decode_varint};
use prost::{Message, Name};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorSet};
use sidetrack_policy::object::CONDITIONS_MAX;
use sidetrack_policy::set::{FILTERS_MAX, ObjectKind};
use sidetrack_policy::{Code, Error};
use tonic::Status;

use crate::{DESCRIPTOR, status};

/// Maximum number of parts of a request: 20 for each filter of the largest policy. A condition and
/// its value are two parts.
pub const PARTS_MAX: usize = 20 * FILTERS_MAX;
/// Maximum number of messages within each other, the request included.
pub const DEPTH_MAX: usize = 16;
/// Maximum number of fields of one message that are messages.
const FIELDS_MAX: usize = 8;

/// All message types of the API.
static TYPES: LazyLock<Types> = LazyLock::new(Types::from_descriptor);

/// The message types, by their index.
struct Types {
    types: Vec<MessageType>,
    /// The index of each type that is the request of a call, by its full name.
    requests: HashMap<String, usize>,
}

/// A message type, with those of its fields that are messages.
struct MessageType {
    fields: Vec<Field>,
}

/// A field that is a message.
struct Field {
    number: u32,
    /// Index of the message's type.
    message: usize,
    /// The limit on the number of messages in a repeated field.
    limit: Option<Limit>,
}

/// The limit on a repeated field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    /// The number of objects that can exist.
    Objects(ObjectKind),
    /// The number of conditions of a filter.
    Conditions,
}

/// The state of a count.
struct Count {
    parts: usize,
}

/// Checks how many parts an encoded message has. Messages that are not requests are not counted.
///
/// Errors: FWP_E_OUT_OF_BOUNDS, FWP_E_TOO_MANY_SUBLAYERS or FWP_E_TOO_MANY_CALLOUTS if there are too
/// many; INVALID_ARGUMENT if the bytes are not a message.
pub fn check<M: Name>(bytes: &[u8]) -> Result<(), Status> {
    match TYPES.requests.get(&M::full_name()) {
        Some(request) => Count { parts: 0 }.message(*request, bytes, 1),
        None => Ok(()),
    }
}

impl Count {
    fn message(&mut self, message: usize, mut bytes: &[u8], depth: usize) -> Result<(), Status> {
        if depth > DEPTH_MAX {
            let text = format!("a call can have at most {DEPTH_MAX} messages within each other");
            return Err(status(&Error::new(Code::OutOfBounds, text)));
        }
        let fields = &TYPES.types[message].fields;
        let mut counts = [0; FIELDS_MAX];
        while !bytes.is_empty() {
            let (number, value) = next_field(&mut bytes)?;
            let Some(index) = fields.iter().position(|field| field.number == number) else {
                continue;
            };
            // A value of another wire type is refused when the message is decoded.
            let Some(value) = value else { continue };
            self.parts += 1;
            counts[index] += 1;
            self.check(fields[index].limit, counts[index])?;
            self.message(fields[index].message, value, depth + 1)?;
        }
        Ok(())
    }

    /// Checks the counts after one more part.
    fn check(&self, limit: Option<Limit>, count: usize) -> Result<(), Status> {
        let result = match limit {
            _ if self.parts > PARTS_MAX => Err(Error::new(
                Code::OutOfBounds,
                format!("a call can have at most {PARTS_MAX} objects, conditions and values"),
            )),
            Some(Limit::Objects(kind)) => kind.check_count(count),
            Some(Limit::Conditions) if count > CONDITIONS_MAX => Err(Error::new(
                Code::OutOfBounds,
                format!("a filter can have at most {CONDITIONS_MAX} conditions"),
            )),
            _ => Ok(()),
        };
        result.map_err(|error| status(&error))
    }
}

/// Takes the next field from the bytes of a message. Returns its number, and its value if it has a
/// length.
fn next_field<'a>(bytes: &mut &'a [u8]) -> Result<(u32, Option<&'a [u8]>), Status> {
    let malformed = || Status::invalid_argument("the call is not a valid message");
    let (number, wire_type) = decode_key(bytes).map_err(|_| malformed())?;
    let size = match wire_type {
        WireType::Varint => {
            decode_varint(bytes).map_err(|_| malformed())?;
            0
        }
        WireType::ThirtyTwoBit => 4,
        WireType::SixtyFourBit => 8,
        WireType::LengthDelimited => {
            let length = decode_varint(bytes).map_err(|_| malformed())?;
            usize::try_from(length).map_err(|_| malformed())?
        }
        // proto3 has no groups.
        WireType::StartGroup | WireType::EndGroup => return Err(malformed()),
    };
    let (value, rest) = bytes.split_at_checked(size).ok_or_else(malformed)?;
    *bytes = rest;
    let has_length = wire_type == WireType::LengthDelimited;
    Ok((number, has_length.then_some(value)))
}

impl Types {
    fn from_descriptor() -> Self {
        // It is part of this program; a test decodes it.
        let files = FileDescriptorSet::decode(DESCRIPTOR)
            .unwrap_or_default()
            .file;
        let mut messages = Vec::new();
        for file in &files {
            let package = format!(".{}", file.package());
            let each = file.message_type.iter();
            each.for_each(|message| collect(&package, message, &mut messages));
        }
        let index_of = |name: &str| messages.iter().position(|(known, _)| known == name);
        let types = messages.iter().map(|(_, message)| MessageType {
            fields: message_fields(message, index_of),
        });
        let methods = files.iter().flat_map(|file| &file.service);
        let methods = methods.flat_map(|service| &service.method);
        let inputs: HashSet<&str> = methods.map(|method| method.input_type()).collect();
        let requests = inputs.into_iter().filter_map(|name| {
            let full_name = name.trim_start_matches('.').to_owned();
            Some((full_name, index_of(name)?))
        });
        Self {
            types: types.collect(),
            requests: requests.collect(),
        }
    }
}

/// Adds a message type and those that are declared in it, with their full names.
fn collect<'a>(
    scope: &str,
    message: &'a DescriptorProto,
    all: &mut Vec<(String, &'a DescriptorProto)>,
) {
    let name = format!("{scope}.{}", message.name());
    let nested = message.nested_type.iter();
    nested.for_each(|nested| collect(&name, nested, all));
    all.push((name, message));
}

fn message_fields(
    message: &DescriptorProto,
    index_of: impl Fn(&str) -> Option<usize>,
) -> Vec<Field> {
    let fields = message.field.iter();
    let embedded = fields.filter(|field| field.r#type() == Type::Message);
    let fields = embedded.filter_map(|field| {
        Some(Field {
            number: field.number().unsigned_abs(),
            message: index_of(field.type_name())?,
            limit: limit(field.type_name()).filter(|_| field.label() == Label::Repeated),
        })
    });
    fields.collect()
}

/// Returns the limit on a repeated field of a message type.
fn limit(type_name: &str) -> Option<Limit> {
    match type_name.rsplit('.').next()? {
        "Provider" => Some(Limit::Objects(ObjectKind::Provider)),
        "Sublayer" => Some(Limit::Objects(ObjectKind::Sublayer)),
        "Service" => Some(Limit::Objects(ObjectKind::Service)),
        "Filter" => Some(Limit::Objects(ObjectKind::Filter)),
        "Condition" => Some(Limit::Conditions),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
