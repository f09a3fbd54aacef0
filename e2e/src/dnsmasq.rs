//! dnsmasq as a DNS server or stub resolver.

use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::wait;

/// The arguments of every dnsmasq here.
const ARGUMENTS: [&str; 5] = [
    "--bind-interfaces",
    "--conf-file=/dev/null",
    "--no-resolv",
    "--no-hosts",
    "--user=root",
];

/// A running dnsmasq. It is killed on drop.
pub struct Dnsmasq {
    child: Child,
}

impl Dnsmasq {
    /// Starts a name server at port 53 of these addresses. It knows `shop.example` (192.0.2.7 and
    /// 2001:db8::7) and `x.ads.example` (192.0.2.8 and 2001:db8::8), and no other name.
    pub fn start(addresses: &[&str]) -> Self {
        let records = [
            "--local=/#/",
            "--host-record=shop.example,192.0.2.7,2001:db8::7,300",
            "--host-record=x.ads.example,192.0.2.8,2001:db8::8,300",
        ];
        Self::spawn(addresses, &records)
    }

    /// Starts a stub resolver at port 53 of this address. It has no cache, so it forwards each query to
    /// its upstream server.
    pub fn start_stub(address: &str, upstream: &str) -> Self {
        let server = format!("--server={upstream}");
        Self::spawn(&[address], &[&server, "--cache-size=0"])
    }

    /// A shell command that starts such a stub resolver. It ends once the stub listens, and sets
    /// `$stub` to the stub's process id.
    pub fn stub_command(address: &str, upstream: &str) -> String {
        let arguments = ARGUMENTS.join(" ");
        format!(
            "file=$(mktemp) && dnsmasq {arguments} --pid-file=$file --listen-address={address} \
             --server={upstream} --cache-size=0 && stub=$(cat $file) && rm $file"
        )
    }

    fn spawn(addresses: &[&str], arguments: &[&str]) -> Self {
        let listen = addresses
            .iter()
            .map(|one| format!("--listen-address={one}"));
        let child = Command::new("dnsmasq")
            .args(ARGUMENTS)
            .args(["--keep-in-foreground", "--pid-file="])
            .args(arguments)
            .args(listen)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("dnsmasq is installed");
        for address in addresses {
            let address = SocketAddr::new(address.parse().expect("an IP address"), 53);
            wait::until("dnsmasq answers", || answers(address));
        }
        Self { child }
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether the server answers a query for the root zone's name servers.
fn answers(address: SocketAddr) -> bool {
    const QUERY: [u8; 17] = [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];
    let any = if address.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let ask = || {
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        socket.connect(address)?;
        socket.send(&QUERY)?;
        socket.recv(&mut [0; 512])
    };
    ask().is_ok()
}
