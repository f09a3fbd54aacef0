//! The daemon as its clients see it: a real socket, a real server, and a data path that records.

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
