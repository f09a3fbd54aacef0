//! Relays bytes both ways between two connections.
//!
//! ```text
//!            ┌─ up: Direction ────────▶┐
//!   client ──┤                         ├── origin      each ends by its own half-close
//!            └◀────── down: Direction ─┘
//! ```
//!
//! Small amounts are copied; where more is waiting, a direction borrows a pipe and the kernel moves
//! the data (`splice`). A direction that waits for the writer holds neither; one that waits for the
//! reader holds one pipe or one buffer at most, so a slow reader slows the writer.
//!
//! Nothing here waits: what would block is left for the next event. A process that relays must ignore
//! SIGPIPE, as Rust programs do: splicing to a closed connection raises it, and has no flag against that.

mod direction;
mod peer;
mod pipe;

pub use direction::{CHUNKS_MAX, COPY_SIZE};
pub use pipe::{PIPE_SIZE, SPARE_MAX};

pub(crate) use direction::{Direction, Progress};
pub(crate) use peer::Peer;
pub(crate) use pipe::{Pipes, descriptors, pipes_max};
