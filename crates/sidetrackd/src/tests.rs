//! The daemon as its clients see it: a real socket, a real server, and a data path that records.

mod codes;
mod events;
mod host;
mod limits;
mod objects;
mod recorder;
mod restart;
mod resumption;
mod sessions;
mod transactions;
