//! Programs that choose their own port, address or device: as without us, or refused; never hanging.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::process::Command;

use e2e::{Host, Origin, listen_by_hand, netns};
use sidetrack_engine::Filter;

/// Both twins, of which the program tells.
fn twins(host: &Host, first: &str, second: &str) -> serde_json::Value {
    host.client(&["twins", "20001", first, second]).json()
}

#[test]
fn one_source_port_to_two_destinations_works() {
    netns::enter();
    let mut host = Host::new("twins");
    let service = host.service("inspect");
    let _holding = host.serve(&service, answer_and_hold);
    host.redirect_all(&[&service]);
    // Other address, other port, and both.
    for second in ["10.4.5.6:80", "10.1.2.3:81", "192.0.2.1:443"] {
        let told = twins(&host, "10.1.2.3:80", second);
        assert_eq!(told[0]["reply"], "10.1.2.3:80", "{told}");
        assert_eq!(told[1]["reply"], second, "{told}");
    }
}

#[test]
fn one_source_port_to_two_ipv6_destinations_works_or_is_refused() {
    netns::enter();
    let mut host = Host::new("twins_v6");
    let service = host.service("inspect");
    let _holding = host.serve(&service, answer_and_hold);
    host.redirect_all(&[&service]);
    let told = twins(&host, "[fd00::1]:80", "[fd00::2]:80");
    assert_eq!(told[0]["reply"], "[fd00::1]:80", "{told}");
    // ::1 is IPv6's only loopback address: the second would be the first's four-tuple again.
    assert_eq!(told[1]["errno"], libc::EADDRNOTAVAIL, "{told}");
}

#[test]
fn one_source_port_to_a_listener_at_one_address_is_refused() {
    netns::enter();
    let mut host = Host::new("twins_exact");
    let service = host.service("inspect");
    let listener = listen_by_hand(&service, "127.0.0.1:0", 16);
    host.redirect_all(&[&service]);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let flow = sidetrack::query(&stream).expect("every socket answers");
            std::thread::spawn(move || answer_and_hold(stream, flow));
        }
    });
    let told = twins(&host, "10.1.2.3:80", "10.4.5.6:80");
    assert_eq!(told[0]["reply"], "10.1.2.3:80", "{told}");
    assert_eq!(told[1]["errno"], libc::EADDRNOTAVAIL, "{told}");
}

fn answer_and_hold(mut stream: TcpStream, flow: sidetrack::Flow) -> std::io::Result<()> {
    stream.write_all(flow.original_destination().to_string().as_bytes())?;
    stream.read_to_end(&mut Vec::new()).map(drop)
}

#[test]
fn bound_source_address_is_kept_and_told() {
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
        let told = host.client(&["connect", to, "--bind", &bind]).json();
        assert_eq!(told["reply"], to, "{from}: {told}");
        assert_eq!(proxy.flows().last().unwrap().client().ip(), from);
    }
}

#[test]
fn socket_bound_to_a_device_is_redirected_and_the_proxy_is_told() {
    netns::enter();
    let index = netns::veth("here");
    netns::ip("addr add 192.0.2.5/24 dev here");
    netns::ip("addr add 2001:db8::5/64 dev here nodad");
    let mut host = Host::new("bound_device");
    let service = host.service("inspect");
    let proxy = host.answer(&service);
    host.redirect_all(&[&service]);
    for to in ["192.0.2.99:80", "10.1.2.3:80", "[2001:db8::99]:80"] {
        let told = host.client(&["connect", to, "--device", "here"]).json();
        assert_eq!(told["reply"], to, "{told}");
        let flow = proxy.flows().last().cloned().unwrap();
        assert_eq!(flow.bound_interface(), Some(index));
    }
    let unbound = host.client(&["connect", "10.1.2.3:80"]).json();
    assert_eq!(unbound["reply"], "10.1.2.3:80");
    assert_eq!(proxy.flows().last().unwrap().bound_interface(), None);
}

#[test]
fn socket_bound_to_a_device_goes_there_again_when_no_filter_matches() {
    netns::enter();
    netns::veth("away");
    netns::ip("addr add 192.0.2.5/24 dev away");
    let mut host = Host::new("bound_device_back");
    let service = host.service("inspect");
    let _answering = host.answer(&service);
    host.set_policy(&[Filter {
        remote: Some("10.0.0.0/8".parse().unwrap()),
        ..Filter::redirect_all(service.number)
    }]);
    // Bound to a device that leads nowhere: a connect that goes straight must not reach the origin.
    let origin = Origin::start("127.0.0.1:0").address.to_string();
    let told = host
        .client(&["reconnect", "10.1.2.3:80", &origin, "--device", "away"])
        .json();
    assert_eq!(told[0]["reply"], "10.1.2.3:80", "{told}");
    assert_eq!(told[1]["ok"], false, "{told}");
}

#[test]
fn multipath_tcp_is_redirected_too() {
    let mut host = Host::new("mptcp");
    let service = host.service("inspect");
    let proxy = host.answer(&service);
    host.redirect_all(&[&service]);
    for to in ["10.1.2.3:80", "[2001:db8::7]:443"] {
        let told = host.client(&["connect", to, "--mptcp"]).json();
        assert_eq!(told["reply"], to, "{told}");
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
    host.leave();
    let mut server = Command::new("iperf3")
        .args(["--server", "--one-off", "--port", "20002"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("iperf3 is installed");
    host.enter_service();
    e2e::wait::until("iperf3 listens", || {
        std::fs::read_to_string("/proc/thread-self/net/tcp6")
            .unwrap()
            .contains(":4E22 ")
    });
    let arguments = "iperf3 --client 127.0.0.1 --port 20002 --cport 20001 --bytes 1M";
    let outcome = host.run(&arguments.split(' ').collect::<Vec<_>>()).wait();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(server.wait().expect("it can be waited for").success());
    let flows = proxy.flows();
    assert_eq!(flows.len(), 2, "its control connection and its stream");
    assert!(flows.iter().any(|flow| flow.client().port() == 20001));
}
