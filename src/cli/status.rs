//! `kvm-bridge status`.

mod uplinks;

use super::json;
use crate::dhcp_leases::DhcpLease;
use crate::error::{Error, Result};
use crate::journal::Journal;
use crate::manager::{self, Manager};
use crate::net::observe::unreadable;
use crate::net::rtnl::{Netlink, Stats};
use crate::net::share::Counts;
use crate::out;
use crate::ports::{self, Bridge, Port, Role, SharedUplink};
use crate::shell::quote;
use crate::style::{self, Style, Tone};
use clap::Args;
use serde_json::json;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};
use uplinks::Uplink;

/// The arguments of `kvm-bridge status`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Status {
    /// Only this bridge
    bridge: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  kvm-bridge status
  kvm-bridge status br0
  kvm-bridge status --json | jq -r '.bridges[].ports[] | select(.vm == \"alice\").pid'
No privileges are needed; the processes of other users' guests are seen by root only.
Exit status: 0, or 125 where there is no such bridge.";

impl Status {
    pub(super) fn run(self) -> Result<String> {
        let mut netlink = Netlink::open().map_err(unreadable)?;
        let mut bridges = ports::look(&mut netlink)?;
        if let Some(name) = &self.bridge {
            bridges.retain(|bridge| bridge.detail.link.name.as_str() == name);
            if bridges.is_empty() {
                let what = format!("there is no bridge {}", out::one_line(name));
                return Err(Error::new(
                    what,
                    format!("'kvm-bridge status' lists all. To make it: kvm-bridge up {}", quote(name)),
                ));
            }
        }
        let managers = (bridges.iter())
            .map(|bridge| match &bridge.journal {
                Some(_) => None,
                None => manager::of(&bridge.detail.link).unwrap_or_default(),
            })
            .collect::<Vec<Option<Manager>>>();
        let bridges: Vec<(&Bridge, Option<&Manager>)> =
            bridges.iter().zip(managers.iter().map(Option::as_ref)).collect();
        // What leads to the network is none of one bridge's business.
        let uplinks = if self.bridge.is_none() { uplinks::look(&mut netlink)? } else { Vec::new() };
        if self.json {
            let bridges: Vec<_> = bridges.iter().map(|(bridge, manager)| to_json(bridge, *manager)).collect();
            let uplinks: Vec<_> = uplinks.iter().map(Uplink::to_json).collect();
            return Ok(json(&json!({ "bridges": bridges, "uplinks": uplinks })));
        }
        let is_hidden = |port: &Port| port.is_tap() && port.detail.has_carrier && port.process.is_none();
        if !nix::unistd::geteuid().is_root() && bridges.iter().flat_map(|(bridge, _)| &bridge.ports).any(is_hidden) {
            out::say("kvm-bridge", "the processes of other users' guests are seen by root only");
        }
        let style = Style::of_stdout();
        let mut texts: Vec<String> = bridges.iter().map(|(bridge, manager)| tree(bridge, *manager, style)).collect();
        if texts.is_empty() {
            texts.push("There is no bridge.\n".to_owned());
        }
        let is_shared = |uplink: &Uplink| {
            bridges.iter().filter_map(|(bridge, _)| bridge.shared.as_ref()).any(|shared| shared.name() == uplink.name())
        };
        let others = uplinks.iter().filter(|uplink| !is_shared(uplink));
        texts.extend(others.filter_map(|uplink| Some(format!("{}\n", uplink.line(style)?))));
        Ok(texts.join("\n"))
    }
}

fn tree(bridge: &Bridge, manager: Option<&Manager>, style: Style) -> String {
    let link = &bridge.detail.link;
    let mut facts = vec![match &bridge.journal {
        Some(journal) if journal.keep => "made by kvm-bridge, stays".to_owned(),
        Some(_) => "made by kvm-bridge, goes with its last guest".to_owned(),
        None => "found".to_owned(),
    }];
    facts.extend(manager.map(|manager| format!("managed by {manager}")));
    if !link.is_up {
        facts.push(style.paint(Tone::Bad, "down"));
    }
    facts.extend(bridge.addresses.iter().filter(|address| !address.starts_with("fe80:")).cloned());
    let settings = bridge.detail.bridge.unwrap_or_default();
    facts.push(match settings.stp {
        true => style.paint(Tone::Warning, format!("STP on, delay {} s", settings.forward_delay / 100)),
        false => "STP off".to_owned(),
    });
    if settings.vlan_filtering {
        facts.push("filters VLANs".to_owned());
    }
    facts.push(format!("MTU {}", link.mtu));
    if !bridge.ports.iter().any(|port| port.role == Role::Uplink) {
        facts.push(match bridge.journal.as_ref().and_then(Journal::awaits) {
            Some("auto") => style.paint(Tone::Bad, "waits for a default route"),
            Some(uplink) => style.paint(Tone::Bad, format!("waits for {uplink}, which is not there")),
            None => "no uplink".to_owned(),
        });
    }
    let mut text = format!("{}  {}\n", style.paint(Tone::Title, out::one_line(link.name.as_str())), facts.join(", "));
    let width = bridge
        .ports
        .iter()
        .map(|port| out::one_line(port.detail.link.name.as_str()).chars().count())
        .max()
        .unwrap_or_default();
    let complaints: Vec<&str> = bridge.complaint.iter().flat_map(|text| text.lines()).collect();
    for (at, port) in bridge.ports.iter().enumerate() {
        let branch = style.branch(at + 1 == bridge.ports.len() && complaints.is_empty());
        let name = format!("{:<width$}", out::one_line(port.detail.link.name.as_str()));
        let facts = match (&bridge.shared, port.role) {
            (Some(shared), Role::Uplink) => line_of_shared(shared, style),
            _ => line(port, style),
        };
        let _ = writeln!(text, "{branch}{}  {facts}", style.paint(Tone::Title, name));
    }
    for (at, complaint) in complaints.iter().enumerate() {
        let _ = writeln!(
            text,
            "{}{}",
            style.branch(at + 1 == complaints.len()),
            style.paint(Tone::Bad, out::one_line(complaint.trim()))
        );
    }
    text
}

/// What is said of the port that leads to a shared uplink.
fn line_of_shared(shared: &SharedUplink, style: Style) -> String {
    let mut facts = vec![format!("shared uplink {}", style.paint(Tone::Title, out::one_line(shared.name().as_str())))];
    match &shared.detail {
        None => facts.push(style.paint(Tone::Bad, "is not there")),
        Some(detail) if !detail.link.is_up => facts.push(style.paint(Tone::Bad, "down")),
        Some(detail) if !detail.has_carrier => facts.push(style.paint(Tone::Bad, "no carrier")),
        Some(_) if !shared.missing.is_empty() => facts
            .push(style.paint(Tone::Bad, format!("{} filters are missing: kvm-bridge recover", shared.missing.len()))),
        Some(_) => facts.push("carrier".to_owned()),
    }
    let frames = |(packets, bytes): (u64, u64)| format!("{packets} packets {}", style::bytes(bytes));
    let Counts { from_network, from_host, from_bridge } = shared.counts;
    facts.push(style.paint(
        Tone::Quiet,
        format!(
            "from the network {}, from the host {}, from guests {}",
            frames(from_network),
            frames(from_host),
            frames(from_bridge)
        ),
    ));
    facts.join(", ")
}

fn line(port: &Port, style: Style) -> String {
    let detail = &port.detail;
    let mut facts = Vec::new();
    match port.role {
        Role::Uplink => facts.push("uplink".to_owned()),
        Role::Foreign => {
            let kind = detail.kind.as_deref().map(|kind| format!(" {kind}")).unwrap_or_default();
            facts.push(style.paint(Tone::Warning, format!("foreign{kind}")));
        }
        Role::Guest | Role::Lasting => {}
    }
    facts.extend(port.vm.as_ref().map(|vm| style.paint(Tone::Good, out::one_line(vm))));
    facts.push(match (port.is_tap(), detail.has_carrier, detail.link.is_up) {
        (_, _, false) => style.paint(Tone::Bad, "down"),
        (true, true, _) => String::new(),
        (true, false, _) => style.paint(Tone::Quiet, "not in use"),
        (false, true, _) => "carrier".to_owned(),
        (false, false, _) => style.paint(Tone::Bad, "no carrier"),
    });
    if detail.is_forwarding == Some(false) && detail.has_carrier && detail.link.is_up {
        facts.push(style.paint(Tone::Warning, "does not forward yet"));
    }
    match (&port.process, &port.user) {
        (Some(process), Some(user)) => {
            facts.push(format!("{} {} of {user}", out::one_line(&process.program), process.pid))
        }
        (None, Some(user)) => facts.push(format!("for {user}")),
        _ => {}
    }
    facts.extend(port.mac.map(|mac| mac.to_string()));
    facts.extend(port.slot.map(|slot| format!("slot {slot}")));
    facts.extend(port.known_addresses().iter().map(ToString::to_string));
    if let Some(since) = port.process.as_ref().and_then(|process| process.since) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        facts.push(format!("for {}", style::duration(now.saturating_sub(since))));
    }
    let Stats { rx_packets, tx_packets, rx_bytes, tx_bytes, .. } = detail.stats;
    facts.push(style.paint(
        Tone::Quiet,
        format!(
            "in {rx_packets} packets {}, out {tx_packets} packets {}",
            style::bytes(rx_bytes),
            style::bytes(tx_bytes)
        ),
    ));
    facts.retain(|fact| !fact.is_empty());
    facts.join(", ")
}

fn to_json(bridge: &Bridge, manager: Option<&Manager>) -> serde_json::Value {
    let detail = &bridge.detail;
    let settings = detail.bridge.unwrap_or_default();
    let uplink = bridge.ports.iter().find(|port| port.role == Role::Uplink);
    let ports: Vec<_> = bridge.ports.iter().map(port_to_json).collect();
    let shared = bridge.shared.as_ref();
    json!({
        "name": detail.link.name.as_str(),
        "index": detail.link.index,
        "made_by_us": bridge.journal.is_some(),
        "kept": bridge.journal.as_ref().map(|journal| journal.keep),
        "manager": manager.map(ToString::to_string),
        "error": bridge.complaint,
        "up": detail.link.is_up,
        "mac": detail.link.mac,
        "mtu": detail.link.mtu,
        "addresses": bridge.addresses,
        "stp": settings.stp,
        "forward_delay": f64::from(settings.forward_delay) / 100.0,
        "vlan_filtering": settings.vlan_filtering,
        "uplink": match shared {
            Some(shared) => Some(shared.name().as_str()),
            None => uplink.map(|port| port.detail.link.name.as_str()),
        },
        "uplink_carrier": match shared {
            Some(shared) => Some(shared.detail.as_ref().is_some_and(|detail| detail.has_carrier)),
            None => uplink.map(|port| port.detail.has_carrier),
        },
        "uplink_attached": match (shared, uplink) {
            (Some(_), _) => Some("shared"),
            (None, Some(_)) => Some("port"),
            (None, None) => None,
        },
        "shared": shared.map(shared_to_json),
        "ports": ports,
    })
}

fn shared_to_json(shared: &SharedUplink) -> serde_json::Value {
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

fn port_to_json(port: &Port) -> serde_json::Value {
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
        "vm": port.vm,
        "pid": process.map(|process| process.pid),
        "program": process.map(|process| process.program.as_str()),
        "since": process.and_then(|process| process.since),
        "user": port.user,
        "mac": port.mac,
        "slot": port.slot,
        "addresses": port.known_addresses(),
        "dhcp_leases": port.leases.iter().map(lease_to_json).collect::<Vec<_>>(),
        "rx_packets": detail.stats.rx_packets,
        "rx_bytes": detail.stats.rx_bytes,
        "tx_packets": detail.stats.tx_packets,
        "tx_bytes": detail.stats.tx_bytes,
    })
}

fn lease_to_json(lease: &DhcpLease) -> serde_json::Value {
    json!({ "mac": lease.mac, "address": lease.address, "seconds_left": lease.left() })
}
