//! Which network namespace this is.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// SO_NETNS_COOKIE of linux/socket.h.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The number of the calling thread's network namespace, which no other has while the machine runs: an inode's number is
/// given again. `None` where the kernel is too old to tell (before 5.14).
pub fn cookie() -> io::Result<Option<u64>> {
    let mut cookie = 0_u64;
    let mut size = size_of::<u64>() as libc::socklen_t;
    // SAFETY: a new descriptor of ours; the kernel writes no more than the eight bytes.
    unsafe {
        let socket = libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(socket);
        let place = (&raw mut cookie).cast();
        if libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, place, &raw mut size) < 0 {
            return match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(None),
                error => Err(error),
            };
        }
    }
    Ok(Some(cookie))
}
