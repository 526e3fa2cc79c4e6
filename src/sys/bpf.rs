//! eBPF programs for traffic control (bpf(2), BPF_PROG_TYPE_SCHED_CLS).

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;

/// The beginning of union bpf_attr for BPF_PROG_LOAD; the kernel takes what is behind it for zeros.
#[repr(C, align(8))]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kern_version: u32,
    flags: u32,
}

/// Has the kernel check a program (struct bpf_insn each). It lasts while the descriptor or a filter holds it.
///
/// EPERM without CAP_BPF and CAP_NET_ADMIN in the first user namespace; ENOSYS or EINVAL where the kernel has none of it.
pub fn load(program: &[u64]) -> io::Result<OwnedFd> {
    let load = Load {
        kind: BPF_PROG_TYPE_SCHED_CLS,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        // It calls nothing of the kernel's.
        license: c"".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kern_version: 0,
        flags: 0,
    };
    // SAFETY: the kernel reads `load` and the program, which live until the end of this block, and gives a new descriptor,
    // closed on exec.
    unsafe {
        match libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<Load>()) {
            fd if fd >= 0 => Ok(OwnedFd::from_raw_fd(fd as libc::c_int)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
