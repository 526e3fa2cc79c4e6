//! Networks of the host's own: whether they are whole, and whether others are in their way.

use crate::doctor::Context;
use crate::network::uplink::nat::{gateway, rules};
use crate::sys::{process, sysctl};
use model::check::nat::{self, FREE, OTHERS, RULES};
use model::check::{Check, Verdict};

pub(super) fn checks(context: &mut Context) -> Vec<Check> {
    let mut checks = Vec::new();
    for bridge in &context.bridges {
        let (Some(found), Some(journal)) = (&bridge.nat, &bridge.journal) else { continue };
        let name = &journal.bridge;
        let subnet = match gateway::taken(&mut context.netlink, Some(journal.index)) {
            Ok(taken) => nat::free(name, found.network.subnet, &taken),
            Err(error) => FREE.error(Verdict::Warning, &error),
        };
        let forwards = sysctl::read(name.as_str(), "ipv4/forwarding").as_deref() != Some("0");
        let mut own = vec![subnet, nat::served(found.has_server), nat::forwards(forwards)];
        own.extend(nat::relayed(&found.cut_off));
        if process::can_change_network() {
            own.push(nat::masquerades(found.masqueraded.flatten()));
            match rules::blocked(name) {
                Ok(blocked) => own.extend(nat::passed(name, &blocked)),
                Err(error) => own.push(OTHERS.error(Verdict::Warning, &error)),
            }
        } else {
            own.push(RULES.warning("only root can look at its rules", "sudo kvm-bridge doctor"));
        }
        checks.extend(own.into_iter().map(|check| check.of(name)));
    }
    checks
}
