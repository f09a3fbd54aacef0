//! Attaching a program that does nothing, for which no crate has a safe name.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use libbpf_sys::{
    BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_SOCK_OPS, BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
    BPF_PROG_TYPE_SOCK_OPS, bpf_insn, bpf_prog_load_opts,
};

/// `r0 = 1; exit`: go on.
const MOVE_TO_R0: u8 = 0xb7;
const EXIT: u8 = 0x95;

/// A hook of a cgroup.
#[derive(Clone, Copy)]
pub(crate) enum Hook {
    /// cgroup/connect4.
    Connect4,
    /// sockops.
    Sockops,
}

/// Attaches a program to a cgroup that lets everything go on, until the descriptor is closed.
pub(crate) fn attach_empty(hook: Hook, cgroup: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (kind, attach_type) = match hook {
        Hook::Connect4 => (BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT),
        Hook::Sockops => (BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS),
    };
    let program = load(kind, attach_type)?;
    // SAFETY: both descriptors are open; no options are given.
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

fn load(kind: u32, attach_type: u32) -> io::Result<OwnedFd> {
    let code = |code, imm| bpf_insn {
        code,
        imm,
        ..Default::default()
    };
    let instructions = [code(MOVE_TO_R0, 1), code(EXIT, 0)];
    let mut options = bpf_prog_load_opts {
        sz: size_of::<bpf_prog_load_opts>() as _,
        expected_attach_type: attach_type,
        ..Default::default()
    };
    // SAFETY: name, licence, instructions and options are valid during the call, which copies them.
    let program = unsafe {
        libbpf_sys::bpf_prog_load(
            kind,
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
    // SAFETY: the call succeeded, so this is a descriptor just opened, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}
