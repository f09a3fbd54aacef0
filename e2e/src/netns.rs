//! A network namespace of the test's own: it goes with the test's process.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::sys;

/// Enters a new one, with the device `lo` up. The test's threads and programs made from now on are
/// in it, and no other test sees its ports, addresses and settings.
pub fn enter() {
    sys::unshare_network().expect("may make a network namespace");
    ip("link set lo up");
}

/// Runs `ip` with these arguments.
pub fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split(' '))
        .status()
        .expect("ip is installed");
    assert!(status.success(), "ip {arguments}");
}

/// Makes a pair of devices, this one and its far end, both up. Returns this one's number.
pub fn veth(name: &str) -> u32 {
    ip(&format!("link add {name} type veth peer name {name}-far"));
    ip(&format!("link set {name} up"));
    ip(&format!("link set {name}-far up"));
    let any = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    );
    let any = any.expect("a socket can be made");
    rustix::net::netdevice::name_to_index(any, name).expect("it was just made")
}

/// Sets one of `/proc/sys/net` of this namespace.
pub fn set(name: &str, value: &str) {
    let path = Path::new("/proc/sys/net").join(name);
    fs::write(&path, value).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// One of the kernel's counters for this namespace, such as TcpExt's TCPFastOpenPassive.
pub fn counter(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/netstat").expect("the kernel has it");
    let lines: Vec<_> = text.lines().collect();
    lines
        .chunks(2)
        .find_map(|pair| {
            let place = pair[0].split(' ').position(|word| word == name)?;
            pair.get(1)?.split(' ').nth(place)?.parse().ok()
        })
        .unwrap_or_else(|| panic!("the kernel counts no {name}"))
}

/// The cookie of this thread's namespace.
pub fn cookie() -> u64 {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("lo is up");
    let answer = sys::get_option(&socket, libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, 8);
    u64::from_ne_bytes(answer.buffer.try_into().expect("it has 8 bytes"))
}
