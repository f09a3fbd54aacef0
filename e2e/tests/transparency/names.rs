//! What getsockname returns: the address and port that the origin sees.

use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use e2e::comparison::{Comparison, Row, documented, same};
use e2e::{FarHost, netns, programs};

use crate::timeouts::black_hole;
use crate::{CURL, ConnectProgram, MODES, file};

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

/// Sockets of [`ConnectProgram`]: what they are, options, and the origin. 10.9.0.1 and fd09::1 are this
/// host's addresses on the way to the other one, which has 10.9.0.2 and fd09::2 ([`FarHost`]).
const SOCKETS: [(&str, &str, &str, u16); 12] = [
    ("IPv4", "", "127.0.0.1", IPV4),
    ("IPv4, far", "", "10.9.0.2", IPV4),
    ("IPv4, bound", "-b 127.0.0.5", "127.0.0.1", IPV4),
    ("IPv4, far, bound", "-b 10.9.0.1", "10.9.0.2", IPV4),
    (
        "IPv4, far, with a port",
        "-b 10.9.0.1 -p PORT",
        "10.9.0.2",
        IPV4,
    ),
    ("IPv6", "", "::1", BOTH),
    ("IPv6, with a port", "-b ::1 -p PORT", "::1", BOTH),
    ("IPv6, far", "", "fd09::2", BOTH),
    ("IPv6, far, bound", "-b fd09::1", "fd09::2", BOTH),
    ("IPv4-mapped", "", "::ffff:127.0.0.1", BOTH),
    ("IPv4-mapped, far", "", "::ffff:10.9.0.2", BOTH),
    (
        "IPv4-mapped, far, bound",
        "-b ::ffff:10.9.0.1",
        "::ffff:10.9.0.2",
        BOTH,
    ),
];

#[test]
fn the_name_of_a_socket_is_what_the_origin_sees() {
    let program = ConnectProgram::compile();
    let _far = start_origins();
    let connect = program.path().display().to_string();
    let mut names = Vec::new();
    let mut script = String::new();
    for (what, options, to, port) in SOCKETS {
        for (mode, source) in MODES.into_iter().zip(["7001", "7002", "7003", "7004"]) {
            let options = options.replace("PORT", source);
            let name = format!("{what}, {mode}");
            script +=
                &format!("row '{name}' timeout 10 {connect} -n {options} {mode} {to} {port}\n");
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
    let _far = black_hole();
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
