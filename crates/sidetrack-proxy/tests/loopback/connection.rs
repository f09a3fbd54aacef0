//! Tests of allowed connections.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ClientConnection, RootCertStore};
use sidetrack_proxy::close_reason::{CloseReason, RelaySide};
use sidetrack_proxy::connection::SNIFF_WAIT;
use sidetrack_proxy::outcome::FlowVerdict;
use sidetrack_proxy::reactor::Stop;
use sidetrack_proxy::rules::Decision;
use sidetrack_proxy::seen::Seen;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::peers::{
    Diverted, TestUpstream, expect, expect_end, expect_reset, in_time, pair, relay, reset, settings,
};

/// Patterns to deny that need the host name for every connection.
const BY_HOST: &[&str] = &["*.denied.example"];

fn client_hello() -> Vec<u8> {
    let mut config = ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = "example.com".try_into().unwrap();
    let mut bytes = Vec::new();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn an_exchange_is_recognised_and_relayed_unchanged() {
    for deny in [&[][..], BY_HOST] {
        let mut diverted = Diverted::start(deny, &[]).await;
        let head = b"GET /x HTTP/1.1\r\nHost: example.com\r\n\r\n";
        diverted.client.write_all(head).await.unwrap();
        let mut origin = diverted.accept().await;
        expect(&mut origin, head).await;
        origin
            .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
            .await
            .unwrap();
        expect(&mut diverted.client, b"HTTP/1.1 204 No Content\r\n\r\n").await;
        drop(origin);
        expect_end(&mut diverted.client).await;
        let outcome = diverted.outcome().await;
        assert_eq!(outcome.seen.host(), Some("example.com"));
        assert_eq!(
            (outcome.verdict.decision, outcome.verdict.rule),
            (Decision::Allow, None)
        );
        assert!(outcome.connect_time.is_some());
        assert_eq!(outcome.relayed.reason, CloseReason::Closed);
        assert_eq!(
            (outcome.relayed.bytes_up, outcome.relayed.bytes_down),
            (head.len() as u64, 27)
        );
    }
}

#[tokio::test]
async fn a_hello_in_single_bytes_is_recognised() {
    for deny in [&[][..], BY_HOST] {
        let hello = client_hello();
        let mut diverted = Diverted::start(deny, &["example.com"]).await;
        diverted.client.set_nodelay(true).unwrap();
        for byte in &hello {
            diverted.client.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await; // lets the proxy read the byte alone
        }
        let mut origin = diverted.accept().await;
        expect(&mut origin, &hello).await;
        drop(origin);
        let outcome = diverted.outcome().await;
        let alpn = vec!["h2".into()];
        let versions = vec!["1.3".into(), "1.2".into()];
        assert_eq!(
            outcome.seen,
            Seen::Tls {
                sni: Some("example.com".into()),
                alpn,
                versions
            }
        );
        assert_eq!(outcome.verdict.rule.unwrap(), "allow example.com");
    }
}

#[tokio::test]
async fn without_host_rules_bytes_are_relayed_before_they_are_recognised() {
    let mut diverted = Diverted::start(&["10.0.0.0/8"], &[]).await;
    let mut origin = diverted.accept().await; // before the client has sent anything
    for part in ["GET / HT", "TP/1.1\r\nHo", "st: a.example\r\n\r\n", "body"] {
        diverted.client.write_all(part.as_bytes()).await.unwrap();
        expect(&mut origin, part.as_bytes()).await;
    }
    drop(origin);
    assert_eq!(diverted.outcome().await.seen.host(), Some("a.example"));
}

#[tokio::test]
async fn a_server_may_speak_first() {
    for deny in [&[][..], BY_HOST] {
        let mut diverted = Diverted::start(deny, &[]).await;
        let begun = Instant::now();
        let mut origin = diverted.accept().await;
        assert!(deny.is_empty() || begun.elapsed() >= SNIFF_WAIT / 2);
        origin.write_all(b"SSH-2.0-server\r\n").await.unwrap();
        expect(&mut diverted.client, b"SSH-2.0-server\r\n").await;
        diverted
            .client
            .write_all(b"SSH-2.0-client\r\n")
            .await
            .unwrap();
        expect(&mut origin, b"SSH-2.0-client\r\n").await;
        origin.write_all(b"kex").await.unwrap();
        expect(&mut diverted.client, b"kex").await;
        drop(origin);
        expect_end(&mut diverted.client).await;
        let outcome = diverted.outcome().await;
        assert_eq!(
            (outcome.seen, outcome.relayed.reason),
            (Seen::Raw, CloseReason::Closed)
        );
    }
}

#[tokio::test]
async fn a_huge_head_is_relayed_as_raw() {
    for deny in [&[][..], BY_HOST] {
        let mut diverted = Diverted::start(deny, &[]).await;
        let mut head = b"GET / HTTP/1.1\r\nCookie: ".to_vec();
        head.resize(1 << 20, b'c');
        head.extend(b"\r\nHost: a.denied.example\r\n\r\n");
        let (mut client, head) = (diverted.client, head);
        let sent = head.clone();
        let sending = tokio::spawn(async move {
            client.write_all(&sent).await.unwrap();
            client
        });
        let (mut origin, _) = in_time(diverted.origin.accept()).await.unwrap();
        expect(&mut origin, &head).await;
        diverted.client = sending.await.unwrap();
        drop(origin);
        let outcome = diverted.outcome().await;
        assert_eq!(
            (outcome.seen, outcome.relayed.bytes_up),
            (Seen::Raw, head.len() as u64)
        );
    }
}

#[tokio::test]
async fn a_half_close_within_the_opening_is_passed_on() {
    for deny in [&[][..], BY_HOST] {
        for (sent, seen) in [(&b"GET / HTTP"[..], Seen::Raw), (b"", Seen::Silent)] {
            let mut diverted = Diverted::start(deny, &[]).await;
            diverted.client.write_all(sent).await.unwrap();
            diverted.client.shutdown().await.unwrap();
            let mut origin = diverted.accept().await;
            expect(&mut origin, sent).await;
            expect_end(&mut origin).await;
            origin.write_all(b"answer").await.unwrap();
            drop(origin);
            expect(&mut diverted.client, b"answer").await;
            expect_end(&mut diverted.client).await;
            let outcome = diverted.outcome().await;
            assert_eq!(
                (outcome.seen, outcome.relayed.reason),
                (seen, CloseReason::Closed)
            );
        }
    }
}

#[tokio::test]
async fn a_failed_connect_resets_the_client() {
    let (mut client, accepted) = pair().await;
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = unused.local_addr().unwrap();
    drop(unused);
    let upstream = TestUpstream::address("192.0.2.1:1".parse().unwrap(), address);
    let stop = Arc::new(Stop::new().unwrap());
    let relay = relay(accepted, upstream, settings(&[], &[]), stop);
    let outcome = in_time(relay).await.unwrap();
    assert_eq!(
        outcome.relayed.reason.to_string(),
        "connect failed: connection refused"
    );
    assert_eq!(outcome.flow_verdict(), FlowVerdict::Failed);
    assert_eq!((outcome.seen, outcome.connect_time), (Seen::Silent, None));
    expect_reset(&mut client).await;
}

#[tokio::test]
async fn a_connect_that_takes_too_long_fails() {
    // The accept queue of the listener is full, so that it does not answer a further SYN.
    let full = TcpSocket::new_v4().unwrap();
    full.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = full.listen(0).unwrap();
    let address = full.local_addr().unwrap();
    let _queued = in_time(TcpStream::connect(address)).await.unwrap();
    let (mut client, accepted) = pair().await;
    let upstream = TestUpstream::address("192.0.2.1:1".parse().unwrap(), address);
    let mut settings = settings(&[], &[]);
    settings.connect_timeout = Duration::from_millis(100);
    let stop = Arc::new(Stop::new().unwrap());
    let outcome = in_time(relay(accepted, upstream, settings, stop))
        .await
        .unwrap();
    let ended = outcome.relayed.reason.to_string();
    assert_eq!(ended, "connect failed: timed out");
    assert_eq!(outcome.flow_verdict(), FlowVerdict::Failed);
    expect_reset(&mut client).await;
}

#[tokio::test]
async fn a_client_that_leaves_before_the_proxy_connects_was_not_allowed() {
    let diverted = Diverted::start(BY_HOST, &[]).await;
    let Diverted { client, relay, .. } = diverted;
    reset(client);
    let outcome = in_time(relay).await.unwrap();
    assert_eq!(
        outcome.relayed.reason,
        CloseReason::Reset(RelaySide::Client)
    );
    assert_eq!(outcome.flow_verdict(), FlowVerdict::Failed);
}

#[tokio::test]
async fn resets_are_passed_on() {
    let mut diverted = Diverted::start(BY_HOST, &[]).await;
    diverted.client.write_all(b"\0x").await.unwrap();
    let mut origin = diverted.accept().await;
    expect(&mut origin, b"\0x").await;
    reset(origin);
    expect_reset(&mut diverted.client).await;
    assert_eq!(
        diverted.outcome().await.relayed.reason,
        CloseReason::Reset(RelaySide::Origin)
    );

    let diverted = Diverted::start(&[], &[]).await;
    let mut origin = diverted.accept().await;
    let Diverted { client, .. } = diverted;
    reset(client);
    expect_reset(&mut origin).await;
}

#[tokio::test]
async fn the_idle_time_out_applies_in_every_phase() {
    for (deny, opening) in [
        (&[][..], &b""[..]),
        (BY_HOST, b""),
        (BY_HOST, b"GET"),
        (&[], b"\0"),
    ] {
        let mut settings = settings(deny, &[]);
        settings.idle_timeout = Duration::from_millis(400);
        let mut diverted = Diverted::to("192.0.2.1:1", settings).await;
        diverted.client.write_all(opening).await.unwrap();
        expect_reset(&mut diverted.client).await;
        assert_eq!(diverted.outcome().await.relayed.reason, CloseReason::Idle);
    }
}

#[tokio::test]
async fn a_stop_closes_a_connection_and_keeps_its_counts() {
    let (mut client, accepted) = pair().await;
    let (connected, mut origin) = pair().await;
    let stop = Arc::new(Stop::new().unwrap());
    let upstream = TestUpstream::connected(connected);
    let relay = relay(accepted, upstream, settings(&[], &[]), Arc::clone(&stop));
    client.write_all(b"\0abc").await.unwrap();
    expect(&mut origin, b"\0abc").await;
    stop.stop(Duration::ZERO);
    let outcome = in_time(relay).await.unwrap();
    assert_eq!(
        (outcome.relayed.reason, outcome.relayed.bytes_up),
        (CloseReason::Stopped, 4)
    );
    expect_reset(&mut client).await;
    expect_reset(&mut origin).await;
}
