//! The bridge itself: its settings, its ports, what we have written down about it.

use crate::doctor::{Check, Context};
use crate::netlink::Detail;
use crate::network::inventory::{Bridge, Role};
use crate::state::journal::Files;
use model::host::{Kind, Link};
use model::text::shell::quote;
use std::fs;

pub(super) fn checks(context: &Context) -> Vec<Check> {
    let mut checks = Vec::new();
    for bridge in &context.bridges {
        let name = &bridge.detail.link.name;
        let own = [stp(&bridge.detail), vlan(&bridge.detail), pinned(bridge), mtu(bridge), room(bridge)];
        checks.extend(own.into_iter().chain(disguised(bridge)).map(|check| check.of(name)));
    }
    checks
}

/// Longer than this and a guest's first questions are lost.
const PATIENCE: u32 = 400;

fn stp(bridge: &Detail) -> Check {
    const WHY: &str = "With STP a new port forwards only after twice the delay; what a guest asks until then is lost.";
    let (name, settings) = (quote(bridge.link.name.as_str()), bridge.bridge.unwrap_or_default());
    let delay = settings.forward_delay;
    match settings.stp {
        false => Check::ok("stp", "STP is off: a port forwards at once", WHY),
        true if delay <= PATIENCE => {
            Check::ok("stp", format!("STP is on, with a delay of only {} s", delay / 100), WHY)
        }
        true => Check::warning(
            "stp",
            format!("STP is on: a guest is without a network for its first {} s", 2 * delay / 100),
            WHY,
            format!("ip link set dev {name} type bridge stp_state 0   # or, where there are loops, forward_delay 200"),
        ),
    }
}

fn vlan(bridge: &Detail) -> Check {
    const WHY: &str = "A new port is in the bridge's default VLAN only, which may not be that of the network.";
    let name = quote(bridge.link.name.as_str());
    let settings = bridge.bridge.unwrap_or_default();
    let by_hand = format!(
        "bridge vlan show   # then, for a guest's TAP: bridge vlan add dev tap0 vid VLAN pvid untagged; or: ip link set dev {name} type bridge vlan_filtering 0"
    );
    match settings.default_vlan {
        _ if !settings.vlan_filtering => Check::ok("vlan", "it does not filter VLANs", WHY),
        Some(vlan) => {
            Check::warning("vlan", format!("it filters VLANs, and a new port is in VLAN {vlan}"), WHY, by_hand)
        }
        None => Check::failure(
            "vlan",
            "it filters VLANs, and a new port is in none",
            "What a guest sends is dropped at its port, until somebody puts that into a VLAN.",
            format!("ip link set dev {name} type bridge vlan_default_pvid VLAN   # that of the network; or: {by_hand}"),
        ),
    }
}

fn pinned(bridge: &Bridge) -> Check {
    const WHY: &str = "A bridge whose MAC is not pinned takes that of its lowest port: each guest that comes or goes may \
                       change it, and the host is away until all its neighbours know.";
    let link = &bridge.detail.link;
    let mac = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
    match assign_type(link) {
        None => Check::ok("bridge-mac", format!("{mac}; whether it is pinned can't be seen in this /sys"), WHY),
        // NET_ADDR_SET of linux/netdevice.h: somebody gave it.
        Some(3) => Check::ok("bridge-mac", format!("{mac} is pinned"), WHY),
        Some(_) => Check::warning(
            "bridge-mac",
            format!("{mac} is that of its lowest port"),
            WHY,
            format!("ip link set dev {} address {mac}", quote(link.name.as_str())),
        ),
    }
}

/// The folder of a link. sysfs shows the network namespace that it was mounted in, which may be another one.
pub(super) fn in_sysfs(link: &Link) -> Option<String> {
    let folder = format!("/sys/class/net/{}", link.name);
    let index = fs::read_to_string(format!("{folder}/ifindex")).ok()?;
    (index.trim().parse() == Ok(link.index)).then_some(folder)
}

fn assign_type(link: &Link) -> Option<u8> {
    fs::read_to_string(format!("{}/addr_assign_type", in_sysfs(link)?)).ok()?.trim().parse().ok()
}

fn mtu(bridge: &Bridge) -> Check {
    const WHY: &str =
        "Frames that are longer than a port's MTU are dropped there without a word: pings go through, data does not.";
    let own = bridge.detail.link.mtu;
    let shorter: Vec<_> = bridge.ports.iter().map(|port| &port.detail.link).filter(|link| link.mtu < own).collect();
    let is_tap = |index: u32| bridge.ports.iter().any(|port| port.detail.link.index == index && port.is_tap());
    match shorter.iter().find(|link| !is_tap(link.index)).or(shorter.first()) {
        None => Check::ok("mtu", format!("{own} bytes, and no port has less"), WHY),
        Some(port) => {
            let names: Vec<String> = shorter.iter().map(|link| format!("{} {}", link.name, link.mtu)).collect();
            let observed = format!("the bridge has {own} bytes, but {}", names.join(", "));
            // A network card has what its network carries: the bridge, and with it its guests, have to come down.
            let least = shorter.iter().map(|link| link.mtu).min().unwrap_or(own);
            let fix = match is_tap(port.index) {
                true => format!("ip link set dev {} mtu {own}", quote(port.name.as_str())),
                false => format!(
                    "ip link set dev {} mtu {least}   # and in the guests",
                    quote(bridge.detail.link.name.as_str())
                ),
            };
            Check::warning("mtu", observed, WHY, fix)
        }
    }
}

/// BR_MAX_PORTS of net/bridge/br_private.h, less the one that is never used.
const MAX_PORTS: usize = 1023;
const NEAR: usize = 960;

fn room(bridge: &Bridge) -> Check {
    const WHY: &str = "A bridge has 1,023 ports at the most; the next guest would be refused.";
    let (count, name) = (bridge.ports.len(), quote(bridge.detail.link.name.as_str()));
    let idle =
        bridge.ports.iter().filter(|port| port.is_tap() && !port.detail.has_carrier && port.role == Role::Foreign);
    let idle = idle.map(|port| quote(port.detail.link.name.as_str())).next();
    let fix = match idle {
        Some(tap) => format!("ip -br link show master {name} | grep NO-CARRIER; ip link del dev {tap}"),
        None => format!("ip -br link show master {name}"),
    };
    match count {
        MAX_PORTS.. => Check::failure("ports", format!("it has {count} ports, and is full"), WHY, fix),
        NEAR.. => {
            Check::warning("ports", format!("it has {count} ports, and room for {}", MAX_PORTS - count), WHY, fix)
        }
        _ => Check::ok("ports", format!("it has {count} of 1,023 ports"), WHY),
    }
}

/// TAPs that were given an address of others by who holds them.
fn disguised(bridge: &Bridge) -> Vec<Check> {
    const WHY: &str =
        "A bridge delivers what is for a port's own address to that port: its user gets what is for others.";
    let links = bridge.ports.iter().map(|port| &port.detail.link).filter(|link| link.has_foreign_address());
    let check = |link: &Link| {
        let mac = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
        let observed = format!("{} has the address {mac}, which kvm-bridge did not give it", link.name);
        let fix = format!("ip link set dev {} nomaster   # and ask its user", quote(link.name.as_str()));
        Check::failure("tap-address", observed, WHY, fix)
    };
    links.map(check).collect()
}

/// Guests of ours whose TAP is on no bridge: somebody deleted the bridge, or took the TAP off.
pub(super) fn unplugged(context: &mut Context) -> Vec<Check> {
    const WHY: &str = "What is on no bridge reaches nobody.";
    let Ok(links) = context.netlink.links() else { return Vec::new() };
    let is_unplugged =
        |link: &Link| matches!(link.kind, Kind::Tap { is_persistent: false, .. }) && link.controller.is_none();
    let check = |link: &Link| {
        let vm = link.vm()?;
        let observed = format!("{vm} is on no bridge: its TAP {} is a port of none", link.name);
        let fix = format!(
            "ip link set dev {} master BRIDGE   # one that is there, or: kvm-bridge up br0",
            quote(link.name.as_str())
        );
        Some(Check::failure("guest", observed, WHY, fix).of(format!("{vm} ({})", link.name)))
    };
    links.iter().filter(|link| is_unplugged(link)).filter_map(check).collect()
}

/// The journals of this network namespace.
pub(super) fn journals(context: &Context) -> Vec<Check> {
    const WHY: &str = "A journal records what has to be undone when the last guest has gone.";
    const FIX: &str = "kvm-bridge recover";
    let all = match Files::all() {
        Ok(all) => all,
        Err(error) => return vec![Check::of_error("journal", crate::doctor::Verdict::Failure, &error, WHY)],
    };
    let mut checks = Vec::new();
    for files in &all {
        let name = files.bridge();
        let known = context.bridges.iter().find(|bridge| bridge.detail.link.name == *name);
        if context.query.bridge.as_ref().is_some_and(|wanted| wanted != name) {
            continue;
        }
        let last_failure = known.and_then(|bridge| bridge.last_failure.as_ref());
        let check = match (files.read(), last_failure) {
            (Err(error), _) => Check::of_error("journal", crate::doctor::Verdict::Failure, &error, WHY),
            (Ok(None), _) => continue,
            // Read once: its reaper may forget it meanwhile.
            (Ok(Some(_)), Some(last_failure)) => {
                let first = last_failure.lines().next().unwrap_or_default().to_owned();
                Check::failure("journal", first, "What could not be removed is still to be.", FIX)
            }
            (Ok(Some(journal)), None) => match known {
                // It is there, and not asked about.
                None if context.there.contains(name) => continue,
                Some(bridge) if bridge.journal.is_some() && !bridge.lacks_reaper => {
                    let until = if journal.keep { "it stays" } else { "its reaper waits for its last guest" };
                    Check::ok("journal", format!("{name} was created by kvm-bridge, and {until}"), WHY)
                }
                Some(bridge) if bridge.journal.is_some() => Check::failure(
                    "journal",
                    format!("{name} was created by kvm-bridge, and its reaper was killed"),
                    WHY,
                    FIX,
                ),
                Some(_) => Check::warning(
                    "journal",
                    format!("the journal of {name} is of another bridge than this {name}"),
                    WHY,
                    FIX,
                ),
                None => Check::warning("journal", format!("{name} is gone, and its journal is not"), WHY, FIX),
            },
        };
        checks.push(check.of(name));
    }
    if checks.is_empty() {
        checks.push(Check::ok("journal", "nothing is left to be undone", WHY));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;
    use crate::netlink::{BridgeDetail, Stats};
    use model::ifname::IfName;

    // Not every kernel can filter VLANs.
    #[test]
    fn a_bridge_that_filters_vlans_is_warned_of() {
        let verdict = |vlan_filtering: bool, default_vlan: Option<u16>| {
            let link = Link { kind: Kind::Bridge, ..Link::bare(7, IfName::new("br0").unwrap()) };
            let bridge = Some(BridgeDetail { vlan_filtering, default_vlan, ..BridgeDetail::default() });
            let (stats, kind) = (Stats::default(), Some("bridge".to_owned()));
            vlan(&Detail {
                link,
                has_carrier: true,
                stats,
                owner: None,
                group: None,
                bridge,
                is_forwarding: None,
                kind,
            })
            .verdict
        };
        assert_eq!((verdict(true, Some(1)), verdict(true, None)), (Verdict::Warning, Verdict::Failure));
        assert_eq!((verdict(false, Some(1)), verdict(false, None)), (Verdict::Ok, Verdict::Ok));
    }
}
