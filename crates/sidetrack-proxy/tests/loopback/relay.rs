//! Tests of the relay.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use sidetrack_proxy::Settings;
use sidetrack_proxy::close_reason::{CloseReason, RelaySide};
use sidetrack_proxy::outcome::{Outcome, Relayed};
use sidetrack_proxy::reactor::Stop;
use sidetrack_proxy::relay::COPY_SIZE;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::peers::{TestUpstream, in_time, pair, relay, reset};

const LONG: Duration = Duration::from_secs(60);

/// A client and a server with a relay between them.
async fn connect_through_relay(idle: Duration) -> (TcpStream, TcpStream, JoinHandle<Outcome>) {
    let (client, accepted) = pair().await;
    let (connected, server) = pair().await;
    let mut settings = Settings::default();
    settings.idle_timeout = idle;
    let stop = Arc::new(Stop::new().unwrap());
    let relay = relay(accepted, TestUpstream::connected(connected), settings, stop);
    (client, server, relay)
}

async fn relayed(relay: JoinHandle<Outcome>) -> Relayed {
    in_time(relay).await.unwrap().relayed
}

/// A checksum that depends on the order of the bytes.
fn checksum(sum: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(sum, |sum, &byte| {
        sum.wrapping_mul(0x100_0000_01b3) ^ u64::from(byte)
    })
}

/// Sends `size` bytes in chunks of changing sizes, and half-closes. Returns their checksum.
async fn send(mut to: impl AsyncWriteExt + Unpin, size: usize) -> u64 {
    let (mut sent, mut sum, mut seed) = (0, 0, size as u64);
    while sent < size {
        let chunk: Vec<u8> = (0..(seed as usize % 300_000 + 1).min(size - sent))
            .map(|_| {
                seed = seed
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                (seed >> 33) as u8
            })
            .collect();
        to.write_all(&chunk).await.unwrap();
        sum = checksum(sum, &chunk);
        sent += chunk.len();
    }
    to.shutdown().await.unwrap();
    sum
}

/// Reads to the end of the stream. Returns the checksum.
async fn receive(mut from: impl AsyncReadExt + Unpin) -> u64 {
    let (mut sum, mut buffer) = (0, vec![0; 100_000]);
    loop {
        match from.read(&mut buffer).await.unwrap() {
            0 => return sum,
            read => sum = checksum(sum, &buffer[..read]),
        }
    }
}

#[tokio::test]
async fn much_data_both_ways_arrives_unchanged() {
    const UP: usize = 64 << 20;
    const DOWN: usize = (64 << 20) + 12_345;
    let (client, server, relay) = connect_through_relay(LONG).await;
    let (from_server, to_server) = client.into_split();
    let (from_client, to_client) = server.into_split();
    let (sent_up, sent_down, got_up, got_down) = in_time(async {
        tokio::join!(
            tokio::spawn(send(to_server, UP)),
            tokio::spawn(send(to_client, DOWN)),
            tokio::spawn(receive(from_client)),
            tokio::spawn(receive(from_server)),
        )
    })
    .await;
    assert_eq!(sent_up.unwrap(), got_up.unwrap());
    assert_eq!(sent_down.unwrap(), got_down.unwrap());
    let (bytes_up, bytes_down, reason) = (UP as u64, DOWN as u64, CloseReason::Closed);
    assert_eq!(
        relayed(relay).await,
        Relayed {
            bytes_up,
            bytes_down,
            reason
        }
    );
}

#[tokio::test]
async fn a_half_close_leaves_the_other_direction_open() {
    for client_first in [true, false] {
        let (client, server, relay) = connect_through_relay(LONG).await;
        let (mut first, mut second) = if client_first {
            (client, server)
        } else {
            (server, client)
        };
        first.write_all(b"question").await.unwrap();
        first.shutdown().await.unwrap();
        let mut got = Vec::new();
        in_time(second.read_to_end(&mut got)).await.unwrap();
        assert_eq!(got, b"question");
        // The half-close was passed on. The other direction still works, and for more than one chunk.
        for _ in 0..3 {
            second.write_all(b"answer").await.unwrap();
            in_time(first.read_exact(&mut [0; 6])).await.unwrap();
        }
        second.shutdown().await.unwrap();
        assert_eq!(in_time(first.read(&mut [0; 8])).await.unwrap(), 0);
        assert_eq!(relayed(relay).await.reason, CloseReason::Closed);
    }
}

#[tokio::test]
async fn a_reset_is_passed_on_with_the_counts_kept() {
    for size in [8, 8 * COPY_SIZE] {
        for side in [RelaySide::Client, RelaySide::Origin] {
            let (client, server, relay) = connect_through_relay(LONG).await;
            let (mut who, mut other) = match side {
                RelaySide::Client => (client, server),
                RelaySide::Origin => (server, client),
            };
            let data = vec![7; size];
            let mut got = vec![0; size];
            let (sent, received) =
                in_time(async { tokio::join!(who.write_all(&data), other.read_exact(&mut got)) })
                    .await;
            sent.unwrap();
            received.unwrap();
            reset(who);
            let error = in_time(other.read(&mut [0; 1])).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            let relayed = relayed(relay).await;
            assert_eq!(relayed.reason, CloseReason::Reset(side));
            assert_eq!(relayed.bytes_up + relayed.bytes_down, size as u64);
        }
    }
}

#[tokio::test]
async fn a_reader_that_has_closed_resets_the_connection() {
    let (mut client, server, relay) = connect_through_relay(LONG).await;
    drop(server); // closed in both directions, so what the client sends is answered by a reset
    let error = in_time(async {
        loop {
            if let Err(error) = client.write_all(&[0; 4096]).await {
                return error;
            }
        }
    })
    .await;
    assert!(matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    ));
    assert_eq!(
        relayed(relay).await.reason,
        CloseReason::Reset(RelaySide::Origin)
    );
}

#[tokio::test]
async fn a_slow_reader_slows_the_writer() {
    let (client, server, relay) = connect_through_relay(LONG).await;
    SockRef::from(&server).set_recv_buffer_size(4096).unwrap();
    // Only the sockets' buffers and one pipe can be filled. Without a bound this would not end.
    let mut written = 0usize;
    while in_time_or_full(&client).await {
        written += client.try_write(&[0; 65536]).unwrap_or(0);
        assert!(
            written < 64 << 20,
            "{written} bytes were taken without a reader"
        );
    }
    drop((client, server));
    assert!(matches!(relayed(relay).await.reason, CloseReason::Reset(_)));
}

/// Whether the socket becomes writable. If it does not for a while, all buffers are full.
async fn in_time_or_full(stream: &TcpStream) -> bool {
    let full = Duration::from_millis(300);
    tokio::time::timeout(full, stream.writable()).await.is_ok()
}

#[tokio::test]
async fn an_idle_connection_ends_and_a_busy_one_does_not() {
    let idle = Duration::from_millis(200);
    let (mut client, mut server, relay) = connect_through_relay(idle).await;
    let begun = std::time::Instant::now();
    let mut turns = tokio::time::interval(idle / 8);
    while begun.elapsed() < 3 * idle {
        turns.tick().await;
        client.write_all(b"x").await.unwrap();
        server.read_exact(&mut [0]).await.unwrap();
    }
    let relayed = relayed(relay).await;
    assert_eq!((relayed.reason, relayed.bytes_down), (CloseReason::Idle, 0));
    let error = in_time(client.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}
