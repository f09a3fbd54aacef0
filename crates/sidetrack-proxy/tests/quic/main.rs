//! Tests of the reader of a QUIC client's first datagrams: those of the RFCs, those of quinn, and
//! hostile ones.

mod client;
mod hostile;
mod reader;
mod seal;
mod vectors;
