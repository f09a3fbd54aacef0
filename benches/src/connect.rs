//! What a connection costs that is redirected, only classified, or neither; without any proxy.
//!
//! ```text
//! plan ── for each round, for each case ── unshare --net bench worker CASE
//!   │                                       └─ namespace, cgroups, setup, round, check
//!   └─ figures, programs, memory ── docs/bench/{results.json,connect.md,connect.svg}
//! ```
//!
//! To add a peer, add a [`case::ConnectCase`] and its [`setup::ConnectSetup`]. To add a figure, add
//! an item to [`figure::FIGURES`].

pub(crate) mod case;
mod chart;
mod figure;
mod measured;
mod memory;
pub(crate) mod plan;
mod profile;
mod results;
mod round;
pub(crate) mod setup;
#[allow(unsafe_code)]
mod sys;
mod table;
pub(crate) mod worker;
