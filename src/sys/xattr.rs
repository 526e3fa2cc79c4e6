//! The capabilities of a program file, which the kernel keeps in an extended attribute (capabilities(7)).

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// CAP_NET_ADMIN, as a bit of a set.
pub const NET_ADMIN: u32 = 1 << 12;

/// The lower half of the capabilities that a program file permits, if it makes them effective at once.
pub fn permitted_capabilities(path: &Path) -> Option<u32> {
    /// VFS_CAP_FLAGS_EFFECTIVE of linux/capability.h.
    const EFFECTIVE: u32 = 1;
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut value = [0_u8; 32];
    let (name, place) = (c"security.capability", value.as_mut_ptr().cast());
    // SAFETY: both names end in NUL, and the kernel writes no more than it is told there is room for.
    let length = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), place, value.len()) };
    // struct vfs_cap_data: all of it little-endian.
    let word = |at: usize| value.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
    match (length, word(0)?, word(4)?) {
        (8.., magic, permitted) if magic & EFFECTIVE != 0 => Some(permitted),
        _ => None,
    }
}
