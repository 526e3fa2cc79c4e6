//! Which network namespace this is.

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::io;
use std::os::fd::AsRawFd;

/// SO_NETNS_COOKIE of linux/socket.h.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The number of the calling thread's network namespace, which no other has while the machine runs: an inode's number is
/// given again. `None` where the kernel is too old to tell (before 5.14).
pub fn cookie() -> io::Result<Option<u64>> {
    let mut cookie = 0_u64;
    let mut size = size_of::<u64>() as libc::socklen_t;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let (fd, place) = (socket.as_raw_fd(), (&raw mut cookie).cast());
    // SAFETY: the kernel writes no more than the eight bytes.
    match unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, SO_NETNS_COOKIE, place, &raw mut size) } {
        0 => Ok(Some(cookie)),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(None),
            error => Err(error),
        },
    }
}
