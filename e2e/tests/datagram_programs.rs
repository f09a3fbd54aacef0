//! The datagrams of real programs, each through one proxy and through three, over IPv4 and IPv6.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread;

use e2e::run::{CHAIN, Ended, Run, services};
use e2e::{Dnsmasq, EchoOrigin, netns};
use serde_json::{Value, json};

const LOOPBACK: [&str; 2] = ["127.0.0.1", "::1"];

/// Both of these addresses, each by one proxy and by three.
fn every_way(addresses: [&str; 2]) -> impl Iterator<Item = (&str, &'static [&'static str])> {
    let ways = [&[][..], &CHAIN];
    addresses
        .into_iter()
        .flat_map(move |one| ways.map(|options| (one, options)))
}

fn any_port(ip: &str) -> String {
    SocketAddr::new(ip.parse().expect("an address"), 0).to_string()
}

#[test]
fn dig() {
    netns::enter();
    let _origin = Dnsmasq::start(&LOOPBACK);
    for (server, options) in every_way(LOOPBACK) {
        let (kind, address) = match server {
            "::1" => ("AAAA", "2001:db8::7"),
            _ => ("A", "192.0.2.7"),
        };
        let (at, name) = (format!("@{server}"), "shop.example");
        let command = ["dig", "+short", "+time=5", "+tries=1", &at, name, kind];
        let ended = Run::new(options, &command).wait();
        assert_eq!(ended.outcome.stdout.trim(), address, "{ended:?}");
        assert_eq!(ended.flows.len(), services(options).len(), "{ended:?}");
        for line in &ended.flows {
            assert_eq!(line["protocol"], "udp");
            let query = &line["seen"]["queries"][0];
            assert_eq!(query["name"], name, "{line}");
            assert_eq!(query["type"], kind, "{line}");
            assert_eq!(query["addresses"], json!([address]), "{line}");
            assert_eq!(query["ttl"], 300, "{line}");
            assert_eq!(line["datagrams"], json!({ "up": 1, "down": 1 }), "{line}");
            assert_eq!(line["origin_id"], ended.flows[0]["origin_id"]);
        }
        let told: Vec<_> = ended.outcome.stderr.lines().collect();
        assert_eq!(told.len(), 2, "one flow and the summary: {told:?}");
        assert!(told[0].contains(&format!("dns shop.example {kind} → {address}")));
        assert!(told[1].starts_with("1 UDP flow through"), "{told:?}");
    }
}

/// Runs a Python program with this name server, after a shell's command, and ends `$stub` if there is one.
fn run_with_resolver(options: &[&str], server: &str, before: &str, program: &str) -> Ended {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let resolver = folder.path().join("resolv.conf");
    std::fs::write(&resolver, format!("nameserver {server}\n")).expect("it is ours");
    let script = format!(
        "mount --bind \"$0\" /etc/resolv.conf && {before} && python3 -c \"$1\"; \
         code=$?; test -z \"$stub\" || kill $stub; exit $code"
    );
    let resolver = resolver.display().to_string();
    let command = [
        "unshare", "--mount", "sh", "-c", &script, &resolver, program,
    ];
    Run::new(options, &command).wait()
}

#[test]
fn getaddrinfo_names_the_connection_that_follows() {
    netns::enter();
    netns::ip("address add 192.0.2.7/32 dev lo");
    netns::ip("address add 2001:db8::7/128 dev lo nodad");
    let _origin = Dnsmasq::start(&LOOPBACK);
    for (server, options) in every_way(LOOPBACK) {
        let address = match server {
            "::1" => "2001:db8::7",
            _ => "192.0.2.7",
        };
        let http = e2e::Origin::start(&any_port(address));
        let program = format!(
            "import socket\n\
             found = socket.getaddrinfo('shop.example', {port}, type=socket.SOCK_STREAM)\n\
             print(sorted(one[4][0] for one in found))\n\
             socket.create_connection(('{address}', {port})).recv(6)\n",
            port = http.address.port()
        );
        let ended = run_with_resolver(options, server, "true", &program);
        let found = "['192.0.2.7', '2001:db8::7']";
        assert_eq!(ended.outcome.stdout.trim(), found, "{ended:?}");
        for service in services(options) {
            let lines = ended.datagrams_of(service);
            assert_eq!(
                lines.len(),
                1,
                "glibc asks for both with one socket: {ended:?}"
            );
            let queries = lines[0]["seen"]["queries"].as_array();
            assert_eq!(queries.map(Vec::len), Some(2));
        }
        let of_tcp = |line: &&Value| line["protocol"] == "tcp";
        let tcp = ended.flows.iter().find(of_tcp).expect("there is one");
        assert_eq!(tcp["name"], "shop.example");
    }
}

/// As systemd has it: glibc asks a resolver of the same host, which asks another one. The stub's own
/// queries are diverted if it is in the scope; its answers never are.
#[test]
fn a_stub_resolver_in_the_scope_or_outside() {
    const STUB: &str = "127.0.0.53";
    netns::enter();
    let _origin = Dnsmasq::start(&LOOPBACK);
    let program = "import socket\n\
                   found = socket.getaddrinfo('shop.example', 80, type=socket.SOCK_STREAM)\n\
                   print(sorted(one[4][0] for one in found))\n";
    for (upstream, options) in every_way(LOOPBACK) {
        // From outside, who its upstream is makes no difference.
        let places: &[bool] = if upstream == "::1" {
            &[true]
        } else {
            &[true, false]
        };
        for &in_scope in places {
            let _outside = (!in_scope).then(|| Dnsmasq::start_stub(STUB, upstream));
            let before = match in_scope {
                true => Dnsmasq::stub_command(STUB, upstream),
                false => "true".to_owned(),
            };
            let ended = run_with_resolver(options, STUB, &before, program);
            let found = "['192.0.2.7', '2001:db8::7']";
            assert_eq!(ended.outcome.stdout.trim(), found, "{ended:?}");
            for service in services(options) {
                let answered = |comm: &str, to: &str| answered(&ended, service, comm, to);
                assert_eq!(answered("python3", STUB), 2, "{ended:?}");
                let of_stub = if in_scope { 2 } else { 0 };
                assert_eq!(answered("dnsmasq", upstream), of_stub, "{ended:?}");
            }
            let others = |line: &&Value| line["seen"]["kind"] != "dns";
            assert_eq!(ended.flows.iter().find(others), None);
        }
    }
}

/// How many queries of a program to this address a service has seen answered.
fn answered(ended: &Ended, service: &str, comm: &str, to: &str) -> usize {
    let lines = ended.datagrams_of(service).into_iter();
    let lines = lines.filter(|line| {
        let destination: SocketAddr =
            serde_json::from_value(line["destination"].clone()).expect("it is an address");
        line["program"]["comm"] == comm && destination.ip().to_string() == to
    });
    lines
        .flat_map(|line| line["seen"]["queries"].as_array().expect("it is DNS"))
        .filter(|query| query["answer"] == "NOERROR")
        .count()
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
    for (ip, options) in every_way(LOOPBACK) {
        let origin = EchoOrigin::start(&any_port(ip));
        let port = origin.address.port().to_string();
        let ended = Run::new(options, &["python3", "-c", program, ip, &port]).wait();
        assert_eq!(ended.outcome.stdout.trim(), "good", "{ended:?}");
        assert_eq!(origin.datagrams(), 7);
        for service in services(options) {
            let lines = ended.datagrams_of(service);
            assert_eq!(lines.len(), 3, "{ended:?}");
            assert!(lines.iter().all(|line| line["seen"]["kind"] == "raw"));
            let up = lines.iter().map(|line| line["datagrams"]["up"].as_u64());
            assert_eq!(up.sum::<Option<u64>>(), Some(origin.datagrams()));
        }
    }
}

/// A server for one test, ended with it.
struct Iperf3(Child);

impl Iperf3 {
    fn start(ip: &str) -> Self {
        let child = Command::new("iperf3")
            .args(["--server", "--one-off", "--forceflush", "--bind", ip])
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
fn iperf3() {
    netns::enter();
    for (ip, options) in every_way(LOOPBACK) {
        let _server = Iperf3::start(ip);
        let command = format!("iperf3 -u -c {ip} -b 40M -n 2M -l 1400 --json");
        let command: Vec<&str> = command.split(' ').collect();
        let ended = Run::new(options, &command).wait();
        let told: Value = serde_json::from_str(&ended.outcome.stdout).expect("it is JSON");
        let sum = &told["end"]["sum"];
        assert!(sum["packets"].as_u64() > Some(1000), "{told}");
        for service in services(options) {
            let lines = ended.datagrams_of(service);
            let datagrams = &lines[0]["datagrams"];
            assert!(datagrams["up"].as_u64() > Some(500), "{ended:?}");
        }
        // How many arrive depends on what else the host does; that most do does not.
        let lost = sum["lost_percent"].as_f64();
        assert!(lost.is_some_and(|lost| lost < 50.0), "{sum}");
    }
}
