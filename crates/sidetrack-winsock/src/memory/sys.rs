//! Questions about memory, and the places that were found good.

use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;

use super::Span;

/// Of the smallest page there is, where the kernel does not tell.
const PAGE_SIZE: usize = 4096;

thread_local! {
    /// This thread's stack: its lowest and its first address above; both 0 until asked.
    static STACK: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// A place of the caller's that was found writable and is big enough for a `T`, aligned or not.
pub(crate) struct Place<T> {
    address: usize,
    holds: PhantomData<fn(T)>,
}

impl<T> Clone for Place<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Place<T> {}

impl<T: Copy> Place<T> {
    /// `None` if it is not good.
    pub(crate) fn at(pointer: *mut T) -> Option<Self> {
        let address = pointer.expose_provenance();
        (Span {
            address,
            length: size_of::<T>(),
        }
        .is_writable()
            && address != 0)
            .then_some(Self {
                address,
                holds: PhantomData,
            })
    }

    pub(crate) fn address(self) -> usize {
        self.address
    }

    /// Still there? For one that was kept.
    pub(crate) fn is_good(self) -> bool {
        Self::at(self.pointer()).is_some()
    }

    pub(crate) fn load(self) -> T {
        // SAFETY: the place was found readable (writable pages are) when this was made; the C caller keeps it
        // until the call, or the operation, is over. All types here are plain data.
        unsafe { ptr::read_unaligned(self.pointer()) }
    }

    pub(crate) fn store(self, value: T) {
        // SAFETY: the place was found writable when this was made; kept by the C caller as above.
        unsafe { ptr::write_unaligned(self.pointer(), value) }
    }

    pub(crate) fn pointer(self) -> *mut T {
        ptr::with_exposed_provenance_mut(self.address)
    }
}

/// Reads what the caller gives. `None` if it cannot be read.
pub(crate) fn load<T: Copy>(pointer: *const T) -> Option<T> {
    let span = Span::of(pointer, size_of::<T>());
    if pointer.is_null() || !span.is_readable() {
        return None;
    }
    // SAFETY: it has just been found readable; the C caller keeps it for the call. All types here are plain data.
    Some(unsafe { ptr::read_unaligned(pointer) })
}

/// Copies what the caller gives. `None` if it cannot be read.
pub(crate) fn get(span: Span) -> Option<Vec<u8>> {
    if !span.is_readable() {
        return None;
    }
    let mut bytes = vec![0; span.length];
    let from = ptr::with_exposed_provenance::<u8>(span.address);
    // SAFETY: all of it has just been found readable, and the copy is as long; of nothing, nothing is read.
    unsafe { ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), span.length) };
    Some(bytes)
}

/// Copies as many bytes to the caller. False if they cannot be written.
pub(crate) fn put(span: Span, bytes: &[u8]) -> bool {
    if bytes.len() != span.length || !span.is_writable() {
        return false;
    }
    let to = ptr::with_exposed_provenance_mut::<u8>(span.address);
    // SAFETY: all of it has just been found writable, and it is as long.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    true
}

/// The first address of the page after this one's.
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

/// Has the kernel make the pages present, for reading or for writing. Their content stays.
pub(crate) fn populate(address: usize, length: usize, advice: i32) -> bool {
    let start = address & !(page_size() - 1);
    let pages = ptr::without_provenance_mut(start);
    // SAFETY: this advice changes nothing that a program can see but the time of later accesses; the kernel refuses
    // what is not mapped so.
    let result = unsafe { libc::madvise(pages, address + length - start, advice) };
    result == 0
}

/// Whether each page of it is mapped, in whatever way.
pub(crate) fn is_mapped(address: usize, length: usize) -> bool {
    let start = address & !(page_size() - 1);
    let pages = ptr::without_provenance_mut(start);
    // SAFETY: MS_ASYNC starts nothing; the kernel only looks whether all of it is mapped.
    let result = unsafe { libc::msync(pages, address + length - start, libc::MS_ASYNC) };
    result == 0
}

/// Between this function's frame and the top of this thread's stack, all is mapped.
pub(crate) fn is_on_own_stack(start: usize, end: usize) -> bool {
    let here = ptr::from_ref(&MaybeUninit::<u8>::uninit()).addr();
    let (low, top) = own_stack();
    low <= here && here <= start && end <= top
}

fn own_stack() -> (usize, usize) {
    let known = STACK.try_with(Cell::get).unwrap_or((0, 0));
    if known.1 != 0 {
        return known;
    }
    let found = ask_own_stack().unwrap_or((usize::MAX, 1)); // holds nothing
    let _ = STACK.try_with(|stack| stack.set(found));
    found
}

fn ask_own_stack() -> Option<(usize, usize)> {
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    let (mut low, mut size) = (ptr::null_mut(), 0);
    // SAFETY: the attributes are made before they are read, and destroyed once; the other two are written by the
    // call.
    unsafe {
        if libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) != 0 {
            return None;
        }
        libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut low, &raw mut size);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
    }
    Some((low.addr(), low.addr() + size))
}
