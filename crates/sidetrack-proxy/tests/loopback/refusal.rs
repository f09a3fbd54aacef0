//! Tests of denied connections.

use std::sync::Arc;

use rustls::{AlertDescription, ClientConfig, ClientConnection, RootCertStore};
use sidetrack_proxy::close_reason::CloseReason;
use sidetrack_proxy::connection::REFUSAL_SIZE_MAX;
use sidetrack_proxy::rules::Decision;
use sidetrack_proxy::seen::Seen;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::peers::{Diverted, expect, expect_reset, in_time};

/// Patterns that deny by the host and by the address. The client receives the same refusal.
const DENIALS: [&[&str]; 2] = [&["*.denied.example"], &["192.0.2.0/24"]];

#[tokio::test]
async fn http_gets_a_403_that_names_the_rule() {
    for deny in DENIALS {
        let mut diverted = Diverted::start(deny, &[]).await;
        let head = b"POST / HTTP/1.1\r\nHost: a.denied.example\r\nContent-Length: 99999\r\n\r\n";
        diverted.client.write_all(head).await.unwrap();
        diverted.client.write_all(&[b'x'; 99999]).await.unwrap();
        let mut answer = String::new();
        in_time(diverted.client.read_to_string(&mut answer))
            .await
            .unwrap();
        assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
        assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
        let body = format!(
            "\r\n\r\nSidetrack denied this connection: deny {}\n",
            deny[0]
        );
        assert!(answer.ends_with(&body), "{answer}");
        let outcome = diverted.outcome_without_connect().await;
        assert_eq!(outcome.verdict.decision, Decision::Deny);
        assert_eq!(outcome.verdict.rule, Some(format!("deny {}", deny[0])));
        assert_eq!(
            (outcome.relayed.reason, outcome.relayed.bytes_up),
            (CloseReason::Denied, 0)
        );
        assert_eq!(outcome.seen.host(), Some("a.denied.example"));
    }
}

#[tokio::test]
async fn tls_gets_an_alert() {
    for deny in DENIALS {
        let mut diverted = Diverted::start(deny, &[]).await;
        let config = ClientConfig::builder()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = "a.denied.example".try_into().unwrap();
        let mut tls = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut hello = Vec::new();
        tls.write_tls(&mut hello).unwrap();
        diverted.client.write_all(&hello).await.unwrap();
        let mut answer = Vec::new();
        in_time(diverted.client.read_to_end(&mut answer))
            .await
            .unwrap();
        assert_eq!(answer, [0x15, 3, 3, 0, 2, 2, 0x31]);
        tls.read_tls(&mut &answer[..]).unwrap();
        let error = tls.process_new_packets().unwrap_err();
        assert_eq!(
            error,
            rustls::Error::AlertReceived(AlertDescription::AccessDenied)
        );
        assert_eq!(
            diverted.outcome_without_connect().await.relayed.reason,
            CloseReason::Denied
        );
    }
}

#[tokio::test]
async fn anything_else_is_reset() {
    for (deny, allow, sent, seen) in [
        (&["*"][..], &[][..], &b"\0raw"[..], Seen::Raw),
        (&[], &["good.example"], b"\0raw", Seen::Raw),
        (&["192.0.2.1"], &[], b"", Seen::Silent),
    ] {
        let mut diverted = Diverted::start(deny, allow).await;
        diverted.client.write_all(sent).await.unwrap();
        expect_reset(&mut diverted.client).await;
        let outcome = diverted.outcome_without_connect().await;
        assert_eq!(
            (outcome.seen, outcome.relayed.reason),
            (seen, CloseReason::Denied)
        );
    }
}

#[tokio::test]
async fn a_client_cannot_evade_a_rule_by_waiting() {
    for server_speaks in [true, false] {
        let mut diverted = Diverted::start(&["*.denied.example"], &[]).await;
        let mut origin = diverted.accept().await; // since the client was silent
        if server_speaks {
            origin.write_all(b"220 hello\r\n").await.unwrap();
            expect(&mut diverted.client, b"220 hello\r\n").await;
        }
        let head = b"GET / HTTP/1.1\r\nHost: a.denied.example\r\n\r\n";
        diverted.client.write_all(head).await.unwrap();
        expect_reset(&mut origin).await; // without a byte of the head
        if server_speaks {
            expect_reset(&mut diverted.client).await;
        } else {
            let mut answer = String::new();
            in_time(diverted.client.read_to_string(&mut answer))
                .await
                .unwrap();
            assert!(answer.starts_with("HTTP/1.1 403 "));
        }
        let outcome = diverted.outcome().await;
        assert_eq!(
            (outcome.relayed.reason, outcome.relayed.bytes_up),
            (CloseReason::Denied, 0)
        );
        assert_eq!(outcome.verdict.rule.unwrap(), "deny *.denied.example");
        assert!(outcome.connect_time.is_some());
    }
}

#[tokio::test]
async fn a_denied_client_cannot_send_without_end() {
    let mut diverted = Diverted::start(&["*"], &[]).await;
    diverted
        .client
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    let chunk = vec![b'x'; REFUSAL_SIZE_MAX];
    in_time(async { while diverted.client.write_all(&chunk).await.is_ok() {} }).await;
    assert_eq!(
        diverted.outcome_without_connect().await.relayed.reason,
        CloseReason::Denied
    );
}
