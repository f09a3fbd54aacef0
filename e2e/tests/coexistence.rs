//! Programs of others at the same cgroup: they run before and after ours, whatever becomes of us.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;

use e2e::{Bpffs, Daemon, Host, Origin, Process};
use libbpf_rs::{Link, MapCore, MapFlags, Object, ObjectBuilder, ProgramMut};
use tempfile::TempDir;

/// Counts connects, keeps the last one's destination, and refuses those to one port.
const FOREIGN: &str = r#"
#define SEC(name) __attribute__((section(name), used))

struct bpf_sock_addr {
	unsigned int user_family, user_ip4, user_ip6[4], user_port;
};

struct connects {
	unsigned int count, address, port;
};

struct {
	int (*type)[2]; /* an array */
	int (*max_entries)[1];
	int *key;
	struct connects *value;
} seen SEC(".maps");

static void *(*const lookup)(void *map, const void *key) = (void *)1;

SEC("cgroup/connect4") int foreign(struct bpf_sock_addr *ctx)
{
	int zero = 0;
	struct connects *connects = lookup(&seen, &zero);

	if (!connects)
		return 1;
	connects->count++;
	connects->address = ctx->user_ip4;
	connects->port = ctx->user_port;
	return ctx->user_port != __builtin_bswap16(9999);
}
"#;

/// Another product's program.
struct Foreign {
    object: Object,
    _folder: TempDir,
}

impl Foreign {
    fn load() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (source, built) = (
            folder.path().join("foreign.c"),
            folder.path().join("foreign.o"),
        );
        std::fs::write(&source, FOREIGN).expect("a file can be written");
        let status = Command::new("clang")
            .args(["-target", "bpf", "-O2", "-g", "-c", "-o"])
            .args([&built, &source])
            .status();
        assert!(status.expect("clang is installed").success());
        let opened = ObjectBuilder::default().open_file(&built);
        let object = opened.and_then(libbpf_rs::OpenObject::load);
        Self {
            object: object.expect("it is a good program"),
            _folder: folder,
        }
    }

    fn program(&mut self) -> ProgramMut<'_> {
        self.object.progs_mut().next().expect("it has one")
    }

    /// By a link, as new products do.
    fn link(&mut self, host: &Host) -> Link {
        let cgroup = host.root().as_fd().as_raw_fd();
        let link = self.program().attach_cgroup(cgroup);
        link.expect("it can be attached")
    }

    /// For as long as the cgroup is there, with BPF_F_ALLOW_MULTI, as systemd and Cilium do.
    fn attach(&mut self, host: &Host, bpffs: &Bpffs) {
        let pin = bpffs.at("foreign");
        self.program().pin(&pin).expect("it can be pinned");
        let status = Command::new("bpftool")
            .args(["cgroup", "attach"])
            .arg(host.root().path())
            .args(["connect4", "pinned"])
            .arg(&pin)
            .arg("multi")
            .status();
        assert!(status.expect("bpftool is installed").success());
    }

    /// How many connects it has seen, and where the last one went.
    fn seen(&self) -> (u32, SocketAddr) {
        let map = self.object.maps().find(|map| map.name() == "seen");
        let value = map
            .expect("it has one")
            .lookup(&0_u32.to_ne_bytes(), MapFlags::ANY)
            .expect("it can be read")
            .expect("it is there");
        let number = |at: usize| -> [u8; 4] { value[at..at + 4].try_into().expect("4 bytes") };
        let [high, low, ..] = number(8);
        let address = SocketAddr::from((number(4), u16::from_be_bytes([high, low])));
        (u32::from_ne_bytes(number(0)), address)
    }
}

const POLICY: &str = r#"
defaults = { lifetime = "persistent" }
service = [{ name = "inspect" }]

[[filter]]
name = "all"
layer = "connect-redirect"
remote_address = "10.0.0.0/8"
action = { redirect = "inspect" }
"#;

/// One product, then the daemon, then another product, at one cgroup.
struct Crowd {
    before: Foreign,
    after: Foreign,
    origin: Origin,
    _link: Link,
    _proxy: Process,
    daemon: Daemon,
    _bpffs: Bpffs,
    host: Host,
}

impl Crowd {
    fn gather(test: &str) -> Self {
        let host = Host::bare(test);
        let bpffs = Bpffs::mount();
        let (mut before, mut after) = (Foreign::load(), Foreign::load());
        before.attach(&host, &bpffs);
        let daemon = Daemon::attached(&host);
        let applied = daemon.sidetrack_fed(&["apply", "-"], POLICY);
        assert_eq!(applied.code, Some(0), "{applied:?}");
        Self {
            _link: after.link(&host),
            before,
            after,
            origin: Origin::start("127.0.0.1:0"),
            _proxy: Process::registered(&host.service, &daemon, "inspect", "answer"),
            daemon,
            _bpffs: bpffs,
            host,
        }
    }

    /// Both others see each connect once: the first as it was meant, the last as it goes on.
    fn both_see_redirected_connects(&self) {
        let to: SocketAddr = "10.1.2.3:80".parse().expect("an address");
        let counts = [self.before.seen().0, self.after.seen().0];
        assert_eq!(self.host.connect("10.1.2.3:80")["reply"], "10.1.2.3:80");
        assert_eq!(self.before.seen(), (counts[0] + 1, to));
        let (count, diverted) = self.after.seen();
        assert_eq!(count, counts[1] + 1);
        assert!(diverted.ip().is_loopback(), "{diverted}");
        self.both_see_straight_connects();
    }

    fn both_see_straight_connects(&self) {
        let to = self.origin.address;
        let counts = [self.before.seen().0, self.after.seen().0];
        let told = self.host.connect_and_send(&to.to_string(), "x");
        assert_eq!(told["reply"], "originx");
        assert_eq!(self.before.seen(), (counts[0] + 1, to));
        assert_eq!(self.after.seen(), (counts[1] + 1, to));
    }
}

#[test]
fn programs_of_others_run_before_and_after_ours_for_ever() {
    let mut crowd = Crowd::gather("coexistence");
    crowd.both_see_redirected_connects();
    for _ in 0..2 {
        crowd.daemon.kill();
        crowd.both_see_redirected_connects();
        crowd.daemon.restart();
        crowd.both_see_redirected_connects();
    }
    crowd.daemon.uninstall();
    crowd.both_see_straight_connects();
}

/// Redirection is no way around the firewall of another product that is asked before us.
#[test]
fn what_another_product_refuses_stays_refused() {
    let crowd = Crowd::gather("coexistence_refusal");
    let told = crowd.host.connect("10.1.2.3:9999");
    assert_eq!(told["errno"], libc::EPERM, "{told}");
    crowd.both_see_redirected_connects();
}
