//! The memory of a BPF ring buffer, mapped by its descriptor.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence};

use super::Memory;

/// The two parts of the ring buffer's memory. The first page of the map is the consumer's position,
/// which the reader may write. What follows may only be read: a page with the producer's position,
/// and the data twice, so that a record around their end is contiguous.
#[derive(Debug)]
pub(crate) struct Mapping {
    consumer: Pages,
    producer_and_data: Pages,
    /// Bytes of the data, once.
    size: usize,
    page_size: usize,
}

/// Mapped memory; unmapped when dropped.
#[derive(Debug)]
struct Pages {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the memory is mapped for the whole process, and only `Drop` unmaps it.
unsafe impl Send for Pages {}
// SAFETY: as above; shared references read it only, by atomics where another side may write.
unsafe impl Sync for Pages {}

impl Mapping {
    /// Maps a ring buffer whose data have `size` bytes, a power of two. Fails if `ring` is
    /// something else, or a smaller ring buffer.
    pub(crate) fn new(ring: BorrowedFd<'_>, size: usize) -> io::Result<Self> {
        assert!(size.is_power_of_two());
        let page_size = page_size();
        Ok(Self {
            consumer: Pages::map(ring, 0, page_size, libc::PROT_READ | libc::PROT_WRITE)?,
            producer_and_data: Pages::map(ring, page_size, page_size + 2 * size, libc::PROT_READ)?,
            size,
            page_size,
        })
    }
}

impl Memory for Mapping {
    fn size(&self) -> usize {
        self.size
    }

    fn consumer(&self) -> usize {
        self.consumer.position().load(Ordering::Relaxed)
    }

    fn set_consumer(&mut self, position: usize) {
        self.consumer.position().store(position, Ordering::Release);
        // The kernel wakes waiting threads only if the record that it ends is at the consumer's
        // position. So this store must be visible before the next load of the producer's position
        // or of a header: otherwise the reader could find nothing there, and not be woken.
        fence(Ordering::SeqCst);
    }

    fn producer(&self) -> usize {
        self.producer_and_data.position().load(Ordering::Acquire)
    }

    fn header(&self, offset: usize) -> u32 {
        assert!(offset < self.size && offset.is_multiple_of(8));
        // SAFETY: the offset is within the data, which are mapped, and aligned to 8 bytes. The
        // kernel changes the header while it is read, hence an atomic.
        let header = unsafe {
            let address = self.producer_and_data.start.as_ptr();
            AtomicU32::from_ptr(address.add(self.page_size + offset).cast())
        };
        header.load(Ordering::Acquire)
    }

    fn copy(&self, offset: usize, to: &mut [u8]) {
        assert!(offset < self.size && to.len() <= self.size);
        // SAFETY: offset and length are within the data, which are mapped twice. The kernel does
        // not write a finished record before the consumer's position has passed it; were another
        // process to move that position, the bytes would be wrong, and any bytes are valid as u8.
        unsafe {
            let address = self.producer_and_data.start.as_ptr();
            let from = address.add(self.page_size + offset);
            ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len());
        }
    }
}

impl Pages {
    fn map(ring: BorrowedFd<'_>, from: usize, length: usize, access: i32) -> io::Result<Self> {
        let from = libc::off_t::try_from(from).map_err(io::Error::other)?;
        // SAFETY: a new mapping, at an address that the kernel chooses; `ring` is open as it is
        // borrowed.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                access,
                libc::MAP_SHARED,
                ring.as_raw_fd(),
                from,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { start, length })
    }

    /// The position that the first page begins with.
    fn position(&self) -> &AtomicUsize {
        // SAFETY: the first page is mapped as long as `self` exists, is aligned to its size, and
        // begins with an unsigned long. Other sides access it by atomic operations only.
        unsafe { AtomicUsize::from_ptr(self.start.as_ptr().cast()) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the memory was mapped with this length, and no reference to it outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

fn page_size() -> usize {
    // SAFETY: the call only returns a number.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}
