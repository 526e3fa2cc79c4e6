//! What is missing.
#![forbid(unsafe_code)]

use super::{Allow, is_roots_own};
use crate::error::{Error, Result};
use crate::helper::{self, Right};
use crate::sys::tap;
use kvm_bridge_helper::acl::{self, Acl, Verdict};
use kvm_bridge_helper::files::rules;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Tells what is there, or as an error all that is missing. Changes nothing, and needs no right.
pub fn check(allows: &[Allow]) -> Result<String> {
    let (mut there, mut missing) = (String::new(), Vec::new());
    let mut commands = String::from("sudo kvm-bridge install");
    match helper::ours() {
        None => missing.push(format!("no {} is installed", helper::NAME)),
        Some(path) => match Right::of(&path) {
            _ if !is_roots_own(&path) => {
                missing.push(format!("{}, or a folder above it, can be written by others than root", path.display()));
            }
            right if right.is_there() => there += &format!("{} {right}\n", path.display()),
            right => missing.push(format!("{} {right}", path.display())),
        },
    }
    missing.extend(device());
    match Acl::read(rules) {
        Err(fault) => missing.push(format!("the rules cannot be gone by: {}", fault.0)),
        Ok(acl) if acl.files.is_empty() => {
            missing.push(format!("no bridge is allowed to anybody: there is neither {} nor {}", acl::QEMU, acl::OURS));
            commands += " --allow BRIDGE:USER";
        }
        Ok(acl) => {
            let files: Vec<String> = acl.files.iter().map(|file| file.display().to_string()).collect();
            there += &format!("rules are read from {}\n", files.join(" and "));
            for allow in allows {
                let of = allow.user.as_deref().unwrap_or("everybody");
                match allow.verdict()? {
                    Verdict::Allowed(_) => there += &format!("{} is allowed to {of}\n", allow.bridge),
                    Verdict::Denied(place) => missing.push(format!("{place} denies {} to {of}", allow.bridge)),
                    Verdict::NoRule => {
                        missing.push(format!("no rule allows {} to {of}", allow.bridge));
                        let user = allow.user.as_ref().map(|user| format!(":{user}")).unwrap_or_default();
                        commands += &format!(" --allow {}{user}", allow.bridge);
                    }
                }
            }
        }
    }
    match missing.is_empty() {
        true => Ok(there),
        false => Err(Error::new(missing.join("\n  "), format!("To set up what can be: {commands}"))),
    }
}

/// What keeps users from /dev/net/tun, which is everybody's on usual distributions.
pub(super) fn device() -> Option<String> {
    let Ok(device) = Path::new(tap::DEVICE).metadata() else {
        return Some(format!("there is no {}: sudo modprobe tun", tap::DEVICE));
    };
    let mode = device.permissions().mode() & 0o777;
    let is_open = mode & 0o006 == 0o006 || mode & 0o060 == 0o060;
    (!is_open).then(|| {
        format!("{0} is not for users (mode {mode:04o}; most distributions have 0666): sudo chmod 666 {0}", tap::DEVICE)
    })
}
