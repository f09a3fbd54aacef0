//! Access to the caller's memory, which is checked before it is used.
//!
//! A program may pass any address. The kernel checks whether an address can be written, by
//! populating its page (`MADV_POPULATE_WRITE`), which changes no content. Memory on the calling
//! thread's own stack, between this call's frame and the top of the stack, needs no system call;
//! most programs keep such arguments there. Memory that another thread unmaps during a call is not
//! detected.

#[allow(unsafe_code)]
mod sys;

pub(crate) use sys::{CallerPointer, copy_in, copy_out, read};

/// Number of bytes at the beginning of a buffer that must be writable. The bytes after that only
/// have to be mapped: no answer reaches them, and populating a large buffer would be expensive.
const POPULATE_MAX: usize = 65_536;
/// Largest length of a buffer in bytes. The kernel counts them in an int.
pub(crate) const LENGTH_MAX: usize = i32::MAX as usize;

/// A range of the caller's memory that has not been checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemoryRange {
    pub(crate) address: usize,
    pub(crate) length: usize,
}

impl MemoryRange {
    /// The range of `length` bytes at `pointer`.
    pub(crate) fn of<T>(pointer: *const T, length: usize) -> Self {
        Self {
            address: pointer.addr(),
            length,
        }
    }

    /// Whether all of the range can be written. An empty range always can.
    pub(crate) fn is_writable(self) -> bool {
        self.is_accessible(libc::MADV_POPULATE_WRITE)
    }

    /// Whether all of the range can be read. An empty range always can.
    pub(crate) fn is_readable(self) -> bool {
        self.is_accessible(libc::MADV_POPULATE_READ)
    }

    /// Whether all of the range can be written, if its first `written` bytes are known to be
    /// writable. The rest of the last page of these bytes then is, too.
    pub(crate) fn is_writable_after(self, written: usize) -> bool {
        let known = sys::page_end(self.address + written.max(1) - 1);
        match (self.address.checked_add(self.length)).map(|end| end.saturating_sub(known)) {
            Some(0) => true,
            Some(length) => Self {
                address: known,
                length,
            }
            .is_writable(),
            None => false,
        }
    }

    /// Whether `advice`, MADV_POPULATE_READ or MADV_POPULATE_WRITE, succeeds for the range.
    fn is_accessible(self, advice: i32) -> bool {
        if self.length == 0 {
            return true;
        }
        let Some(end) = self.address.checked_add(self.length) else {
            return false;
        };
        if sys::is_on_own_stack(self.address, end) {
            return true;
        }
        if self.address == 0 || self.length > LENGTH_MAX {
            return false;
        }
        let tried = self.length.min(POPULATE_MAX);
        sys::populate(self.address, tried, advice)
            && (tried == self.length || sys::is_mapped(self.address + tried, self.length - tried))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accessible_memory_is_recognised_and_other_memory_is_not() {
        let heap = vec![7_u8; 100_000];
        let all = MemoryRange::of(heap.as_ptr(), heap.len());
        assert!(all.is_readable() && all.is_writable());
        assert!(
            heap.iter().all(|&byte| byte == 7),
            "the content is unchanged"
        );
        static CONSTANT: [u8; 64] = [7; 64];
        let constant = MemoryRange::of(CONSTANT.as_ptr(), CONSTANT.len());
        assert!(constant.is_readable() && !constant.is_writable());
        for address in [
            0,
            1,
            0x1234_5678_9000,
            usize::MAX - 4,
            0xffff_8000_0000_0000,
        ] {
            let wild = MemoryRange { address, length: 8 };
            assert!(!wild.is_readable() && !wild.is_writable(), "{address:x}");
            let nothing = MemoryRange { address, length: 0 };
            assert!(nothing.is_readable() && nothing.is_writable());
        }
    }

    #[test]
    fn a_length_that_exceeds_all_memory_is_not_writable() {
        let here = [0_u8; 64];
        for length in [1 << 31, u32::MAX as usize, usize::MAX] {
            assert!(!MemoryRange::of(here.as_ptr(), length).is_writable());
        }
    }

    #[test]
    fn the_rest_of_a_written_page_is_writable() {
        let heap = vec![0_u8; 16_384];
        let range = MemoryRange::of(heap.as_ptr(), heap.len());
        assert!(range.is_writable_after(1) && range.is_writable_after(heap.len()));
        let beyond = MemoryRange {
            length: usize::MAX,
            ..range
        };
        assert!(!beyond.is_writable_after(64));
    }
}
