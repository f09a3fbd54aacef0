//! What a QUIC client sends first: as the RFCs have it, as quinn sends it, and as it should not be.

mod client;
mod hostile;
mod reader;
mod seal;
mod vectors;
