//! What Sidetrack's kernel side and userspace share: a mirror of `bpf/sidetrack.h`.
//!
//! [`kernel`] has the same items in the same order under the same names as the header, less the
//! prefix. A test of `sidetrack-engine` compares each with the BTF of the built object. [`address`]
//! turns the ABI's 16-byte addresses into those of the standard library and back.
//!
//! The crate is a leaf: it builds everywhere, needs no libbpf, and has no unsafe code.
#![forbid(unsafe_code)]

pub mod address;
pub mod kernel;
