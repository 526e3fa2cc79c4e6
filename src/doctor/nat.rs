//! Networks of the host's own: whether they are whole, and whether others are in their way.

use crate::doctor::{Check, Context};
use crate::network::inventory::OwnNetwork;
use crate::network::uplink::nat::{gateway, rules};
use crate::sys::{process, sysctl};
use model::ifname::IfName;
use model::nat::subnet::is_free;
use model::text::shell::quote;

const RECOVER: &str = "kvm-bridge recover";

pub(super) fn checks(context: &mut Context) -> Vec<Check> {
    let mut checks = Vec::new();
    for bridge in &context.bridges {
        let (Some(nat), Some(journal)) = (&bridge.nat, &bridge.journal) else { continue };
        let name = &journal.bridge;
        let subnet = match gateway::taken(&mut context.netlink, Some(journal.index)) {
            Ok(taken) => free(name, nat, is_free(nat.network.subnet, &taken).err().map(|other| other.to_string())),
            Err(error) => Check::of_error("nat", super::Verdict::Warning, &error, FREE),
        };
        let mut own = vec![subnet, served(nat), forwards(name)];
        match process::can_change_network() {
            true => own.extend(std::iter::once(masquerades(nat)).chain(passed(name))),
            false => {
                own.push(Check::warning("nat", "only root can look at its rules", RULES, "sudo kvm-bridge doctor"))
            }
        }
        checks.extend(own.into_iter().map(|check| check.of(name)));
    }
    checks
}

const FREE: &str = "What the host has a longer route to elsewhere, guests and host do not reach here.";
const RULES: &str = "Without the host's address in place of theirs no answer finds guests.";

fn free(bridge: &IfName, nat: &OwnNetwork, other: Option<String>) -> Check {
    let subnet = nat.network.subnet;
    match other {
        None => Check::ok("nat", format!("{subnet} is not in use elsewhere"), FREE),
        Some(other) => Check::warning(
            "nat",
            format!("{subnet} is not its own any more: the host has an address in {other}, or a route to it"),
            FREE,
            format!("kvm-bridge down {}   # when its guests have ended; another network is chosen then", quote(bridge)),
        ),
    }
}

fn served(nat: &OwnNetwork) -> Check {
    const WHY: &str = "dnsmasq gives guests their addresses and answers for names.";
    match nat.has_server {
        Some(true) => Check::ok("nat", "dnsmasq runs", WHY),
        None => Check::warning("nat", "dnsmasq has not been started yet", WHY, RECOVER),
        Some(false) => Check::failure("nat", "dnsmasq does not run", WHY, RECOVER),
    }
}

fn forwards(bridge: &IfName) -> Check {
    const WHY: &str = "A host that does not forward answers guests itself, and nobody beyond it does.";
    match sysctl::read(bridge.as_str(), "ipv4/forwarding").as_deref() {
        Some("0") => Check::failure("nat", "the host does not forward what comes from it", WHY, RECOVER),
        _ => Check::ok("nat", "the host forwards for it", WHY),
    }
}

fn masquerades(nat: &OwnNetwork) -> Check {
    match nat.masqueraded.flatten() {
        Some(count) => {
            Check::ok("nat", format!("guests go out with the host's address: {count} connections so far"), RULES)
        }
        None => Check::failure("nat", "its firewall rules are missing", RULES, RECOVER),
    }
}

fn passed(bridge: &IfName) -> Vec<Check> {
    const WHY: &str = "The kernel asks all firewalls, and one that drops wins.";
    match rules::blocked(bridge) {
        Err(error) => vec![Check::of_error("nat", super::Verdict::Warning, &error, WHY)],
        Ok(blocked) if blocked.is_empty() => vec![Check::ok("nat", "no other firewall drops what guests send", WHY)],
        Ok(blocked) => blocked
            .iter()
            .map(|blocked| {
                let observed = format!("{} drops what guests send", blocked.by);
                let commands = blocked.fix.iter().flat_map(|fix| &fix.add);
                let commands: Vec<String> =
                    commands.map(|words| words.iter().map(quote).collect::<Vec<_>>().join(" ")).collect();
                let by_hand = || format!("Have it accept what comes in and goes out by {bridge}.");
                let fix = if commands.is_empty() { by_hand() } else { commands.join("; ") };
                Check::failure("nat", observed, WHY, fix)
            })
            .collect(),
    }
}
