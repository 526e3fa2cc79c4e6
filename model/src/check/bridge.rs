//! A bridge's own settings, and those of its ports.

use crate::check::{Check, Topic};
use crate::host::{BridgeDetail, Kind, Link};
use crate::ifname::IfName;
use crate::text::shell::quote;

/// Longer than this and a guest's first questions are lost.
const PATIENCE: u32 = 400;

/// How long a new port waits.
pub fn stp(name: &IfName, settings: BridgeDetail) -> Check {
    const STP: Topic =
        Topic("stp", "With STP a new port forwards only after twice the delay; what a guest asks until then is lost.");
    let (name, delay) = (quote(name), settings.forward_delay);
    match settings.stp {
        false => STP.ok("STP is off: a port forwards at once"),
        true if delay <= PATIENCE => STP.ok(format!("STP is on, with a delay of only {} s", delay / 100)),
        true => STP.warning(
            format!("STP is on: a guest is without a network for its first {} s", 2 * delay / 100),
            format!("ip link set dev {name} type bridge stp_state 0   # or, where there are loops, forward_delay 200"),
        ),
    }
}

/// In which VLAN a new port is; whether guests are there and `have_own` ones.
pub fn vlan(name: &IfName, settings: BridgeDetail, have_own: bool) -> Check {
    const VLAN: Topic =
        Topic("vlan", "A new port is in the bridge's default VLAN only, which may not be that of the network.");
    const NONE: Topic =
        Topic("vlan", "What a guest sends is dropped at its port, until somebody puts that into a VLAN.");
    let name = quote(name);
    let by_hand = format!(
        "qemu-kvm --bridge {name},vlan=ID ...   # for a guest in another VLAN; or: ip link set dev {name} type bridge vlan_filtering 0"
    );
    let filters = if settings.has_service_tags { "it filters VLANs of 802.1ad" } else { "it filters VLANs" };
    match settings.default_vlan {
        _ if !settings.vlan_filtering => VLAN.ok("it does not filter VLANs"),
        _ if have_own => VLAN.ok(format!("{filters}, and each guest is in one of its own")),
        Some(vlan) => VLAN.warning(format!("{filters}, and a new port is in VLAN {vlan}"), by_hand),
        None => NONE.failure(
            format!("{filters}, and a new port is in none"),
            format!("ip link set dev {name} type bridge vlan_default_pvid VLAN   # that of the network; or: {by_hand}"),
        ),
    }
}

/// A guest in a VLAN that the uplink is not in; what that is in, as `vlan=` has it.
pub fn uncarried(vlan: u16, uplink: &IfName, carried: &str) -> Check {
    const CARRIED: Topic = Topic(
        "vlan",
        "What a guest sends goes out by those ports alone that are in its VLAN, and what comes in likewise.",
    );
    let fix = format!("bridge vlan add dev {} vid {vlan}", quote(uplink));
    CARRIED.failure(format!("its VLAN {vlan} is none of {uplink}, which has {carried}"), fix)
}

/// Whether its address is its own; that is told by its `addr_assign_type`.
pub fn pinned(bridge: &Link, assign_type: Option<u8>) -> Check {
    const MAC: Topic = Topic(
        "bridge-mac",
        "A bridge whose MAC is not pinned takes that of its lowest port: each guest that comes or goes may change it, and \
         the host is away until all its neighbours know.",
    );
    let mac = bridge.mac.map(|mac| mac.to_string()).unwrap_or_default();
    match assign_type {
        None => MAC.ok(format!("{mac}; whether it is pinned can't be seen in this /sys")),
        // NET_ADDR_SET of linux/netdevice.h: somebody gave it.
        Some(3) => MAC.ok(format!("{mac} is pinned")),
        Some(_) => MAC.warning(
            format!("{mac} is that of its lowest port"),
            format!("ip link set dev {} address {mac}", quote(&bridge.name)),
        ),
    }
}

/// Whether all ports take as long frames as it has.
pub fn mtu(bridge: &Link, ports: &[&Link]) -> Check {
    const LONG: Topic = Topic(
        "mtu",
        "Frames that are longer than a port's MTU are dropped there without a word: pings go through, data does not.",
    );
    let own = bridge.mtu;
    let shorter: Vec<_> = ports.iter().filter(|port| port.mtu < own).collect();
    let is_tap = |port: &Link| matches!(port.kind, Kind::Tap { .. });
    let Some(port) = shorter.iter().find(|port| !is_tap(port)).or(shorter.first()) else {
        return LONG.ok(format!("{own} bytes, and no port has less"));
    };
    let names: Vec<String> = shorter.iter().map(|port| format!("{} {}", port.name, port.mtu)).collect();
    // A network card has what its network carries: the bridge, and with it its guests, have to come down.
    let least = shorter.iter().map(|port| port.mtu).min().unwrap_or(own);
    let fix = match is_tap(port) {
        true => format!("ip link set dev {} mtu {own}", quote(&port.name)),
        false => format!("ip link set dev {} mtu {least}   # and in the guests", quote(&bridge.name)),
    };
    LONG.warning(format!("the bridge has {own} bytes, but {}", names.join(", ")), fix)
}

/// BR_MAX_PORTS of net/bridge/br_private.h, less the one that is never used.
const MAX_PORTS: usize = 1023;
const NEAR: usize = 960;

/// Whether so many ports leave room for another; `idle` is one that nobody needs.
pub fn room(name: &IfName, count: usize, idle: Option<&IfName>) -> Check {
    const PORTS: Topic = Topic("ports", "A bridge has 1,023 ports at the most; the next guest would be refused.");
    let list = format!("ip -br link show master {}", quote(name));
    let fix = match idle {
        Some(tap) => format!("{list} | grep NO-CARRIER; ip link del dev {}", quote(tap)),
        None => list,
    };
    match count {
        MAX_PORTS.. => PORTS.failure(format!("it has {count} ports, and is full"), fix),
        NEAR.. => PORTS.warning(format!("it has {count} ports, and room for {}", MAX_PORTS - count), fix),
        _ => PORTS.ok(format!("it has {count} of 1,023 ports")),
    }
}

/// TAPs that were given an address of others by who holds them.
pub fn disguised(ports: &[&Link]) -> Vec<Check> {
    const ADDRESS: Topic = Topic(
        "tap-address",
        "A bridge delivers what is for a port's own address to that port: its user gets what is for others.",
    );
    let check = |link: &&Link| {
        let mac = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
        let observed = format!("{} has the address {mac}, which kvm-bridge did not give it", link.name);
        ADDRESS.failure(observed, format!("ip link set dev {} nomaster   # and ask its user", quote(&link.name)))
    };
    ports.iter().filter(|link| link.has_foreign_address()).map(check).collect()
}

/// Guests of ours whose TAP is on no bridge: somebody deleted the bridge, or took the TAP off.
pub fn unplugged(links: &[Link]) -> Vec<Check> {
    const GUEST: Topic = Topic("guest", "What is on no bridge reaches nobody.");
    let is_unplugged =
        |link: &&Link| matches!(link.kind, Kind::Tap { is_persistent: false, .. }) && link.controller.is_none();
    let check = |link: &Link| {
        let (vm, tap) = (link.vm()?, &link.name);
        let observed = format!("{vm} is on no bridge: its TAP {tap} is a port of none");
        let fix = format!("ip link set dev {} master BRIDGE   # one that is there, or: kvm-bridge up br0", quote(tap));
        Some(GUEST.failure(observed, fix).of(format!("{vm} ({tap})")))
    };
    links.iter().filter(is_unplugged).filter_map(check).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Verdict;

    // Not every kernel can filter VLANs.
    #[test]
    fn a_bridge_that_filters_vlans_is_warned_of() {
        let verdict = |vlan_filtering: bool, default_vlan: Option<u16>| {
            let settings = BridgeDetail { vlan_filtering, default_vlan, ..BridgeDetail::default() };
            vlan(&IfName::new("br0").unwrap(), settings, false).verdict
        };
        assert_eq!((verdict(true, Some(1)), verdict(true, None)), (Verdict::Warning, Verdict::Failure));
        let settings = BridgeDetail { vlan_filtering: true, has_service_tags: true, ..BridgeDetail::default() };
        assert!(vlan(&IfName::new("br0").unwrap(), settings, false).observed.contains("VLANs of 802.1ad"));
        assert_eq!((verdict(false, Some(1)), verdict(false, None)), (Verdict::Ok, Verdict::Ok));
    }

    #[test]
    fn the_least_of_the_ports_mtus_is_the_bridges() {
        let link = |name: &str, kind: Kind, mtu: u32| Link { kind, mtu, ..Link::bare(7, IfName::new(name).unwrap()) };
        let tap = || Kind::Tap { is_persistent: false, is_multi_queue: false };
        let bridge = link("br0", Kind::Bridge, 1500);
        let (tap0, eth0) = (link("tap0", tap(), 1400), link("eth0", Kind::Card, 1450));
        assert_eq!(mtu(&bridge, &[]).verdict, Verdict::Ok);
        assert_eq!(mtu(&bridge, &[&tap0]).fix.as_deref(), Some("ip link set dev tap0 mtu 1500"));
        let both = mtu(&bridge, &[&tap0, &eth0]);
        assert_eq!(both.observed, "the bridge has 1500 bytes, but tap0 1400, eth0 1450");
        assert_eq!(both.fix.as_deref(), Some("ip link set dev br0 mtu 1400   # and in the guests"));
    }

    #[test]
    fn a_bridge_that_is_nearly_full_is_warned_of() {
        let br0 = IfName::new("br0").unwrap();
        let verdict = |count| room(&br0, count, None).verdict;
        assert_eq!(
            [959, 960, 1022, 1023].map(verdict),
            [Verdict::Ok, Verdict::Warning, Verdict::Warning, Verdict::Failure]
        );
    }
}
