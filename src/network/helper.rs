//! The privileged helpers, ours and QEMU's, as those who call them see them: where they are, whether they have their
//! right, and how one is asked for a TAP.
//!
//! Ours is a package of its own, `kvm-bridge-helper`; what it does it tells there.

use crate::sys::{files, program};
use model::error::{Error, Result};
use model::ifname::IfName;
use nix::sys::socket::{AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair};
use nix::unistd::AccessFlags;
use std::fmt;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Our helper's name.
pub const NAME: &str = kvm_bridge_helper::NAME;
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

/// Whether a program of root's gives its caller CAP_NET_ADMIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// By its file capability.
    Capability,
    /// It is setuid root.
    Setuid,
    /// It is neither.
    Missing,
    /// It would, but for its file system, which is mounted nosuid.
    Nosuid,
    /// It would, but this process may not execute it.
    Closed,
}

impl Right {
    /// Of the program at `path`.
    pub fn of(path: &Path) -> Self {
        let Ok(metadata) = path.metadata() else { return Self::Missing };
        let right = if has_capability(path) {
            Self::Capability
        } else if metadata.uid() == 0 && metadata.mode() & 0o4000 != 0 {
            Self::Setuid
        } else {
            return Self::Missing;
        };
        let flags = nix::sys::statvfs::statvfs(path).map(|file_system| file_system.flags());
        match flags.is_ok_and(|flags| flags.contains(nix::sys::statvfs::FsFlags::ST_NOSUID)) {
            true => Self::Nosuid,
            false if files::check_access(path, AccessFlags::X_OK).is_err() => Self::Closed,
            false => right,
        }
    }

    /// Whether it works.
    pub fn is_there(self) -> bool {
        matches!(self, Self::Capability | Self::Setuid)
    }
}

/// The end of a sentence about the program.
impl fmt::Display for Right {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Capability => "has the capability cap_net_admin",
            Self::Setuid => "is setuid root",
            Self::Missing => "has neither the capability cap_net_admin nor setuid root",
            Self::Nosuid => "is on a file system that is mounted nosuid, where it has no rights",
            Self::Closed => "is not for you to execute",
        })
    }
}

/// The attribute with a file's capabilities: struct vfs_cap_data of linux/capability.h.
pub const ATTRIBUTE: &str = "security.capability";
/// CAP_NET_ADMIN in its first word of permitted capabilities.
const NET_ADMIN: u32 = 1 << 12;

/// The value that permits CAP_NET_ADMIN and puts it into effect nowhere but where the program does so itself.
pub fn capability() -> [u8; 20] {
    let mut value = [0; 20];
    value[..4].copy_from_slice(&0x0200_0000_u32.to_le_bytes());
    value[4..8].copy_from_slice(&NET_ADMIN.to_le_bytes());
    value
}

fn has_capability(path: &Path) -> bool {
    let mut value = [0; 24];
    let Ok(size) = rustix::fs::getxattr(path, ATTRIBUTE, &mut value) else { return false };
    let permitted = value.get(4..8).and_then(|word| Some(u32::from_le_bytes(word.try_into().ok()?)));
    // VFS_CAP_FLAGS_EFFECTIVE: QEMU's takes nothing into effect by itself.
    let is_in_effect = value[0] & 1 != 0;
    size >= 8 && (is_in_effect || is_ours(path)) && permitted.is_some_and(|permitted| permitted & NET_ADMIN != 0)
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
    all.iter().find(|path| Right::of(path).is_there()).or_else(|| all.first()).cloned()
}

/// Whether a helper goes by all of our rules.
pub fn is_ours(helper: &Path) -> bool {
    helper.file_name().is_some_and(|name| name == NAME)
}

/// Why no helper works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelperProblem {
    /// What is wrong.
    pub what: String,
    /// What fixes it, and the command, where installing ours does not.
    pub fix: Option<(&'static str, String)>,
}

/// The helper that is used, with its right: ours, else QEMU's.
pub fn working() -> std::result::Result<(PathBuf, Right), HelperProblem> {
    let found: Vec<(PathBuf, Right)> = [ours(), systems()]
        .into_iter()
        .flatten()
        .map(|path| {
            let right = Right::of(&path);
            (path, right)
        })
        .collect();
    if let Some(works) = found.iter().find(|(_, right)| right.is_there()) {
        return Ok(works.clone());
    }
    let Some((path, right)) = found.first() else {
        return Err(HelperProblem { what: "no helper is installed".into(), fix: None });
    };
    let fix = match right {
        Right::Nosuid => Some(("mounted with suid", format!("sudo mount -o remount,suid {}", mount_of(path)))),
        Right::Closed => Some(("made executable for users", format!("sudo chmod a+rx {}", path.display()))),
        _ => None,
    };
    Err(HelperProblem { what: format!("{} {right}", path.display()), fix })
}

/// The mount point that a file is under.
fn mount_of(path: &Path) -> String {
    let device = |path: &Path| path.metadata().map(|file| file.dev()).ok();
    let own = device(path);
    let above = path.ancestors().take_while(|folder| device(folder) == own).last();
    above.unwrap_or(path).display().to_string()
}

/// Asks a helper for a TAP on a bridge, as QEMU does.
pub fn ask(helper: &Path, bridge: &IfName) -> Result<OwnedFd> {
    let cannot = |error: &dyn fmt::Display| {
        Error::new(format!("cannot run {}: {error}", helper.display()), "Have it reinstalled: sudo kvm-bridge install")
    };
    let pair = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC);
    let (ours, theirs) = pair.map_err(|error| cannot(&error.desc()))?;
    // Its socket is its standard input, so that no descriptor has to be kept open across exec by hand.
    let mut command = Command::new(helper);
    command.args(["--use-vnet", "--fd=0", &format!("--br={bridge}")]).stdin(theirs);
    let answer =
        program::answer(&mut command, PATIENCE).map_err(|error| cannot(&crate::output::errno::reason(&error)))?;
    let said = answer.map_or(format!("no word within {} seconds", PATIENCE.as_secs()), |answer| answer.err);
    receive(&ours).ok_or_else(|| refusal(helper, &said))
}

/// The helper's own words, ours with a remedy in the second line.
fn refusal(helper: &Path, said: &str) -> Error {
    let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or("it ended without a word");
    let rest: Vec<&str> = lines.collect();
    let what = first.strip_prefix(NAME).and_then(|text| text.strip_prefix(": ")).unwrap_or(first);
    let remedy =
        if rest.is_empty() { "Ask your admin for: sudo kvm-bridge install".to_owned() } else { rest.join(" ") };
    Error::new(format!("{} says: {what}", helper.display()), remedy)
}

/// The descriptor that has come with a byte, if one has.
fn receive(socket: &OwnedFd) -> Option<OwnedFd> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = loop {
        let received = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags);
        match received {
            Err(nix::Error::EINTR) => {}
            received => break received.ok()?,
        }
    };
    let mut descriptors = message.cmsgs().ok()?.filter_map(|part| match part {
        ControlMessageOwned::ScmRights(numbers) => numbers.first().copied(),
        _ => None,
    });
    descriptors.next().map(crate::sys::files::own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_both_helpers_are_passed_on() {
        let said = |text: &str| refusal(Path::new("/x"), text).to_string();
        assert_eq!(said("kvm-bridge-helper: a\n  Do b.\n"), "/x says: a\n  Do b.");
        assert!(said("access denied by acl file\n").starts_with("/x says: access denied by acl file\n  Ask"));
        assert!(said("").contains("without a word"));
    }

    #[test]
    fn a_program_without_a_right_has_none() {
        assert_eq!(Right::of(Path::new("/bin/true")), Right::Missing);
        assert_eq!(Right::of(Path::new("/missing")), Right::Missing);
    }
}
