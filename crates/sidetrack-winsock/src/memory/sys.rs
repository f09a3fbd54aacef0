//! Checks of memory, and access to memory that was checked.

use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;

use super::MemoryRange;

/// Page size in bytes if the kernel does not report it: the smallest one.
const PAGE_SIZE: usize = 4096;

thread_local! {
    /// The lowest address of this thread's stack, and the first address above it. Both are 0 until
    /// they are queried.
    static STACK: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// An address of the caller that was found writable for a value of type `T`, aligned or not.
pub(crate) struct CallerPointer<T> {
    address: usize,
    value_type: PhantomData<fn(T)>,
}

impl<T> Clone for CallerPointer<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for CallerPointer<T> {}

impl<T: Copy> CallerPointer<T> {
    /// Checks the address. `None` if it is not writable.
    pub(crate) fn new(pointer: *mut T) -> Option<Self> {
        let address = pointer.expose_provenance();
        (MemoryRange {
            address,
            length: size_of::<T>(),
        }
        .is_writable()
            && address != 0)
            .then_some(Self {
                address,
                value_type: PhantomData,
            })
    }

    pub(crate) fn address(self) -> usize {
        self.address
    }

    /// Whether the address is still writable. To be checked if the pointer was kept after its call.
    pub(crate) fn is_still_writable(self) -> bool {
        Self::new(self.pointer()).is_some()
    }

    pub(crate) fn load(self) -> T {
        // SAFETY: the address was found writable, and therefore readable, when this value was
        // created. The C caller keeps the memory until the call, or the operation, is over. All
        // types used here are plain data.
        unsafe { ptr::read_unaligned(self.pointer()) }
    }

    pub(crate) fn store(self, value: T) {
        // SAFETY: the address was found writable when this value was created, and the C caller
        // keeps it, as above.
        unsafe { ptr::write_unaligned(self.pointer(), value) }
    }

    pub(crate) fn pointer(self) -> *mut T {
        ptr::with_exposed_provenance_mut(self.address)
    }
}

/// Reads a value of the caller. `None` if it cannot be read.
pub(crate) fn read<T: Copy>(pointer: *const T) -> Option<T> {
    let range = MemoryRange::of(pointer, size_of::<T>());
    if pointer.is_null() || !range.is_readable() {
        return None;
    }
    // SAFETY: the address has just been found readable, and the C caller keeps it for the call. All
    // types used here are plain data.
    Some(unsafe { ptr::read_unaligned(pointer) })
}

/// Copies a buffer of the caller. `None` if it cannot be read.
pub(crate) fn copy_in(range: MemoryRange) -> Option<Vec<u8>> {
    if !range.is_readable() {
        return None;
    }
    let mut bytes = vec![0; range.length];
    let from = ptr::with_exposed_provenance::<u8>(range.address);
    // SAFETY: all of the range has just been found readable, and the copy is as long. Nothing is
    // read from an empty range.
    unsafe { ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), range.length) };
    Some(bytes)
}

/// Copies `bytes` to a buffer of the caller. Returns false if the length differs, or if it cannot
/// be written.
pub(crate) fn copy_out(range: MemoryRange, bytes: &[u8]) -> bool {
    if bytes.len() != range.length || !range.is_writable() {
        return false;
    }
    let to = ptr::with_exposed_provenance_mut::<u8>(range.address);
    // SAFETY: all of the range has just been found writable, and it is as long as `bytes`.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    true
}

/// The first address of the next page.
pub(crate) fn page_end(address: usize) -> usize {
    (address | (page_size() - 1)).saturating_add(1)
}

fn page_size() -> usize {
    static SIZE: OnceLock<usize> = OnceLock::new();
    *SIZE.get_or_init(|| {
        // SAFETY: the call takes no pointers.
        let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        usize::try_from(size).unwrap_or(PAGE_SIZE)
    })
}

/// Populates the pages of a range for reading or writing. Their content does not change. Returns
/// false if the pages cannot be accessed so.
pub(crate) fn populate(address: usize, length: usize, advice: i32) -> bool {
    let start = address & !(page_size() - 1);
    let pages = ptr::without_provenance_mut(start);
    // SAFETY: this advice changes nothing that a program can see, except for the time of later
    // accesses. The kernel refuses pages that are not mapped for that access.
    let result = unsafe { libc::madvise(pages, address + length - start, advice) };
    result == 0
}

/// Whether each page of a range is mapped, with any protection.
pub(crate) fn is_mapped(address: usize, length: usize) -> bool {
    let start = address & !(page_size() - 1);
    let pages = ptr::without_provenance_mut(start);
    // SAFETY: MS_ASYNC starts nothing; the kernel only checks whether the whole range is mapped.
    let result = unsafe { libc::msync(pages, address + length - start, libc::MS_ASYNC) };
    result == 0
}

/// Whether a range is between this function's frame and the top of this thread's stack, where all
/// memory is mapped.
pub(crate) fn is_on_own_stack(start: usize, end: usize) -> bool {
    let here = ptr::from_ref(&MaybeUninit::<u8>::uninit()).addr();
    let (low, top) = own_stack();
    low <= here && here <= start && end <= top
}

/// The bounds of this thread's stack, queried once for each thread.
fn own_stack() -> (usize, usize) {
    let known = STACK.try_with(Cell::get).unwrap_or((0, 0));
    if known.1 != 0 {
        return known;
    }
    // If they are unknown: bounds that contain no address.
    let found = query_own_stack().unwrap_or((usize::MAX, 1));
    let _ = STACK.try_with(|stack| stack.set(found));
    found
}

/// Queries the bounds of this thread's stack.
fn query_own_stack() -> Option<(usize, usize)> {
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    let (mut low, mut size) = (ptr::null_mut(), 0);
    // SAFETY: the attributes are initialised before they are read, and destroyed once. The call
    // writes the other two values.
    unsafe {
        if libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) != 0 {
            return None;
        }
        libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut low, &raw mut size);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
    }
    Some((low.addr(), low.addr() + size))
}
