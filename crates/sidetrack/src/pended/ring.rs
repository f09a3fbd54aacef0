//! The reader of a service's ring buffer of notices, which the kernel side writes.
//!
//! The layout is that of a BPF ring buffer (the kernel's Documentation/bpf/ringbuf.rst). Two
//! positions count bytes and never decrease: the kernel advances the producer's, the reader the
//! consumer's. A record has a header of 8 bytes, whose first four are its length and two flags, and
//! is padded to a multiple of 8 bytes. A ring buffer has one reader at a time: all methods that
//! read need `&mut`.

#[allow(unsafe_code)]
mod ffi;

use std::fmt;

use sidetrack_abi::kernel::Notice;
use zerocopy::{FromBytes, IntoBytes};

pub(super) use ffi::Mapping;

/// Bytes of a record's header.
const HEADER_SIZE: usize = 8;
/// In a header: the kernel is still writing the record.
const BUSY: u32 = 1 << 31;
/// In a header: the record must be skipped.
const DISCARD: u32 = 1 << 30;

/// The memory that a ring buffer shares with the kernel.
pub(super) trait Memory {
    /// Bytes of the data: a power of two.
    fn size(&self) -> usize;
    /// The position up to which records have been read.
    fn consumer(&self) -> usize;
    /// Sets the position up to which records have been read. What was read before is read before.
    fn set_consumer(&mut self, position: usize);
    /// The position up to which records have been reserved.
    fn producer(&self) -> usize;
    /// The first word of the record's header at `offset`, which is a multiple of 8. What is read
    /// after this call was written before the header.
    fn header(&self, offset: usize) -> u32;
    /// Copies data from `offset`, which is below the size; data continue at offset 0.
    fn copy(&self, offset: usize, to: &mut [u8]);
}

/// The reader of a ring buffer of notices.
#[derive(Debug)]
pub(super) struct Ring<M> {
    memory: M,
}

/// The ring buffer contains something else than notices. All that was unread is skipped: the client
/// of a held flow sends its SYN again, which makes another notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damaged;

impl<M: Memory> Ring<M> {
    pub(super) fn new(memory: M) -> Self {
        Self { memory }
    }

    /// Reads the next notice. Returns `None` if there is none, or if the kernel is still writing it.
    pub(super) fn next(&mut self) -> Result<Option<Notice>, Damaged> {
        loop {
            let position = self.memory.consumer();
            let unread = self.memory.producer().wrapping_sub(position);
            if unread == 0 {
                return Ok(None);
            }
            if unread > self.memory.size() || unread < HEADER_SIZE || !position.is_multiple_of(8) {
                return Err(self.skip_all());
            }
            let offset = position & (self.memory.size() - 1);
            let header = self.memory.header(offset);
            if header & BUSY != 0 {
                return Ok(None);
            }
            let length = (header & !(BUSY | DISCARD)) as usize;
            let step = (length + HEADER_SIZE).next_multiple_of(8);
            if step > unread {
                return Err(self.skip_all());
            }
            let next = position.wrapping_add(step);
            if header & DISCARD != 0 {
                self.memory.set_consumer(next);
                continue;
            }
            if length != size_of::<Notice>() {
                return Err(self.skip_all());
            }
            let mut notice = [0; size_of::<Notice>()];
            let data = (offset + HEADER_SIZE) & (self.memory.size() - 1);
            self.memory.copy(data, &mut notice);
            self.memory.set_consumer(next);
            return Notice::read_from_bytes(notice.as_bytes())
                .map(Some)
                .map_err(|_| Damaged);
        }
    }

    /// Whether all records that were reserved before the producer's position was `position` have
    /// been read.
    pub(super) fn has_read(&self, position: usize) -> bool {
        self.memory.consumer().wrapping_sub(position) as isize >= 0
    }

    /// The position up to which the kernel has reserved records.
    pub(super) fn written(&self) -> usize {
        self.memory.producer()
    }

    fn skip_all(&mut self) -> Damaged {
        self.memory.set_consumer(self.memory.producer());
        Damaged
    }
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the ring buffer contains something else than notices")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sidetrack_abi::kernel::{NOTICE_SYN, Records, TCP_HEADER_MAX};

    use super::*;

    const SIZE: usize = 1024;

    /// A ring buffer in memory, with the kernel's side of it.
    struct Fake {
        data: Vec<u8>,
        consumer: usize,
        producer: usize,
    }

    impl Fake {
        /// A ring buffer whose next record is at `position`.
        fn at(position: usize) -> Self {
            Self {
                data: vec![0; SIZE],
                consumer: position,
                producer: position,
            }
        }

        fn write(&mut self, length: u32, record: &[u8]) {
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend([0; 4]);
            bytes.extend(record);
            for (index, byte) in bytes.iter().enumerate() {
                self.data[(self.producer + index) % SIZE] = *byte;
            }
            self.producer += bytes.len().next_multiple_of(8);
        }

        fn write_notice(&mut self, flow_id: u64, flags: u32) {
            let notice = notice(flow_id);
            self.write(size_of::<Notice>() as u32 | flags, notice.as_bytes());
        }
    }

    impl Memory for Fake {
        fn size(&self) -> usize {
            SIZE
        }
        fn consumer(&self) -> usize {
            self.consumer
        }
        fn set_consumer(&mut self, position: usize) {
            self.consumer = position;
        }
        fn producer(&self) -> usize {
            self.producer
        }
        fn header(&self, offset: usize) -> u32 {
            let bytes = self.data[offset..offset + 4].try_into();
            u32::from_ne_bytes(bytes.expect("four bytes"))
        }
        fn copy(&self, offset: usize, to: &mut [u8]) {
            for (index, byte) in to.iter_mut().enumerate() {
                *byte = self.data[(offset + index) % SIZE];
            }
        }
    }

    fn notice(flow_id: u64) -> Notice {
        Notice {
            kind: NOTICE_SYN,
            tcp_length: 20,
            records: Records {
                flow_id,
                engine_id: 7,
                mac: [9; 16],
            },
            connected_at: 1,
            remote_addr: [1; 16],
            client_addr: [2; 16],
            target_addr: [3; 16],
            remote_port: [0, 80],
            reserved: 0,
            tcp: [4; TCP_HEADER_MAX],
        }
    }

    #[test]
    fn notices_are_read_in_order_also_around_the_end() {
        let mut ring = Ring::new(Fake::at(SIZE - 40));
        assert_eq!(ring.next(), Ok(None));
        for round in 0..50 {
            ring.memory.write_notice(2 * round, 0);
            ring.memory.write_notice(2 * round + 1, 0);
            assert_eq!(ring.next(), Ok(Some(notice(2 * round))));
            assert_eq!(ring.next(), Ok(Some(notice(2 * round + 1))));
            assert_eq!(ring.next(), Ok(None));
        }
    }

    #[test]
    fn records_that_are_being_written_wait_and_discarded_ones_are_skipped() {
        let mut ring = Ring::new(Fake::at(0));
        ring.memory.write_notice(1, DISCARD);
        ring.memory.write_notice(2, BUSY);
        ring.memory.write_notice(3, 0);
        assert_eq!(ring.next(), Ok(None));
        let busy = ring.memory.consumer;
        let length = size_of::<Notice>() as u32;
        ring.memory.data[busy..busy + 4].copy_from_slice(&length.to_ne_bytes());
        assert_eq!(ring.next(), Ok(Some(notice(2))));
        assert_eq!(ring.next(), Ok(Some(notice(3))));
        assert!(ring.has_read(ring.written()));
    }

    #[test]
    fn a_record_of_another_length_is_an_error_once() {
        for length in [0, 8, size_of::<Notice>() as u32 + 1, DISCARD - 1] {
            let mut ring = Ring::new(Fake::at(0));
            ring.memory.write(length, &[0; 168]);
            ring.memory.write_notice(1, 0);
            assert_eq!(ring.next(), Err(Damaged), "{length}");
            assert_eq!(ring.next(), Ok(None));
            ring.memory.write_notice(2, 0);
            assert_eq!(ring.next(), Ok(Some(notice(2))));
        }
    }

    proptest! {
        /// Whatever the memory contains, reading ends, never panics, and never reads again.
        #[test]
        fn hostile_memory_is_read_to_an_end(
            data in prop::collection::vec(prop_oneof![Just(0_u8), any::<u8>()], SIZE),
            consumer in any::<usize>(),
            distance in prop_oneof![0..2 * SIZE, any::<usize>()],
        ) {
            let producer = consumer.wrapping_add(distance);
            let mut ring = Ring::new(Fake { data, consumer, producer });
            let mut before = consumer;
            for _ in 0..SIZE {
                let read = ring.next();
                if read == Ok(None) {
                    return Ok(());
                }
                prop_assert_ne!(ring.memory.consumer, before);
                before = ring.memory.consumer;
            }
            prop_assert!(false, "it does not end");
        }
    }
}
