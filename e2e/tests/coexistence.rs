//! eBPF programs of other products at the same cgroup. They run before and after Sidetrack's, also
//! while the daemon is stopped, and after Sidetrack is removed.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;

use e2e::{Bpffs, Daemon, Host, Origin, Process};
use libbpf_rs::{Link, MapCore, MapFlags, Object, ObjectBuilder, ProgramMut};
use tempfile::TempDir;

/// A program that counts connects, stores the destination of the last one, and refuses those to
/// port 9999.
const SOURCE: &str = r#"
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

/// Another product's eBPF program.
struct ForeignProgram {
    object: Object,
    _folder: TempDir,
}

impl ForeignProgram {
    fn load() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (source, built) = (
            folder.path().join("foreign.c"),
            folder.path().join("foreign.o"),
        );
        std::fs::write(&source, SOURCE).expect("the source is written");
        let status = Command::new("clang")
            .args(["-target", "bpf", "-O2", "-g", "-c", "-o"])
            .args([&built, &source])
            .status();
        assert!(status.expect("clang is installed").success());
        let opened = ObjectBuilder::default().open_file(&built);
        let object = opened.and_then(libbpf_rs::OpenObject::load);
        Self {
            object: object.expect("the kernel accepts the program"),
            _folder: folder,
        }
    }

    fn program(&mut self) -> ProgramMut<'_> {
        let mut programs = self.object.progs_mut();
        programs.next().expect("the object has a program")
    }

    /// Attaches it by a link, as newer products do.
    fn link(&mut self, host: &Host) -> Link {
        let cgroup = host.root().as_fd().as_raw_fd();
        let link = self.program().attach_cgroup(cgroup);
        link.expect("the program is attached")
    }

    /// Attaches it without a link and with BPF_F_ALLOW_MULTI, as systemd and Cilium do. It stays
    /// attached as long as the cgroup exists.
    fn attach(&mut self, host: &Host, bpffs: &Bpffs) {
        let pin = bpffs.path("foreign");
        self.program().pin(&pin).expect("the program is pinned");
        let status = Command::new("bpftool")
            .args(["cgroup", "attach"])
            .arg(host.root().path())
            .args(["connect4", "pinned"])
            .arg(&pin)
            .arg("multi")
            .status();
        assert!(status.expect("bpftool is installed").success());
    }

    /// The number of connects that it has seen, and the destination of the last one.
    fn seen(&self) -> (u32, SocketAddr) {
        let map = self.object.maps().find(|map| map.name() == "seen");
        let value = map
            .expect("the object has a map")
            .lookup(&0_u32.to_ne_bytes(), MapFlags::ANY)
            .expect("the map is readable")
            .expect("an array has every key");
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

/// A product, then the daemon, then another product, all attached to one cgroup.
struct ThreeProducts {
    before: ForeignProgram,
    after: ForeignProgram,
    origin: Origin,
    _link: Link,
    _proxy: Process,
    daemon: Daemon,
    _bpffs: Bpffs,
    host: Host,
}

impl ThreeProducts {
    fn attach(test: &str) -> Self {
        let host = Host::without_engine(test);
        let bpffs = Bpffs::mount();
        let (mut before, mut after) = (ForeignProgram::load(), ForeignProgram::load());
        before.attach(&host, &bpffs);
        let daemon = Daemon::attached(&host);
        daemon.apply(POLICY);
        Self {
            _link: after.link(&host),
            before,
            after,
            origin: Origin::start("127.0.0.1:0"),
            _proxy: Process::registered(
                &host.service_cgroup,
                &daemon.socket(),
                "inspect",
                "answer",
            ),
            daemon,
            _bpffs: bpffs,
            host,
        }
    }

    /// Both other products see each connect once: the first with the original destination, the last
    /// with the destination that Sidetrack has written.
    fn both_see_redirected_connects(&self) {
        let to: SocketAddr = "10.1.2.3:80".parse().expect("an address and a port");
        let counts = [self.before.seen().0, self.after.seen().0];
        assert_eq!(self.host.connect("10.1.2.3:80")["reply"], "10.1.2.3:80");
        assert_eq!(self.before.seen(), (counts[0] + 1, to));
        let (count, diverted) = self.after.seen();
        assert_eq!(count, counts[1] + 1);
        assert!(diverted.ip().is_loopback(), "{diverted}");
        self.both_see_direct_connects();
    }

    /// Both other products see a connect that is not redirected once, with the same destination.
    fn both_see_direct_connects(&self) {
        let to = self.origin.address;
        let counts = [self.before.seen().0, self.after.seen().0];
        let report = self.host.connect_and_send(&to.to_string(), "x");
        assert_eq!(report["reply"], "originx");
        assert_eq!(self.before.seen(), (counts[0] + 1, to));
        assert_eq!(self.after.seen(), (counts[1] + 1, to));
    }
}

#[test]
fn other_products_programs_run_before_and_after_ours() {
    let mut products = ThreeProducts::attach("coexistence");
    products.both_see_redirected_connects();
    for _ in 0..2 {
        products.daemon.kill();
        products.both_see_redirected_connects();
        products.daemon.restart();
        products.both_see_redirected_connects();
    }
    products.daemon.uninstall();
    products.both_see_direct_connects();
}

/// Redirection does not bypass the firewall of another product whose program runs before Sidetrack's.
#[test]
fn connect_refused_by_another_product_stays_refused() {
    let products = ThreeProducts::attach("coexistence_refusal");
    let report = products.host.connect("10.1.2.3:9999");
    assert_eq!(report["errno"], libc::EPERM, "{report}");
    products.both_see_redirected_connects();
}
