//! Socket filters (SO_ATTACH_FILTER of socket(7)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// An instruction of classic BPF (linux/filter.h): code, how many to skip if true and if false, operand.
pub type Instruction = (u16, u8, u8, u32);

pub(super) const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
pub(super) const LOAD_HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
pub(super) const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
pub(super) const LOAD_HALF_AT_X: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_IND) as u16;
pub(super) const LOAD_IP_HEADER_LENGTH: u16 = (libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH) as u16;
pub(super) const IF_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
pub(super) const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// The type of a netlink message as a filter sees it, which reads all numbers as the network has them.
const fn kind(kind: u16) -> u32 {
    kind.to_be() as u32
}

/// Of what a netlink socket hears of neighbours and of traffic control: deleted qdiscs and filters, and of neighbours only
/// those of bridges (nlmsg_type in struct nlmsghdr; ndm_family behind it).
const OF_SHARING: [Instruction; 7] = [
    (LOAD_HALF, 0, 0, 4),
    (IF_EQUAL, 3, 0, kind(libc::RTM_DELQDISC)),
    (IF_EQUAL, 2, 0, kind(libc::RTM_DELTFILTER)),
    (LOAD_BYTE, 0, 0, 16),
    (IF_EQUAL, 0, 1, libc::AF_BRIDGE as u32),
    (RETURN, 0, 0, u32::MAX),
    (RETURN, 0, 0, 0),
];

/// Has a netlink socket hear of no more than what sharing an uplink depends on.
pub fn sharing_alone(socket: BorrowedFd) -> io::Result<()> {
    attach(socket, &OF_SHARING)
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
