//! A hostile client: it makes random calls with random messages of the API's structure, reads some
//! answers, leaves others unread, and cancels calls.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use fastrand::Rng;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use tonic::Streaming;
use tonic::transport::Channel;

use super::user::{channel_to, stream};

/// Maximum number of messages within each other.
const DEPTH_MAX: usize = 20;
/// Maximum size, in bytes, of all values of one field. Some messages are larger than the daemon reads.
const FIELD_SIZE_MAX: usize = 12 << 20;
/// Number of calls at the same time.
const CALLS: usize = 16;
/// Maximum number of answers that are left unread.
const UNREAD_MAX: usize = 300;
/// Maximum number of connections that are left idle.
const IDLE_MAX: usize = 100;
/// How long calls may take before they are cancelled.
const PATIENCE: [Duration; 4] = [
    Duration::from_micros(500),
    Duration::from_millis(50),
    Duration::from_millis(50),
    Duration::from_secs(3),
];
/// The calls whose messages become the largest.
const LARGE: [&str; 2] = ["ApplyPolicy", "AddFilter"];

/// Returns true once in `count` times.
fn once_in(random: &mut Rng, count: usize) -> bool {
    random.usize(..count) == 0
}

/// Returns one of these values, of which there is at least one.
fn pick<T: Copy>(random: &mut Rng, from: &[T]) -> T {
    from[random.usize(..from.len())]
}

/// The API's descriptor.
struct Api {
    messages: HashMap<String, DescriptorProto>,
    /// Name and request type of each call.
    calls: Vec<(String, String)>,
}

impl Api {
    fn new() -> Self {
        let files = FileDescriptorSet::decode(sidetrack_api::DESCRIPTOR)
            .unwrap()
            .file;
        let mut messages = HashMap::new();
        let mut calls = Vec::new();
        for file in files {
            for message in file.message_type {
                let name = format!(".{}.{}", file.package.as_deref().unwrap(), message.name());
                for nested in &message.nested_type {
                    messages.insert(format!("{name}.{}", nested.name()), nested.clone());
                }
                messages.insert(name, message);
            }
            let methods = file.service.iter().flat_map(|service| &service.method);
            calls.extend(methods.map(|m| (m.name().to_owned(), m.input_type().to_owned())));
        }
        Self { messages, calls }
    }

    /// Returns a random message of a type.
    fn message(&self, random: &mut Rng, name: &str, session: u64, depth: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        if depth > DEPTH_MAX {
            return bytes;
        }
        for field in &self.messages[name].field {
            if once_in(random, 4) {
                continue;
            }
            let repeated = field.label() == Label::Repeated;
            let count = match random.usize(..100) {
                _ if !repeated && depth > 0 => 1,
                0..15 => pick(random, &[1024, 1025, 100_000, 100_001, 4_000_000]),
                15..25 => 20,
                _ if repeated => random.usize(..4),
                _ => 1,
            };
            let mut value = self.value(random, field, session, depth);
            if count > 1000 && once_in(random, 2) {
                // Nothing needs less when it is encoded, and nothing grows more.
                value.clear();
                encode_key(field.number() as u32, WireType::LengthDelimited, &mut value);
                value.push(0);
            }
            for _ in 0..count.min(FIELD_SIZE_MAX / value.len().max(1)) {
                bytes.extend_from_slice(&value);
            }
        }
        if once_in(random, 50) && !bytes.is_empty() {
            let at = random.usize(..bytes.len());
            bytes[at] ^= 1 << random.usize(..8);
        }
        bytes
    }

    /// Returns a field with a random value.
    fn value(
        &self,
        random: &mut Rng,
        field: &FieldDescriptorProto,
        session: u64,
        depth: usize,
    ) -> Vec<u8> {
        let mut bytes = Vec::new();
        let number = field.number() as u32;
        let content = match field.r#type() {
            Type::Message => self.message(random, field.type_name(), session, depth + 1),
            Type::Bytes => {
                let size = pick(random, &[0, 4, 16, 16, 16, 17, 4000]);
                vec![random.usize(..4) as u8; size]
            }
            Type::String => {
                let text = pick(random, &["a", "/usr/bin/x", "rule", ""]);
                text.repeat(pick(random, &[1, 1, 1, 1, 30, 1100]))
            }
            .into_bytes(),
            _ => {
                let value = match field.name() {
                    "session_id" => session,
                    _ => pick(
                        random,
                        &[0, 1, 2, 3, 5, 7, 11, 443, u32::MAX.into(), u64::MAX],
                    ),
                };
                encode_key(number, WireType::Varint, &mut bytes);
                encode_varint(value, &mut bytes);
                return bytes;
            }
        };
        encode_key(number, WireType::LengthDelimited, &mut bytes);
        encode_varint(content.len() as u64, &mut bytes);
        bytes.extend(content);
        bytes
    }
}

/// What the client keeps open.
#[derive(Default)]
struct Kept {
    unread: Vec<Streaming<Vec<u8>>>,
    idle: Vec<tokio::net::UnixStream>,
    session: u64,
}

/// Attacks the daemon for a time. Returns the number of calls that were answered with OK, and that of
/// all calls.
pub(super) async fn attack(socket: &Path, seed: u64, time: Duration) -> (usize, usize) {
    let end = Instant::now() + time;
    let tasks = (0..CALLS).map(|index| {
        let random = Rng::with_seed(seed.wrapping_mul(1000).wrapping_add(index as u64 + 1));
        tokio::spawn(attack_in_one_task(socket.to_owned(), random, end))
    });
    let tasks: Vec<_> = tasks.collect();
    let mut totals = (0, 0);
    for task in tasks {
        let (answered, all) = task.await.unwrap();
        totals = (totals.0 + answered, totals.1 + all);
    }
    totals
}

async fn attack_in_one_task(
    socket: std::path::PathBuf,
    mut random: Rng,
    end: Instant,
) -> (usize, usize) {
    let api = Api::new();
    let mut kept = Kept::default();
    let (mut answered, mut all) = (0, 0);
    let mut channel = None;
    while Instant::now() < end {
        if once_in(&mut random, 20) {
            idle(&mut kept, &socket).await;
        }
        if channel.is_none() || once_in(&mut random, 30) {
            channel = channel_to(&socket).await.ok();
        }
        let Some(channel) = &channel else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        all += 1;
        answered += usize::from(call(&api, &mut random, channel, &mut kept).await.is_some());
    }
    (answered, all)
}

/// Makes a random call. Returns `None` if it is not answered with OK.
async fn call(api: &Api, random: &mut Rng, channel: &Channel, kept: &mut Kept) -> Option<()> {
    let is_large = |call: &&(String, String)| LARGE.contains(&call.0.as_str());
    let only_large = once_in(random, 4);
    let calls = api
        .calls
        .iter()
        .filter(|call| !only_large || is_large(call));
    let (name, request) = pick(random, &calls.collect::<Vec<_>>());
    let message = api.message(random, request, kept.session, 0);
    let patience = pick(random, &PATIENCE);
    let answer = tokio::time::timeout(patience, stream(channel, name, message)).await;
    let mut answer = answer.ok()?.ok()?;
    let first = tokio::time::timeout(patience, answer.message())
        .await
        .ok()?
        .ok()??;
    if name == "OpenSession" {
        let event = sidetrack_api::v1::SessionEvent::decode(&*first).ok()?;
        if let Some(sidetrack_api::v1::session_event::Event::Opened(opened)) = event.event {
            kept.session = opened.session_id;
        }
    }
    kept.unread.push(answer);
    if kept.unread.len() > UNREAD_MAX / CALLS {
        let index = random.usize(..kept.unread.len());
        kept.unread.swap_remove(index);
    }
    Some(())
}

/// Opens a connection that stays idle.
async fn idle(kept: &mut Kept, socket: &Path) {
    if let Ok(stream) = tokio::net::UnixStream::connect(socket).await {
        kept.idle.push(stream);
    }
    if kept.idle.len() > IDLE_MAX / CALLS {
        kept.idle.swap_remove(0);
    }
}
