//! A relay without a descriptor left. By itself, as the limit is the whole process's.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sidetrack_proxy::end::How;
use sidetrack_proxy::relay::{SPLICE_AFTER_SIZE, relay};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn without_descriptors_for_pipes_it_copies() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = TcpStream::connect(address).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let connected = TcpStream::connect(address).await.unwrap();
    let (mut origin, _) = listener.accept().await.unwrap();
    let none_left = Rlimit {
        current: Some(3),
        ..getrlimit(Resource::Nofile)
    };
    setrlimit(Resource::Nofile, none_left).unwrap();
    rustix::pipe::pipe().expect_err("a descriptor was left");

    let relay = tokio::spawn(relay(accepted, connected, Duration::from_secs(60)));
    let size = 4 * SPLICE_AFTER_SIZE as usize;
    let sending = tokio::spawn(async move {
        client.write_all(&vec![7; size]).await.unwrap();
        client.shutdown().await.unwrap();
        client
    });
    let mut got = Vec::new();
    origin.read_to_end(&mut got).await.unwrap();
    assert!(got == vec![7; size]);
    drop(origin);
    let client = sending.await.unwrap();
    let ended = relay.await.unwrap();
    drop(client);
    assert_eq!((ended.how, ended.bytes_up), (How::Closed, size as u64));
}
