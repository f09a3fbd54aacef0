//! The control codes (docs/wfp.md, 1). Arguments are checked in the order of reading R1
//! (docs/wfp.md, 1.6): "step" in a comment means a step of the table there.

#[allow(unsafe_code)]
pub(crate) mod ffi;

use std::sync::Arc;

use sidetrack_abi::kernel;

use crate::abi::{
    DWORD, GUID, IOC_VENDOR, LPWSAOVERLAPPED_COMPLETION_ROUTINE, SIO_FLUSH,
    SIO_GET_EXTENSION_FUNCTION_POINTER, SIO_QUERY_WFP_CONNECTION_REDIRECT_CONTEXT,
    SIO_QUERY_WFP_CONNECTION_REDIRECT_RECORDS, SIO_SET_WFP_CONNECTION_REDIRECT_RECORDS, SOCKET,
    WSAOVERLAPPED,
};
use crate::apc::ApcQueue;
use crate::attempt::{Attempt, AttemptError, Done};
use crate::error::{
    WSAEFAULT, WSAEINPROGRESS, WSAEINVAL, WSAEOPNOTSUPP, WSAEWOULDBLOCK, WinsockError,
    WinsockResult,
};
use crate::memory::{self, CallerPointer, LENGTH_MAX, MemoryRange};
use crate::overlapped::Operation;
use crate::redirect_query::RedirectQuery;
use crate::{blocking, message, reading, redirect_records, socket, thread};

/// The bits of a control code that hold its type, for example `IOC_VENDOR`.
const TYPE_MASK: DWORD = 0x1800_0000;

/// One call of WSAIoctl or WSPIoctl.
pub(crate) struct IoctlCall {
    pub(crate) socket: SOCKET,
    pub(crate) code: DWORD,
    pub(crate) input: MemoryRange,
    pub(crate) output: MemoryRange,
    /// Where the caller wants the number of bytes.
    pub(crate) returned: *mut DWORD,
    pub(crate) overlapped: *mut WSAOVERLAPPED,
    pub(crate) routine: LPWSAOVERLAPPED_COMPLETION_ROUTINE,
    /// The queue of the thread that runs the routine; `None` for the calling thread.
    pub(crate) thread: Option<Arc<ApcQueue>>,
}

impl IoctlCall {
    pub(crate) fn run(self) -> WinsockResult<()> {
        match self.code {
            SIO_QUERY_WFP_CONNECTION_REDIRECT_CONTEXT => self.query(kernel::CONTEXT),
            SIO_QUERY_WFP_CONNECTION_REDIRECT_RECORDS => self.query(kernel::RECORDS),
            SIO_SET_WFP_CONNECTION_REDIRECT_RECORDS => self.set(),
            SIO_FLUSH => self.flush(),
            SIO_GET_EXTENSION_FUNCTION_POINTER => self.extension(),
            _ => self.unknown(),
        }
    }

    /// A query for the option `name`: CONTEXT or RECORDS.
    fn query(self, name: i32) -> WinsockResult<()> {
        let socket = socket::descriptor(self.socket)?;
        let query = RedirectQuery {
            socket,
            name,
            output: self.output,
        };
        let in_hook = blocking::is_in_hook();
        if self.overlapped.is_null() && !in_hook && self.try_fast_path(&query) {
            return Ok(());
        }
        socket::checked(self.socket)?;
        if in_hook {
            return Err(WinsockError(WSAEINPROGRESS));
        }
        match self.is_overlapped(socket) {
            true => self.query_overlapped(query),
            false => self.query_synchronous(query),
        }
    }

    /// Handles the common query without allocation, and, if the arguments are on the stack, with
    /// one system call. Returns false if anything about the call is unusual; the full path then
    /// starts from the beginning.
    fn try_fast_path(&self, query: &RedirectQuery) -> bool {
        if !(4..=LENGTH_MAX).contains(&self.output.length) || self.output.address == 0 {
            return false;
        }
        let Some(returned) = CallerPointer::new(self.returned) else {
            return false;
        };
        if socket::is_datagram_listener(query.socket) {
            return false;
        }
        match query.call_getsockopt() {
            Ok(length) if self.output.is_writable_after(length) => {
                returned.store(length as DWORD);
                true
            }
            _ => false,
        }
    }

    fn is_overlapped(&self, socket: i32) -> bool {
        !self.overlapped.is_null() && socket::is_overlapped(socket)
    }

    fn query_synchronous(self, query: RedirectQuery) -> WinsockResult<()> {
        let returned = CallerPointer::new(self.returned);
        if let Err(error) = query.check_arguments() {
            return failed(returned, error);
        }
        let returned = returned.ok_or(WinsockError(WSAEFAULT))?;
        loop {
            match query.attempt() {
                Ok(length) => {
                    returned.store(length);
                    return Ok(());
                }
                Err(AttemptError::TooSmall(needed)) => {
                    let (error, count) = reading::too_small(needed);
                    returned.store(count);
                    return Err(WinsockError(error));
                }
                Err(AttemptError::Final(error)) => return failed(Some(returned), error),
                Err(AttemptError::NotYet(_)) if socket::is_nonblocking(query.socket) => {
                    return failed(Some(returned), WinsockError(WSAEWOULDBLOCK));
                }
                Err(AttemptError::NotYet(interest)) => {
                    if let Err(error) = blocking::wait(query.socket, interest) {
                        return failed(Some(returned), error);
                    }
                }
            }
        }
    }

    fn query_overlapped(self, query: RedirectQuery) -> WinsockResult<()> {
        let returned = self.optional_returned()?;
        if let Err(error) = query.check_arguments() {
            return failed(returned, error);
        }
        self.operation(query.socket)?.start(query, returned)
    }

    /// Where the caller wants the number of bytes. It may be NULL in an overlapped call.
    fn optional_returned(&self) -> WinsockResult<Option<CallerPointer<DWORD>>> {
        if self.returned.is_null() {
            return Ok(None);
        }
        CallerPointer::new(self.returned)
            .map(Some)
            .ok_or(WinsockError(WSAEFAULT))
    }

    /// SIO_SET_WFP_CONNECTION_REDIRECT_RECORDS. Completes immediately, also if it is overlapped
    /// (docs/wfp.md, 1.7).
    fn set(self) -> WinsockResult<()> {
        let socket = self.checked()?;
        let overlapped = self.is_overlapped(socket);
        let returned = match overlapped {
            true => self.optional_returned()?,
            false => Some(CallerPointer::new(self.returned).ok_or(WinsockError(WSAEFAULT))?),
        };
        if let Err(error) = self.set_records(socket) {
            return failed(returned, error);
        }
        self.finish(socket, overlapped, returned, 0)
    }

    /// Checks the arguments of SET, and sets the records.
    fn set_records(&self, socket: i32) -> WinsockResult<()> {
        let input = self.input;
        if !input.is_readable() || (input.address == 0 && input.length > 0) {
            return Err(WinsockError(WSAEFAULT));
        }
        if self.output.length != 0 {
            return Err(WinsockError(WSAEINVAL));
        }
        redirect_records::set(socket, input)
    }

    /// SIO_FLUSH: aborts the pending operations of the socket.
    fn flush(self) -> WinsockResult<()> {
        let socket = self.checked()?;
        crate::overlapped::abort_socket(socket);
        if let Some(returned) = CallerPointer::new(self.returned) {
            returned.store(0);
        }
        Ok(())
    }

    /// SIO_GET_EXTENSION_FUNCTION_POINTER.
    fn extension(self) -> WinsockResult<()> {
        let socket = self.checked()?;
        let overlapped = self.is_overlapped(socket);
        let returned = match overlapped {
            true => self.optional_returned()?,
            false => Some(CallerPointer::new(self.returned).ok_or(WinsockError(WSAEFAULT))?),
        };
        if self.input.length < size_of::<GUID>() || self.output.length < size_of::<usize>() {
            return failed(returned, WinsockError(WSAEFAULT));
        }
        let wanted = memory::read(std::ptr::with_exposed_provenance(self.input.address));
        let space = CallerPointer::new(std::ptr::with_exposed_provenance_mut(self.output.address));
        let (Some(wanted), Some(space)) = (wanted, space) else {
            return failed(returned, WinsockError(WSAEFAULT));
        };
        match message::extension::function(&wanted) {
            Some(function) => space.store(function),
            None => return failed(returned, WinsockError(WSAEINVAL)),
        }
        self.finish(socket, overlapped, returned, size_of::<usize>() as DWORD)
    }

    /// Ends a successful call: stores the number of bytes and, if the call is overlapped, completes
    /// the operation.
    fn finish(
        self,
        socket: i32,
        overlapped: bool,
        returned: Option<CallerPointer<DWORD>>,
        bytes: DWORD,
    ) -> WinsockResult<()> {
        if overlapped {
            return self.operation(socket)?.start(Done(bytes), returned);
        }
        if let Some(returned) = returned {
            returned.store(bytes);
        }
        Ok(())
    }

    /// The overlapped operation of the call.
    fn operation(self, socket: i32) -> WinsockResult<Operation> {
        let queue = || self.thread.map_or_else(thread::own_queue, Ok);
        Operation::new(socket, self.overlapped, self.routine, queue)
    }

    /// A code that the library does not implement.
    fn unknown(self) -> WinsockResult<()> {
        self.checked()?;
        let error = match self.code & TYPE_MASK {
            IOC_VENDOR => WSAEINVAL,
            _ => WSAEOPNOTSUPP,
        };
        failed(CallerPointer::new(self.returned), WinsockError(error))
    }

    /// Steps 2 and 3: a socket, and not within a blocking hook.
    fn checked(&self) -> WinsockResult<i32> {
        let socket = socket::checked(self.socket)?;
        match blocking::is_in_hook() {
            true => Err(WinsockError(WSAEINPROGRESS)),
            false => Ok(socket),
        }
    }
}

/// Ends a failed call. The number of bytes is 0.
fn failed<T>(returned: Option<CallerPointer<DWORD>>, error: WinsockError) -> WinsockResult<T> {
    if let Some(returned) = returned {
        returned.store(0);
    }
    Err(error)
}
