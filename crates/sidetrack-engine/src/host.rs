//! Checks what this host has that an engine needs, and which engines are there.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use libbpf_rs::ProgramType;
use libbpf_rs::query::ProgInfoIter;
use libbpf_sys::BPF_CGROUP_INET4_CONNECT;
use rustix::net::AddressFamily;

use crate::{Cgroup, Error, cgroup, namespace, sys};

/// The oldest kernel version that is supported: major and minor. `docs/kernels.md` has the reasons.
pub const KERNEL_MIN: (u32, u32) = (6, 1);

const BTF: &str = "/sys/kernel/btf/vmlinux";
/// Numbers of capabilities, from linux/capability.h.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Checks that an engine can work here. Of several problems, the one that is hardest to solve comes first.
///
/// Errors: [`Error::NoCgroup2`], [`Error::NoBtf`], and those of [`privilege`].
pub fn require() -> Result<(), Error> {
    cgroup::mount_point()?;
    if !has_btf() {
        return Err(Error::NoBtf);
    }
    privilege()
}

/// Whether the kernel has BTF, a description of its structures.
pub fn has_btf() -> bool {
    Path::new(BTF).exists()
}

/// Checks that this process may load and attach the programs. In a user namespace it tries to load one, since
/// the host may have delegated that.
///
/// Errors: [`Error::Privilege`], [`Error::UserNamespace`].
pub fn privilege() -> Result<(), Error> {
    let has = |bit: u32| capabilities() >> bit & 1 == 1;
    if !(has(CAP_NET_ADMIN) && (has(CAP_SYS_ADMIN) || (has(CAP_BPF) && has(CAP_PERFMON)))) {
        return Err(Error::Privilege);
    }
    if !namespace::is_in_initial_user_namespace() && namespace::cgroup_level().is_err() {
        return Err(Error::UserNamespace);
    }
    Ok(())
}

/// Major and minor version of the running kernel; zeros if they cannot be read.
pub fn kernel_version() -> (u32, u32) {
    let text = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let mut numbers = text
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The cookie of this process's network namespace; 0 if the kernel does not return it.
pub fn netns_cookie() -> u64 {
    // Sockets of all families return it. The daemon's unit allows those that it needs anyway.
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::DGRAM,
        None,
    );
    socket
        .ok()
        .and_then(|socket| sys::netns_cookie(socket.as_fd()).ok())
        .unwrap_or(0)
}

/// Checks that this process can make raw sockets, which services need to complete and refuse pended flows.
pub fn raw_sockets() -> std::io::Result<()> {
    sys::raw_socket(AddressFamily::INET).map(drop)
}

/// The ids and names of the programs of all engines in the kernel, whether the engine runs or has ended.
/// The programs that notice departures belong to no engine: they end with their process, and the kernel
/// frees them some time after that.
///
/// Errors: those of [`privilege`].
pub fn programs() -> Result<Vec<(u32, String)>, Error> {
    privilege()?;
    Ok(ProgInfoIter::default()
        .filter(|program| program.ty != ProgramType::Tracing)
        .map(|program| (program.id, program.name.to_string_lossy().into_owned()))
        .filter(|(_, name)| name.starts_with("sidetrack_"))
        .collect())
}

/// Whether an engine classifies the connections that processes in a cgroup make.
///
/// Errors: those of [`privilege`], and [`Error::System`].
pub fn is_classified(cgroup: &Cgroup) -> Result<bool, Error> {
    let ids: Vec<u32> = programs()?.into_iter().map(|(id, _)| id).collect();
    is_attached(cgroup, &ids, true)
}

/// Whether another engine than that of the programs `own` is attached to `cgroup`, or to a cgroup above or below
/// it.
pub(crate) fn other_engine_overlaps(cgroup: &Cgroup, own: &[u32]) -> Result<bool, Error> {
    let foreign: Vec<u32> = programs()?
        .into_iter()
        .map(|(id, _)| id)
        .filter(|id| !own.contains(id))
        .collect();
    if foreign.is_empty() {
        return Ok(false);
    }
    if is_attached(cgroup, &foreign, true)? {
        return Ok(true);
    }
    for path in cgroup::below(cgroup.path()) {
        // If the folder was removed since it was listed, it has no programs.
        let Ok(child) = Cgroup::at(&path) else {
            continue;
        };
        if is_attached(&child, &foreign, false)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_attached(cgroup: &Cgroup, ids: &[u32], effective: bool) -> Result<bool, Error> {
    match sys::programs(cgroup.as_fd(), BPF_CGROUP_INET4_CONNECT, effective) {
        Ok(attached) => Ok(attached.iter().any(|id| ids.contains(id))),
        // The cgroup was removed after it was found, so nothing is attached there.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT)) => {
            Ok(false)
        }
        Err(error) => Err(Error::system("list the attached programs")(error)),
    }
}

fn capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_cgroup_has_no_programs() {
        let root = Cgroup::root().expect("cgroup v2 is mounted");
        let cgroup = root
            .make(&format!("engine-removed.{}", std::process::id()))
            .expect("a cgroup can be made");
        fs::remove_dir(cgroup.path()).expect("it is empty");
        for effective in [true, false] {
            assert!(!is_attached(&cgroup, &[1], effective).expect("it is not an error"));
        }
    }
}
