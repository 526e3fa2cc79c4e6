//! What nix has no safe words for: the only unsafe code of this program but the words of its `main` (`entry`).
#![allow(unsafe_code)]

use nix::libc;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A set of capabilities in this program is empty or this (linux/capability.h: bit 12).
pub(crate) const NET_ADMIN: u32 = 1 << 12;

/// The three sets of a process (capabilities(7)), each the numbers below 32 and those above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Capabilities {
    pub(crate) effective: [u32; 2],
    pub(crate) permitted: [u32; 2],
    pub(crate) inheritable: [u32; 2],
}

/// struct __user_cap_header_struct and twice struct __user_cap_data_struct, of version 3.
#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const VERSION_3: u32 = 0x2008_0522;

/// This process's own sets.
pub(crate) fn capabilities() -> io::Result<Capabilities> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: the kernel reads and writes one header and, for version 3, writes two elements.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    Ok(Capabilities {
        effective: data.map(|half| half.effective),
        permitted: data.map(|half| half.permitted),
        inheritable: data.map(|half| half.inheritable),
    })
}

/// Sets them.
pub(crate) fn set_capabilities(sets: Capabilities) -> io::Result<()> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let half = |at: usize| Data {
        effective: sets.effective[at],
        permitted: sets.permitted[at],
        inheritable: sets.inheritable[at],
    };
    let data = [half(0), half(1)];
    // SAFETY: the kernel reads one header and two elements.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) })
}

/// Empties the ambient set, which gives capabilities to what is executed.
pub(crate) fn clear_ambient() -> io::Result<()> {
    // SAFETY: numbers only.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0, 0, 0) }.into())
}

/// Whether any program here can be given CAP_NET_ADMIN (the bounding set, capabilities(7)); for messages only.
pub(crate) fn is_net_admin_out_of_reach() -> bool {
    // SAFETY: numbers only.
    (unsafe { libc::prctl(libc::PR_CAPBSET_READ, libc::c_ulong::from(NET_ADMIN.trailing_zeros()), 0, 0, 0) }) == 0
}

/// Whether a file has an access control list (acl(5)) beyond its mode.
pub(crate) fn has_acl(path: &Path) -> io::Result<bool> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let name = c"system.posix_acl_access";
    // SAFETY: two strings that end with a NUL, and no buffer: only the size is asked for.
    match check(unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) } as libc::c_long) {
        Ok(()) => Ok(true),
        // There is none, or the file system has none at all.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes the environment away.
pub(crate) fn clear_environment() {
    // SAFETY: there is one thread, and nobody holds a pointer into the environment.
    let _ = unsafe { nix::env::clearenv() };
}

/// Closes the descriptors `first` to `last`.
pub(crate) fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    // SAFETY: this program has nothing open yet but what it was called with, and nobody else closes that.
    check(unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, last as libc::c_uint, 0) })
}

/// The descriptor of this number, which the caller has opened; an error if it is not open.
pub(crate) fn descriptor(number: RawFd) -> io::Result<BorrowedFd<'static>> {
    // SAFETY: fcntl only asks whether it is open; from then on nobody closes it, so that it is so to the end.
    check(unsafe { libc::fcntl(number, libc::F_GETFD) }.into())?;
    // SAFETY: see above.
    Ok(unsafe { BorrowedFd::borrow_raw(number) })
}

/// The domain of a socket (SO_DOMAIN); an error for what is none.
pub(crate) fn socket_domain(socket: BorrowedFd) -> io::Result<libc::c_int> {
    let mut domain: libc::c_int = 0;
    let mut size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes into `domain`.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_DOMAIN, (&raw mut domain).cast(), &raw mut size)
    };
    check(result.into()).map(|()| domain)
}

/// The user namespace that a network namespace belongs to (NS_GET_USERNS, ioctl_ns(2)).
pub(crate) fn owner_of_namespace(namespace: &File) -> io::Result<File> {
    use std::os::fd::FromRawFd;
    // SAFETY: no argument; the result is a new descriptor or an error.
    let descriptor = unsafe { libc::ioctl(namespace.as_raw_fd(), nix::request_code_none!(0xb7, 1)) };
    check(descriptor.into())?;
    // SAFETY: it is new, and nobody else's.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(descriptor) }))
}

/// Requests of linux/if_tun.h. The types of TUNSETIFF and TUNSETOWNER say int and mean struct ifreq and a number.
mod request {
    nix::ioctl_read!(tun_get_features, b'T', 207, super::libc::c_uint);
    nix::ioctl_write_ptr_bad!(
        tun_set_iff,
        nix::request_code_write!(b'T', 202, size_of::<super::libc::c_int>()),
        super::libc::ifreq
    );
    nix::ioctl_write_int_bad!(tun_set_owner, nix::request_code_write!(b'T', 204, size_of::<super::libc::c_int>()));
}

/// Makes a TAP behind a descriptor of /dev/net/tun, named by the kernel `kvbN`, and tells its name: it lasts as long as
/// the descriptor.
pub(crate) fn make_tap(device: &File, vnet_headers: bool) -> io::Result<Vec<u8>> {
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI;
    if vnet_headers {
        let mut features = 0;
        // SAFETY: the kernel writes one unsigned int.
        unsafe { request::tun_get_features(device.as_raw_fd(), &mut features) }?;
        flags |= features as libc::c_int & libc::IFF_VNET_HDR;
    }
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"kvb%d") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the kernel reads the ifreq and writes the name that it chose into it.
    unsafe { request::tun_set_iff(device.as_raw_fd(), &raw mut request) }?;
    Ok(request.ifr_name.iter().take_while(|byte| **byte != 0).map(|byte| *byte as u8).collect())
}

/// Lets nobody but this user attach to a TAP, should it be made persistent.
pub(crate) fn set_tap_owner(device: &File, uid: u32) -> io::Result<()> {
    // SAFETY: a number only.
    unsafe { request::tun_set_owner(device.as_raw_fd(), uid as libc::c_int) }?;
    Ok(())
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
