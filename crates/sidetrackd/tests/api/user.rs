//! Clients of other users, within the test's process, and calls with any bytes.

use std::os::unix::net::UnixStream;
use std::path::Path;

use hyper_util::rt::TokioIo;
use prost::bytes::{Buf, BufMut};
use rustix::process::{Gid, Uid};
use sidetrack_api::client::Client;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

/// A user id that no group of a test's configuration has.
pub(super) const STRANGER: u32 = 65_534;
/// Number of bytes of answers that a client receives before it reads them.
const WINDOW: u32 = 65_535;
/// The name of the group whose members may write in [`group_writes`].
const GROUP: &str = "daemon";

/// Returns a configuration in which all users read and the members of one group write, and the id of
/// that group.
pub(super) fn group_writes() -> (sidetrack_api::config::Config, u32) {
    let access = sidetrack_api::config::Access {
        write_group: Some(GROUP.into()),
        everyone_reads: true,
        ..Default::default()
    };
    let config = sidetrack_api::config::Config {
        access,
        ..Default::default()
    };
    (config, uzers::get_group_by_name(GROUP).unwrap().gid())
}

/// Connects to a socket as a user. The kernel takes the credentials of the thread that connects, so
/// this is a separate thread.
pub(super) fn connect_as(socket: &Path, uid: u32, gid: u32) -> UnixStream {
    let connect = || {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::thread::set_thread_groups(&[]).unwrap();
        rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
        rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
        UnixStream::connect(socket).unwrap()
    };
    std::thread::scope(|scope| scope.spawn(connect).join().unwrap())
}

/// Connects a channel as a user.
pub(super) async fn channel_as(socket: &Path, uid: u32, gid: u32) -> Result<Channel, String> {
    let stream = connect_as(socket, uid, gid);
    stream.set_nonblocking(true).unwrap();
    channel_over(tokio::net::UnixStream::from_std(stream).unwrap()).await
}

/// Connects a channel as the user of this process.
pub(super) async fn channel_to(socket: &Path) -> Result<Channel, String> {
    let stream = tokio::net::UnixStream::connect(socket).await;
    channel_over(stream.map_err(|error| error.to_string())?).await
}

async fn channel_over(stream: tokio::net::UnixStream) -> Result<Channel, String> {
    let mut stream = Some(stream);
    let connector = tower::service_fn(move |_| {
        let stream = stream.take().ok_or(std::io::ErrorKind::ConnectionRefused);
        async { Ok::<_, std::io::Error>(TokioIo::new(stream?)) }
    });
    // Windows as small as HTTP/2's defaults: what the client does not read stays in the daemon.
    let endpoint = Endpoint::from_static("http://localhost")
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    let channel = endpoint.connect_with_connector(connector).await;
    channel.map_err(|error| error.to_string())
}

/// Connects a client as a user.
pub(super) async fn client_as(socket: &Path, uid: u32, gid: u32) -> Client {
    Client::new(channel_as(socket, uid, gid).await.unwrap())
}

/// Makes a call with messages of any bytes. Returns the bytes of the answer.
pub(super) async fn call(
    channel: &Channel,
    name: &str,
    messages: impl tonic::codegen::tokio_stream::Stream<Item = Vec<u8>> + Send + 'static,
) -> Result<Vec<u8>, Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let path = format!("/sidetrack.v1.Sidetrack/{name}").parse().unwrap();
    let response = grpc.client_streaming(Request::new(messages), path, Bytes);
    Ok(response.await?.into_inner())
}

/// Makes a call with a message of any bytes, and returns its answer as a stream.
pub(super) async fn stream(
    channel: &Channel,
    name: &str,
    message: Vec<u8>,
) -> Result<Streaming<Vec<u8>>, Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    let ready = grpc.ready().await;
    ready.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = format!("/sidetrack.v1.Sidetrack/{name}").parse().unwrap();
    let response = grpc.server_streaming(Request::new(message), path, Bytes);
    Ok(response.await?.into_inner())
}

/// The codec of messages that are only bytes.
#[derive(Clone, Copy, Default)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, bytes: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&bytes);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}
