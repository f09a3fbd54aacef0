//! The interface between Sidetrack's kernel side and userspace: a mirror of `bpf/sidetrack.h`.
//!
//! [`kernel`] has the items of the header in the same order and under the same names, without the
//! prefix. A test of `sidetrack-engine` compares each with the BTF of the built object. [`address`]
//! converts between the ABI's 16-byte addresses and the types of the standard library. [`mod@text`]
//! prints names that others have chosen, such as those in the ABI's fields.
//!
//! The crate depends on no other crate of the workspace. It builds on every system, needs no libbpf,
//! and has no unsafe code.
#![forbid(unsafe_code)]

pub mod address;
pub mod kernel;
pub mod text;
