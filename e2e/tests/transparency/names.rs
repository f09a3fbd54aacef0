//! What getsockname returns: the address and port that the origin sees.

use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use e2e::comparison::{Comparison, Row, documented, same};
use e2e::{FarHost, netns, programs};

use crate::{CURL, ConnectProgram, file};

/// The ports of the origins: one has IPv4 sockets, one has IPv6 sockets, for both families.
const IPV4: u16 = 4004;
const BOTH: u16 = 4006;

/// Starts an origin that sends each client its address and port. It ends with the process.
fn start_origin(address: &str, port: u16) {
    let address = SocketAddr::new(address.parse().expect("an address"), port);
    let listener = TcpListener::bind(address).expect("the namespace is new");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || send_name(stream));
        }
    });
}

fn send_name(mut stream: TcpStream) -> io::Result<()> {
    let peer = stream.peer_addr()?;
    let name = format!("{} {}", peer.ip(), peer.port());
    stream.write_all(name.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    // What curl sends is read, so that its connection is not reset.
    io::copy(&mut stream, &mut io::sink()).map(drop)
}

/// Starts two origins here, and two on another host.
fn start_origins() -> FarHost {
    netns::enter();
    let far = FarHost::start();
    let start = || {
        start_origin("0.0.0.0", IPV4);
        start_origin("::", BOTH);
    };
    start();
    far.inside(start);
    far
}

#[test]
fn the_name_of_a_socket_is_what_the_origin_sees() {
    let program = ConnectProgram::compile();
    let _far = start_origins();
    let [near4, near6] = FarHost::NEAR;
    let [far4, far6] = FarHost::FAR;
    let mapped = format!("::ffff:{far4}");
    let mapped_near = format!("::ffff:{near4}");
    let cases = [
        ("IPv4", String::new(), "127.0.0.1", IPV4),
        ("IPv4, far", String::new(), far4, IPV4),
        ("IPv4, bound", "-b 127.0.0.5".to_owned(), "127.0.0.1", IPV4),
        ("IPv4, far, bound", format!("-b {near4}"), far4, IPV4),
        (
            "IPv4, far, bound to a port",
            format!("-b {near4} -p PORT"),
            far4,
            IPV4,
        ),
        (
            "IPv6, bound to a port",
            "-b ::1 -p PORT".to_owned(),
            "::1",
            BOTH,
        ),
        ("IPv6", String::new(), "::1", BOTH),
        ("IPv6, far", String::new(), far6, BOTH),
        ("IPv6, far, bound", format!("-b {near6}"), far6, BOTH),
        ("IPv4-mapped", String::new(), "::ffff:127.0.0.1", BOTH),
        ("IPv4-mapped, far", String::new(), &mapped, BOTH),
        (
            "IPv4-mapped, far, bound",
            format!("-b {mapped_near}"),
            &mapped,
            BOTH,
        ),
    ];
    let connect = program.path().display().to_string();
    let mut names = Vec::new();
    let mut script = String::new();
    for (what, options, to, port) in &cases {
        for (mode, source) in [
            ("blocking", "7001"),
            ("poll", "7002"),
            ("epoll", "7003"),
            ("uring", "7004"),
        ] {
            let options = options.replace("PORT", source);
            let name = format!("{what}, {mode}");
            script +=
                &format!("row '{name}' timeout 5 {connect} -n {options} {mode} {to} {port}\n");
            names.push(name);
        }
    }
    let expected: Vec<Row> = names.iter().map(|name| same(name, "same")).collect();
    Comparison::of(&script).assert_rows(&expected);
}

#[test]
fn programs_learn_the_name_that_the_origin_sees() {
    programs::require(&[CURL]);
    let _far = start_origins();
    let [far4, far6] = FarHost::FAR;
    let python = file("names.py");
    let comparison = Comparison::of(&format!(
        "by_curl() {{
             read -r seen port named named_port < <(curl -sS --http0.9 -m 10 \
                 -w ' %{{local_ip}} %{{local_port}}' \"$1\")
             [ -n \"$named\" ] && [ \"$seen $port\" = \"$named $named_port\" ] && echo same ||
                 echo \"getsockname: $named $named_port, origin sees: $seen $port\"
         }}
         row curl by_curl http://127.0.0.1:{IPV4}/
         row 'curl, far' by_curl http://{far4}:{IPV4}/
         row 'curl over IPv6, far' by_curl http://[{far6}]:{BOTH}/
         row python python3 {python} 127.0.0.1 {IPV4}
         row 'python, far' python3 {python} {far4} {IPV4}
         row 'python over IPv6, far' python3 {python} {far6} {BOTH}"
    ));
    comparison.assert_rows(&[
        same("curl", "same"),
        same("curl, far", "same"),
        same("curl over IPv6, far", "same"),
        same("python", "same"),
        same("python, far", "same"),
        same("python over IPv6, far", "same"),
    ]);
}

#[test]
fn before_the_connect_has_ended_the_name_is_the_bound_address() {
    netns::enter();
    let far = FarHost::start();
    let [v4, v6] = FarHost::FAR;
    netns::ip(&format!("route add 10.81.0.0/24 via {v4}"));
    netns::ip(&format!("route add fd81::/64 via {v6}"));
    far.inside(|| {
        netns::ip("route add blackhole 10.81.0.0/24");
        netns::ip("route add blackhole fd81::/64");
    });
    let [near4, near6] = FarHost::NEAR;
    let python = file("name_in_flight.py");
    let comparison = Comparison::of(&format!(
        "row IPv4 python3 {python} 10.81.0.1
         row 'IPv4, bound' python3 {python} 10.81.0.1 {near4}
         row IPv6 python3 {python} fd81::1
         row 'IPv6, bound' python3 {python} fd81::1 {near6}"
    ));
    // Only the proxy's socket has an address yet, and the last one in a chain is not known here.
    comparison.assert_rows(&[
        documented("IPv4", near4, "0.0.0.0"),
        same("IPv4, bound", near4),
        documented("IPv6", near6, "::"),
        same("IPv6, bound", near6),
    ]);
}
