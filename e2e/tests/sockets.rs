//! Programs that choose the source port, the source address or the device of their sockets. Their
//! connects work as without Sidetrack, or are refused; they never hang.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::process::Command;

use e2e::policy::{prefix, redirect_tcp};
use e2e::{Host, Origin, listen_marked, netns};

/// Connects to two destinations from one source port. Returns the reports on both.
fn connect_both_from_one_port(host: &Host, first: &str, second: &str) -> serde_json::Value {
    host.client(&["same-port", "20001", first, second]).json()
}

#[test]
fn one_source_port_to_two_destinations_works() {
    netns::enter();
    let mut host = Host::new("same_port");
    let service = host.service("inspect");
    let _holding = host.serve(&service, answer_and_hold);
    host.redirect_all(&[&service]);
    // The second destination differs by its address, by its port, and by both.
    for second in ["10.4.5.6:80", "10.1.2.3:81", "192.0.2.1:443"] {
        let report = connect_both_from_one_port(&host, "10.1.2.3:80", second);
        assert_eq!(report[0]["reply"], "10.1.2.3:80", "{report}");
        assert_eq!(report[1]["reply"], second, "{report}");
    }
}

#[test]
fn second_ipv6_destination_from_one_source_port_is_refused() {
    netns::enter();
    let mut host = Host::new("same_port_v6");
    let service = host.service("inspect");
    let _holding = host.serve(&service, answer_and_hold);
    host.redirect_all(&[&service]);
    let report = connect_both_from_one_port(&host, "[fd00::1]:80", "[fd00::2]:80");
    assert_eq!(report[0]["reply"], "[fd00::1]:80", "{report}");
    // IPv6 has only one loopback address, ::1, so both connections would have the same four-tuple.
    assert_eq!(report[1]["errno"], libc::EADDRNOTAVAIL, "{report}");
}

#[test]
fn second_destination_from_one_source_port_is_refused_with_a_listener_at_one_address() {
    netns::enter();
    let mut host = Host::new("same_port_exact");
    let service = host.service("inspect");
    let listener = listen_marked(&service, "127.0.0.1:0", 16);
    host.redirect_all(&[&service]);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let flow = sidetrack::query(&stream).expect("every socket answers");
            std::thread::spawn(move || answer_and_hold(stream, flow));
        }
    });
    let report = connect_both_from_one_port(&host, "10.1.2.3:80", "10.4.5.6:80");
    assert_eq!(report[0]["reply"], "10.1.2.3:80", "{report}");
    assert_eq!(report[1]["errno"], libc::EADDRNOTAVAIL, "{report}");
}

fn answer_and_hold(mut stream: TcpStream, flow: sidetrack::Flow) -> std::io::Result<()> {
    stream.write_all(flow.original_destination().to_string().as_bytes())?;
    stream.read_to_end(&mut Vec::new()).map(drop)
}

#[test]
fn bound_source_address_is_kept_and_reaches_the_proxy() {
    netns::enter();
    netns::veth("away");
    netns::ip("addr add 192.0.2.5/24 dev away");
    netns::ip("addr add 2001:db8::5/64 dev away nodad");
    let mut host = Host::new("bound_source");
    let service = host.service("inspect");
    let proxy = host.answer(&service);
    host.redirect_all(&[&service]);
    for (from, to) in [
        ("127.0.0.5", "10.1.2.3:80"),
        ("192.0.2.5", "10.1.2.3:80"),
        ("192.0.2.5", "192.0.2.99:80"),
        ("2001:db8::5", "[2001:db8::99]:80"),
    ] {
        let from: IpAddr = from.parse().unwrap();
        let bind = std::net::SocketAddr::new(from, 0).to_string();
        let report = host.client(&["connect", to, "--bind", &bind]).json();
        assert_eq!(report["reply"], to, "{from}: {report}");
        assert_eq!(proxy.flows().last().unwrap().client().ip(), from);
    }
}

#[test]
fn socket_bound_to_a_device_is_redirected_and_the_proxy_sees_the_device() {
    netns::enter();
    let index = netns::veth("here");
    netns::ip("addr add 192.0.2.5/24 dev here");
    netns::ip("addr add 2001:db8::5/64 dev here nodad");
    let mut host = Host::new("bound_device");
    let service = host.service("inspect");
    let proxy = host.answer(&service);
    host.redirect_all(&[&service]);
    for to in ["192.0.2.99:80", "10.1.2.3:80", "[2001:db8::99]:80"] {
        let report = host.client(&["connect", to, "--device", "here"]).json();
        assert_eq!(report["reply"], to, "{report}");
        let flow = proxy.flows().last().cloned().unwrap();
        assert_eq!(flow.bound_interface(), Some(index));
    }
    let unbound = host.client(&["connect", "10.1.2.3:80"]).json();
    assert_eq!(unbound["reply"], "10.1.2.3:80");
    assert_eq!(proxy.flows().last().unwrap().bound_interface(), None);
}

#[test]
fn binding_to_a_device_is_restored_when_no_filter_matches() {
    netns::enter();
    netns::veth("away");
    netns::ip("addr add 192.0.2.5/24 dev away");
    let mut host = Host::new("bound_device_back");
    let service = host.service("inspect");
    let _answering = host.answer(&service);
    host.set_policy([redirect_tcp(&service).remote(prefix("10.0.0.0/8"))]);
    // No packet leaves the device, so a connect that is not redirected must not reach the origin.
    let origin = Origin::start("127.0.0.1:0").address.to_string();
    let report = host
        .client(&["reconnect", "10.1.2.3:80", &origin, "--device", "away"])
        .json();
    assert_eq!(report[0]["reply"], "10.1.2.3:80", "{report}");
    assert_eq!(report[1]["ok"], false, "{report}");
}

#[test]
fn multipath_tcp_is_redirected() {
    let mut host = Host::new("mptcp");
    let service = host.service("inspect");
    let proxy = host.answer(&service);
    host.redirect_all(&[&service]);
    for to in ["10.1.2.3:80", "[2001:db8::7]:443"] {
        let report = host.client(&["connect", to, "--mptcp"]).json();
        assert_eq!(report["reply"], to, "{report}");
    }
    assert_eq!(proxy.flows().len(), 2);
}

#[test]
fn curl_with_a_local_port_keeps_it() {
    netns::enter();
    let mut host = Host::new("curl_local_port");
    let service = host.service("inspect");
    let http = host.serve(&service, |mut stream, flow| {
        let _ = stream.read(&mut [0; 4096])?;
        write!(
            stream,
            "HTTP/1.0 200 OK\r\n\r\n{}",
            flow.original_destination()
        )
    });
    host.redirect_all(&[&service]);
    let command = "curl -sS --local-port 20001 --max-time 10 http://10.1.2.3/";
    let outcome = host.run(&command.split(' ').collect::<Vec<_>>()).wait();
    assert_eq!(outcome.stdout, "10.1.2.3:80", "{outcome:?}");
    assert_eq!(http.flows()[0].client().port(), 20001);
}

#[test]
fn iperf3_with_a_client_port_runs_through_a_relay() {
    netns::enter();
    let mut host = Host::new("iperf3_cport");
    let service = host.service("inspect");
    let proxy = host.relay(&service);
    host.redirect_all(&[&service]);
    host.leave_scope();
    let mut server = Command::new("iperf3")
        .args(["--server", "--one-off", "--port", "20002"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("iperf3 is installed");
    host.enter_service_cgroup();
    e2e::wait::until("iperf3 listens", || {
        std::fs::read_to_string("/proc/thread-self/net/tcp6")
            .unwrap()
            .contains(":4E22 ")
    });
    let arguments = "iperf3 --client 127.0.0.1 --port 20002 --cport 20001 --bytes 1M";
    let outcome = host.run(&arguments.split(' ').collect::<Vec<_>>()).wait();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(server.wait().expect("the server ends").success());
    let flows = proxy.flows();
    assert_eq!(flows.len(), 2, "a control connection and a stream");
    assert!(flows.iter().any(|flow| flow.client().port() == 20001));
}
