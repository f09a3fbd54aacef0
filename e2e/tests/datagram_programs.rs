//! Datagrams of widely used programs, through one proxy and through three, over IPv4 and IPv6.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread;

use e2e::run::{CHAIN, FinishedRun, Run, service_names};
use e2e::{Dnsmasq, EchoOrigin, netns};
use serde_json::{Value, json};

const LOOPBACK: [&str; 2] = ["127.0.0.1", "::1"];

/// Each of these addresses with the options of a run with one proxy, and of a run with three.
fn with_one_and_three_proxies(
    addresses: [&str; 2],
) -> impl Iterator<Item = (&str, &'static [&'static str])> {
    let runs = [&[][..], &CHAIN];
    addresses
        .into_iter()
        .flat_map(move |address| runs.map(|options| (address, options)))
}

fn any_port(ip: &str) -> String {
    SocketAddr::new(ip.parse().expect("an IP address"), 0).to_string()
}

#[test]
fn dig_gets_answers_and_its_queries_are_in_the_flow_lines() {
    netns::enter();
    let _origin = Dnsmasq::start(&LOOPBACK);
    for (server, options) in with_one_and_three_proxies(LOOPBACK) {
        let (kind, address) = match server {
            "::1" => ("AAAA", "2001:db8::7"),
            _ => ("A", "192.0.2.7"),
        };
        let (at, name) = (format!("@{server}"), "shop.example");
        let command = ["dig", "+short", "+time=5", "+tries=1", &at, name, kind];
        let ended = Run::new(options, &command).wait();
        assert_eq!(ended.outcome.stdout.trim(), address, "{ended:?}");
        assert_eq!(ended.flows.len(), service_names(options).len(), "{ended:?}");
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
        let lines: Vec<_> = ended.outcome.stderr.lines().collect();
        assert_eq!(lines.len(), 2, "one flow and the summary: {lines:?}");
        assert!(lines[0].contains(&format!("dns shop.example {kind} → {address}")));
        assert!(lines[1].starts_with("1 UDP flow through"), "{lines:?}");
    }
}

/// Runs a shell command, and then a Python program that uses this name server. Ends the process `$stub`
/// if the shell command has started one.
fn run_with_resolver(options: &[&str], server: &str, before: &str, program: &str) -> FinishedRun {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let resolver = folder.path().join("resolv.conf");
    std::fs::write(&resolver, format!("nameserver {server}\n")).expect("the file is written");
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
fn name_that_getaddrinfo_resolved_is_in_the_flow_line_of_the_connection() {
    netns::enter();
    netns::ip("address add 192.0.2.7/32 dev lo");
    netns::ip("address add 2001:db8::7/128 dev lo nodad");
    let _origin = Dnsmasq::start(&LOOPBACK);
    for (server, options) in with_one_and_three_proxies(LOOPBACK) {
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
        let addresses = "['192.0.2.7', '2001:db8::7']";
        assert_eq!(ended.outcome.stdout.trim(), addresses, "{ended:?}");
        for service in service_names(options) {
            let lines = ended.datagrams_of(service);
            assert_eq!(
                lines.len(),
                1,
                "glibc sends both queries from one socket: {ended:?}"
            );
            let queries = lines[0]["seen"]["queries"].as_array();
            assert_eq!(queries.map(Vec::len), Some(2));
        }
        let is_tcp = |line: &&Value| line["protocol"] == "tcp";
        let tcp = ended.flows.iter().find(is_tcp);
        let tcp = tcp.expect("there is a flow line for TCP");
        assert_eq!(tcp["name"], "shop.example");
    }
}

/// As with systemd-resolved, glibc sends its queries to a stub resolver on the same host, which
/// forwards them. The stub's own queries are redirected if it is in the scope; its answers never
/// are.
#[test]
fn stub_resolver_works_inside_and_outside_of_the_scope() {
    const STUB: &str = "127.0.0.53";
    netns::enter();
    let _origin = Dnsmasq::start(&LOOPBACK);
    let program = "import socket\n\
                   found = socket.getaddrinfo('shop.example', 80, type=socket.SOCK_STREAM)\n\
                   print(sorted(one[4][0] for one in found))\n";
    for (upstream, options) in with_one_and_three_proxies(LOOPBACK) {
        // Outside of the scope the address of the upstream server makes no difference.
        let in_scopes: &[bool] = if upstream == "::1" {
            &[true]
        } else {
            &[true, false]
        };
        for &in_scope in in_scopes {
            let _outside = (!in_scope).then(|| Dnsmasq::start_stub(STUB, upstream));
            let before = match in_scope {
                true => Dnsmasq::stub_command(STUB, upstream),
                false => "true".to_owned(),
            };
            let ended = run_with_resolver(options, STUB, &before, program);
            let addresses = "['192.0.2.7', '2001:db8::7']";
            assert_eq!(ended.outcome.stdout.trim(), addresses, "{ended:?}");
            for service in service_names(options) {
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

/// Number of queries of a program to this address that a service has logged with the answer NOERROR.
fn answered(ended: &FinishedRun, service: &str, comm: &str, to: &str) -> usize {
    let lines = ended.datagrams_of(service).into_iter();
    let lines = lines.filter(|line| {
        let destination: SocketAddr =
            serde_json::from_value(line["destination"].clone()).expect("a socket address");
        line["program"]["comm"] == comm && destination.ip().to_string() == to
    });
    lines
        .flat_map(|line| {
            let queries = line["seen"]["queries"].as_array();
            queries.expect("the flow is DNS")
        })
        .filter(|query| query["answer"] == "NOERROR")
        .count()
}

#[test]
fn asyncio_gets_answers_to_datagrams_of_any_size() {
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
    for (ip, options) in with_one_and_three_proxies(LOOPBACK) {
        let origin = EchoOrigin::start(&any_port(ip));
        let port = origin.address.port().to_string();
        let ended = Run::new(options, &["python3", "-c", program, ip, &port]).wait();
        assert_eq!(ended.outcome.stdout.trim(), "good", "{ended:?}");
        assert_eq!(origin.datagrams(), 7);
        for service in service_names(options) {
            let lines = ended.datagrams_of(service);
            assert_eq!(lines.len(), 3, "{ended:?}");
            assert!(lines.iter().all(|line| line["seen"]["kind"] == "raw"));
            let up = lines.iter().map(|line| line["datagrams"]["up"].as_u64());
            assert_eq!(up.sum::<Option<u64>>(), Some(origin.datagrams()));
        }
    }
}

/// A server for one test. It is killed on drop.
struct Iperf3(Child);

impl Iperf3 {
    fn start(ip: &str) -> Self {
        let child = Command::new("iperf3")
            .args(["--server", "--one-off", "--forceflush", "--bind", ip])
            .stdout(Stdio::piped())
            .spawn();
        let mut server = Self(child.expect("iperf3 is installed"));
        let output = server.0.stdout.take().expect("standard output is piped");
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("Server listening")));
        thread::spawn(move || lines.for_each(drop)); // otherwise a full pipe would stop the server
        server
    }
}

impl Drop for Iperf3 {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it has probably ended
        let _ = self.0.wait();
    }
}

#[test]
fn iperf3_sends_datagrams_through_the_proxies() {
    netns::enter();
    for (ip, options) in with_one_and_three_proxies(LOOPBACK) {
        let _server = Iperf3::start(ip);
        let command = format!("iperf3 -u -c {ip} -b 40M -n 2M -l 1400 --json");
        let command: Vec<&str> = command.split(' ').collect();
        let ended = Run::new(options, &command).wait();
        let report: Value =
            serde_json::from_str(&ended.outcome.stdout).expect("the output is JSON");
        let sum = &report["end"]["sum"];
        assert!(sum["packets"].as_u64() > Some(1000), "{report}");
        for service in service_names(options) {
            let lines = ended.datagrams_of(service);
            let datagrams = &lines[0]["datagrams"];
            assert!(datagrams["up"].as_u64() > Some(500), "{ended:?}");
        }
        // The number of lost datagrams depends on the load of the host. Most arrive in any case.
        let lost = sum["lost_percent"].as_f64();
        assert!(lost.is_some_and(|lost| lost < 50.0), "{sum}");
    }
}
