//! The way to the network: that of a bridge that is there, or that one would have.

use crate::doctor::{Check, Context, Verdict, firewall};
use crate::netlink::Netlink;
use crate::network::inventory::{Bridge, Port, Role, SharedUplink};
use crate::network::observe::Planned;
use model::error::Result;
use model::host::Link;
use model::ifname::IfName;
use model::journal::Journal;
use model::text;
use model::text::shell::quote;
use model::uplink::permanent;
use std::fs;

const WHY: &str = "The uplink is the bridge's way to the network and to its DHCP server.";

pub(super) fn checks(context: &mut Context) -> Vec<Check> {
    let mut checks = Vec::new();
    let is_asked = context.query.is_about_some();
    for bridge in &context.bridges {
        let its = of_bridge(bridge, is_asked).into_iter().chain(of_ports_addresses(&mut context.netlink, bridge));
        checks.extend(its.map(|check| check.of(&bridge.detail.link.name)));
    }
    for (bridge, planned) in &context.missing {
        checks.push(of_missing(&mut context.netlink, is_asked, bridge, planned).of(bridge));
    }
    checks
}

fn of_bridge(bridge: &Bridge, is_asked: bool) -> Vec<Check> {
    let name = &bridge.detail.link.name;
    let mut checks = Vec::new();
    if !bridge.detail.link.is_up {
        let observed = format!("{name} is down");
        checks.push(Check::failure(
            "bridge",
            observed,
            "A bridge that is down forwards nothing.",
            format!("ip link set dev {} up", quote(name.as_str())),
        ));
    }
    if let Some(shared) = &bridge.shared {
        checks.push(of_shared(shared));
        return checks;
    }
    if let Some(awaited) = bridge.journal.as_ref().and_then(Journal::awaits) {
        let observed = format!("{name} waits for {}; when it comes, it joins", awaited.in_words());
        checks.push(Check::failure("uplink", observed, WHY, "ip link; ip route show default"));
        return checks;
    }
    // On somebody else's bridge a port that is no TAP may be the way out as well.
    let mut uplinks = bridge.ports.iter().filter(|port| port.role == Role::Uplink).peekable();
    if uplinks.peek().is_none() {
        let others: Vec<&str> =
            bridge.ports.iter().filter(|port| !port.is_tap()).map(|port| port.detail.link.name.as_str()).collect();
        checks.push(match others.as_slice() {
            [] => Check::ok("uplink", format!("{name} has none: {}", behind_the_host(bridge)), WHY),
            others => Check::ok("uplink", format!("{name} has the ports {}", others.join(", ")), WHY),
        });
    }
    // A port that is no network card may be the way out of a bridge that is asked about, if it is the only one; on others it
    // is a container's.
    let is_only = bridge.ports.iter().filter(|port| !port.is_tap()).count() == 1;
    let bad = |port: &Port| if port.role == Role::Uplink || is_only { Verdict::Failure } else { Verdict::Warning };
    let counts = |port: &&Port| !port.is_tap() && (is_asked || port.role == Role::Uplink);
    for port in bridge.ports.iter().filter(counts) {
        let link = &port.detail.link;
        checks.push(match (link.is_up, port.detail.has_carrier) {
            (false, _) => Check::new("uplink", bad(port), format!("{} is down", link.name), WHY)
                .fixed_by(format!("ip link set dev {} up", quote(link.name.as_str()))),
            (_, false) => {
                Check::new("uplink", bad(port), format!("{} has no carrier: check its cable", link.name), WHY)
                    .fixed_by(see_cable(link.name.as_str()))
            }
            _ if port.role != Role::Uplink => continue,
            _ => Check::ok("uplink", format!("{} is up and has a carrier", link.name), WHY),
        });
    }
    checks
}

/// Where the guests of a bridge without an uplink get to.
fn behind_the_host(bridge: &Bridge) -> String {
    // Where the kernel forwards for single interfaces, the host as a whole does not: the check `nat` looks closer.
    if bridge.nat.is_some() {
        return "its guests go out with the host's address".to_owned();
    }
    let forwards = fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|value| value.trim() == "1");
    let has_address = bridge.addresses.iter().any(|address| !address.starts_with("fe80:"));
    match (has_address && forwards, firewall::masquerading().as_slice()) {
        (false, _) => "its guests and the host are among themselves".to_owned(),
        (true, []) => {
            "its guests are behind the host, which forwards what they send, as net.ipv4.ip_forward is on".to_owned()
        }
        (true, chains) => format!(
            "its guests are behind the host, which forwards what they send and can put its own address in its place: {}",
            text::one_line(&chains.join(", "))
        ),
    }
}

/// A port carries nothing of the host's own: an address on it is one that nobody reaches.
fn of_ports_addresses(netlink: &mut Netlink, bridge: &Bridge) -> Vec<Check> {
    const WHY: &str = "The bridge takes all frames of a port, and what is for the host too.";
    let mut checks = Vec::new();
    for port in bridge.ports.iter().filter(|port| port.role == Role::Uplink && !port.is_tap()) {
        let link = &port.detail.link;
        let Ok(addresses) = netlink.addresses(link.index) else { continue };
        let addresses: Vec<_> =
            addresses.iter().filter(|address| !address.is_link_local).map(ToString::to_string).collect();
        if !addresses.is_empty() {
            let observed = format!("{} is a port and has {}", link.name, addresses.join(", "));
            let fix = format!("ip address flush dev {}", quote(link.name.as_str()));
            checks.push(Check::failure("uplink", observed, WHY, fix));
        }
    }
    checks
}

fn of_shared(shared: &SharedUplink) -> Check {
    const FILTERS: &str = "Filters of traffic control copy frames between the shared uplink and the bridge.";
    const FIX: &str = "kvm-bridge recover";
    let name = shared.name();
    let Some(detail) = &shared.detail else {
        let observed = format!("{name} is not there; when it comes back, it is shared again");
        return Check::failure("uplink", observed, WHY, "ip link");
    };
    if !shared.missing.is_empty() {
        let observed = format!("{} of the filters by which {name} is shared are missing", shared.missing.len());
        return Check::failure("uplink", observed, FILTERS, FIX);
    }
    if !detail.link.is_promiscuous {
        let observed = format!("{name} is not promiscuous any more");
        const WHY: &str = "A network card that is not promiscuous drops what is for the guests' MAC addresses.";
        return Check::failure("uplink", observed, WHY, format!("ip link set dev {} promisc on", quote(name.as_str())));
    }
    match (detail.link.is_up, detail.has_carrier) {
        (false, _) => {
            let up = format!("ip link set dev {} up", quote(name.as_str()));
            return Check::failure("uplink", format!("{name} is down"), WHY, up);
        }
        (_, false) => {
            let observed = format!("{name} has no carrier: check its cable");
            return Check::failure("uplink", observed, WHY, see_cable(name.as_str()));
        }
        _ => {}
    }
    if shared.is_behind_others && shared.counts.from_network.0 == 0 && detail.stats.rx_packets > 0 {
        let observed = format!(
            "no frame that came in by {name} has reached the filters of kvm-bridge yet, and others have filters before them"
        );
        const WHY: &str = "A filter with a lower pref that ends classification keeps frames from those behind it.";
        let fix = format!(
            "tc -s filter show dev {} ingress   # one with 'action order 1: ... pass' or 'direct-action' ends it",
            quote(name.as_str())
        );
        return Check::warning("uplink", observed, WHY, fix);
    }
    Check::ok("uplink", format!("{name} is shared, up and has a carrier"), WHY)
}

/// No command plugs a cable in; this one tells as soon as somebody has.
fn see_cable(name: &str) -> String {
    format!("ip monitor link dev {}   # while the cable is plugged in: it has to say LOWER_UP", quote(name))
}

/// What a guest's start would do about a bridge that is not there.
fn of_missing(netlink: &mut Netlink, is_asked: bool, bridge: &IfName, planned: &Result<Planned>) -> Check {
    const NEW: &str = "The bridge is not there: a guest's start would make it, with this uplink.";
    let planned = match planned {
        Ok(planned) => planned,
        Err(error) => {
            // A bridge that nobody asked for need not be possible.
            let verdict = if is_asked { Verdict::Failure } else { Verdict::Warning };
            return Check::of_error("uplink", verdict, error, NEW);
        }
    };
    let Some(link) = planned.uplink() else {
        return Check::ok("uplink", format!("{bridge} would be made without one"), NEW);
    };
    let uplink = &link.name;
    let is_shared = planned.plan.bridges.iter().any(|bridge| bridge.share().is_some());
    let how = if is_shared { "be shared" } else { "become a port" };
    let details = netlink.details().unwrap_or_default();
    let found = details.into_iter().find(|detail| detail.link.index == link.index);
    if found.is_some_and(|detail| detail.link.is_up && !detail.has_carrier) {
        let observed = format!("{uplink} would {how}, and has no carrier: check its cable");
        return Check::failure("uplink", observed, NEW, see_cable(uplink.as_str()));
    }
    let manager = link.uplink.manager.as_ref();
    let by = manager.map(|manager| format!(", which {manager} manages,")).unwrap_or_default();
    let check = Check::ok("uplink", format!("{uplink}{by} would {how}"), NEW);
    if manager.is_none() {
        return check;
    }
    let gateway = netlink.gateway(link.index).ok().flatten();
    check.permanently(permanent::setup(manager, bridge, &Link { gateway, ..link.clone() }))
}
