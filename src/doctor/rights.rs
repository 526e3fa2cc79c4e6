//! What a user who is not root needs: a helper with the privilege to attach TAPs, and a line in its access list.

use super::acl::{Decision, FILES, decide};
use super::{Check, Patient};
use crate::sys::xattr;
use nix::unistd::{Uid, User, geteuid};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Where helpers are, ours first.
const HELPERS: [&str; 5] = [
    "/usr/local/lib/kvm-bridge/kvm-bridge-helper",
    "/usr/lib/kvm-bridge/kvm-bridge-helper",
    "/usr/libexec/kvm-bridge-helper",
    "/usr/lib/qemu/qemu-bridge-helper",
    "/usr/libexec/qemu-bridge-helper",
];

const HELPER: &str = "Users who are not root get on a bridge by this program alone.";
const ACL: &str = "A bridge that this list does not allow is refused to users who are not root.";

pub(super) fn checks(patient: &Patient) -> Vec<Check> {
    let (uid, name) = match &patient.question.user {
        None => (geteuid(), "this user".to_owned()),
        Some(name) => match User::from_name(name) {
            Ok(Some(user)) => (user.uid, name.clone()),
            _ => {
                let saw = format!("there is no user {name}");
                return vec![Check::failure("helper", saw, HELPER, "getent passwd")];
            }
        },
    };
    if uid.is_root() {
        let why = "Root makes bridges and TAPs by itself.";
        let saw = match HELPERS.iter().find(|path| Path::new(path).exists()) {
            Some(path) => format!("root needs no helper; users have {path}, {}", privilege(Path::new(path)).describe()),
            None => "root needs no helper; users have none".to_owned(),
        };
        return vec![Check::ok("helper", saw, why), Check::ok("acl", "root is on no list and needs none", why)];
    }
    let mut checks = vec![helper()];
    let bridges = patient.bridges.iter().map(|bridge| bridge.detail.link.name.to_string());
    let bridges = bridges.chain(patient.missing.iter().map(|nic| nic.bridge.to_string()));
    checks.extend(bridges.map(|bridge| acl(&bridge, &name, uid).of(&bridge)));
    checks
}

/// What makes a program more than its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Privilege {
    Capability,
    Setuid,
    Ignored,
    None,
}

impl Privilege {
    fn describe(self) -> &'static str {
        match self {
            Self::Capability => "with the capability cap_net_admin",
            Self::Setuid => "setuid root",
            Self::Ignored => "on a file system that is mounted nosuid",
            Self::None => "without any privilege",
        }
    }
}

fn privilege(path: &Path) -> Privilege {
    const SETUID: u32 = 0o4000;
    let is_setuid = path.metadata().is_ok_and(|file| file.uid() == 0 && file.mode() & SETUID != 0);
    let found = match xattr::permitted_capabilities(path) {
        Some(set) if set & xattr::NET_ADMIN != 0 => Privilege::Capability,
        _ if is_setuid => Privilege::Setuid,
        _ => return Privilege::None,
    };
    let flags = nix::sys::statvfs::statvfs(path).map(|found| found.flags());
    let is_ignored = flags.is_ok_and(|flags| flags.contains(nix::sys::statvfs::FsFlags::ST_NOSUID));
    if is_ignored { Privilege::Ignored } else { found }
}

fn helper() -> Check {
    let found: Vec<(&Path, Privilege)> =
        HELPERS.iter().map(Path::new).filter(|path| path.exists()).map(|path| (path, privilege(path))).collect();
    let works = |(_, privilege): &&(&Path, Privilege)| matches!(privilege, Privilege::Capability | Privilege::Setuid);
    match (found.iter().find(works), found.first()) {
        (Some((path, privilege)), _) => {
            Check::ok("helper", format!("{} is there, {}", path.display(), privilege.describe()), HELPER)
        }
        (None, Some((path, Privilege::Ignored))) => {
            let saw = format!("{} is {}", path.display(), Privilege::Ignored.describe());
            let folder = path.parent().unwrap_or(path).display();
            Check::failure(
                "helper",
                saw,
                HELPER,
                format!("sudo mount -o remount,suid $(findmnt -no TARGET -T {folder})"),
            )
        }
        (None, Some((path, _))) => {
            let saw = format!("{} is there, {}", path.display(), Privilege::None.describe());
            Check::failure("helper", saw, HELPER, format!("sudo setcap cap_net_admin+ep {}", path.display()))
        }
        (None, None) => Check::failure(
            "helper",
            "there is no bridge helper",
            HELPER,
            "sudo apt install qemu-system-common || sudo dnf install qemu-common",
        ),
    }
}

fn acl(bridge: &str, name: &str, _uid: Uid) -> Check {
    let lists = FILES.iter().map(Path::new).filter(|path| path.exists());
    let decisions: Vec<Decision> = lists.map(|list| decide(list, bridge)).collect();
    let denied = decisions.iter().find(|decision| matches!(decision, Decision::Denied(..)));
    let allowed = decisions.iter().find(|decision| matches!(decision, Decision::Allowed(..)));
    let unreadable = decisions.iter().find(|decision| matches!(decision, Decision::Unreadable(..)));
    let allow = format!("echo 'allow {bridge}' | sudo tee -a {}", FILES[0]);
    match denied.or(allowed).or(unreadable) {
        Some(Decision::Denied(file, line)) => {
            let saw = format!("{}, line {line}, denies {bridge} to {name}", file.display());
            Check::failure("acl", saw, ACL, format!("sudo sed -i '{line}d' {}; {allow}", file.display()))
        }
        Some(Decision::Allowed(file, line)) => {
            Check::ok("acl", format!("{}, line {line}, allows {bridge}", file.display()), ACL)
        }
        Some(Decision::Unreadable(file, why)) => {
            let saw = format!("{name} cannot read {}: {why}", file.display());
            Check::failure("acl", saw, ACL, format!("sudo chmod a+r {}", file.display()))
        }
        _ if decisions.is_empty() => {
            let saw = format!("there is no {}", FILES.join(" and no "));
            Check::failure("acl", saw, ACL, format!("sudo mkdir -p /etc/qemu; {allow}"))
        }
        _ => Check::failure("acl", format!("no line allows {bridge}"), ACL, allow),
    }
}
