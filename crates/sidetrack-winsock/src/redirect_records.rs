//! Setting the redirect records on an outgoing socket, as a control code does (docs/wfp.md, 1.7),
//! and control data of WSASendMsg (docs/wfp.md, 2.3).

use sidetrack_abi::kernel::{self, SOL_SIDETRACK};

use crate::error::{
    WSAEACCES, WSAEINVAL, WSAENOPROTOOPT, WSAENOTCONN, WinsockError, WinsockResult,
};
use crate::memory::MemoryRange;
use crate::{credentials, redirect_query, socket};

/// Sets the records on a socket. Errors: WSAEACCES, and those of docs/wfp.md, 1.5.
pub(crate) fn set(socket: i32, records: MemoryRange) -> WinsockResult<()> {
    if !credentials::is_elevated() {
        return Err(WinsockError(WSAEACCES));
    }
    if records.length != size_of::<kernel::Records>() {
        return Err(WinsockError(WSAEINVAL));
    }
    let set = socket::set_value_at(
        socket,
        SOL_SIDETRACK,
        kernel::RECORDS,
        records.address,
        records.length,
    );
    set.map_err(|errno| match errno {
        libc::EISCONN => WinsockError(WSAEINVAL), // too late; on Windows it succeeds without effect
        libc::EPROTONOSUPPORT => WinsockError(WSAENOPROTOOPT),
        libc::EOPNOTSUPP | libc::ENOPROTOOPT => redirect_query::no_engine(socket),
        libc::ENOTCONN => WinsockError(WSAENOTCONN),
        errno => WinsockError::from_errno(errno),
    })
}
