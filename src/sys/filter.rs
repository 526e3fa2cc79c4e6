//! Socket filters (SO_ATTACH_FILTER of socket(7)).

use model::bpf::Instruction;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Gives a socket a filter.
pub fn attach(socket: BorrowedFd, program: &[Instruction]) -> io::Result<()> {
    let instruction =
        |Instruction(code, jt, jf, k): &Instruction| libc::sock_filter { code: *code, jt: *jt, jf: *jf, k: *k };
    let mut program: Vec<libc::sock_filter> = program.iter().map(instruction).collect();
    let program = libc::sock_fprog { len: program.len() as libc::c_ushort, filter: program.as_mut_ptr() };
    let (option, size) = ((&raw const program).cast(), size_of::<libc::sock_fprog>() as libc::socklen_t);
    // SAFETY: the kernel reads the program, which lives until the end of this block.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, option, size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
