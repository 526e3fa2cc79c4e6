//! Networks of the host's own: whether they are whole, and whether others are in their way.

use crate::check::{Check, Topic};
use crate::ifname::IfName;
use crate::nat::firewall::Blocked;
use crate::nat::guest::Guest;
use crate::nat::subnet::{Ipv4Net, is_free};
use crate::text::shell::quote;

/// Whether its subnet is its own.
pub const FREE: Topic =
    Topic("nat", "What the host has a longer route to elsewhere, guests and host do not reach here.");
/// Its rules.
pub const RULES: Topic = Topic("nat", "Without the host's address in place of theirs no answer finds guests.");
/// Those of others.
pub const OTHERS: Topic = Topic("nat", "The kernel asks all firewalls, and one that drops wins.");

const RECOVER: &str = "kvm-bridge recover";

/// Whether nobody else has its subnet, of all those that are taken.
pub fn free(bridge: &IfName, subnet: Ipv4Net, taken: &[Ipv4Net]) -> Check {
    match is_free(subnet, taken) {
        Ok(()) => FREE.ok(format!("{subnet} is not in use elsewhere")),
        Err(other) => FREE.warning(
            format!("{subnet} is not its own any more: the host has an address in {other}, or a route to it"),
            format!("kvm-bridge down {}   # when its guests have ended; another network is chosen then", quote(bridge)),
        ),
    }
}

/// Whether its server runs; `None` before it was started.
pub fn served(has_server: Option<bool>) -> Check {
    const SERVER: Topic = Topic("nat", "dnsmasq gives guests their addresses and answers for names.");
    match has_server {
        Some(true) => SERVER.ok("dnsmasq runs"),
        None => SERVER.warning("dnsmasq has not been started yet", RECOVER),
        Some(false) => SERVER.failure("dnsmasq does not run", RECOVER),
    }
}

/// Whether the host forwards what comes from it.
pub fn forwards(does: bool) -> Check {
    const FORWARDS: Topic =
        Topic("nat", "A host that does not forward answers guests itself, and nobody beyond it does.");
    match does {
        true => FORWARDS.ok("the host forwards for it"),
        false => FORWARDS.failure("the host does not forward what comes from it", RECOVER),
    }
}

/// Whether its rules are there, with the number of connections that they masqueraded.
pub fn masquerades(count: Option<u64>) -> Check {
    match count {
        Some(count) => RULES.ok(format!("guests go out with the host's address: {count} connections so far")),
        None => RULES.failure("its firewall rules are missing", RECOVER),
    }
}

/// The guests whose forwarded ports lead nowhere, in a network of a user's own.
pub fn relayed(cut_off: &[Guest]) -> Vec<Check> {
    const RELAY: Topic = Topic("nat", "A process of yours leads forwarded ports to the guest, as long as that runs.");
    let check = |guest: &Guest| {
        let observed = format!("the ports that are forwarded to {} lead nowhere: its relay was killed", guest.label());
        RELAY.failure(observed, "Start the guest again.")
    };
    cut_off.iter().map(check).collect()
}

/// Whether others let pass what its guests send.
pub fn passed(bridge: &IfName, blocked: &[Blocked]) -> Vec<Check> {
    let check = |blocked: &Blocked| {
        let commands = blocked.fix.iter().flat_map(|fix| &fix.add);
        let commands: Vec<String> =
            commands.map(|words| words.iter().map(quote).collect::<Vec<_>>().join(" ")).collect();
        let by_hand = || format!("Have it accept what comes in and goes out by {bridge}.");
        let fix = if commands.is_empty() { by_hand() } else { commands.join("; ") };
        OTHERS.failure(format!("{} drops what guests send", blocked.by), fix)
    };
    match blocked {
        [] => vec![OTHERS.ok("no other firewall drops what guests send")],
        blocked => blocked.iter().map(check).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Verdict;
    use crate::nat::firewall::Fix;

    #[test]
    fn a_firewall_in_the_way_is_told_with_its_commands() {
        let br0 = IfName::new("br0").unwrap();
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let fix = Fix { add: vec![words("nft a b"), words("nft c d*")], remove: Vec::new() };
        let blocked = |fix| Blocked { by: "the chain x".to_owned(), fix };
        let found = passed(&br0, &[blocked(Some(fix)), blocked(None)]);
        let fixes: Vec<&str> = found.iter().filter_map(|check| check.fix.as_deref()).collect();
        assert_eq!(fixes, ["nft a b; nft c 'd*'", "Have it accept what comes in and goes out by br0."]);
        assert!(found.iter().all(|check| check.observed == "the chain x drops what guests send"));
        assert_eq!(passed(&br0, &[])[0].verdict, Verdict::Ok);
    }

    #[test]
    fn a_subnet_that_somebody_else_has_is_told_of() {
        let br0 = IfName::new("br0").unwrap();
        let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
        assert_eq!(free(&br0, net("10.77.5.0/24"), &[net("10.77.6.0/24")]).verdict, Verdict::Ok);
        let found = free(&br0, net("10.77.5.0/24"), &[net("10.77.5.0/25")]);
        assert_eq!(found.verdict, Verdict::Warning);
        assert!(found.observed.contains("an address in 10.77.5.0/25,"), "{}", found.observed);
    }
}
