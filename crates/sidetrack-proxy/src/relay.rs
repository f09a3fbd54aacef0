//! Relays bytes in both directions between two connections.
//!
//! ```text
//!            ┌─ up: Direction ────────▶┐
//!   client ──┤                         ├── origin      each direction has its own half-close
//!            └◀────── down: Direction ─┘
//! ```
//!
//! Small amounts are copied. Where more is waiting, a direction borrows a pipe, and the kernel
//! moves the data with `splice`. A direction that waits for the sender holds neither buffer nor
//! pipe; one that waits for the receiver holds one of them at most, so that a slow receiver slows the
//! sender.
//!
//! Nothing here blocks: what would block waits for the next event. A process that relays must
//! ignore SIGPIPE, as Rust programs do by default, since `splice` to a closed connection raises it,
//! and no flag prevents that.

mod direction;
mod peer;
mod pipe;

pub use direction::{CHUNKS_MAX, COPY_SIZE};
pub use pipe::{PIPE_SIZE, SPARE_MAX};

pub(crate) use direction::{Direction, Progress};
pub(crate) use peer::Peer;
pub(crate) use pipe::{Pipes, descriptors, pipes_max};
