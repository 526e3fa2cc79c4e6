//! A guest that is to move here from another host.

use crate::doctor::Context;
use crate::launch;
use crate::network::user::Person;
use crate::sys::place;
use crate::vm::{Store, id_of};
use kvm_bridge_helper::access::judge;
use kvm_bridge_helper::acl::{Grant, Verdict};
use model::argv::lacks::Answers;
use model::check::Check;
use model::check::incoming::{INCOMING, addresses, machine, unseen};
use model::error::Result;
use model::text;
use model::text::shell::quote;
use port::Guard;

pub(super) fn checks(context: &Context) -> Result<Vec<Check>> {
    let Some(incoming) = &context.query.incoming else { return Ok(Vec::new()) };
    let vm = text::one_line(&incoming.vm);
    let store = Store::open()?;
    let (records, _) = store.list()?;
    let line = context.line.as_ref();
    // What its start is going to look for.
    let key = store.called(&incoming.vm)?.text;
    let given: Vec<_> = line.iter().flat_map(|line| line.nics.iter().map(|nic| nic.mac)).collect();
    let mut checks = Vec::new();
    if let Some(own) = line.map(|line| id_of(&line.vm).text).filter(|own| *own != key) {
        let observed = format!("by its arguments it is {}, whose MAC addresses it gets", text::one_line(&own));
        checks.push(INCOMING.failure(observed, format!("qemu-kvm -name {} ...", quote(&incoming.vm))));
    }
    checks.push(addresses(&vm, records.iter().find(|record| record.vm == key), incoming.mac, &given));
    let name = line.and_then(|line| line.machine.as_ref()).map(|name| String::from_utf8_lossy(name).into_owned());
    let name = name.as_deref().map(|name| text::one_line(name.split(',').next().unwrap_or_default()));
    let help = launch::find("qemu-kvm".as_ref(), &context.config).ok();
    let help = help.and_then(|qemu| qemu.text_of(&["-machine", "help"], &|text| text.contains(" machine")));
    checks.push(machine(name.as_deref(), help.as_deref()));
    let bridges = context.bridges.iter().map(|bridge| bridge.detail.link.name.to_string());
    let bridges = bridges.chain(context.missing.iter().map(|(bridge, _)| bridge.to_string()));
    for bridge in bridges {
        checks.extend(guarded(context, &bridge));
        checks.push(unseen(&bridge));
    }
    Ok(checks.into_iter().map(|check| check.of(&vm)).collect())
}

/// A helper refuses a guest of a user's an address that the bridge knows elsewhere, unless a rule does without the guard.
fn guarded(context: &Context, bridge: &str) -> Option<Check> {
    let person = context.query.user.as_deref().map_or_else(|| Some(Person::caller()), Person::named)?;
    if person.caller.uid == 0 || place::user_network().is_some() {
        return None;
    }
    let look = || match judge(bridge.as_bytes(), &person.caller) {
        Ok((Verdict::Allowed(Grant { policy, .. }), _)) if policy.guard == Guard::Off => {
            Some(INCOMING.ok(format!("the port of {}'s guest on {bridge} has no guard", person.name)))
        }
        Ok((Verdict::Allowed(_), _)) => {
            let observed = format!(
                "the helper refuses an address that {bridge} knows elsewhere, as this one while the guest runs at the other host"
            );
            let rule = format!("allow {} user {} guard off", quote(bridge), quote(&person.name));
            Some(INCOMING.failure(observed, format!("sudoedit /etc/kvm-bridge/bridge.conf   # {rule}")))
        }
        // Others tell of a bridge that is not allowed.
        _ => None,
    };
    person.look(look).ok().flatten()
}
