//! Tests of the daemon through its API: with a real server on a real socket, and a data path that
//! records its calls.

mod codes;
mod events;
mod fake_data_path;
mod harness;
mod limits;
mod objects;
mod restart;
mod resumption;
mod sessions;
mod transactions;
