//! What a user who is not root needs: a helper with the right to attach TAPs, and a rule that lets them on the bridge.

use crate::doctor::Context;
use crate::install;
use crate::install::{Finding, sudo};
use crate::launch;
use crate::network::helper;
use crate::network::user::Person;
use crate::output::errno::reason;
use crate::sys::program;
use kvm_bridge_helper::access::{judge, looked_at};
use kvm_bridge_helper::acl::{Acl, Grant, Verdict};
use kvm_bridge_helper::files::rules;
use model::check::{Check, Topic};
use model::text::shell::quote;

const HELPER: Topic = Topic(
    "helper",
    "Users who are not root get on a bridge of the host's by this program alone; uplink=user needs none.",
);
const ACL: Topic = Topic("acl", "A bridge that no rule allows is refused to users who are not root.");

pub(super) fn checks(context: &Context) -> Vec<Check> {
    let name = context.query.user.as_deref();
    let Some(person) = name.map_or_else(|| Some(Person::caller()), Person::named) else {
        let observed = format!("there is no user {}", context.query.user.as_deref().unwrap_or_default());
        return vec![HELPER.failure(observed, "getent passwd")];
    };
    if person.caller.uid == 0 {
        let users = match helper::working() {
            Ok((path, right)) => format!("{}, which {right}", path.display()),
            Err(problem) => format!("none: {}", problem.what),
        };
        let observed = format!("root needs no helper; users have {users}");
        let of_root = |name| Topic(name, "Root makes bridges and TAPs by itself.");
        let mut checks = vec![of_root("helper").ok(observed), of_root("acl").ok("root needs no rule")];
        checks.extend(slips());
        return checks;
    }
    let bridges = context.bridges.iter().map(|bridge| bridge.detail.link.name.to_string());
    let bridges = bridges.chain(context.missing.iter().map(|(bridge, _)| bridge.to_string()));
    let mut checks = vec![look_as(&person, has_helper)];
    checks.extend(kept_by_sudo());
    checks.extend(bridges.map(|bridge| look_as(&person, || is_allowed(&bridge, &person)).of(&bridge)));
    checks
}

/// Whether the caller relies on a variable that sudo takes away.
fn kept_by_sudo() -> Option<Check> {
    const SUDO: Topic =
        Topic("sudo", "sudo gives a program a fresh environment: without the variable, qemu-kvm is QEMU alone.");
    std::env::var_os(launch::NICS).filter(|value| !value.is_empty())?;
    let observed = format!("{} is set, and 'sudo qemu-kvm' loses it, unless sudo is told to keep it", launch::NICS);
    program::is_installed("sudo").then(|| SUDO.warning(observed, sudo::KEEP))
}

/// The rules that allow nothing by mistake, and those that refuse everybody; who is no root is told with the refusal.
fn slips() -> Vec<Check> {
    let acl = match Acl::read(rules) {
        Ok(acl) => acl,
        Err(fault) => return vec![ACL.failure(fault.0, "sudo kvm-bridge install --check")],
    };
    let check = |fault: &Finding| {
        let file = fault.place.as_ref().map(|(file, _)| format!("sudoedit {}", file.display()));
        ACL.warning(fault.to_string(), file.unwrap_or_default())
    };
    install::faults(&acl).iter().map(check).collect()
}

fn look_as(person: &Person, look: impl FnOnce() -> Check + Send) -> Check {
    person.look(look).unwrap_or_else(|error| {
        let name = &person.name;
        let observed = format!("cannot look as {name}: {}", reason(&error));
        ACL.warning(observed, format!("Run it as that user: runuser -u {} -- kvm-bridge doctor", quote(name)))
    })
}

fn has_helper() -> Check {
    match helper::working() {
        Ok((path, right)) => HELPER.ok(format!("{} {right}", path.display())),
        Err(problem) => {
            let fix = problem.fix.map_or_else(|| "sudo kvm-bridge install".to_owned(), |(_, command)| command);
            HELPER.failure(problem.what, fix)
        }
    }
}

fn is_allowed(bridge: &str, person: &Person) -> Check {
    let name = &person.name;
    match judge(bridge.as_bytes(), &person.caller) {
        Ok((Verdict::Allowed(Grant { max, policy, .. }), _)) => {
            let held = if policy.is_free() { "held to nothing".to_owned() } else { policy.to_string() };
            ACL.ok(match max {
                None => format!("{bridge} is allowed to {name}: {held}"),
                Some((max, place)) => format!("{place} allows {name} {max} TAPs on {bridge}: {held}"),
            })
        }
        Ok((Verdict::Denied(place), _)) => {
            let fix = format!("sudoedit {}", place.file.display());
            ACL.failure(format!("{place} denies {bridge} to {name}"), fix)
        }
        Ok((Verdict::NoRule, acl)) => {
            let observed = format!("no rule allows {bridge} to {name}: {}", looked_at(&acl));
            ACL.failure(observed, format!("sudo kvm-bridge install --allow {}", quote(format!("{bridge}:{name}"))))
        }
        Err(fault) => {
            let observed = format!("the rules cannot be gone by as {name}: {}", fault.0);
            ACL.failure(observed, "sudo kvm-bridge install --check")
        }
    }
}
