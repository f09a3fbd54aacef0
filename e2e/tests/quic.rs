//! QUIC of a real client, to a real server.

use e2e::run::{CHAIN, Ended, Run};
use e2e::{QuicOrigin, client_binary, netns};
use serde_json::json;

fn connect(options: &[&str], origin: &QuicOrigin, how: &[&str]) -> Ended {
    let client = client_binary().display().to_string();
    let (to, trust) = (origin.address.to_string(), origin.certificate());
    let trust = trust.display().to_string();
    let fixed = [&client, "quic", &to, "--trust", &trust, "--alpn", "h3"];
    Run::new(options, &[&fixed, how].concat()).wait()
}

#[test]
fn quic_passes_one_proxy_and_three_and_each_tells_name_and_protocol() {
    netns::enter();
    for (ip, how) in [
        ("127.0.0.1", &[][..]),
        ("127.0.0.1", &["--mapped"]),
        ("::1", &[]),
    ] {
        let origin = QuicOrigin::start(ip);
        for options in [&[][..], &CHAIN] {
            let ended = connect(options, &origin, how);
            let told: serde_json::Value = serde_json::from_str(&ended.outcome.stdout).unwrap();
            let peer = origin.address.to_string();
            let expected = json!({ "ok": true, "same": true, "alpn": "h3", "peer": peer });
            assert_eq!(told, expected, "{ended:?}");
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

/// Its ClientHello takes two datagrams: the first is held until the second tells the name.
#[test]
fn a_denied_hello_is_dropped_whole_and_counted() {
    netns::enter();
    let origin = QuicOrigin::start("127.0.0.1");
    let long: Vec<String> = (0..16).map(|n| format!("{n:0>100}")).collect();
    let mut how = vec!["--patience", "500"];
    for protocol in &long {
        how.extend(["--alpn", protocol]);
    }
    let ended = connect(&["--deny", "shop.example"], &origin, &how);
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
