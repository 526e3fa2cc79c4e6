//! Which network namespace this is.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;

/// SO_NETNS_COOKIE of linux/socket.h.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The number of the calling thread's network namespace, which no other has while the machine runs: an inode's number is
/// given again. `None` where the kernel is too old to tell (before 5.14).
pub fn cookie() -> io::Result<Option<u64>> {
    let socket = UnixDatagram::unbound()?;
    let mut cookie = 0_u64;
    let (place, mut size) = ((&raw mut cookie).cast(), size_of::<u64>() as libc::socklen_t);
    // SAFETY: the kernel writes no more than the eight bytes.
    let asked =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, place, &raw mut size) };
    match asked {
        0 => Ok(Some(cookie)),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(None),
            error => Err(error),
        },
    }
}
