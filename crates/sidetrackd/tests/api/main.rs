//! Tests of the daemon through its API: with a real server on a real socket, and a data path that
//! records its calls. Also tests of the store when its process is killed.
//!
//! What runs in a separate process, as another user or until it is killed, is in the program
//! `helper.rs`.

mod admission;
mod client;
mod codes;
mod commits;
mod events;
mod example;
mod fake_data_path;
mod harness;
mod limits;
mod lost_store;
mod objects;
mod pended;
mod power_cuts;
mod restart;
mod resumption;
mod sessions;
mod shares;
mod transactions;
#[allow(dead_code, reason = "the helper uses the rest")]
mod user;
