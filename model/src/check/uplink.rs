//! The way to the network: that of a bridge that is there, or that one would have.

use crate::check::{Check, Topic};
use crate::host::Link;
use crate::ifname::IfName;
use crate::text;
use crate::text::shell::quote;
use crate::uplink::permanent;

/// All of it but what has reasons of its own.
pub const UPLINK: Topic = Topic("uplink", "The uplink is the bridge's way to the network and to its DHCP server.");
/// Of the uplink that a bridge would have.
pub const NEW: Topic = Topic("uplink", "The bridge is not there: a guest's start would make it, with this uplink.");

/// The command that sets an interface up.
pub fn set_up(name: &IfName) -> String {
    format!("ip link set dev {} up", quote(name))
}

/// What keeps frames from passing an interface, and what to do about it.
pub fn fault_of(link: &Link, has_carrier: bool) -> Option<(String, String)> {
    let name = &link.name;
    match (link.is_up, has_carrier) {
        (false, _) => Some((format!("{name} is down"), set_up(name))),
        (true, false) => Some((format!("{name} has no carrier: check its cable"), see_cable(name))),
        (true, true) => None,
    }
}

/// No command plugs a cable in; this one tells as soon as somebody has.
fn see_cable(name: &IfName) -> String {
    format!("ip monitor link dev {}   # while the cable is plugged in: it has to say LOWER_UP", quote(name))
}

/// The uplink that a bridge shares, as it was found.
#[derive(Debug)]
pub struct Shared<'a> {
    /// Its name.
    pub name: &'a IfName,
    /// The interface, and whether it has a carrier; `None` while it is not there.
    pub found: Option<(&'a Link, bool)>,
    /// How many of our filters are missing.
    pub missing: usize,
    /// Whether frames have come in, none has reached our filters, and others have filters before them.
    pub is_starved: bool,
}

/// Whether it is shared as it should be.
pub fn of_shared(shared: &Shared) -> Check {
    const FILTERS: Topic =
        Topic("uplink", "Filters of traffic control copy frames between the shared uplink and the bridge.");
    const PROMISCUOUS: Topic =
        Topic("uplink", "A network card that is not promiscuous drops what is for the guests' MAC addresses.");
    const ORDER: Topic =
        Topic("uplink", "A filter with a lower pref that ends classification keeps frames from those behind it.");
    let name = shared.name;
    let Some((link, has_carrier)) = shared.found else {
        return UPLINK.failure(format!("{name} is not there; when it comes back, it is shared again"), "ip link");
    };
    if shared.missing > 0 {
        let observed = format!("{} of the filters by which {name} is shared are missing", shared.missing);
        return FILTERS.failure(observed, "kvm-bridge recover");
    }
    if !link.is_promiscuous {
        let fix = format!("ip link set dev {} promisc on", quote(name));
        return PROMISCUOUS.failure(format!("{name} is not promiscuous any more"), fix);
    }
    if let Some((observed, fix)) = fault_of(link, has_carrier) {
        return UPLINK.failure(observed, fix);
    }
    if shared.is_starved {
        return ORDER.warning(
            format!(
                "no frame that came in by {name} has reached the filters of kvm-bridge yet, and others have filters before them"
            ),
            format!(
                "tc -s filter show dev {} ingress   # one with 'action order 1: ... pass' or 'direct-action' ends it",
                quote(name)
            ),
        );
    }
    UPLINK.ok(format!("{name} is shared, up and has a carrier"))
}

/// A bridge without an uplink, whose guests go out with the host's address, or are forwarded by it, or neither;
/// `masquerading` are the chains that put the host's address in the place of theirs.
pub fn of_none(name: &IfName, is_nat: bool, is_forwarded: bool, masquerading: &[String]) -> Check {
    let behind = match masquerading {
        _ if is_nat => "its guests go out with the host's address".to_owned(),
        _ if !is_forwarded => "its guests and the host are among themselves".to_owned(),
        [] => "its guests are behind the host, which forwards what they send, as net.ipv4.ip_forward is on".to_owned(),
        chains => format!(
            "its guests are behind the host, which forwards what they send and can put its own address in its place: {}",
            text::one_line(&chains.join(", "))
        ),
    };
    UPLINK.ok(format!("{name} has none: {behind}"))
}

/// A port carries nothing of the host's own: an address on it is one that nobody reaches.
pub fn of_addresses(port: &IfName, addresses: &[String]) -> Option<Check> {
    const ADDRESSES: Topic = Topic("uplink", "The bridge takes all frames of a port, and what is for the host too.");
    (!addresses.is_empty()).then(|| {
        let observed = format!("{port} is a port and has {}", addresses.join(", "));
        ADDRESSES.failure(observed, format!("ip address flush dev {}", quote(port)))
    })
}

/// The uplink that a guest's start would give a bridge that is not there.
pub fn of_missing(bridge: &IfName, uplink: Option<&Link>, is_shared: bool, lacks_carrier: bool) -> Check {
    let Some(link) = uplink else { return NEW.ok(format!("{bridge} would be made without one")) };
    let (name, how) = (&link.name, if is_shared { "be shared" } else { "become a port" });
    if lacks_carrier {
        return NEW.failure(format!("{name} would {how}, and has no carrier: check its cable"), see_cable(name));
    }
    match &link.uplink.manager {
        None => NEW.ok(format!("{name} would {how}")),
        Some(manager) => {
            let check = NEW.ok(format!("{name}, which {manager} manages, would {how}"));
            Check { permanent_setup: Some(permanent::setup(Some(manager), bridge, link)), ..check }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Verdict;

    #[test]
    fn the_first_fault_of_a_shared_uplink_is_told() {
        let name = IfName::new("eth0").unwrap();
        let link = Link { is_up: true, is_promiscuous: true, ..Link::bare(2, name.clone()) };
        let (down, plain) = (Link { is_up: false, ..link.clone() }, Link { is_promiscuous: false, ..link.clone() });
        for (found, missing, is_starved, verdict, observed) in [
            (None, 0, false, Verdict::Failure, "eth0 is not there; when it comes back, it is shared again"),
            (Some((&plain, true)), 2, true, Verdict::Failure, "2 of the filters by which eth0 is shared are missing"),
            (Some((&plain, true)), 0, true, Verdict::Failure, "eth0 is not promiscuous any more"),
            (Some((&down, false)), 0, true, Verdict::Failure, "eth0 is down"),
            (Some((&link, false)), 0, true, Verdict::Failure, "eth0 has no carrier: check its cable"),
            (Some((&link, true)), 0, false, Verdict::Ok, "eth0 is shared, up and has a carrier"),
        ] {
            let check = of_shared(&Shared { name: &name, found, missing, is_starved });
            assert_eq!((check.verdict, check.observed.as_str()), (verdict, observed));
        }
        let starved = of_shared(&Shared { name: &name, found: Some((&link, true)), missing: 0, is_starved: true });
        assert_eq!(starved.verdict, Verdict::Warning);
    }

    #[test]
    fn where_guests_of_a_bridge_without_an_uplink_get_to_is_told() {
        let br0 = IfName::new("br0").unwrap();
        let chains = ["ip nat POSTROUTING".to_owned()];
        for (is_nat, is_forwarded, chains, says) in [
            (true, true, &chains[..], "with the host's address"),
            (false, false, &chains[..], "are among themselves"),
            (false, true, &[], "as net.ipv4.ip_forward is on"),
            (false, true, &chains[..], "in its place: ip nat POSTROUTING"),
        ] {
            let check = of_none(&br0, is_nat, is_forwarded, chains);
            assert!(check.verdict == Verdict::Ok && check.observed.ends_with(says), "{check:?}");
        }
    }
}
