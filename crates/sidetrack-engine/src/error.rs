//! Why the engine could not do as asked, by whose fault.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// An engine's failure. Nothing was changed unless the variant says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // The host's fault.
    /// Not root, and without the capabilities.
    #[error(
        "loading eBPF programs needs root (or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON); use sudo"
    )]
    Privilege,
    /// Root, but not the host's.
    #[error(
        "loading eBPF programs needs the host's root: this one's is of a user namespace (a rootless container?)"
    )]
    UserNamespace,
    /// No cgroup v2 hierarchy is mounted.
    #[error(
        "no cgroup v2 file system is mounted; mount one with `mount -t cgroup2 none /sys/fs/cgroup/unified`"
    )]
    NoCgroup2,
    /// The kernel was built without BTF.
    #[error(
        "this kernel has no BTF (/sys/kernel/btf/vmlinux is missing); it needs CONFIG_DEBUG_INFO_BTF=y"
    )]
    NoBtf,
    /// The kernel refuses the programs.
    #[error("this kernel does not load Sidetrack's programs (Linux 6.1 or later is needed)")]
    Kernel(#[source] libbpf_rs::Error),
    /// A cgroup could not be used.
    #[error("cannot {what} the cgroup {}", .path.display())]
    Cgroup {
        /// What was being done.
        what: &'static str,
        /// Which one.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A call to eBPF failed after load.
    #[error("cannot {what}")]
    Bpf {
        /// What was being done.
        what: &'static str,
        /// The kernel's reason.
        source: libbpf_rs::Error,
    },
    /// A system call failed.
    #[error("cannot {what}")]
    System {
        /// What was being done.
        what: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },

    // The caller's fault.
    /// Another engine judges the same connections.
    #[error(
        "another Sidetrack engine is attached at {} or around it; \
         two would divert each connection twice (is this within another `sidetrack run`?)",
        .0.display()
    )]
    AlreadyAttached(PathBuf),
    /// The path is not a folder of the cgroup v2 hierarchy.
    #[error("{} is not a cgroup (v2)", .0.display())]
    NotACgroup(PathBuf),
    /// A service's name does not fit.
    #[error("the service name {0:?} must have 1 to 31 bytes, and no control characters")]
    ServiceName(String),
    /// All numbers are taken.
    #[error("an engine has room for 255 services")]
    TooManyServices,
    /// A filter names a service that the engine does not have.
    #[error("filter {index} names service {service}, which this engine does not have")]
    UnknownService {
        /// The filter's index in the policy.
        index: usize,
        /// The number it names.
        service: u32,
    },
    /// The policy is too long.
    #[error("a policy has room for 50,000 filters of both families; this one has {0}")]
    TooManyFilters(usize),
    /// A context is too long.
    #[error("the redirect context of filter {index} has {length} bytes; at most 4,000 fit")]
    ContextTooLong {
        /// The filter's index in the policy.
        index: usize,
        /// Its context's length.
        length: usize,
    },
    /// No room for another fixed context.
    #[error(
        "there is room for 256 different redirect contexts, those of the policy before and of open \
         connections included"
    )]
    TooManyContexts,
    /// A port range is the wrong way round.
    #[error("the port range {low}-{high} of filter {index} ends before it begins")]
    PortRange {
        /// The filter's index in the policy.
        index: usize,
        /// Its first port.
        low: u16,
        /// Its last port.
        high: u16,
    },
    /// The policy is not as it must be.
    #[error(transparent)]
    Policy(#[from] sidetrack_policy::Error),
    /// What is pinned cannot be taken up.
    #[error("cannot take up the data path pinned at {}: {why}", .path.display())]
    Pins {
        /// Where.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// Nobody listens where a legacy proxy should.
    #[error("nobody listens at {0}; start the proxy first")]
    NoListener(SocketAddr),
    /// The socket was made before its process came to this cgroup.
    #[error(
        "the listener at {0} was made in another cgroup than the one its process is in now; \
         restart the proxy, so that it makes a new one"
    )]
    ListenerElsewhere(SocketAddr),
}

impl Error {
    pub(crate) fn bpf(what: &'static str) -> impl FnOnce(libbpf_rs::Error) -> Self {
        move |source| Self::Bpf { what, source }
    }

    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}
