//! A network namespace for one test. It is gone when the test's process has ended.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::sys;

/// Moves this thread into a new network namespace, and sets the device `lo` up. The threads and
/// programs that the test starts from now on are in it, and no other test shares its ports,
/// addresses and settings.
pub fn enter() {
    sys::unshare_network().expect("the test runs as root");
    ip("link set lo up");
}

/// Moves this thread into a new mount namespace, in which `/etc/hosts` has these lines.
pub fn set_hosts(lines: &str) {
    sys::unshare_mounts().expect("the test runs as root");
    mount(&["--make-rprivate", "/"]); // so that the host does not see the mounts
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::write(file.path(), lines).expect("the file is written");
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(file.path(), readable).expect("the file is the test's");
    let path = file.path().display().to_string();
    mount(&["--bind", &path, "/etc/hosts"]); // the mount keeps the file
}

fn mount(arguments: &[&str]) {
    let status = Command::new("mount").args(arguments).status();
    let status = status.expect("mount is installed");
    assert!(status.success(), "mount {arguments:?}");
}

/// Runs the command `ip` with these arguments.
pub fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split(' '))
        .status()
        .expect("ip is installed");
    assert!(status.success(), "ip {arguments}");
}

/// Makes a pair of veth devices, NAME and NAME-far, and sets both up. Returns the index of NAME.
pub fn veth(name: &str) -> u32 {
    ip(&format!("link add {name} type veth peer name {name}-far"));
    ip(&format!("link set {name} up"));
    ip(&format!("link set {name}-far up"));
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    );
    let socket = socket.expect("a socket");
    rustix::net::netdevice::name_to_index(socket, name).expect("the device exists")
}

/// Sets a file below `/proc/sys/net` for this namespace.
pub fn set_sysctl(name: &str, value: &str) {
    let path = Path::new("/proc/sys/net").join(name);
    fs::write(&path, value).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// One of the kernel's counters in `/proc/net/netstat` for this namespace, such as TCPFastOpenPassive.
pub fn counter(name: &str) -> u64 {
    counter_in("netstat", "", name)
}

/// One of the kernel's counters of a protocol in `/proc/net/snmp` for this namespace, such as
/// InCsumErrors of `Tcp:`.
pub fn protocol_counter(protocol: &str, name: &str) -> u64 {
    counter_in("snmp", protocol, name)
}

/// Reads a file in which each line with names is followed by one with values. Both begin with a title.
fn counter_in(file: &str, title: &str, name: &str) -> u64 {
    let path = format!("/proc/thread-self/net/{file}");
    let text = fs::read_to_string(path).expect("the file exists");
    let lines: Vec<_> = text.lines().collect();
    lines
        .chunks(2)
        .filter(|names_and_values| names_and_values[0].starts_with(title))
        .find_map(|names_and_values| {
            let names = names_and_values[0];
            let position = names.split(' ').position(|word| word == name)?;
            let values = names_and_values.get(1)?;
            values.split(' ').nth(position)?.parse().ok()
        })
        .unwrap_or_else(|| panic!("the kernel has no counter {name}"))
}

/// The cookie of this thread's network namespace, by SO_NETNS_COOKIE.
pub fn cookie() -> u64 {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("lo is up");
    let answer = sys::get_option(&socket, libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, 8);
    u64::from_ne_bytes(answer.buffer.try_into().expect("a cookie has 8 bytes"))
}
