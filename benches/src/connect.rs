//! What a connection takes that is redirected, or only judged, or not even that; without any proxy.
//!
//! ```text
//! plan ── for each round, for each case ── unshare --net bench worker CASE
//!   │                                       └─ namespace, cgroups, way, round, check
//!   └─ figures, programs, memory ── docs/bench/{results.json,connect.md,connect.svg}
//! ```
//!
//! To add a peer: a [`case::Case`] and its [`way::Way`]. To add a figure: a line in
//! [`figure::FIGURES`].

pub(crate) mod case;
mod chart;
mod figure;
mod memory;
pub(crate) mod plan;
mod profile;
mod results;
mod round;
#[allow(unsafe_code)]
mod sys;
mod table;
pub(crate) mod way;
pub(crate) mod worker;
