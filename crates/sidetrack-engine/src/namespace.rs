//! Where this process is among namespaces that hide it.
//!
//! In a container, paths of cgroups begin at the namespace's root, and processes have numbers of its own. The
//! kernel's programs see neither: they count from the root of all.

use std::mem::MaybeUninit;
use std::os::unix::fs::MetadataExt;

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{ProgramInput, ProgramMut};

use crate::Error;
use crate::skeleton::namespace::{NamespaceSkel, NamespaceSkelBuilder};

/// The first namespace of processes, as the kernel numbers it (PROC_PID_INIT_INO).
const FIRST_PID_NAMESPACE: u64 = 0xeffffffc;

/// The first namespace of users (PROC_USER_INIT_INO).
const FIRST_USER_NAMESPACE: u64 = 0xeffffffd;

/// A namespace of processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PidNamespace {
    /// How deep it is; the first one has 0.
    pub level: u32,
    /// As the kernel numbers it.
    pub inode: u32,
}

/// This process's, by whose numbers it knows others.
///
/// Errors: [`Error::System`], and [`Error::Kernel`] or [`Error::Bpf`] from within another one than the first.
pub(crate) fn of_pids() -> Result<PidNamespace, Error> {
    let namespace = std::fs::metadata("/proc/self/ns/pid");
    let inode = namespace
        .map_err(Error::system("find this process's namespace"))?
        .ino();
    let level = match inode {
        FIRST_PID_NAMESPACE => 0,
        _ => ask(|skeleton| &skeleton.progs.sidetrack_pid_level)?,
    };
    Ok(PidNamespace {
        level,
        inode: inode as u32, // the kernel has no larger ones
    })
}

/// Whether root is the host's here, as far as is known.
pub(crate) fn is_first_of_users() -> bool {
    let namespace = std::fs::metadata("/proc/self/ns/user");
    namespace.map_or(true, |namespace| namespace.ino() == FIRST_USER_NAMESPACE)
}

/// How deep this process's cgroup is; the hierarchy's root has 0. Errors: [`Error::Kernel`], [`Error::Bpf`].
pub(crate) fn cgroup_level() -> Result<u32, Error> {
    ask(|skeleton| &skeleton.progs.sidetrack_cgroup_level)
}

fn ask(
    program: impl for<'a> Fn(&'a NamespaceSkel<'_>) -> &'a ProgramMut<'a>,
) -> Result<u32, Error> {
    libbpf_rs::set_print(None);
    let mut place = MaybeUninit::uninit();
    let skeleton = NamespaceSkelBuilder::default()
        .open(&mut place)
        .and_then(OpenSkel::load)
        .map_err(Error::Kernel)?;
    let answer = program(&skeleton).test_run(ProgramInput::default());
    let answer = answer.map_err(Error::bpf("find out how deep this process is"))?;
    Ok(answer.return_value)
}
