//! `sidetrack run` and the datagrams of real programs.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;

use e2e::run::{Ended, Run};
use e2e::{Dnsmasq, EchoOrigin, netns};
use serde_json::{Value, json};

const CHAIN: [&str; 6] = [
    "--via",
    "inspect:a",
    "--via",
    "inspect:b",
    "--via",
    "inspect:c",
];

fn dig(options: &[&str], server: &str, name: &str, kind: &str) -> Ended {
    let server = format!("@{server}");
    let command = ["dig", "+short", "+time=5", "+tries=1", &server, name, kind];
    Run::new(options, &command).wait()
}

/// The flow lines of UDP that a service wrote.
fn of<'a>(ended: &'a Ended, service: &str) -> Vec<&'a Value> {
    let lines = ended.flows.iter();
    lines
        .filter(|line| line["service"] == service && line["protocol"] == "udp")
        .collect()
}

#[test]
fn dig_through_one_proxy_and_through_three() {
    netns::enter();
    let _origin = Dnsmasq::start(&["127.0.0.1", "::1"]);
    for (server, kind, address) in [
        ("127.0.0.1", "A", "192.0.2.7"),
        ("::1", "AAAA", "2001:db8::7"),
    ] {
        for options in [&[][..], &CHAIN] {
            let ended = dig(options, server, "shop.example", kind);
            assert_eq!(ended.outcome.stdout.trim(), address, "{ended:?}");
            assert_eq!(ended.flows.len(), (options.len() / 2).max(1), "{ended:?}");
            for line in &ended.flows {
                assert_eq!(line["protocol"], "udp");
                let query = &line["seen"]["queries"][0];
                assert_eq!(query["name"], "shop.example", "{line}");
                assert_eq!(query["type"], kind, "{line}");
                assert_eq!(query["addresses"], json!([address]), "{line}");
                assert_eq!(query["ttl"], 300, "{line}");
                assert_eq!(line["datagrams"], json!({ "up": 1, "down": 1 }), "{line}");
                assert_eq!(line["origin_id"], ended.flows[0]["origin_id"]);
            }
            let told: Vec<_> = ended.outcome.stderr.lines().collect();
            assert_eq!(told.len(), 2, "one flow and the summary: {told:?}");
            assert!(told[0].contains(&format!("dns shop.example {kind} → {address}")));
            assert!(
                told[1].starts_with("1 flow of datagrams through"),
                "{told:?}"
            );
        }
    }
}

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
        let lines = of(&ended, "a");
        let denied: Vec<_> = lines
            .iter()
            .filter(|line| line["verdict"] == "deny")
            .collect();
        assert_eq!((lines.len(), denied.len()), (2, 1), "{ended:?}");
        assert_eq!(denied[0]["rule"], "deny *.ads.example");
        assert_eq!(denied[0]["seen"]["queries"][0]["answer"], status);
        assert_eq!(denied[0]["seen"]["queries"][0]["denied"], true);
        assert_eq!(of(&ended, "b").len(), 1, "{ended:?}");
    }
}

#[test]
fn getaddrinfo_names_the_connection_that_follows() {
    netns::enter();
    netns::ip("address add 192.0.2.7/32 dev lo");
    netns::ip("address add 2001:db8::7/128 dev lo nodad");
    let _origin = Dnsmasq::start(&["127.0.0.1"]);
    let http = e2e::Origin::start("192.0.2.7:0");
    let folder = tempfile::tempdir().expect("a folder can be made");
    let resolver = folder.path().join("resolv.conf");
    std::fs::write(&resolver, "nameserver 127.0.0.1\n").expect("it is ours");
    let program = format!(
        "import socket\n\
         found = socket.getaddrinfo('shop.example', {port}, type=socket.SOCK_STREAM)\n\
         print(sorted(one[4][0] for one in found))\n\
         socket.create_connection(('192.0.2.7', {port})).recv(6)\n",
        port = http.address.port()
    );
    let script = "mount --bind \"$0\" /etc/resolv.conf && exec python3 -c \"$1\"";
    let resolver = resolver.display().to_string();
    let command = [
        "unshare", "--mount", "sh", "-c", script, &resolver, &program,
    ];
    let ended = Run::new(&CHAIN, &command).wait();
    let found = "['192.0.2.7', '2001:db8::7']";
    assert_eq!(ended.outcome.stdout.trim(), found, "{ended:?}");
    let lines = of(&ended, "c");
    assert_eq!(
        lines.len(),
        1,
        "glibc asks for both with one socket: {ended:?}"
    );
    assert_eq!(
        lines[0]["seen"]["queries"].as_array().map(Vec::len),
        Some(2)
    );
    let tcp = ended.flows.iter().find(|line| line["protocol"] == "tcp");
    assert_eq!(tcp.expect("there is one")["name"], "shop.example");
}

#[test]
fn asyncios_datagrams_of_any_size_come_back() {
    netns::enter();
    let program = "
import asyncio, socket, sys
class Client(asyncio.DatagramProtocol):
    def __init__(self): self.got = asyncio.Queue()
    def datagram_received(self, data, peer): self.got.put_nowait((data, peer[:2]))
async def main(host, port):
    loop = asyncio.get_running_loop()
    for form in ({'remote_addr': (host, port)}, {'local_addr': ('::' if ':' in host else '0.0.0.0', 0)}):
        transport, client = await loop.create_datagram_endpoint(Client, **form)
        for size in (1, 1400, 65507):
            sent = bytes(size)
            if 'remote_addr' in form: transport.sendto(sent)
            else: transport.sendto(sent, (host, port))
            got, peer = await asyncio.wait_for(client.got.get(), 10)
            assert (got, peer) == (sent, (host, port)), (len(got), size, peer)
        transport.close()
    one = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET, socket.SOCK_DGRAM)
    one.settimeout(10)
    one.sendto(b'', (host, port)) # asyncio itself sends none
    got, peer = one.recvfrom(10)
    assert (got, peer[:2]) == (b'', (host, port))
    print('good')
asyncio.run(main(sys.argv[1], int(sys.argv[2])))
";
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let origin = EchoOrigin::start(address);
        let (ip, port) = (
            origin.address.ip().to_string(),
            origin.address.port().to_string(),
        );
        let ended = Run::new(&CHAIN, &["python3", "-c", program, &ip, &port]).wait();
        assert_eq!(ended.outcome.stdout.trim(), "good", "{ended:?}");
        assert!(origin.datagrams() == 7);
        for service in ["a", "b", "c"] {
            let lines = of(&ended, service);
            assert_eq!(lines.len(), 3, "{ended:?}");
            assert!(lines.iter().all(|line| line["seen"]["kind"] == "raw"));
            let up: u64 = lines
                .iter()
                .map(|line| line["datagrams"]["up"].as_u64().unwrap())
                .sum();
            assert_eq!(up, origin.datagrams());
        }
    }
}

#[test]
fn a_silent_flow_ends_and_the_next_datagram_begins_another() {
    netns::enter();
    let origin = EchoOrigin::start("127.0.0.1:0");
    let address = origin.address;
    let ask = "echo hi >&3; head -n 1 <&3";
    let script = format!(
        "exec 3<>/dev/udp/{}/{}; {ask}; sleep 2; {ask}",
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
    let command = "echo hi >/dev/udp/127.0.0.1/9; sleep 0.2";
    let ended = Run::new(&[], &["bash", "-c", command]).wait();
    assert_eq!(ended.flows.len(), 1, "{ended:?}");
    assert_eq!(ended.flows[0]["ended"], "refused by origin", "{ended:?}");
}

/// A server for one test, ended with it.
struct Iperf3(Child);

impl Iperf3 {
    fn start() -> Self {
        let child = Command::new("iperf3")
            .args([
                "--server",
                "--one-off",
                "--forceflush",
                "--bind",
                "127.0.0.1",
            ])
            .stdout(Stdio::piped())
            .spawn();
        let mut server = Self(child.expect("iperf3 is installed"));
        let output = server.0.stdout.take().expect("it is piped");
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("Server listening")));
        thread::spawn(move || lines.for_each(drop)); // or it would wait for us
        server
    }
}

impl Drop for Iperf3 {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it has most likely ended
        let _ = self.0.wait();
    }
}

#[test]
fn iperf3_passes() {
    netns::enter();
    let _server = Iperf3::start();
    let command = "iperf3 -u -c 127.0.0.1 -b 20M -t 1 -l 1400 --json";
    let command: Vec<&str> = command.split(' ').collect();
    let ended = Run::new(&[], &command).wait();
    let told: Value = serde_json::from_str(&ended.outcome.stdout).expect("it is JSON");
    let sum = &told["end"]["sum"];
    assert!(sum["packets"].as_u64().unwrap_or(0) > 1000, "{told}");
    let lines = of(&ended, "inspect");
    let datagrams = &lines[0]["datagrams"];
    assert!(datagrams["up"].as_u64().unwrap_or(0) > 1000, "{ended:?}");
    // How many arrive depends on what else the host does; that most do does not.
    assert!(
        sum["lost_percent"].as_f64().unwrap_or(100.0) < 50.0,
        "{sum}"
    );
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
    let ended = dig(
        &["--via", &via, "--via", "inspect"],
        "127.0.0.1",
        "shop.example",
        "A",
    );
    assert_eq!(ended.outcome.stdout.trim(), "192.0.2.7", "{ended:?}");
    assert_eq!(ended.flows[0]["chain"], json!(["inspect"]), "{ended:?}");
    assert!(!ended.outcome.stderr.contains("not listening"), "{ended:?}");
    assert!(!ended.outcome.stderr.contains("counted"), "{ended:?}");
}
