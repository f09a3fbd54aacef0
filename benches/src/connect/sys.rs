//! Attaches an eBPF program that does nothing. No crate offers this as a safe function.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use libbpf_sys::{
    BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_SOCK_OPS, BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
    BPF_PROG_TYPE_SOCK_OPS, bpf_insn, bpf_prog_load_opts,
};

/// The opcodes of the program `r0 = 1; exit`, which lets the operation proceed.
const MOVE_TO_R0: u8 = 0xb7;
const EXIT: u8 = 0x95;

/// A hook of a cgroup, at which programs can be attached.
#[derive(Clone, Copy)]
pub(crate) enum Hook {
    /// The hook `cgroup/connect4`.
    Connect4,
    /// The hook `sockops`.
    Sockops,
}

/// Attaches a program that does nothing to a cgroup, until the returned descriptor is closed.
pub(crate) fn attach_empty(hook: Hook, cgroup: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (program_type, attach_type) = match hook {
        Hook::Connect4 => (BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT),
        Hook::Sockops => (BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS),
    };
    let program = load(program_type, attach_type)?;
    // SAFETY: both descriptors are open, and a null pointer means no options.
    let link = unsafe {
        libbpf_sys::bpf_link_create(
            program.as_raw_fd(),
            cgroup.as_raw_fd(),
            attach_type,
            ptr::null(),
        )
    };
    owned(link)
}

fn load(program_type: u32, attach_type: u32) -> io::Result<OwnedFd> {
    let instruction = |code, imm| bpf_insn {
        code,
        imm,
        ..Default::default()
    };
    let instructions = [instruction(MOVE_TO_R0, 1), instruction(EXIT, 0)];
    let mut options = bpf_prog_load_opts {
        sz: size_of::<bpf_prog_load_opts>() as _,
        expected_attach_type: attach_type,
        ..Default::default()
    };
    // SAFETY: name, licence, instructions and options are valid during the call, which copies them.
    let program = unsafe {
        libbpf_sys::bpf_prog_load(
            program_type,
            c"empty".as_ptr(),
            c"GPL".as_ptr(),
            instructions.as_ptr(),
            instructions.len() as _,
            &mut options,
        )
    };
    owned(program)
}

fn owned(result: RawFd) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    // SAFETY: the call succeeded, so the descriptor was just opened, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}
