//! Where this process is in the hierarchies of cgroups and of PID namespaces.
//!
//! In a container, paths of cgroups begin at the root of its cgroup namespace, and process ids are those of its
//! PID namespace. Kernel programs see neither: they count levels from the root of the hierarchy.

use std::mem::MaybeUninit;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{ProgramInput, ProgramMut};

use crate::Error;
use crate::skeleton::namespace::{NamespaceSkel, NamespaceSkelBuilder};

/// Inode number of the initial PID namespace (PROC_PID_INIT_INO in the kernel).
const INITIAL_PID_NAMESPACE: u64 = 0xeffffffc;

/// Inode number of the initial user namespace (PROC_USER_INIT_INO in the kernel).
const INITIAL_USER_NAMESPACE: u64 = 0xeffffffd;

/// A PID namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PidNamespace {
    /// Its level; the initial one has 0.
    pub level: u32,
    /// Its inode number.
    pub inode: u32,
}

/// The PID namespace of this process.
///
/// Errors: [`Error::System`]; outside of the initial namespace also [`Error::Kernel`] and [`Error::Bpf`].
pub(crate) fn own_pid_namespace() -> Result<PidNamespace, Error> {
    static OWN: OnceLock<PidNamespace> = OnceLock::new(); // a process stays in its PID namespace
    if let Some(own) = OWN.get() {
        return Ok(*own);
    }
    let namespace = std::fs::metadata("/proc/self/ns/pid");
    let inode = namespace
        .map_err(Error::system("find the PID namespace of this process"))?
        .ino();
    let level = match inode {
        INITIAL_PID_NAMESPACE => 0,
        _ => run_program(|skeleton| &skeleton.progs.sidetrack_pid_level)?,
    };
    Ok(*OWN.get_or_init(|| PidNamespace {
        level,
        inode: inode as u32, // the kernel numbers namespaces with 32 bits
    }))
}

/// Whether this process is in the initial user namespace; also true if that cannot be found out.
pub(crate) fn is_in_initial_user_namespace() -> bool {
    let namespace = std::fs::metadata("/proc/self/ns/user");
    namespace.map_or(true, |namespace| namespace.ino() == INITIAL_USER_NAMESPACE)
}

/// The level of this process's cgroup; the root of the hierarchy has 0.
///
/// Errors: [`Error::Kernel`], [`Error::Bpf`].
pub(crate) fn cgroup_level() -> Result<u32, Error> {
    run_program(|skeleton| &skeleton.progs.sidetrack_cgroup_level)
}

/// Loads the object of `bpf/namespace.bpf.c`, runs one of its programs, and returns its result.
fn run_program(
    program: impl for<'a> Fn(&'a NamespaceSkel<'_>) -> &'a ProgramMut<'a>,
) -> Result<u32, Error> {
    libbpf_rs::set_print(None);
    let mut storage = MaybeUninit::uninit();
    let skeleton = NamespaceSkelBuilder::default()
        .open(&mut storage)
        .and_then(OpenSkel::load)
        .map_err(Error::Kernel)?;
    let output = program(&skeleton).test_run(ProgramInput::default());
    let output = output.map_err(Error::bpf("find the level of this process"))?;
    Ok(output.return_value)
}
