//! The Winsock interface to connection redirection, for C programs on Linux: `WSAIoctl` and
//! `WSPIoctl` with the three redirect codes (docs/wfp.md, 1), and the other functions that a proxy
//! for Windows needs (docs/wfp.md, 2, 5 and 6). `include/sidetrack/winsock.h` is the complete
//! interface; docs/winsock.md describes it.
//!
//! The path of a call:
//!
//! ```text
//! */ffi.rs ── call::guard ────── ioctl ── redirect_query ── getsockopt
//!  (C ABI)    (started? panic?)  │        (what to query)   (the kernel side's options)
//!                                └── overlapped: pending ── worker ── event or APC
//! ```
//!
//! Files depend on one another in one direction, except that a child module may use its parent. No
//! file uses the C functions in the `ffi.rs` files, except for `message/extension.rs`, which returns
//! the addresses of two of them.
//!
//! Sockets are plain descriptors. `socket.rs` keeps only those properties of a socket for which
//! Linux has no place. The library starts one thread, when the first operation becomes pending.
#![deny(unsafe_code)]

pub mod abi;
mod apc;
mod attempt;
mod blocking;
mod call;
mod credentials;
pub mod error;
mod event;
mod eventfd;
mod flow_table;
mod ioctl;
mod memory;
mod message;
mod overlapped;
mod reading;
mod redirect_query;
mod redirect_records;
mod socket;
mod start_count;
mod startup;
mod thread;

/// The functions that C programs call.
pub mod entry {
    pub use crate::apc::ffi::*;
    pub use crate::blocking::ffi::*;
    pub use crate::credentials::ffi::*;
    pub use crate::event::ffi::*;
    pub use crate::ioctl::ffi::*;
    pub use crate::message::ffi::*;
    pub use crate::overlapped::ffi::*;
    pub use crate::socket::ffi::*;
    pub use crate::startup::ffi::*;
}
