//! Where this process runs, for messages only: nothing is decided by it.
#![forbid(unsafe_code)]

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What a container lacks is given to it from outside.
pub const REMEDY: &str = "Start the container with --cap-add NET_ADMIN --device /dev/net/tun";

/// Of the host's own UTS namespace (PROC_UTS_INIT_INO of the kernel).
const HOSTS_UTS: u64 = 0xefff_fffe;

/// Whether this is a container of Docker's, Podman's or systemd-nspawn's: with its mark, which a virtual machine that was
/// made of an image may have too, and a host name of its own.
pub fn is_container() -> bool {
    let is_marked =
        || ["/.dockerenv", "/run/.containerenv", "/run/systemd/container"].iter().any(|mark| Path::new(mark).exists());
    std::fs::metadata("/proc/self/ns/uts").is_ok_and(|uts| uts.ino() != HOSTS_UTS) && is_marked()
}

/// Whether this user namespace has users of its own: only the first one has all users, under their own numbers.
pub(crate) fn is_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map");
    map.is_ok_and(|map| !map.split_whitespace().eq(["0", "0", "4294967295"]))
}
