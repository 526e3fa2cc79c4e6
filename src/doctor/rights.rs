//! What a user who is not root needs: a helper with the right to attach TAPs, and a rule that lets them on the bridge.

use super::{Check, Patient};
use crate::helper;
use crate::unprivileged;
use kvm_bridge_helper::access::{judge, looked_at};
use kvm_bridge_helper::acl::{Caller, Verdict};
use nix::unistd::{User, geteuid, getgrouplist};
use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use std::ffi::CString;

const HELPER: &str = "Users who are not root get on a bridge by this program alone.";
const ACL: &str = "A bridge that no rule allows is refused to users who are not root.";
const ROOT: &str = "Root makes bridges and TAPs by itself.";

/// Whose rights are looked at.
struct Person {
    name: String,
    caller: Caller,
    /// Whether we are root, who sees more than they do.
    is_other: bool,
}

pub(super) fn checks(patient: &Patient) -> Vec<Check> {
    let Some(person) = person(patient.question.user.as_deref()) else {
        let saw = format!("there is no user {}", patient.question.user.as_deref().unwrap_or_default());
        return vec![Check::failure("helper", saw, HELPER, "getent passwd")];
    };
    if person.caller.uid == 0 {
        let users = match helper::working() {
            Ok((path, right)) => format!("{}, which {right}", path.display()),
            Err(useless) => format!("none: {}", useless.what),
        };
        let saw = format!("root needs no helper; users have {users}");
        return vec![Check::ok("helper", saw, ROOT), Check::ok("acl", "root needs no rule", ROOT)];
    }
    let bridges = patient.bridges.iter().map(|bridge| bridge.detail.link.name.to_string());
    let bridges = bridges.chain(patient.missing.iter().map(|nic| nic.bridge.to_string()));
    let mut checks = vec![has_helper()];
    checks.extend(bridges.map(|bridge| look_as(&person, || is_allowed(&bridge, &person)).of(&bridge)));
    checks
}

fn person(name: Option<&str>) -> Option<Person> {
    let Some(name) = name else {
        return Some(Person { name: unprivileged::user(), caller: unprivileged::caller(), is_other: false });
    };
    let user = User::from_name(name).ok().flatten()?;
    let groups = CString::new(name).ok().and_then(|name| getgrouplist(&name, user.gid).ok());
    let gids = [user.gid].into_iter().chain(groups.unwrap_or_default()).map(|gid| gid.as_raw()).collect();
    let caller = Caller { uid: user.uid.as_raw(), gids };
    Some(Person { name: name.to_owned(), caller, is_other: geteuid().is_root() && !user.uid.is_root() })
}

fn has_helper() -> Check {
    match helper::working() {
        Ok((path, right)) => Check::ok("helper", format!("{} {right}", path.display()), HELPER),
        Err(useless) => {
            let mend = useless.remount.unwrap_or_else(|| "sudo kvm-bridge install".to_owned());
            Check::failure("helper", useless.what, HELPER, mend)
        }
    }
}

fn is_allowed(bridge: &str, person: &Person) -> Check {
    let name = &person.name;
    match judge(bridge.as_bytes(), &person.caller) {
        Ok((Verdict::Allowed(None), _)) => Check::ok("acl", format!("{bridge} is allowed to {name}"), ACL),
        Ok((Verdict::Allowed(Some((max, place))), _)) => {
            Check::ok("acl", format!("{place} allows {name} {max} TAPs on {bridge}"), ACL)
        }
        Ok((Verdict::Denied(place), _)) => {
            let mend = format!("sudoedit {}", place.file.display());
            Check::failure("acl", format!("{place} denies {bridge} to {name}"), ACL, mend)
        }
        Ok((Verdict::NoRule, files)) => {
            let saw = format!("no rule allows {bridge} to {name}: {}", looked_at(&files));
            Check::failure("acl", saw, ACL, format!("sudo kvm-bridge install --allow {bridge}:{name}"))
        }
        Err(fault) => {
            let saw = format!("the rules cannot be gone by as {name}: {}", fault.0);
            Check::failure("acl", saw, ACL, "sudo kvm-bridge install --check")
        }
    }
}

/// Looks as the helper does, which reads the rules with its caller's rights: these decide which files count.
fn look_as(person: &Person, look: impl FnOnce() -> Check + Send) -> Check {
    if !person.is_other {
        return look();
    }
    let cannot = |why: &str| {
        let saw = format!("cannot look as {}: {why}", person.name);
        Check::warning(
            "acl",
            saw,
            ACL,
            format!("Run it as that user: runuser -u {0} -- kvm-bridge doctor", person.name),
        )
    };
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| match become_user(&person.caller) {
            Ok(()) => look(),
            Err(error) => cannot(&crate::error::reason(&error.into())),
        });
        looking.join().unwrap_or_else(|_| cannot("it was not to be done"))
    })
}

/// Makes this thread, and it alone, somebody else, for as long as it lives.
fn become_user(caller: &Caller) -> rustix::io::Result<()> {
    let gids: Vec<Gid> = caller.gids.iter().map(|gid| Gid::from_raw(*gid)).collect();
    set_thread_groups(&gids)?;
    if let Some(gid) = gids.first() {
        set_thread_res_gid(*gid, *gid, *gid)?;
    }
    let uid = Uid::from_raw(caller.uid);
    set_thread_res_uid(uid, uid, uid)
}
