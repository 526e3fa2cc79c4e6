//! Socket filters (SO_ATTACH_FILTER of socket(7)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// An instruction of classic BPF (linux/filter.h): code, how many to skip if true and if false, operand.
pub type Instruction = (u16, u8, u8, u32);

/// Of what a netlink socket would hear about neighbours, only bridges' (ndm_family, behind struct nlmsghdr).
const OF_BRIDGES: [Instruction; 4] = [
    ((libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16, 0, 0, 16),
    ((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, 0, 1, libc::AF_BRIDGE as u32),
    ((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, u32::MAX),
    ((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0),
];

/// Has a netlink socket hear of neighbours only those of bridges.
pub fn bridges_alone(socket: BorrowedFd) -> io::Result<()> {
    attach(socket, &OF_BRIDGES)
}

/// Gives a socket a filter.
pub fn attach(socket: BorrowedFd, program: &[Instruction]) -> io::Result<()> {
    let mut program: Vec<libc::sock_filter> =
        program.iter().map(|(code, jt, jf, k)| libc::sock_filter { code: *code, jt: *jt, jf: *jf, k: *k }).collect();
    let program = libc::sock_fprog { len: program.len() as libc::c_ushort, filter: program.as_mut_ptr() };
    let (option, size) = ((&raw const program).cast(), size_of::<libc::sock_fprog>() as libc::socklen_t);
    // SAFETY: the kernel reads the program, which lives until the end of this block.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, option, size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
