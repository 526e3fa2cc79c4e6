//! What is on a bridge: what a port is for, whose its guest is, and which addresses that has, by what was seen.
//! It may not know how that was seen.
#![forbid(unsafe_code)]

use crate::host::{Kind, Link};
use crate::ifname::IfName;
use crate::journal::Journal;
use crate::mac::Mac;
use crate::packet::is_link_local;
use crate::rtnl::network::{FdbEntry, Neighbour};
use crate::unprivileged::helper::NAME;
use crate::vm::Record;
// Without a clock.
use core::time::Duration;
use std::net::IpAddr;

/// The alias of TAPs that `kvm-bridge up` makes for a bridge. That of a guest's own has a blank there.
pub fn persistent_alias(bridge: &IfName) -> String {
    format!("kvm-bridge-tap {bridge}")
}

/// Whether this is a TAP that `up` made for a bridge.
pub fn is_persistent_tap(link: &Link, bridge: &IfName) -> bool {
    matches!(link.kind, Kind::Tap { is_persistent: true, .. })
        && link.alias.as_deref() == Some(&persistent_alias(bridge))
}

/// What a port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The way to the network: what we took, or a card of a bridge that was there.
    Uplink,
    /// The TAP of a guest: the shim started it, or a helper made the TAP for it.
    Guest,
    /// A TAP of `kvm-bridge up`.
    Persistent,
    /// Somebody else's.
    Foreign,
}

impl Role {
    /// That of a port of a bridge, by our journal of that, if it is ours; `is_qemu` is whether who has it open is a QEMU, if
    /// somebody is seen to.
    pub fn of(
        link: &Link,
        has_carrier: bool,
        bridge: &IfName,
        journal: Option<&Journal>,
        is_qemu: Option<bool>,
    ) -> Self {
        let is_tap = matches!(link.kind, Kind::Tap { .. });
        let is_persistent = matches!(link.kind, Kind::Tap { is_persistent: true, .. });
        match journal {
            Some(journal) if journal.attached(link.index) => Self::Uplink,
            _ if is_persistent_tap(link, bridge) => Self::Persistent,
            _ if is_tap && link.vm().is_some() => Self::Guest,
            // A helper's TAP has no alias. Where its process can't be seen, one that is in use and goes with it is a guest's.
            _ if is_tap && is_qemu.unwrap_or(!is_persistent && has_carrier) => Self::Guest,
            // What made the bridge gave it its card, too.
            None if link.kind.is_card() => Self::Uplink,
            _ => Self::Foreign,
        }
    }

    /// Its name, for people and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uplink => "uplink",
            Self::Guest => "guest",
            Self::Persistent => "persistent",
            Self::Foreign => "foreign",
        }
    }
}

/// Whose a guest is: by its TAP, whom that belongs to, and whose the process is that has it open. The helper's mark outweighs its
/// process, which can be a setuid program; and what has a TAP of another user open is not taken for root's.
pub fn owner(link: &Link, tap_owner: Option<u32>, process: Option<u32>) -> Option<u32> {
    let mark = link.alias.as_deref().and_then(|alias| alias.strip_prefix(NAME)?.strip_prefix(" uid "));
    let marked = mark.and_then(|mark| mark.split(' ').next()?.parse().ok());
    let process = process.filter(|uid| *uid != 0 || tap_owner.is_none());
    marked.or(process).or(tap_owner)
}

/// The address of the guest behind a TAP: what QEMU was told; else who spoke behind the port. The TAP has the guest's own address
/// but for its first byte.
pub fn guest_mac(tap: &Link, told: Option<Mac>, fdb: &[FdbEntry], records: &[Record]) -> Option<Mac> {
    let tail = tap.mac.map(|mac| mac.0[1..].to_vec());
    let is_its = |mac: &Mac| Some(&mac.0[1..]) == tail.as_deref() && Some(*mac) != tap.mac;
    let heard: Vec<Mac> =
        fdb.iter().filter(|entry| entry.port == tap.index && !entry.is_own).map(|entry| entry.mac).collect();
    let kept = || records.iter().flat_map(Record::macs).find(is_its);
    let only = match heard.as_slice() {
        [only] => Some(*only),
        _ => None,
    };
    told.or_else(|| heard.iter().copied().find(is_its)).or_else(kept).or(only)
}

/// Whether a neighbour has answered since the guest's process was started: a VM keeps its address from run to run, and the
/// host remembers for long what an earlier run had. Where the process can't be seen, one that answers now has to do.
pub fn is_of_this_run(known: &Neighbour, age: Option<Duration>) -> bool {
    // The start of a process is known to the second, and the clock may have been set.
    const BLUR: Duration = Duration::from_secs(2);
    known.is_given
        || match (known.confirmed, age) {
            (Some(confirmed), Some(age)) => confirmed + BLUR < age,
            _ => known.is_fresh,
        }
}

/// Each once, those that are good beyond their own link first.
pub fn in_order(ips: impl IntoIterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut ips: Vec<IpAddr> = ips.into_iter().collect();
    ips.sort_by_key(|ip| (is_link_local(ip), *ip));
    ips.dedup();
    ips
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Life;
    use crate::step::{Create, Ipv6};
    use crate::uplink::{Attachment, Port};

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const TAP: Kind = Kind::Tap { is_persistent: false, is_multi_queue: false };
    const PERSISTENT: Kind = Kind::Tap { is_persistent: true, is_multi_queue: false };

    fn name(text: &str) -> IfName {
        IfName::new(text).unwrap()
    }

    /// br0 with the port eth0, of index 2.
    fn journal() -> Journal {
        let uplink = name("eth0");
        let port = Port { uplink, index: 2, mac: MAC, had_ipv6: true, was_down: false, is_asked: false };
        let create = Create { mac: MAC, mtu: None, ipv6: Ipv6::Usual, no_arp: false };
        let life = Life { boot: String::new(), namespace: None };
        Journal::new(name("br0"), false, create, Some(Attachment::Port(port)), life, [1; 8])
    }

    #[test]
    fn what_a_port_is_for_is_decided_by_who_made_and_holds_it() {
        let br0 = name("br0");
        let journal = journal();
        let (qemu, other) = (true, false);
        let persistent = persistent_alias(&br0);
        for (ours, index, kind, alias, holder, has_carrier, role) in [
            (true, 2, Kind::Card, "", None, true, Role::Uplink),
            (true, 3, Kind::Card, "", None, true, Role::Foreign),
            (false, 3, Kind::Card, "", None, true, Role::Uplink),
            (false, 3, Kind::Other("veth".to_owned()), "", None, true, Role::Foreign),
            (false, 3, PERSISTENT, persistent.as_str(), None, false, Role::Persistent),
            // Of another bridge's name.
            (false, 3, PERSISTENT, "kvm-bridge-tap br1", None, false, Role::Foreign),
            (true, 3, TAP, "kvm-bridge alice", None, false, Role::Guest),
            (true, 3, TAP, "", Some(qemu), false, Role::Guest),
            (true, 3, TAP, "", Some(other), true, Role::Foreign),
            // Whose process can't be seen: in use, and it goes with that.
            (true, 3, TAP, "", None, true, Role::Guest),
            (true, 3, TAP, "", None, false, Role::Foreign),
            (true, 3, PERSISTENT, "", None, true, Role::Foreign),
        ] {
            let alias = Some(alias.to_owned()).filter(|alias| !alias.is_empty());
            let link = Link { kind, alias, ..Link::bare(index, name("port")) };
            let found = Role::of(&link, has_carrier, &br0, ours.then_some(&journal), holder);
            assert_eq!(found, role, "{ours} {link:?} {has_carrier}");
        }
    }

    #[test]
    fn the_address_of_a_guest_is_the_one_that_fits_its_tap_else_the_only_one_heard() {
        let guest = Mac([2, 0, 0, 0, 0, 7]);
        let tap = |mac: Mac| Link { kind: TAP, mac: Some(mac), ..Link::bare(5, name("kvb0")) };
        let entry = |mac, port, is_own| FdbEntry { mac, port, is_own };
        let nested = Mac([2, 0, 0, 0, 1, 1]);
        for (fdb, tap, mac) in [
            (vec![], tap(guest.of_tap()), None),
            (vec![entry(nested, 5, false), entry(guest, 5, false)], tap(guest.of_tap()), Some(guest)),
            (vec![entry(nested, 5, false)], tap(guest.of_tap()), Some(nested)),
            (vec![entry(guest, 6, false)], tap(guest.of_tap()), None),
            (vec![entry(guest.of_tap(), 5, true)], tap(guest.of_tap()), None),
            (vec![entry(nested, 5, false), entry(guest, 5, false)], tap(MAC.of_tap()), None),
        ] {
            assert_eq!(guest_mac(&tap, None, &fdb, &[]), mac, "{fdb:?}");
        }
    }

    #[test]
    fn what_an_earlier_run_had_is_no_address_of_this_one() {
        let seconds = |seconds: Option<u64>| seconds.map(Duration::from_secs);
        for (is_given, is_fresh, confirmed, age, expected) in [
            (true, false, None, None, true),
            (false, false, Some(10), Some(60), true),
            (false, true, Some(70), Some(60), false),
            (false, true, Some(59), Some(60), false),
            (false, true, Some(10), None, true),
            (false, false, Some(10), None, false),
            (false, true, None, Some(60), true),
        ] {
            let ip = IpAddr::from([10, 0, 0, 1]);
            let known = Neighbour { ip, mac: MAC, is_fresh, is_given, confirmed: seconds(confirmed) };
            assert_eq!(is_of_this_run(&known, seconds(age)), expected, "{known:?} {age:?}");
        }
    }
}
