//! Whether the guest will have KVM, and a word for who is kept from it.
//!
//! QEMU itself decides on the accelerator and goes on without KVM where it may; all that is added here is what to do.

use crate::sys::process;
use model::argv::Line;
use nix::unistd::{Gid, Group};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The device of KVM.
const DEVICE: &str = "/dev/kvm";

/// What to say if QEMU is going to try KVM and this user may not use it.
pub fn word(name: &OsStr, line: &Line) -> Option<String> {
    let is_kvm = |accel: &[u8]| accel.split(|byte| *byte == b':').any(|one| one == b"kvm");
    // Where nothing is said, QEMU goes by the name that it is called by.
    let tries = line.accel.as_deref().map_or_else(|| name.as_bytes().ends_with(b"kvm"), is_kvm);
    let device = Path::new(DEVICE);
    (tries && process::is_kept_from(device)).then(|| {
        let remedy = let_in();
        format!(
            "{DEVICE} is there and you have no access to it: without KVM the guest is slow\n  To get access: {remedy}"
        )
    })
}

/// How a user is let in.
pub fn let_in() -> String {
    let device = Path::new(DEVICE).metadata().ok();
    let group = device.filter(|device| device.gid() != 0 && device.mode() & 0o060 == 0o060);
    let group = group.and_then(|device| Group::from_gid(Gid::from_raw(device.gid())).ok().flatten());
    match group {
        Some(group) => format!("sudo usermod -aG {} $USER, and log in again", group.name),
        None => format!("sudo chgrp kvm {DEVICE} && sudo chmod 660 {DEVICE}, and be in the group kvm"),
    }
}
