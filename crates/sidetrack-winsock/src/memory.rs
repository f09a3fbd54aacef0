//! The caller's memory: looked at before it is touched.
//!
//! A program may give any address. Whether a place may be written is asked of the kernel, by filling in
//! its pages (`MADV_POPULATE_WRITE`); nothing is changed by that. A place on the calling thread's own stack, above this
//! call, needs no question: most programs keep such arguments there. What another thread unmaps meanwhile is beyond us.

#[allow(unsafe_code)]
mod sys;

pub(crate) use sys::{Place, get, load, put};

/// Bytes at the beginning of a buffer that must be writable; what lies beyond must be mapped. No answer is
/// longer, and a large buffer is not filled with pages.
const TRIED_MAX: usize = 65_536;
/// Bytes of a buffer. The kernel counts them in an int.
pub(crate) const LENGTH_MAX: usize = i32::MAX as usize;

/// Some of the caller's memory, not looked at yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) address: usize,
    pub(crate) length: usize,
}

impl Span {
    pub(crate) fn of<T>(pointer: *const T, length: usize) -> Self {
        Self {
            address: pointer.addr(),
            length,
        }
    }

    /// All of it may be written. An empty one may, wherever it is.
    pub(crate) fn is_writable(self) -> bool {
        self.is_good(libc::MADV_POPULATE_WRITE)
    }

    /// All of it may be read.
    pub(crate) fn is_readable(self) -> bool {
        self.is_good(libc::MADV_POPULATE_READ)
    }

    /// It is writable as a whole, given that its first `written` bytes are: what shares a page with them is, too.
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

    fn is_good(self, advice: i32) -> bool {
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
        let tried = self.length.min(TRIED_MAX);
        sys::populate(self.address, tried, advice)
            && (tried == self.length || sys::is_mapped(self.address + tried, self.length - tried))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_good_is_found_good_and_nothing_else() {
        let heap = vec![7_u8; 100_000];
        let all = Span::of(heap.as_ptr(), heap.len());
        assert!(all.is_readable() && all.is_writable());
        assert!(heap.iter().all(|&byte| byte == 7), "nothing is changed");
        static CONSTANT: [u8; 64] = [7; 64];
        let constant = Span::of(CONSTANT.as_ptr(), CONSTANT.len());
        assert!(constant.is_readable() && !constant.is_writable());
        for address in [
            0,
            1,
            0x1234_5678_9000,
            usize::MAX - 4,
            0xffff_8000_0000_0000,
        ] {
            let wild = Span { address, length: 8 };
            assert!(!wild.is_readable() && !wild.is_writable(), "{address:x}");
            let nothing = Span { address, length: 0 };
            assert!(nothing.is_readable() && nothing.is_writable());
        }
    }

    #[test]
    fn a_length_that_no_memory_has_is_not_good() {
        let here = [0_u8; 64];
        for length in [1 << 31, u32::MAX as usize, usize::MAX] {
            assert!(!Span::of(here.as_ptr(), length).is_writable());
        }
    }

    #[test]
    fn what_shares_a_page_with_what_was_written_is_good() {
        let heap = vec![0_u8; 16_384];
        let span = Span::of(heap.as_ptr(), heap.len());
        assert!(span.is_writable_after(1) && span.is_writable_after(heap.len()));
        let beyond = Span {
            length: usize::MAX,
            ..span
        };
        assert!(!beyond.is_writable_after(64));
    }
}
