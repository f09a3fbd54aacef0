//! The command `sidetrack run` with datagrams.

use e2e::run::{CHAIN, Run, UNTIL_A_FLOW_ENDED};
use e2e::{Dnsmasq, EchoOrigin, netns};
use serde_json::json;

#[test]
fn denied_dns_name_is_answered_with_nxdomain_or_refused() {
    netns::enter();
    let _origin = Dnsmasq::start(&["127.0.0.1"]);
    let command = "dig @127.0.0.1 x.ads.example; dig +short @127.0.0.1 shop.example";
    for (options, status) in [
        (&[][..], "NXDOMAIN"),
        (&["--dns-denial", "refused"], "REFUSED"),
    ] {
        let options = [&["--deny", "*.ads.example"], options, &CHAIN].concat();
        let ended = Run::new(&options, &["sh", "-c", command]).wait();
        let stdout = &ended.outcome.stdout;
        assert!(stdout.contains(&format!("status: {status}")), "{ended:?}");
        assert!(
            stdout.contains("192.0.2.7") && !stdout.contains("192.0.2.8"),
            "{ended:?}"
        );
        let lines = ended.datagrams_of("a");
        let denied: Vec<_> = lines
            .iter()
            .filter(|line| line["verdict"] == "deny")
            .collect();
        assert_eq!((lines.len(), denied.len()), (2, 1), "{ended:?}");
        assert_eq!(denied[0]["rule"], "deny *.ads.example");
        assert_eq!(denied[0]["seen"]["queries"][0]["answer"], status);
        assert_eq!(denied[0]["seen"]["queries"][0]["denied"], true);
        assert_eq!(ended.datagrams_of("b").len(), 1, "{ended:?}");
    }
}

#[test]
fn idle_flow_ends_and_the_next_datagram_starts_another() {
    netns::enter();
    let origin = EchoOrigin::start("127.0.0.1:0");
    let address = origin.address;
    let exchange = "echo hi >&3; head -n 1 <&3";
    let script = format!(
        "exec 3<>/dev/udp/{}/{}; {exchange}; {UNTIL_A_FLOW_ENDED}; {exchange}",
        address.ip(),
        address.port()
    );
    let ended = Run::new(&["--idle-timeout", "1"], &["bash", "-c", &script]).wait();
    assert_eq!(ended.outcome.stdout, "hi\nhi\n", "{ended:?}");
    let reasons: Vec<_> = ended.flows.iter().map(|line| &line["ended"]).collect();
    assert_eq!(reasons, ["idle", "stopped"], "{ended:?}");
}

#[test]
fn refusal_by_the_origin_is_in_the_flow_line() {
    netns::enter();
    let command = format!("echo hi >/dev/udp/127.0.0.1/9; {UNTIL_A_FLOW_ENDED}");
    let ended = Run::new(&[], &["bash", "-c", &command]).wait();
    assert_eq!(ended.flows.len(), 1, "{ended:?}");
    assert_eq!(ended.flows[0]["ended"], "refused by origin", "{ended:?}");
}

#[test]
fn option_quic_refuse_makes_the_send_fail() {
    netns::enter();
    let origin = EchoOrigin::start("127.0.0.1:443");
    let program = "
import socket
for connected in (True, False):
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        if connected: one.connect(('127.0.0.1', 443))
        else: one.sendto(b'x', ('127.0.0.1', 443))
    except PermissionError: print('refused')
";
    let ended = Run::new(&["--quic", "refuse"], &["python3", "-c", program]).wait();
    assert_eq!(ended.outcome.stdout, "refused\nrefused\n", "{ended:?}");
    assert!(ended.outcome.stderr.contains("quic refuse"), "{ended:?}");
    assert_eq!(origin.datagrams(), 0);
}

#[test]
fn proxy_without_udp_sockets_is_skipped_without_a_message() {
    netns::enter();
    let _origin = Dnsmasq::start(&["127.0.0.1"]);
    let example = e2e::run::sidetrack().with_file_name("examples");
    let via = format!("exec:{}", example.join("passthrough").display());
    let command = ["dig", "+short", "@127.0.0.1", "shop.example"];
    let ended = Run::new(&["--via", &via, "--via", "inspect"], &command).wait();
    assert_eq!(ended.outcome.stdout.trim(), "192.0.2.7", "{ended:?}");
    assert_eq!(ended.flows[0]["chain"], json!(["inspect"]), "{ended:?}");
    assert!(!ended.outcome.stderr.contains("not listening"), "{ended:?}");
    assert!(!ended.outcome.stderr.contains("counted"), "{ended:?}");
}
