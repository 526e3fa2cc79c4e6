//! What a user who is not root needs: a helper with the right to attach TAPs, and a rule that lets them on the bridge.

use crate::doctor::{Check, Context};
use crate::install;
use crate::install::{Finding, sudo};
use crate::launch;
use crate::network::helper;
use crate::network::user::Person;
use crate::output::errno::reason;
use crate::sys::program;
use kvm_bridge_helper::access::{judge, looked_at};
use kvm_bridge_helper::acl::{Acl, Verdict};
use kvm_bridge_helper::files::rules;
use model::text::shell::quote;

const HELPER: &str = "Users who are not root get on a bridge by this program alone.";
const ACL: &str = "A bridge that no rule allows is refused to users who are not root.";
const ROOT: &str = "Root makes bridges and TAPs by itself.";

pub(super) fn checks(context: &Context) -> Vec<Check> {
    let name = context.query.user.as_deref();
    let Some(person) = name.map_or_else(|| Some(Person::caller()), Person::named) else {
        let observed = format!("there is no user {}", context.query.user.as_deref().unwrap_or_default());
        return vec![Check::failure("helper", observed, HELPER, "getent passwd")];
    };
    if person.caller.uid == 0 {
        let users = match helper::working() {
            Ok((path, right)) => format!("{}, which {right}", path.display()),
            Err(problem) => format!("none: {}", problem.what),
        };
        let observed = format!("root needs no helper; users have {users}");
        let mut checks = vec![Check::ok("helper", observed, ROOT), Check::ok("acl", "root needs no rule", ROOT)];
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
    const WHY: &str = "sudo gives a program a fresh environment: without the variable, qemu-kvm is QEMU alone.";
    std::env::var_os(launch::NICS).filter(|value| !value.is_empty())?;
    let observed = format!("{} is set, and 'sudo qemu-kvm' loses it, unless sudo is told to keep it", launch::NICS);
    program::is_installed("sudo").then(|| Check::warning("sudo", observed, WHY, sudo::KEEP))
}

/// The rules that allow nothing by mistake, and those that refuse everybody; who is no root is told with the refusal.
fn slips() -> Vec<Check> {
    let acl = match Acl::read(rules) {
        Ok(acl) => acl,
        Err(fault) => return vec![Check::failure("acl", fault.0, ACL, "sudo kvm-bridge install --check")],
    };
    let check = |fault: &Finding| {
        let file = fault.place.as_ref().map(|(file, _)| format!("sudoedit {}", file.display()));
        Check::warning("acl", fault.to_string(), ACL, file.unwrap_or_default())
    };
    install::faults(&acl).iter().map(check).collect()
}

fn look_as(person: &Person, look: impl FnOnce() -> Check + Send) -> Check {
    person.look(look).unwrap_or_else(|error| {
        let name = &person.name;
        let observed = format!("cannot look as {name}: {}", reason(&error));
        Check::warning(
            "acl",
            observed,
            ACL,
            format!("Run it as that user: runuser -u {} -- kvm-bridge doctor", quote(name)),
        )
    })
}

fn has_helper() -> Check {
    match helper::working() {
        Ok((path, right)) => Check::ok("helper", format!("{} {right}", path.display()), HELPER),
        Err(problem) => {
            let fix = problem.fix.map_or_else(|| "sudo kvm-bridge install".to_owned(), |(_, command)| command);
            Check::failure("helper", problem.what, HELPER, fix)
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
            let fix = format!("sudoedit {}", place.file.display());
            Check::failure("acl", format!("{place} denies {bridge} to {name}"), ACL, fix)
        }
        Ok((Verdict::NoRule, acl)) => {
            let observed = format!("no rule allows {bridge} to {name}: {}", looked_at(&acl));
            Check::failure(
                "acl",
                observed,
                ACL,
                format!("sudo kvm-bridge install --allow {}", quote(format!("{bridge}:{name}"))),
            )
        }
        Err(fault) => {
            let observed = format!("the rules cannot be gone by as {name}: {}", fault.0);
            Check::failure("acl", observed, ACL, "sudo kvm-bridge install --check")
        }
    }
}
