//! What has happened on bridges between two looks at them.

use crate::inventory::{Bridge, Port, Role};
use crate::mac::Mac;
use crate::packet::is_link_local;
use crate::text;
use serde_json::{Value, json};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

/// So many addresses of a card are told: a guest can have any number.
const MOST_ADDRESSES: usize = 64;

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A bridge is there.
    BridgeCreated,
    /// It is there no more; its uplink is as it was before.
    BridgeRemoved,
    /// A guest's network card is on a bridge.
    GuestConnected,
    /// The guest has an address.
    GuestAddress(IpAddr),
    /// It came from this bridge, or its frames come from this port, its own again where that is `None`.
    GuestMoved {
        /// The bridge that it was on.
        from: Option<String>,
        /// The port that is not its own.
        behind: Option<String>,
    },
    /// The card is not on the bridge any more.
    GuestDisconnected,
    /// Something is wrong with a bridge, as `kvm-bridge status` has it.
    Fault(String),
    /// It is so no longer.
    FaultFixed(String),
}

impl What {
    /// Its name in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::BridgeCreated => "bridge-created",
            Self::BridgeRemoved => "bridge-removed",
            Self::GuestConnected => "guest-connected",
            Self::GuestAddress(_) => "guest-address",
            Self::GuestMoved { .. } => "guest-moved",
            Self::GuestDisconnected => "guest-disconnected",
            Self::Fault(_) => "fault",
            Self::FaultFixed(_) => "fault-fixed",
        }
    }
}

/// Something that has happened, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What it is.
    pub what: What,
    /// On which bridge.
    pub bridge: String,
    /// The guest, if it is about one.
    pub guest: Option<Guest>,
}

/// A guest's network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Its TAP.
    pub port: String,
    /// The VM, as people call it.
    pub vm: Option<String>,
    /// Its address.
    pub mac: Option<Mac>,
    /// The process that has the TAP open.
    pub pid: Option<i32>,
    /// Whose it is: anybody may call a guest of theirs by any name.
    pub user: Option<String>,
}

impl Guest {
    fn of(port: &Port) -> Self {
        Self {
            port: port.detail.link.name.to_string(),
            vm: port.vm.clone(),
            mac: port.mac,
            pid: port.process.as_ref().map(|process| process.pid),
            user: port.user.clone(),
        }
    }
}

impl Event {
    fn of_bridge(what: What, bridge: &str) -> Self {
        Self { what, bridge: bridge.to_owned(), guest: None }
    }

    fn of_guest(what: What, bridge: &str, guest: &Guest) -> Self {
        Self { what, bridge: bridge.to_owned(), guest: Some(guest.clone()) }
    }

    /// Whether it is about the bridge of this name, which a guest may have left.
    pub fn is_about(&self, bridge: &str) -> bool {
        let has_left = matches!(&self.what, What::GuestMoved { from: Some(from), .. } if from == bridge);
        self.bridge == bridge || has_left
    }

    /// For a program; `time` is in seconds since 1970, `is_initial` whether it was so before.
    pub fn to_json(&self, time: f64, is_initial: bool) -> Value {
        let guest = self.guest.as_ref();
        let mut value = json!({
            "time": time, "event": self.what.name(), "initial": is_initial, "bridge": self.bridge,
            "port": guest.map(|guest| &guest.port), "vm": guest.and_then(|guest| guest.vm.as_ref()),
            "mac": guest.and_then(|guest| guest.mac), "pid": guest.and_then(|guest| guest.pid),
            "user": guest.and_then(|guest| guest.user.as_ref()),
            "address": null, "from": null, "behind": null, "fault": null,
        });
        match &self.what {
            What::GuestAddress(address) => value["address"] = json!(address),
            What::GuestMoved { from, behind } => {
                value["from"] = json!(from);
                value["behind"] = json!(behind);
            }
            What::Fault(fault) | What::FaultFixed(fault) => value["fault"] = json!(fault),
            _ => {}
        }
        value
    }
}

/// A line for people. Names are others' choice, and shown so that a terminal obeys none of them.
impl fmt::Display for Event {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: ", text::one_line(&self.bridge))?;
        if let Some(Guest { port, vm, mac, .. }) = &self.guest {
            let vm = vm.as_deref().map_or_else(|| "a guest".to_owned(), text::name);
            let mac = mac.map(|mac| format!(", {mac}")).unwrap_or_default();
            write!(out, "{vm} ({}{mac}) ", text::one_line(port))?;
        }
        match &self.what {
            What::BridgeCreated => out.write_str("created"),
            What::BridgeRemoved => out.write_str("removed"),
            What::GuestConnected => out.write_str("connected"),
            What::GuestAddress(address) => write!(out, "has the address {address}"),
            What::GuestMoved { from: Some(from), .. } => write!(out, "moved here from {}", text::one_line(from)),
            What::GuestMoved { behind: Some(port), .. } => write!(out, "moved behind {}", text::one_line(port)),
            What::GuestMoved { .. } => out.write_str("is behind its own port again"),
            What::GuestDisconnected => out.write_str("disconnected"),
            What::Fault(fault) => write!(out, "fault: {}", text::one_line(fault)),
            What::FaultFixed(fault) => write!(out, "fixed: {}", text::one_line(fault)),
        }
    }
}

/// What is known of a guest's port.
#[derive(Debug, Clone)]
struct Known {
    bridge: String,
    guest: Guest,
    addresses: BTreeSet<IpAddr>,
    behind: Option<String>,
}

/// What was there at the last look.
#[derive(Debug, Default)]
pub struct Watched {
    bridges: BTreeMap<u32, String>,
    guests: BTreeMap<u32, Known>,
    /// By bridge: whether it was told.
    faults: BTreeMap<(String, String), bool>,
}

impl Watched {
    /// What has happened since then. A fault is told when it is there at a second look: for a moment, while a bridge is made or
    /// removed, it is none.
    pub fn look(&mut self, now: &[Bridge]) -> Vec<Event> {
        let mut events = Vec::new();
        let bridges: BTreeMap<u32, String> =
            now.iter().map(|bridge| (bridge.detail.link.index, bridge.detail.link.name.to_string())).collect();
        let is_new = |index: &u32| !self.bridges.contains_key(index);
        let created = bridges.iter().filter(|(index, _)| is_new(index));
        events.extend(created.map(|(_, name)| Event::of_bridge(What::BridgeCreated, name)));
        self.look_at_guests(now, &mut events);
        self.look_at_faults(now, &mut events);
        let removed = self.bridges.iter().filter(|(index, _)| !bridges.contains_key(index));
        events.extend(removed.map(|(_, name)| Event::of_bridge(What::BridgeRemoved, name)));
        self.bridges = bridges;
        events
    }

    /// Whether there is a fault that was seen once.
    pub fn is_unsure(&self) -> bool {
        self.faults.values().any(|is_told| !is_told)
    }

    /// Whether there is any bridge.
    pub fn has_bridges(&self) -> bool {
        !self.bridges.is_empty()
    }

    fn look_at_guests(&mut self, now: &[Bridge], events: &mut Vec<Event>) {
        let ports = now.iter().flat_map(|bridge| bridge.ports.iter().map(move |port| (bridge, port)));
        let ports: Vec<(&Bridge, &Port)> = ports.filter(|(_, port)| is_guest(port)).collect();
        let is_there = |index: &u32| ports.iter().any(|(_, port)| port.detail.link.index == *index);
        self.guests.retain(|index, known| {
            if !is_there(index) {
                events.push(Event::of_guest(What::GuestDisconnected, &known.bridge, &known.guest));
            }
            is_there(index)
        });
        for (bridge, port) in ports {
            let name = bridge.detail.link.name.as_str();
            let guest = Guest::of(port);
            let known = match self.guests.entry(port.detail.link.index) {
                Entry::Vacant(place) => {
                    events.push(Event::of_guest(What::GuestConnected, name, &guest));
                    let bridge = name.to_owned();
                    place.insert(Known { bridge, guest, addresses: BTreeSet::new(), behind: None })
                }
                Entry::Occupied(place) => {
                    let known = place.into_mut();
                    // Who it is stays known when its process has gone.
                    let before = known.guest.clone();
                    known.guest = Guest {
                        vm: guest.vm.or(before.vm),
                        mac: guest.mac.or(before.mac),
                        pid: guest.pid.or(before.pid),
                        user: guest.user.or(before.user),
                        port: guest.port,
                    };
                    if known.bridge != name {
                        let from = Some(std::mem::replace(&mut known.bridge, name.to_owned()));
                        known.behind = None;
                        events.push(Event::of_guest(What::GuestMoved { from, behind: None }, name, &known.guest));
                    }
                    known
                }
            };
            let behind = behind(bridge, port, known.guest.mac);
            if behind != known.behind {
                known.behind.clone_from(&behind);
                events.push(Event::of_guest(What::GuestMoved { from: None, behind }, name, &known.guest));
            }
            for address in port.known_addresses().into_iter().filter(|address| !is_link_local(address)) {
                // One that the host forgets and learns again is not new.
                if known.addresses.len() < MOST_ADDRESSES && known.addresses.insert(address) {
                    events.push(Event::of_guest(What::GuestAddress(address), name, &known.guest));
                }
            }
        }
    }

    fn look_at_faults(&mut self, now: &[Bridge], events: &mut Vec<Event>) {
        let mut faults = BTreeSet::new();
        for bridge in now {
            let name = bridge.detail.link.name.to_string();
            let failure = bridge.last_failure.iter().map(|failure| failure.trim_end().to_owned());
            faults.extend(bridge.faults().into_iter().chain(failure).map(|fault| (name.clone(), fault)));
        }
        self.faults.retain(|known, is_told| {
            let (is_there, (bridge, fault)) = (faults.contains(known), known);
            // With a bridge its faults go.
            if !is_there && *is_told && now.iter().any(|known| known.detail.link.name.as_str() == bridge) {
                events.push(Event::of_bridge(What::FaultFixed(fault.clone()), bridge));
            }
            is_there
        });
        for known in faults {
            match self.faults.entry(known) {
                Entry::Vacant(place) => drop(place.insert(false)),
                Entry::Occupied(mut place) if !place.get() => {
                    place.insert(true);
                    let (bridge, fault) = place.key();
                    events.push(Event::of_bridge(What::Fault(fault.clone()), bridge));
                }
                Entry::Occupied(_) => {}
            }
        }
    }
}

/// Whether a guest is there: a TAP that stays is one's only while a process has it open.
fn is_guest(port: &Port) -> bool {
    let is_open = port.detail.has_carrier || port.process.is_some();
    match port.role {
        Role::Guest => true,
        Role::Persistent => is_open,
        Role::Uplink | Role::Foreign => false,
    }
}

/// The port behind which the bridge has learnt a guest's address, if that is not its own.
fn behind(bridge: &Bridge, port: &Port, mac: Option<Mac>) -> Option<String> {
    let entries = || bridge.fdb.iter().filter(|entry| Some(entry.mac) == mac && !entry.is_own);
    if entries().any(|entry| entry.port == port.detail.link.index) {
        return None;
    }
    let of = |index: u32| bridge.ports.iter().find(|port| port.detail.link.index == index);
    entries().find_map(|entry| of(entry.port)).map(|port| port.detail.link.name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Kind, Link};
    use crate::ifname::IfName;
    use crate::inventory::Held;
    use crate::rtnl::detail::{Detail, Stats};
    use crate::rtnl::network::FdbEntry;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);

    fn detail(index: u32, name: &str, kind: Kind) -> Detail {
        Detail {
            link: Link { kind, ..Link::bare(index, IfName::new(name).unwrap()) },
            has_carrier: true,
            stats: Stats::default(),
            owner: None,
            group: None,
            bridge: None,
            is_forwarding: None,
            is_isolated: false,
            kind: None,
        }
    }

    fn port(index: u32, name: &str, role: Role) -> Port {
        Port {
            detail: detail(index, name, Kind::Tap { is_persistent: false, is_multi_queue: false }),
            role,
            held: Held::default(),
            vm: Some("al\u{1b}ice".to_owned()).filter(|_| role == Role::Guest),
            process: None,
            is_process_unknown: false,
            user: None,
            mac: Some(MAC).filter(|_| role == Role::Guest),
            slot: None,
            addresses: Vec::new(),
            leases: Vec::new(),
            set: Vec::new(),
            last_known: Vec::new(),
            flows: None,
        }
    }

    fn bridge(index: u32, name: &str, ports: Vec<Port>) -> Bridge {
        Bridge {
            detail: detail(index, name, Kind::Bridge),
            journal: None,
            last_failure: None,
            lacks_reaper: false,
            addresses: Vec::new(),
            shared: None,
            nat: None,
            fdb: Vec::new(),
            ports,
        }
    }

    fn told(events: Vec<Event>) -> Vec<String> {
        events.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_has_happened_is_told_once_and_in_order() {
        let mut watched = Watched::default();
        let uplink = || port(8, "up0", Role::Uplink);
        let mut br0 = bridge(2, "br0", vec![uplink()]);
        assert_eq!(told(watched.look(&[br0.clone()])), ["br0: created"]);
        br0.ports.push(port(9, "kvb0", Role::Guest));
        let connected = told(watched.look(&[br0.clone()]));
        assert!(connected.len() == 1 && connected[0].starts_with("br0: al") && !connected[0].contains('\u{1b}'));
        let guest = connected[0].strip_prefix("br0: ").and_then(|text| text.strip_suffix(" connected")).unwrap();
        assert!(watched.look(&[br0.clone()]).is_empty());
        br0.ports[1].addresses = vec!["fe80::7".parse().unwrap(), "10.77.0.7".parse().unwrap()];
        assert_eq!(told(watched.look(&[br0.clone()])), [format!("br0: {guest} has the address 10.77.0.7")]);
        // The host forgets it, and learns it again.
        let addresses = std::mem::take(&mut br0.ports[1].addresses);
        assert!(watched.look(&[br0.clone()]).is_empty());
        br0.ports[1].addresses = addresses;
        assert!(watched.look(&[br0.clone()]).is_empty());
        // It goes on elsewhere, and comes back.
        br0.fdb = vec![FdbEntry { mac: MAC, port: 8, is_own: false }];
        assert_eq!(told(watched.look(&[br0.clone()])), [format!("br0: {guest} moved behind up0")]);
        br0.fdb[0].port = 9;
        assert_eq!(told(watched.look(&[br0.clone()])), [format!("br0: {guest} is behind its own port again")]);
        // To another bridge, which is new.
        let mut br1 = bridge(3, "br1", br0.ports.split_off(1));
        let events = watched.look(&[br0.clone(), br1.clone()]);
        assert!(events[1].is_about("br0") && events[1].is_about("br1") && !events[0].is_about("br0"));
        assert_eq!(events[1].to_json(1.5, false)["from"], "br0");
        assert_eq!(told(events), ["br1: created".to_owned(), format!("br1: {guest} moved here from br0")]);
        // A fault of a moment is none.
        br1.last_failure = Some("it is stuck\n".to_owned());
        assert!(watched.look(&[br0.clone(), br1.clone()]).is_empty() && watched.is_unsure());
        assert_eq!(told(watched.look(&[br0.clone(), br1.clone()])), ["br1: fault: it is stuck"]);
        assert!(watched.look(&[br0.clone(), br1.clone()]).is_empty() && !watched.is_unsure());
        br1.last_failure = None;
        assert_eq!(told(watched.look(&[br0.clone(), br1.clone()])), ["br1: fixed: it is stuck"]);
        let gone = told(watched.look(&[br0]));
        assert_eq!(gone, [format!("br1: {guest} disconnected"), "br1: removed".to_owned()]);
        assert!(watched.has_bridges() && watched.look(&[]).len() == 1 && !watched.has_bridges());
    }

    #[test]
    fn a_tap_that_stays_is_a_guests_while_it_is_open() {
        let mut watched = Watched::default();
        let mut tap = port(9, "tap0", Role::Persistent);
        tap.detail.has_carrier = false;
        let mut br0 = bridge(2, "br0", vec![tap, port(4, "veth0", Role::Foreign)]);
        assert_eq!(watched.look(&[br0.clone()]).len(), 1);
        br0.ports[0].detail.has_carrier = true;
        assert_eq!(told(watched.look(&[br0.clone()])), ["br0: a guest (tap0) connected"]);
        br0.ports[0].detail.has_carrier = false;
        assert_eq!(told(watched.look(&[br0])), ["br0: a guest (tap0) disconnected"]);
    }
}
