//! The way to the network: that of a bridge that is there, or that one would have.

use crate::doctor::{Context, firewall};
use crate::netlink::{Detail, Netlink};
use crate::network::inventory::{Bridge, Port, Role, SharedUplink};
use crate::network::observe::Planned;
use model::check::uplink::{self, NEW, Shared, UPLINK, fault_of, set_up};
use model::check::{Check, Topic, Verdict};
use model::error::Result;
use model::host::Link;
use model::ifname::IfName;
use model::journal::Journal;
use std::fs;

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
    const DOWN: Topic = Topic("bridge", "A bridge that is down forwards nothing.");
    let name = &bridge.detail.link.name;
    let mut checks = Vec::new();
    if !bridge.detail.link.is_up {
        checks.push(DOWN.failure(format!("{name} is down"), set_up(name)));
    }
    if let Some(shared) = &bridge.shared {
        checks.push(of_shared(shared));
        return checks;
    }
    if let Some(awaited) = bridge.journal.as_ref().and_then(Journal::awaits) {
        let observed = format!("{name} waits for {}; when it comes, it joins", awaited.in_words());
        checks.push(UPLINK.failure(observed, "ip link; ip route show default"));
        return checks;
    }
    if let Some(uplink) = bridge.lost_uplink() {
        checks.push(UPLINK.failure(format!("{uplink} is its uplink, and no port of {name}"), "kvm-bridge recover"));
        return checks;
    }
    let ports: Vec<&Port> = bridge.ports.iter().filter(|port| !port.is_tap()).collect();
    // On somebody else's bridge a port that is no TAP may be the way out as well.
    if !bridge.ports.iter().any(|port| port.role == Role::Uplink) {
        let names: Vec<&str> = ports.iter().map(|port| port.detail.link.name.as_str()).collect();
        checks.push(match names.is_empty() {
            true => without_one(bridge),
            false => UPLINK.ok(format!("{name} has the ports {}", names.join(", "))),
        });
    }
    // A port that is no network card may be the way out of a bridge that is asked about, if it is the only one; on others it
    // is a container's.
    let bad = |port: &Port| match port.role == Role::Uplink || ports.len() == 1 {
        true => Verdict::Failure,
        false => Verdict::Warning,
    };
    for port in ports.iter().filter(|port| is_asked || port.role == Role::Uplink) {
        match fault_of(&port.detail.link, port.detail.has_carrier) {
            Some((observed, fix)) => checks.push(UPLINK.judged(bad(port), observed, fix)),
            None if port.role != Role::Uplink => {}
            None => checks.push(UPLINK.ok(format!("{} is up and has a carrier", port.detail.link.name))),
        }
    }
    checks
}

fn without_one(bridge: &Bridge) -> Check {
    let forwards = || fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|value| value.trim() == "1");
    let has_address = bridge.addresses.iter().any(|address| !address.starts_with("fe80:"));
    // Where the kernel forwards for single interfaces, the host as a whole does not: the check `nat` looks closer.
    let is_nat = bridge.nat.is_some();
    let is_forwarded = !is_nat && has_address && forwards();
    let masquerading = if is_forwarded { firewall::masquerading() } else { Vec::new() };
    uplink::of_none(&bridge.detail.link.name, is_nat, is_forwarded, &masquerading)
}

fn of_ports_addresses(netlink: &mut Netlink, bridge: &Bridge) -> Vec<Check> {
    let uplinks = bridge.ports.iter().filter(|port| port.role == Role::Uplink && !port.is_tap());
    let of_port = |port: &Port| {
        let link = &port.detail.link;
        let addresses = netlink.addresses(link.index).ok()?.into_iter().filter(|address| !address.is_link_local);
        uplink::of_addresses(&link.name, &addresses.map(|address| address.to_string()).collect::<Vec<_>>())
    };
    uplinks.filter_map(of_port).collect()
}

fn of_shared(shared: &SharedUplink) -> Check {
    let has_received = |detail: &Detail| detail.stats.rx_packets > 0;
    let is_starved = shared.is_behind_others && shared.counts.from_network.0 == 0;
    uplink::of_shared(&Shared {
        name: shared.name(),
        found: shared.detail.as_ref().map(|detail| (&detail.link, detail.has_carrier)),
        missing: shared.missing.len(),
        is_starved: is_starved && shared.detail.as_ref().is_some_and(has_received),
    })
}

/// What a guest's start would do about a bridge that is not there.
fn of_missing(netlink: &mut Netlink, is_asked: bool, bridge: &IfName, planned: &Result<Planned>) -> Check {
    let planned = match planned {
        Ok(planned) => planned,
        // A bridge that nobody asked for need not be possible.
        Err(error) => return NEW.error(if is_asked { Verdict::Failure } else { Verdict::Warning }, error),
    };
    let is_shared = planned.plan.bridges.iter().any(|bridge| bridge.share().is_some());
    let (mut uplink, mut lacks_carrier) = (None, false);
    if let Some(link) = planned.uplink() {
        let details = netlink.details().unwrap_or_default();
        let found = details.iter().find(|detail| detail.link.index == link.index);
        lacks_carrier = found.is_some_and(|detail| detail.link.is_up && !detail.has_carrier);
        uplink = Some(Link { gateway: netlink.gateway(link.index).ok().flatten(), ..link.clone() });
    }
    uplink::of_missing(bridge, uplink.as_ref(), is_shared, lacks_carrier)
}
