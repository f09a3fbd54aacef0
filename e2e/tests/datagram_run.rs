//! `sidetrack run` and the datagrams of real programs.

use e2e::run::{CHAIN, Run, UNTIL_A_FLOW_ENDED};
use e2e::{Dnsmasq, EchoOrigin, netns};
use serde_json::json;

#[test]
fn a_denied_name_does_not_exist_and_the_others_do() {
    netns::enter();
    let _origin = Dnsmasq::start(&["127.0.0.1"]);
    let command = "dig @127.0.0.1 x.ads.example; dig +short @127.0.0.1 shop.example";
    for (options, status) in [
        (&[][..], "NXDOMAIN"),
        (&["--dns-denial", "refused"], "REFUSED"),
    ] {
        let options = [&["--deny", "*.ads.example"], options, &CHAIN].concat();
        let ended = Run::new(&options, &["sh", "-c", command]).wait();
        let said = &ended.outcome.stdout;
        assert!(said.contains(&format!("status: {status}")), "{ended:?}");
        assert!(
            said.contains("192.0.2.7") && !said.contains("192.0.2.8"),
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
fn a_silent_flow_ends_and_the_next_datagram_begins_another() {
    netns::enter();
    let origin = EchoOrigin::start("127.0.0.1:0");
    let address = origin.address;
    let ask = "echo hi >&3; head -n 1 <&3";
    let script = format!(
        "exec 3<>/dev/udp/{}/{}; {ask}; {UNTIL_A_FLOW_ENDED}; {ask}",
        address.ip(),
        address.port()
    );
    let ended = Run::new(&["--idle-timeout", "1"], &["bash", "-c", &script]).wait();
    assert_eq!(ended.outcome.stdout, "hi\nhi\n", "{ended:?}");
    let how: Vec<_> = ended.flows.iter().map(|line| &line["ended"]).collect();
    assert_eq!(how, ["idle", "stopped"], "{ended:?}");
}

#[test]
fn nobody_there_is_told_as_such() {
    netns::enter();
    let command = format!("echo hi >/dev/udp/127.0.0.1/9; {UNTIL_A_FLOW_ENDED}");
    let ended = Run::new(&[], &["bash", "-c", &command]).wait();
    assert_eq!(ended.flows.len(), 1, "{ended:?}");
    assert_eq!(ended.flows[0]["ended"], "refused by origin", "{ended:?}");
}

#[test]
fn quic_is_refused_at_once() {
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
fn a_proxy_without_udp_sockets_is_passed_over_in_silence() {
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
