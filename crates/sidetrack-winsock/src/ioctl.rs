//! The control codes (spec 1). Checks come in the order of reading R1.

#[allow(unsafe_code)]
pub(crate) mod ffi;

use std::sync::Arc;

use sidetrack_abi::kernel::{self, SOL_SIDETRACK};

use crate::abi::{
    DWORD, GUID, IOC_VENDOR, LPWSAOVERLAPPED_COMPLETION_ROUTINE, SIO_FLUSH,
    SIO_GET_EXTENSION_FUNCTION_POINTER, SIO_QUERY_WFP_CONNECTION_REDIRECT_CONTEXT,
    SIO_QUERY_WFP_CONNECTION_REDIRECT_RECORDS, SIO_SET_WFP_CONNECTION_REDIRECT_RECORDS, SOCKET,
    WSAOVERLAPPED,
};
use crate::apc::Queue;
use crate::error::{
    Fault, Reply, WSAEACCES, WSAEFAULT, WSAEINPROGRESS, WSAEINVAL, WSAENOPROTOOPT, WSAENOTCONN,
    WSAEOPNOTSUPP, WSAEWOULDBLOCK,
};
use crate::memory::{self, LENGTH_MAX, Place, Span};
use crate::overlapped::{Operation, Request};
use crate::question::{self, Question, Refusal};
use crate::{blocking, credentials, message, socket};

/// What tells vendors' codes from others.
const TYPE_MASK: DWORD = 0x1800_0000;

/// One call.
pub(crate) struct Control {
    pub(crate) socket: SOCKET,
    pub(crate) code: DWORD,
    pub(crate) input: Span,
    pub(crate) output: Span,
    pub(crate) returned: *mut DWORD,
    pub(crate) overlapped: *mut WSAOVERLAPPED,
    pub(crate) routine: LPWSAOVERLAPPED_COMPLETION_ROUTINE,
    /// The thread that runs the routine, if it is not this one.
    pub(crate) thread: Option<Arc<Queue>>,
}

impl Control {
    pub(crate) fn run(self) -> Reply<()> {
        match self.code {
            SIO_QUERY_WFP_CONNECTION_REDIRECT_CONTEXT => self.query(kernel::CONTEXT),
            SIO_QUERY_WFP_CONNECTION_REDIRECT_RECORDS => self.query(kernel::RECORDS),
            SIO_SET_WFP_CONNECTION_REDIRECT_RECORDS => self.set(),
            SIO_FLUSH => self.flush(),
            SIO_GET_EXTENSION_FUNCTION_POINTER => self.extension(),
            _ => self.unknown(),
        }
    }

    fn query(self, name: i32) -> Reply<()> {
        let socket = socket::descriptor(self.socket)?;
        let question = Question {
            socket,
            name,
            output: self.output,
        };
        let in_hook = blocking::is_in_hook();
        if self.overlapped.is_null() && !in_hook && self.answers_at_once(&question) {
            return Ok(());
        }
        socket::checked(self.socket)?;
        if in_hook {
            return Err(Fault(WSAEINPROGRESS));
        }
        match self.is_overlapped(socket) {
            true => self.query_overlapped(question),
            false => self.query_synchronous(question),
        }
    }

    /// The short way, for what is mostly asked: one system call if the arguments are on the stack, and nothing is
    /// allocated. False if there was anything to be said about the call; then it is as if it had not been made.
    fn answers_at_once(&self, question: &Question) -> bool {
        if !(4..=LENGTH_MAX).contains(&self.output.length) || self.output.address == 0 {
            return false;
        }
        let Some(returned) = Place::at(self.returned) else {
            return false;
        };
        if socket::is_datagram_listener(question.socket) {
            return false;
        }
        match question.put() {
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

    fn query_synchronous(self, question: Question) -> Reply<()> {
        let returned = Place::at(self.returned);
        if let Err(fault) = question.check() {
            return failed(returned, fault);
        }
        let returned = returned.ok_or(Fault(WSAEFAULT))?;
        loop {
            match question.ask() {
                Ok(length) => {
                    returned.store(length);
                    return Ok(());
                }
                Err(Refusal::TooSmall(needed)) => {
                    let (error, count) = question::too_small(needed);
                    returned.store(count);
                    return Err(Fault(error));
                }
                Err(Refusal::Final(fault)) => return failed(Some(returned), fault),
                Err(Refusal::NotYet(_)) if socket::is_nonblocking(question.socket) => {
                    return failed(Some(returned), Fault(WSAEWOULDBLOCK));
                }
                Err(Refusal::NotYet(interest)) => {
                    if let Err(fault) = blocking::wait(question.socket, interest) {
                        return failed(Some(returned), fault);
                    }
                }
            }
        }
    }

    fn query_overlapped(self, question: Question) -> Reply<()> {
        let returned = self.returned_if_any()?;
        if let Err(fault) = question.check() {
            return failed(returned, fault);
        }
        let request = Request::Query(question);
        let operation = Operation::new(
            question.socket,
            request,
            self.overlapped,
            self.routine,
            self.thread,
        )?;
        operation.start(returned)
    }

    /// Of an overlapped call: the count's place may be NULL.
    fn returned_if_any(&self) -> Reply<Option<Place<DWORD>>> {
        if self.returned.is_null() {
            return Ok(None);
        }
        Place::at(self.returned).map(Some).ok_or(Fault(WSAEFAULT))
    }

    /// SIO_SET_WFP_CONNECTION_REDIRECT_RECORDS: answered at once, also if overlapped (spec 1.7).
    fn set(self) -> Reply<()> {
        let socket = self.checked()?;
        let overlapped = self.is_overlapped(socket);
        let returned = match overlapped {
            true => self.returned_if_any()?,
            false => Some(Place::at(self.returned).ok_or(Fault(WSAEFAULT))?),
        };
        if let Err(fault) = self.set_records(socket) {
            return failed(returned, fault);
        }
        self.finish(socket, overlapped, returned, 0)
    }

    fn set_records(&self, socket: i32) -> Reply<()> {
        let input = self.input;
        if !input.is_readable() || (input.address == 0 && input.length > 0) {
            return Err(Fault(WSAEFAULT));
        }
        if self.output.length != 0 {
            return Err(Fault(WSAEINVAL));
        }
        set_records(socket, input)
    }

    /// Aborts what is pending on the socket.
    fn flush(self) -> Reply<()> {
        let socket = self.checked()?;
        crate::overlapped::abort_socket(socket);
        if let Some(returned) = Place::at(self.returned) {
            returned.store(0);
        }
        Ok(())
    }

    fn extension(self) -> Reply<()> {
        let socket = self.checked()?;
        let overlapped = self.is_overlapped(socket);
        let returned = match overlapped {
            true => self.returned_if_any()?,
            false => Some(Place::at(self.returned).ok_or(Fault(WSAEFAULT))?),
        };
        if self.input.length < size_of::<GUID>() || self.output.length < size_of::<usize>() {
            return failed(returned, Fault(WSAEFAULT));
        }
        let wanted = memory::load(std::ptr::with_exposed_provenance(self.input.address));
        let space = Place::at(std::ptr::with_exposed_provenance_mut(self.output.address));
        let (Some(wanted), Some(space)) = (wanted, space) else {
            return failed(returned, Fault(WSAEFAULT));
        };
        match message::extension(&wanted) {
            Some(function) => space.store(function),
            None => return failed(returned, Fault(WSAEINVAL)),
        }
        self.finish(socket, overlapped, returned, size_of::<usize>() as DWORD)
    }

    /// Done at once: the count, and, if overlapped, the completion.
    fn finish(
        self,
        socket: i32,
        overlapped: bool,
        returned: Option<Place<DWORD>>,
        bytes: DWORD,
    ) -> Reply<()> {
        if overlapped {
            let request = Request::Done(bytes);
            let operation =
                Operation::new(socket, request, self.overlapped, self.routine, self.thread)?;
            return operation.start(returned);
        }
        if let Some(returned) = returned {
            returned.store(bytes);
        }
        Ok(())
    }

    fn unknown(self) -> Reply<()> {
        self.checked()?;
        let error = match self.code & TYPE_MASK {
            IOC_VENDOR => WSAEINVAL,
            _ => WSAEOPNOTSUPP,
        };
        failed(Place::at(self.returned), Fault(error))
    }

    /// Steps 2 and 3.
    fn checked(&self) -> Reply<i32> {
        let socket = socket::checked(self.socket)?;
        match blocking::is_in_hook() {
            true => Err(Fault(WSAEINPROGRESS)),
            false => Ok(socket),
        }
    }
}

/// Links a socket to a flow. Errors: WSAEACCES, and those of spec 1.5.
pub(crate) fn set_records(socket: i32, records: Span) -> Reply<()> {
    if !credentials::is_elevated() {
        return Err(Fault(WSAEACCES));
    }
    if records.length != size_of::<kernel::Records>() {
        return Err(Fault(WSAEINVAL));
    }
    let set = socket::set_value_at(
        socket,
        SOL_SIDETRACK,
        kernel::RECORDS,
        records.address,
        records.length,
    );
    set.map_err(|errno| match errno {
        libc::EISCONN => Fault(WSAEINVAL), // too late; Windows would take it, to no effect
        libc::EPROTONOSUPPORT => Fault(WSAENOPROTOOPT),
        libc::EOPNOTSUPP | libc::ENOPROTOOPT => question::no_engine(socket),
        libc::ENOTCONN => Fault(WSAENOTCONN),
        errno => Fault::of_errno(errno),
    })
}

/// A failure leaves no bytes.
fn failed<T>(returned: Option<Place<DWORD>>, fault: Fault) -> Reply<T> {
    if let Some(returned) = returned {
        returned.store(0);
    }
    Err(fault)
}
