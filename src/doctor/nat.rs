//! Networks of the host's own: whether they are whole, and whether others are in their way.

use crate::doctor::Context;
use crate::network::inventory::OwnNetwork;
use crate::network::uplink::nat::{gateway, rules};
use crate::sys::{process, sysctl};
use model::check::{Check, Topic, Verdict};
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
            Err(error) => FREE.error(Verdict::Warning, &error),
        };
        let mut own = vec![subnet, served(nat), forwards(name)];
        match process::can_change_network() {
            true => own.extend(std::iter::once(masquerades(nat)).chain(passed(name))),
            false => own.push(RULES.warning("only root can look at its rules", "sudo kvm-bridge doctor")),
        }
        checks.extend(own.into_iter().map(|check| check.of(name)));
    }
    checks
}

const FREE: Topic = Topic("nat", "What the host has a longer route to elsewhere, guests and host do not reach here.");
const RULES: Topic = Topic("nat", "Without the host's address in place of theirs no answer finds guests.");

fn free(bridge: &IfName, nat: &OwnNetwork, other: Option<String>) -> Check {
    let subnet = nat.network.subnet;
    match other {
        None => FREE.ok(format!("{subnet} is not in use elsewhere")),
        Some(other) => FREE.warning(
            format!("{subnet} is not its own any more: the host has an address in {other}, or a route to it"),
            format!("kvm-bridge down {}   # when its guests have ended; another network is chosen then", quote(bridge)),
        ),
    }
}

fn served(nat: &OwnNetwork) -> Check {
    const NAT: Topic = Topic("nat", "dnsmasq gives guests their addresses and answers for names.");
    match nat.has_server {
        Some(true) => NAT.ok("dnsmasq runs"),
        None => NAT.warning("dnsmasq has not been started yet", RECOVER),
        Some(false) => NAT.failure("dnsmasq does not run", RECOVER),
    }
}

fn forwards(bridge: &IfName) -> Check {
    const NAT: Topic = Topic("nat", "A host that does not forward answers guests itself, and nobody beyond it does.");
    match sysctl::read(bridge.as_str(), "ipv4/forwarding").as_deref() {
        Some("0") => NAT.failure("the host does not forward what comes from it", RECOVER),
        _ => NAT.ok("the host forwards for it"),
    }
}

fn masquerades(nat: &OwnNetwork) -> Check {
    match nat.masqueraded.flatten() {
        Some(count) => RULES.ok(format!("guests go out with the host's address: {count} connections so far")),
        None => RULES.failure("its firewall rules are missing", RECOVER),
    }
}

fn passed(bridge: &IfName) -> Vec<Check> {
    const NAT: Topic = Topic("nat", "The kernel asks all firewalls, and one that drops wins.");
    match rules::blocked(bridge) {
        Err(error) => vec![NAT.error(Verdict::Warning, &error)],
        Ok(blocked) if blocked.is_empty() => vec![NAT.ok("no other firewall drops what guests send")],
        Ok(blocked) => blocked
            .iter()
            .map(|blocked| {
                let observed = format!("{} drops what guests send", blocked.by);
                let commands = blocked.fix.iter().flat_map(|fix| &fix.add);
                let commands: Vec<String> =
                    commands.map(|words| words.iter().map(quote).collect::<Vec<_>>().join(" ")).collect();
                let by_hand = || format!("Have it accept what comes in and goes out by {bridge}.");
                let fix = if commands.is_empty() { by_hand() } else { commands.join("; ") };
                NAT.failure(observed, fix)
            })
            .collect(),
    }
}
