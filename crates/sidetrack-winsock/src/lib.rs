//! Winsock's redirection contract on Linux: `WSAIoctl` and `WSPIoctl` with the three control codes of spec 1, and
//! what a proxy written for them needs beside (spec 2, 5, 6). For C programs; `include/sidetrack/winsock.h` is its
//! whole interface.
//!
//! What happens at a call:
//!
//! ```text
//! */ffi.rs ── call::guard ── ioctl ── question ── getsockopt
//!  (C ABI)    (started? panic?) │  (what it asks)   (the kernel side's own options)
//!                               └── overlapped: pending ── worker ── event or APC
//! ```
//!
//! Sockets are plain descriptors. `socket.rs` remembers of them only what Linux has no place for. Nothing runs beside
//! the program but one thread, from the first operation that has to wait on.
#![deny(unsafe_code)]

pub mod abi;
mod apc;
mod blocking;
mod call;
mod credentials;
pub mod error;
mod event;
mod ioctl;
mod memory;
mod message;
mod overlapped;
mod question;
mod socket;
mod startup;

/// The C functions.
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
