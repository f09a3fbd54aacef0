//! Errors of the engine, ordered by their cause: the host, then the caller.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// An error of the engine. Nothing was changed, unless the variant's documentation says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // Caused by the host.
    /// The process is not root, and lacks the capabilities.
    #[error(
        "loading eBPF programs needs root (or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON); use sudo"
    )]
    Privilege,
    /// The process is root of a user namespace, and not of the host.
    #[error(
        "loading eBPF programs needs root on the host, but this process is root of a user namespace only \
         (is this a rootless container?)"
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
    /// The kernel does not load the programs.
    #[error("this kernel does not load Sidetrack's programs (Linux 6.1 or later is needed)")]
    Kernel(#[source] libbpf_rs::Error),
    /// An operation on a cgroup failed.
    #[error("cannot {what} the cgroup {}", .path.display())]
    Cgroup {
        /// The operation, as a verb.
        what: &'static str,
        /// Path of the cgroup.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// An eBPF operation failed after the programs were loaded.
    #[error("cannot {what}")]
    Bpf {
        /// The operation, as a verb with its object.
        what: &'static str,
        /// The kernel's reason.
        source: libbpf_rs::Error,
    },
    /// A system call failed.
    #[error("cannot {what}")]
    System {
        /// The operation, as a verb with its object.
        what: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },

    // Caused by the caller.
    /// Another engine is attached to this cgroup, or to one above or below it.
    #[error(
        "another Sidetrack engine is attached to {}, or above or below it; \
         two would divert each connection twice (is this inside another `sidetrack run`?)",
        .0.display()
    )]
    AlreadyAttached(PathBuf),
    /// The path is not a folder of the cgroup v2 hierarchy.
    #[error("{} is not a cgroup (v2); cgroup v2 is mounted at {}", .path.display(), .mount.display())]
    NotACgroup {
        /// The path.
        path: PathBuf,
        /// Where cgroup v2 is mounted.
        mount: PathBuf,
    },
    /// The name of a service is empty, too long, or has control characters.
    #[error("the service name {0:?} must have 1 to 31 bytes, and no control characters")]
    ServiceName(String),
    /// All numbers of services are in use.
    #[error("an engine can have no more than 255 services")]
    TooManyServices,
    /// There are too many different fixed contexts.
    #[error(
        "there can be no more than 256 different redirect contexts, including those of the policy in force \
         and of open connections"
    )]
    TooManyContexts,
    /// The policy is invalid.
    #[error(transparent)]
    Policy(#[from] sidetrack_policy::Error),
    /// The engine cannot resume from what is pinned, or cannot pin there.
    #[error("cannot use the pins at {}: {why}", .path.display())]
    Pins {
        /// The folder of the pins, or one pin.
        path: PathBuf,
        /// The reason, and what to do.
        why: String,
    },
    /// No process listens at the address of a legacy proxy.
    #[error("no process listens at {0}; start the proxy first")]
    NoListener(SocketAddr),
    /// The listening socket belongs to another cgroup than its process, since it was made before the process was
    /// moved.
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
