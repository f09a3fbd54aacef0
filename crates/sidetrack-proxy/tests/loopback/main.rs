//! Tests of the proxy with real sockets on the loopback device, without the kernel side.

mod connection;
mod peers;
mod refusal;
mod relay;
