//! TAPs that outlive the process that made them, and belong to a user.

use crate::sys::tap;
use model::error::Result;
use model::ifname::IfName;
use nix::unistd::Uid;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// TUNSETOWNER and TUNSETPERSIST of linux/if_tun.h.
mod ioctl {
    #![allow(missing_docs)]
    nix::ioctl_write_int_bad!(tun_set_owner, nix::request_code_write!(b'T', 204, size_of::<libc::c_int>()));
    nix::ioctl_write_int_bad!(tun_set_persist, nix::request_code_write!(b'T', 203, size_of::<libc::c_int>()));
}

/// Makes a TAP that this user may attach to. It goes with the descriptor until `stay` is called: whoever is killed in
/// between leaves nothing.
pub fn make(name: &IfName, owner: Uid) -> Result<io::Result<OwnedFd>> {
    let device = tap::open_device()?;
    Ok(tap::open_one(device, Some(name)).and_then(|(tap, _)| {
        // SAFETY: the argument is the user's number itself.
        unsafe { ioctl::tun_set_owner(tap.as_raw_fd(), owner.as_raw() as libc::c_int) }?;
        Ok(tap)
    }))
}

/// From here on it outlives its descriptor.
pub fn stay(tap: &OwnedFd) -> io::Result<()> {
    // SAFETY: the argument is a truth value.
    unsafe { ioctl::tun_set_persist(tap.as_raw_fd(), 1) }?;
    Ok(())
}
