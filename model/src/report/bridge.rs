//! A bridge with what is on it: a tree for people, JSON for programs.

use crate::inventory::{Bridge, OwnNetwork, Port, Role, SharedUplink};
use crate::journal::Journal;
use crate::layout::table::Cell;
use crate::layout::{Style, Tone, bytes, duration, table};
use crate::manager::Manager;
use crate::nat::forward::Forward;
use crate::nat::guest::Guest;
use crate::packet::is_link_local;
use crate::packet::lease::DhcpLease;
use crate::rtnl::detail::Stats;
use crate::share::found::Counts;
use crate::text;
use crate::uplink::Vtep;
use serde_json::{Value, json};
use std::fmt::Write;
use std::net::SocketAddr;

/// The tree of a bridge, which this manager has, at this time in seconds since 1970; `whose` is a network behind it.
pub fn tree(bridge: &Bridge, manager: Option<&Manager>, whose: &str, now: u64, style: Style) -> String {
    let title = table::wrapped(&title(bridge, manager, whose), "  ", style);
    let mut text = title.join("\n") + "\n";
    let mut branches: Vec<Vec<String>> = Vec::new();
    let narrower = style.narrower(style.trunk(true).chars().count());
    if !bridge.ports.is_empty() {
        let rows: Vec<Vec<Cell>> = bridge.ports.iter().map(|port| row(port, bridge.shared.as_ref(), now)).collect();
        branches.extend(table::lines(&COLUMNS, &rows, narrower));
        let header = branches.remove(0);
        header.iter().for_each(|line| text += &format!("{}{line}\n", style.trunk(true)));
    }
    let faults = bridge.faults();
    let failures = bridge.last_failure.iter().flat_map(|text| text.lines());
    let bad = faults.iter().map(|fault| text::one_line(fault)).chain(failures.map(|line| text::one_line(line.trim())));
    let sentences = bridge.shared.iter().map(frames_of).chain(bridge.nat.iter().flat_map(told_of_network));
    let sentences = sentences.map(|text| (Tone::Quiet, text));
    let sentences = sentences.chain(bad.map(|text| (Tone::Bad, text)));
    branches.extend(sentences.map(|(tone, text)| table::wrapped(&[(Some(tone), text)], "  ", narrower)));
    for (at, lines) in branches.iter().enumerate() {
        let is_last = at + 1 == branches.len();
        for (at, line) in lines.iter().enumerate() {
            let before = if at == 0 { style.branch(is_last) } else { style.trunk(!is_last) };
            let _ = writeln!(text, "{before}{line}");
        }
    }
    text
}

/// A bridge's name, and what it is like.
fn title(bridge: &Bridge, manager: Option<&Manager>, whose: &str) -> Vec<Cell> {
    let link = &bridge.detail.link;
    let plain = |text: String| (None, text);
    let mut facts: Vec<Cell> = vec![plain(match &bridge.journal {
        Some(journal) if journal.keep => "made by kvm-bridge, stays".to_owned(),
        Some(_) => "created by kvm-bridge, removed after its last guest".to_owned(),
        None => "found".to_owned(),
    })];
    facts.extend(manager.map(|manager| plain(format!("managed by {manager}"))));
    if !link.is_up {
        facts.push((Some(Tone::Bad), "down".to_owned()));
    }
    facts.extend(bridge.addresses.iter().filter(|address| !address.starts_with("fe80:")).cloned().map(plain));
    let settings = bridge.detail.bridge.unwrap_or_default();
    facts.push(match settings.stp {
        true => (Some(Tone::Warning), format!("STP on, delay {} s", settings.forward_delay / 100)),
        false => plain("STP off".to_owned()),
    });
    if settings.vlan_filtering {
        let kind = if settings.has_service_tags { " of 802.1ad" } else { "" };
        facts.push(plain(format!("filters VLANs{kind}")));
    }
    facts.push(plain(format!("MTU {}", link.mtu)));
    if let Some(nat) = &bridge.nat {
        facts.push(plain(format!("a network of {whose}, {}", nat.network.domain)));
    } else if let Some(vtep) = bridge.journal.as_ref().and_then(Journal::vtep) {
        facts.push(plain(vtep.in_words()));
    } else if !bridge.ports.iter().any(|port| port.role == Role::Uplink) {
        facts.push(plain("no uplink".to_owned()));
    }
    let mut title = vec![(Some(Tone::Title), text::one_line(link.name.as_str()))];
    for (at, fact) in facts.into_iter().enumerate() {
        title.extend([plain(if at == 0 { "  " } else { ", " }.to_owned()), fact]);
    }
    title
}

/// What is told of each port; what no port has is left out.
const COLUMNS: [&str; 14] = [
    "PORT",
    "VM",
    "STATE",
    "FROM GUEST",
    "TO GUEST",
    "POLICY",
    "ADDRESS",
    "MAC",
    "USER",
    "PROCESS",
    "SLOT",
    "SINCE",
    "RECEIVED",
    "SENT",
];

fn row(port: &Port, shared: Option<&SharedUplink>, now: u64) -> Vec<Cell> {
    let detail = &port.detail;
    let plain = |text: String| (None, text);
    let process = port.process.as_ref();
    let since = process.and_then(|process| process.since).map(|since| duration(now.saturating_sub(since)));
    let known = port.known_addresses();
    // Those of its own link alone are of use where it has no other.
    let is_far = known.iter().any(|ip| !is_link_local(ip));
    let addresses = known.iter().filter(|ip| !is_far || !is_link_local(ip)).map(ToString::to_string);
    let Stats { rx_bytes, tx_bytes, .. } = detail.stats;
    vec![
        (Some(Tone::Title), text::one_line(detail.link.name.as_str())),
        (Some(Tone::Good), port.vm.as_deref().map(text::name).unwrap_or_default()),
        match (shared, port.role) {
            (Some(shared), Role::Uplink) => state_of_shared(shared),
            _ => state(port),
        },
        plain(port.flows.map(|flows| flow(flows.received)).unwrap_or_default()),
        plain(port.flows.map(|flows| flow(flows.sent)).unwrap_or_default()),
        (if port.held.dropped > 0 { Some(Tone::Warning) } else { None }, port.held.to_string()),
        plain(addresses.collect::<Vec<String>>().join(" ")),
        plain(port.mac.map(|mac| mac.to_string()).unwrap_or_default()),
        plain(port.user.clone().unwrap_or_default()),
        plain(match process {
            Some(process) => format!("{} {}", text::name(&process.program), process.pid),
            None if port.is_process_unknown => "not found out".to_owned(),
            None => String::new(),
        }),
        plain(port.slot.map(|slot| slot.to_string()).unwrap_or_default()),
        plain(since.unwrap_or_default()),
        plain(bytes(rx_bytes)),
        plain(bytes(tx_bytes)),
    ]
}

/// What passes in a second.
fn flow((packets, size): (u64, u64)) -> String {
    if packets == 0 { "0/s".to_owned() } else { format!("{packets}/s {}/s", bytes(size)) }
}

fn state(port: &Port) -> Cell {
    let detail = &port.detail;
    let kind = || detail.kind.as_deref().map(|kind| format!(" {kind}")).unwrap_or_default();
    let role = match port.role {
        Role::Uplink => "uplink, ".to_owned(),
        Role::Foreign => format!("foreign{}, ", kind()),
        Role::Guest | Role::Persistent => String::new(),
    };
    let is_in_use = detail.has_carrier && detail.link.is_up;
    let (tone, state) = match (port.is_tap(), detail.has_carrier, detail.link.is_up) {
        (_, _, false) => (Some(Tone::Bad), "down"),
        _ if detail.is_forwarding == Some(false) && is_in_use => (Some(Tone::Warning), "does not forward yet"),
        (true, true, _) => (None, "in use"),
        (true, false, _) => (Some(Tone::Quiet), "not in use"),
        (false, true, _) => (None, "carrier"),
        (false, false, _) => (Some(Tone::Bad), "no carrier"),
    };
    let is_foreign = port.role == Role::Foreign;
    (tone.or(is_foreign.then_some(Tone::Warning)), format!("{role}{state}"))
}

fn state_of_shared(shared: &SharedUplink) -> Cell {
    let name = text::one_line(shared.name().as_str());
    let (tone, state) = match &shared.detail {
        None => (Some(Tone::Bad), "is not there".to_owned()),
        Some(detail) if !detail.link.is_up => (Some(Tone::Bad), "down".to_owned()),
        Some(detail) if !detail.has_carrier => (Some(Tone::Bad), "no carrier".to_owned()),
        Some(_) if !shared.missing.is_empty() => {
            (Some(Tone::Bad), format!("{} filters are missing: kvm-bridge recover", shared.missing.len()))
        }
        Some(_) => (None, "carrier".to_owned()),
    };
    (tone, format!("shared uplink {name}, {state}"))
}

/// What a shared uplink has carried, each way.
fn frames_of(shared: &SharedUplink) -> String {
    let frames = |(packets, size): (u64, u64)| format!("{packets} packets {}", bytes(size));
    let Counts { from_network, from_host, from_bridge } = shared.counts;
    format!(
        "{}: from the network {}, from the host {}, from guests {}",
        text::one_line(shared.name().as_str()),
        frames(from_network),
        frames(from_host),
        frames(from_bridge)
    )
}

/// What is behind the host's address, and how to get to it.
fn told_of_network(nat: &OwnNetwork) -> Vec<String> {
    let count = match nat.masqueraded.flatten() {
        Some(1) => ": 1 connection so far".to_owned(),
        Some(count) => format!(": {count} connections so far"),
        None => String::new(),
    };
    let lead = |guest: &Guest| {
        let whom = guest.label();
        let lines = guest.forwards.iter().map(move |Forward { protocol, on, port, to }| {
            format!("{} {} leads to {whom}, port {to}", protocol.as_str(), SocketAddr::new(*on, *port))
        });
        lines.collect::<Vec<String>>()
    };
    let out = format!("{} goes out with the host's address{count}", nat.network.subnet);
    std::iter::once(out).chain(nat.guests.iter().flat_map(lead)).collect()
}

fn nat_to_json(nat: &OwnNetwork) -> Value {
    let guest = |guest: &Guest| {
        json!({
            "name": guest.name,
            "mac": guest.mac,
            "address": guest.address,
            "address6": nat.network.ula.map(|ula| guest.address6(ula)),
            "forwards": guest.forwards,
        })
    };
    json!({
        "subnet": nat.network.subnet,
        "prefix6": nat.network.ula,
        "domain": nat.network.domain,
        "masqueraded": nat.masqueraded.flatten(),
        "dnsmasq": nat.has_server,
        "guests": nat.guests.iter().map(guest).collect::<Vec<_>>(),
    })
}

/// The same for programs; `uptime` is of the clock that leases end by, in seconds.
pub fn to_json(bridge: &Bridge, manager: Option<&Manager>, uptime: u64) -> Value {
    let detail = &bridge.detail;
    let settings = detail.bridge.unwrap_or_default();
    let ports: Vec<_> = bridge.ports.iter().map(|port| port_to_json(port, uptime)).collect();
    let shared = bridge.shared.as_ref();
    // Its name, whether it has a carrier, and how it is attached.
    let uplink = match shared {
        Some(shared) => {
            Some((shared.name(), shared.detail.as_ref().is_some_and(|detail| detail.has_carrier), "shared"))
        }
        None => bridge
            .ports
            .iter()
            .find(|port| port.role == Role::Uplink)
            .map(|port| (&port.detail.link.name, port.detail.has_carrier, "port")),
    };
    json!({
        "name": detail.link.name.as_str(),
        "index": detail.link.index,
        "managed": bridge.journal.is_some(),
        "persistent": bridge.journal.as_ref().map(|journal| journal.keep),
        "manager": manager.map(ToString::to_string),
        "error": bridge.last_failure,
        "faults": bridge.faults(),
        "up": detail.link.is_up,
        "mac": detail.link.mac,
        "mtu": detail.link.mtu,
        "addresses": bridge.addresses,
        "stp": settings.stp,
        "forward_delay": f64::from(settings.forward_delay) / 100.0,
        "vlan_filtering": settings.vlan_filtering,
        "uplink": uplink.map(|(name, ..)| name.as_str()),
        "uplink_carrier": uplink.map(|(_, has_carrier, _)| has_carrier),
        "uplink_attached": uplink.map(|(.., how)| how),
        "shared": shared.map(shared_to_json),
        "vxlan": bridge.journal.as_ref().and_then(Journal::vtep).map(Vtep::to_json),
        "nat": bridge.nat.as_ref().map(nat_to_json),
        "ports": ports,
    })
}

fn shared_to_json(shared: &SharedUplink) -> Value {
    let Counts { from_network, from_host, from_bridge } = shared.counts;
    json!({
        "present": shared.detail.is_some(),
        "missing_filters": shared.missing.len(),
        "from_network_packets": from_network.0,
        "from_network_bytes": from_network.1,
        "from_host_packets": from_host.0,
        "from_host_bytes": from_host.1,
        "from_guests_packets": from_bridge.0,
        "from_guests_bytes": from_bridge.1,
    })
}

fn port_to_json(port: &Port, uptime: u64) -> Value {
    let (detail, process) = (&port.detail, port.process.as_ref());
    json!({
        "name": detail.link.name.as_str(),
        "index": detail.link.index,
        "role": port.role.name(),
        "kind": detail.kind,
        "up": detail.link.is_up,
        "carrier": detail.has_carrier,
        "forwarding": detail.is_forwarding,
        "mtu": detail.link.mtu,
        "guard": port.held.guard_kind().to_string(),
        "dropped": port.held.dropped,
        "isolated": port.held.is_isolated,
        "vlans": port.held.vlans.as_ref().map(ToString::to_string),
        "rate": port.held.rate.map(|rate| rate.to_string()),
        "vm": port.vm,
        "pid": process.map(|process| process.pid),
        "program": process.map(|process| process.program.as_str()),
        "process_unknown": port.is_process_unknown,
        "since": process.and_then(|process| process.since),
        "user": port.user,
        "mac": port.mac,
        "slot": port.slot,
        "addresses": port.known_addresses(),
        "dhcp_leases": port.leases.iter().map(|lease| lease_to_json(lease, uptime)).collect::<Vec<_>>(),
        "rx_packets": detail.stats.rx_packets,
        "rx_bytes": detail.stats.rx_bytes,
        "tx_packets": detail.stats.tx_packets,
        "tx_bytes": detail.stats.tx_bytes,
    })
}

fn lease_to_json(lease: &DhcpLease, uptime: u64) -> Value {
    json!({ "mac": lease.mac, "address": lease.address, "seconds_left": lease.left(uptime) })
}
