//! QUIC connections through `sidetrack run`.

use e2e::run::{CHAIN, FinishedRun, Run};
use e2e::{QuicOrigin, client_binary, netns};
use serde_json::json;

/// Connects the client to the origin within a run. `more` are further arguments of the client.
fn connect(options: &[&str], origin: &QuicOrigin, more: &[&str]) -> FinishedRun {
    let client = client_binary().display().to_string();
    let (to, trust) = (origin.address.to_string(), origin.certificate());
    let trust = trust.display().to_string();
    let fixed = [&client, "quic", &to, "--trust", &trust, "--alpn", "h3"];
    Run::new(options, &[&fixed, more].concat()).wait()
}

#[test]
fn quic_passes_one_and_three_proxies_and_each_logs_sni_and_alpn() {
    netns::enter();
    for (ip, more) in [
        ("127.0.0.1", &[][..]),
        ("127.0.0.1", &["--mapped"]),
        ("::1", &[]),
    ] {
        let origin = QuicOrigin::start(ip);
        for options in [&[][..], &CHAIN] {
            let ended = connect(options, &origin, more);
            let report: serde_json::Value = serde_json::from_str(&ended.outcome.stdout).unwrap();
            let peer = origin.address.to_string();
            let expected = json!({ "ok": true, "same": true, "alpn": "h3", "peer": peer });
            assert_eq!(report, expected, "{ended:?}");
            assert_eq!(ended.flows.len(), (options.len() / 2).max(1), "{ended:?}");
            for line in &ended.flows {
                assert_eq!(line["protocol"], "udp");
                assert_eq!(line["destination"], peer);
                let seen = &line["seen"];
                assert_eq!(seen["kind"], "quic", "{line}");
                assert_eq!(seen["sni"], "shop.example", "{line}");
                assert_eq!(seen["alpn"], json!(["h3"]), "{line}");
                assert!(line["bytes_up"].as_u64() > Some(200_000), "{line}");
                assert!(line["bytes_down"].as_u64() > Some(200_000), "{line}");
                assert_eq!(line["origin_id"], ended.flows[0]["origin_id"]);
            }
        }
    }
}

/// The ClientHello takes two datagrams. The proxy keeps the first until it has the name from the
/// second.
#[test]
fn denied_client_hello_is_dropped_whole_and_counted() {
    netns::enter();
    let origin = QuicOrigin::start("127.0.0.1");
    let long: Vec<String> = (0..16).map(|n| format!("{n:0>100}")).collect();
    let mut more = vec!["--timeout-ms", "500"];
    for protocol in &long {
        more.extend(["--alpn", protocol]);
    }
    let ended = connect(&["--deny", "shop.example"], &origin, &more);
    let line = &ended.flows[0];
    assert_eq!(line["verdict"], "deny", "{ended:?}");
    assert_eq!(line["seen"]["sni"], "shop.example", "{ended:?}");
    let datagrams = &line["datagrams"];
    assert_eq!(
        (&datagrams["up"], &datagrams["down"]),
        (&0.into(), &0.into())
    );
    assert!(datagrams["denied"].as_u64() >= Some(2), "{ended:?}");
}
