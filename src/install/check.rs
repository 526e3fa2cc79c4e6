//! What is missing.
#![forbid(unsafe_code)]

use crate::install::{Allow, is_roots_own, open_part};
use crate::network::helper;
use crate::network::helper::Right;
use crate::network::user::Person;
use crate::sys::{files, tap};
use kvm_bridge_helper::acl::{self, Acl, Verdict};
use kvm_bridge_helper::files::rules;
use model::error::{Error, Result};
use nix::unistd::AccessFlags;
use std::fmt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Tells what is there, or as an error all that is missing. Changes nothing, and needs no right.
pub fn check(allows: &[Allow]) -> Result<String> {
    let (mut there, mut missing) = (String::new(), Vec::new());
    let mut commands = String::from("sudo kvm-bridge install");
    match helper::ours() {
        None => missing.push(format!("no {} is installed", helper::NAME)),
        Some(path) => match Right::of(&path) {
            _ if !is_roots_own(&path) => {
                let part = open_part(&path, None).unwrap_or_else(|| path.clone());
                missing.push(format!(
                    "others than root can replace {}, since they can write to {1}: sudo chmod go-w {1}",
                    path.display(),
                    part.display()
                ));
            }
            right if right.is_there() => there += &format!("{} {right}\n", path.display()),
            right => missing.push(format!("{} {right}", path.display())),
        },
    }
    missing.extend(device());
    let closed = closed(allows)?;
    let is_open = closed.is_empty();
    missing.extend(closed);
    let mut has_broken_rules = false;
    let mut ask_for = |allow: &dyn fmt::Display| commands += &format!(" --allow {allow}");
    match Acl::read(rules) {
        // It is among what is closed.
        Err(_) if !is_open => {}
        Err(fault) => {
            has_broken_rules = true;
            missing.push(format!("the rules cannot be gone by: {}", fault.0));
        }
        Ok(acl) if acl.files.is_empty() => {
            missing.push(format!("no bridge is allowed to anybody: there is neither {} nor {}", acl::QEMU, acl::OURS));
            match allows {
                [] => ask_for(&"BRIDGE:USER"),
                allows => allows.iter().for_each(|allow| ask_for(allow)),
            }
        }
        Ok(acl) => {
            let files: Vec<String> = acl.files.iter().map(|file| file.display().to_string()).collect();
            there += &format!("rules are read from {}\n", files.join(" and "));
            missing.extend(acl.slips().map(|slip| slip.to_string()));
            for allow in allows {
                let of = allow.person()?.name;
                match allow.verdict()? {
                    Verdict::Allowed(_) => there += &format!("{} is allowed to {of}\n", allow.bridge),
                    Verdict::Denied(place) => missing.push(format!("{place} denies {} to {of}", allow.bridge)),
                    Verdict::NoRule => {
                        missing.push(format!("no rule allows {} to {of}", allow.bridge));
                        ask_for(allow);
                    }
                }
            }
        }
    }
    match missing.is_empty() {
        true => Ok(there),
        false if has_broken_rules => {
            Err(Error::new(missing.join("\n  "), format!("Mend that line with an editor, as root; then: {commands}")))
        }
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

/// What keeps those whom it is about from the helper and the rules, which they read with their own rights: everybody, if
/// nobody is named and root asks.
pub(super) fn closed(allows: &[Allow]) -> Result<Vec<String>> {
    let mut people = allows.iter().map(Allow::person).collect::<Result<Vec<_>>>()?;
    if people.is_empty() {
        people.push(if nix::unistd::geteuid().is_root() { Person::anybody() } else { Person::caller() });
    }
    let files = helper::ours().map(|path| (path, Need::Execute));
    let files = files.into_iter().chain([acl::QEMU, acl::OURS].map(|path| (path.into(), Need::Read)));
    let files: Vec<(PathBuf, Need)> = files.collect();
    let mut closed = Vec::new();
    for person in people {
        closed.extend(files.iter().filter_map(|(path, need)| need.is_missing(path, &person)));
    }
    closed.dedup();
    Ok(closed)
}

/// What a user has to be able to do with a file.
#[derive(Debug, Clone, Copy)]
enum Need {
    Execute,
    Read,
}

impl Need {
    /// That the person cannot, and the command that lets them.
    fn is_missing(self, path: &Path, person: &Person) -> Option<String> {
        let (verb, flag, bit, mode) = match self {
            Self::Execute => ("execute", AccessFlags::X_OK, 1, "a+rx"),
            Self::Read => ("read", AccessFlags::R_OK, 4, "a+r"),
        };
        let is_anybody = *person == Person::anybody();
        // A list of access rights can give more than the mode does.
        let can = || matches!(files::check_access(path, flag), Ok(()) | Err(nix::Error::ENOENT));
        if !is_anybody && person.look(can).unwrap_or_default() {
            return None;
        }
        let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let mut parts: Vec<&Path> = whole.ancestors().collect();
        parts.reverse();
        parts.into_iter().find_map(|part| {
            let file = part.metadata().ok()?;
            let (bit, mode) = if file.is_dir() { (1, "a+rx") } else { (bit, mode) };
            let may = if person.caller.uid == file.uid() {
                file.mode() >> 6
            } else if person.caller.gids.contains(&file.gid()) {
                file.mode() >> 3
            } else if is_anybody && file.gid() != 0 {
                // Who is in that group may: so it was meant.
                file.mode() | file.mode() >> 3
            } else {
                file.mode()
            };
            let (shown, name) = (file.mode() & 0o7777, if is_anybody { "users" } else { &person.name });
            (may & bit == 0).then(|| {
                let part = part.display();
                format!(
                    "{name} cannot {verb} {}: {part} has mode {shown:04o}: sudo chmod {mode} {part}",
                    path.display()
                )
            })
        })
    }
}
