//! What a VM is known by.

use crate::vm::VmId;
use crate::vm::images::mark_of;
use model::argv::scan::Identity;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The key of an identity. A path is made absolute and its links are followed, so that one image has one key. The way to an
/// image can be another user's, who can keep whoever goes it: it is gone here once, before any lock is held.
pub fn id_of(identity: &Identity) -> VmId {
    let (Identity::Disk(path) | Identity::Kernel(path)) = identity else { return VmId::as_written(identity) };
    let Some(image) = resolve(path) else { return VmId::as_written(identity) };
    let mark = mark_of(&image);
    let full = image.into_os_string().into_vec();
    let resolved = match identity {
        Identity::Kernel(_) => Identity::Kernel(full),
        _ => Identity::Disk(full),
    };
    VmId { mark, ..VmId::as_written(&resolved) }
}

/// An image's full path.
fn resolve(path: &[u8]) -> Option<PathBuf> {
    let path = Path::new(OsStr::from_bytes(path));
    fs::canonicalize(path).ok().or_else(|| std::path::absolute(path).ok())
}
