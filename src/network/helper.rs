//! The privileged helpers, ours and QEMU's, as those who call them see them: where they are, whether they have their
//! right, and how one is asked for a TAP.
//!
//! Ours is a package of its own, `kvm-bridge-helper`; what it does it tells there.

pub use model::unprivileged::helper::{HelperProblem, NAME, Right, capability};

use crate::output::errno::reason;
use crate::sys::descriptors::received;
use crate::sys::files;
use crate::sys::program;
use model::error::{Error, Result};
use model::ifname::IfName;
use model::mac::Mac;
use model::unprivileged::helper::{permits_net_admin, refusal};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::AccessFlags;
use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Where it is put, and found when it is not beside us.
pub const OURS: [&str; 3] =
    ["/usr/local/libexec/kvm-bridge-helper", "/usr/libexec/kvm-bridge-helper", "/usr/lib/kvm-bridge/kvm-bridge-helper"];
/// Where distributions put QEMU's: Debian, Ubuntu, Arch and Alpine; Fedora, RHEL, SUSE, Gentoo and Void; older SUSE; NixOS,
/// which gives rights to copies only; a QEMU that somebody built.
pub const SYSTEMS: [&str; 6] = [
    "/usr/lib/qemu/qemu-bridge-helper",
    "/usr/libexec/qemu-bridge-helper",
    "/usr/libexec/qemu/qemu-bridge-helper",
    "/usr/lib/qemu-bridge-helper",
    "/run/wrappers/bin/qemu-bridge-helper",
    "/usr/local/libexec/qemu-bridge-helper",
];
/// Longer than any helper takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// The right of the program at `path`.
pub fn right_of(path: &Path) -> Right {
    let Ok(metadata) = path.metadata() else { return Right::Missing };
    let right = if has_capability(path) {
        Right::Capability
    } else if metadata.uid() == 0 && metadata.mode() & 0o4000 != 0 {
        Right::Setuid
    } else {
        return Right::Missing;
    };
    let flags = nix::sys::statvfs::statvfs(path).map(|file_system| file_system.flags());
    match flags.is_ok_and(|flags| flags.contains(nix::sys::statvfs::FsFlags::ST_NOSUID)) {
        true => Right::Nosuid,
        false if files::check_access(path, AccessFlags::X_OK).is_err() => Right::Closed,
        false => right,
    }
}

/// The attribute with a file's capabilities: struct vfs_cap_data of linux/capability.h.
pub const ATTRIBUTE: &str = "security.capability";

fn has_capability(path: &Path) -> bool {
    let mut value = [0; 24];
    let Ok(size) = rustix::fs::getxattr(path, ATTRIBUTE, &mut value) else { return false };
    // QEMU's takes nothing into effect by itself, ours does.
    size >= 8 && permits_net_admin(&value, is_ours(path))
}

/// Ours, where it is: first as it was installed with this program, then elsewhere; one with its right before one without.
pub fn ours() -> Option<PathBuf> {
    best(beside_us().into_iter().chain(OURS.map(PathBuf::from)))
}

/// Where it may have been installed together with this program: under the same prefix, or in the same folder.
pub fn beside_us() -> Vec<PathBuf> {
    let Ok(program) = std::env::current_exe() else { return Vec::new() };
    let Some(folder) = program.parent() else { return Vec::new() };
    let prefix = folder.parent().map(|prefix| prefix.join("libexec").join(NAME));
    prefix.into_iter().chain([folder.join(NAME)]).collect()
}

/// QEMU's, where it is; one with its right before one without.
pub fn systems() -> Option<PathBuf> {
    best(SYSTEMS.map(PathBuf::from).into_iter())
}

fn best(paths: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    let all: Vec<PathBuf> = paths.filter(|path| path.is_file()).collect();
    all.iter().find(|path| right_of(path).is_there()).or_else(|| all.first()).cloned()
}

/// Whether a helper goes by all of our rules.
pub fn is_ours(helper: &Path) -> bool {
    helper.file_name().is_some_and(|name| name == NAME)
}

/// The helper that is used, with its right: ours, else QEMU's.
pub fn working() -> std::result::Result<(PathBuf, Right), HelperProblem> {
    let with_right = |path: PathBuf| (right_of(&path), path);
    let mut found: Vec<(Right, PathBuf)> = [ours(), systems()].into_iter().flatten().map(with_right).collect();
    // The first that works, else the first that is there.
    found.sort_by_key(|(right, _)| !right.is_there());
    match found.into_iter().next() {
        Some((right, path)) if right.is_there() => Ok((path, right)),
        first => {
            let first = first.as_ref().map(|(right, path)| (path.as_path(), *right, mount_of(path)));
            Err(HelperProblem::of(first))
        }
    }
}

/// The mount point that a file is under.
fn mount_of(path: &Path) -> String {
    let device = |path: &Path| path.metadata().map(|file| file.dev()).ok();
    let own = device(path);
    let above = path.ancestors().take_while(|folder| device(folder) == own).last();
    above.unwrap_or(path).display().to_string()
}

/// Asks a helper for a TAP on a bridge, as QEMU does; and ours for one of a guest with this address.
pub fn ask(helper: &Path, bridge: &IfName, guest: Mac) -> Result<OwnedFd> {
    let cannot = |error: &dyn fmt::Display| {
        Error::new(format!("cannot run {}: {error}", helper.display()), "Have it reinstalled: sudo kvm-bridge install")
    };
    let pair = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC);
    let (ours, theirs) = pair.map_err(|error| cannot(&error.desc()))?;
    // Its socket is its standard input, so that no descriptor has to be kept open across exec by hand.
    let mut command = Command::new(helper);
    command.args(["--use-vnet", "--fd=0", &format!("--br={bridge}")]).stdin(theirs);
    if is_ours(helper) {
        command.arg(format!("--mac={guest}"));
    }
    let answer = program::answer(&mut command, PATIENCE).map_err(|error| cannot(&reason(&error)))?;
    let said = answer.map_or(format!("no word within {} seconds", PATIENCE.as_secs()), |answer| answer.err);
    received(&ours, &mut [0]).and_then(|(_, files)| files.into_iter().next()).ok_or_else(|| refusal(helper, &said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_a_right_has_none() {
        assert_eq!(NAME, kvm_bridge_helper::NAME);
        assert_eq!(right_of(Path::new("/bin/true")), Right::Missing);
        assert_eq!(right_of(Path::new("/missing")), Right::Missing);
    }
}
