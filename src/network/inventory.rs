//! What is on a bridge: its ports, and of each guest its VM, process, user, address, slot.
//!
//! Nothing of it is remembered: the kernel has the links, the forwarding database and the host's neighbours, /proc the
//! processes, and the leases say whose address it is. What the caller may not see is `None`.

use crate::netlink::{Detail, Netlink};
use crate::network::dhcp_probe::is_probe;
use crate::network::links::unreadable;
use crate::network::up::user_name;
use crate::network::uplink::nat::{rules, server};
use crate::network::uplink::share;
use crate::network::user_network::relay;
use crate::output;
use crate::state::journal::Files;
use crate::state::{dhcp_leases, networks};
use crate::sys::tap_users::{NOT_FOUND_OUT, TapUsers, age};
use crate::sys::{place, process};
use crate::vm::{Record, Store};
use model::error::Result;
use model::host::Kind;
use model::ifname::IfName;
use model::inventory::{Held, Seen};
use model::journal::Journal;
use model::rtnl::tc::PortQdisc;
use model::share::Hook;
use model::text;
use port::FILTER_PREF;
use std::collections::BTreeMap;
use std::sync::Once;

pub use model::inventory::events;
pub use model::inventory::{Bridge, Flows, Host, OwnNetwork, Port, Role, SharedUplink, hosts};
pub use model::packet::is_link_local;

fn shared_uplink(
    netlink: &mut Netlink,
    journal: &Journal,
    details: &[Detail],
) -> std::io::Result<Option<SharedUplink>> {
    let Some(share) = journal.share() else { return Ok(None) };
    let detail = details.iter().find(|detail| detail.link.index == share.index).cloned();
    Ok(Some(SharedUplink {
        addresses: addresses(netlink, share.index)?,
        counts: share::counts(netlink, journal, share)?,
        missing: share::missing(netlink, journal, share)?,
        is_behind_others: share::is_behind_others(netlink, journal, share)?,
        share: share.clone(),
        detail,
    }))
}

fn own_network(files: &Files, journal: &Journal, details: &[Detail]) -> Result<Option<OwnNetwork>> {
    let Some(network) = journal.nat().map(|masquerade| masquerade.network.clone()) else { return Ok(None) };
    let is_port =
        |tap: u32| details.iter().any(|port| port.link.index == tap && port.link.controller == Some(journal.index));
    let may_ask = process::can_change_network();
    let guests = networks::guests(files)?.behind(is_port);
    let has_relays = place::user_network().is_some();
    let cut_off = guests.iter().filter(|guest| has_relays && !relay::runs(files, guest)).cloned().collect();
    Ok(Some(OwnNetwork {
        network,
        guests,
        cut_off,
        masqueraded: if may_ask { Some(rules::masqueraded(&journal.bridge)?) } else { None },
        has_server: server::runs(&files.nat(), &journal.bridge),
    }))
}

fn addresses(netlink: &mut Netlink, index: u32) -> std::io::Result<Vec<String>> {
    Ok(netlink.addresses(index)?.iter().map(ToString::to_string).collect())
}

/// All bridges with what is on them, by name; not to be called under a lock, as looking at processes can take long. What is not
/// found out because of that is said.
pub fn look(netlink: &mut Netlink) -> Result<Vec<Bridge>> {
    look_with_users(netlink).map(|(bridges, _)| bridges)
}

/// The same, and the processes that have TAPs open.
pub fn look_with_users(netlink: &mut Netlink) -> Result<(Vec<Bridge>, TapUsers)> {
    static SAID: Once = Once::new();
    let details = netlink.details().map_err(unreadable)?;
    output::step(|| format!("asked the kernel for its links: {}", details.len()));
    let tap_users = match details.iter().any(|detail| matches!(detail.link.kind, Kind::Tap { .. })) {
        true => TapUsers::look(),
        false => TapUsers { is_whole: true, ..TapUsers::default() },
    };
    let held = held(netlink, &details).map_err(unreadable)?;
    let records = Store::everybodys();
    output::step(|| format!("looked at processes for the TAPs that they have open: {}", tap_users.processes.len()));
    let mut bridges = Vec::new();
    for detail in details.iter().filter(|detail| detail.link.kind == Kind::Bridge) {
        bridges.push(look_at(netlink, detail, &details, &held, &tap_users, &records)?);
    }
    output::step(|| format!("looked at journals, leases and addresses of bridges: {}", bridges.len()));
    bridges.sort_by(|a, b| a.detail.link.name.cmp(&b.detail.link.name));
    if let Some(port) = bridges.iter().flat_map(|bridge| &bridge.ports).find(|port| port.is_process_unknown) {
        let tap = text::name(port.detail.link.name.as_str());
        SAID.call_once(|| output::say("kvm-bridge", format_args!("who has {tap} open was {NOT_FOUND_OUT}")));
    }
    Ok((bridges, tap_users))
}

/// What the ports of bridges are held to.
fn held(netlink: &mut Netlink, details: &[Detail]) -> std::io::Result<BTreeMap<u32, Held>> {
    let mut held: BTreeMap<u32, Held> = BTreeMap::new();
    for port in details.iter().filter(|port| port.is_isolated) {
        held.entry(port.link.index).or_default().is_isolated = true;
    }
    let is_tap =
        |index: u32| details.iter().any(|of| of.link.index == index && matches!(of.link.kind, Kind::Tap { .. }));
    for (index, qdisc) in netlink.port_qdiscs()?.into_iter().filter(|(index, _)| is_tap(*index)) {
        let its = held.entry(index).or_default();
        match qdisc {
            PortQdisc::Rate(rate) => its.rate = Some(rate),
            PortQdisc::Filters(dropped) => {
                let guard = netlink
                    .filters(index, Hook::Ingress)?
                    .into_iter()
                    .find(|found| found.is_filter() && found.pref == FILTER_PREF);
                (its.dropped, its.guard) = (dropped, guard.map(|guard| guard.program).unwrap_or_default());
            }
        }
    }
    if details.iter().any(|detail| detail.link.filters_vlans) {
        let filtering = |index: u32| details.iter().any(|of| of.link.index == index && of.link.filters_vlans);
        let is_filtered = |index: u32| {
            let controller = details.iter().find(|of| of.link.index == index).and_then(|of| of.link.controller);
            controller.is_some_and(filtering)
        };
        for (index, vlans) in netlink.port_vlans()?.into_iter().filter(|(index, _)| is_filtered(*index)) {
            held.entry(index).or_default().vlans = Some(vlans);
        }
    }
    Ok(held)
}

fn look_at(
    netlink: &mut Netlink,
    detail: &Detail,
    details: &[Detail],
    held: &BTreeMap<u32, Held>,
    tap_users: &TapUsers,
    records: &[Record],
) -> Result<Bridge> {
    let (index, name) = (detail.link.index, &detail.link.name);
    let files = IfName::new(name.as_str()).ok().and_then(|name| Files::of(&name).ok());
    let (journal, unreadable_journal) = match files.as_ref().map(Files::read) {
        Some(Ok(journal)) => (journal.filter(|journal| journal.owns(&detail.link)), None),
        Some(Err(error)) => (None, Some(error.to_string())),
        None => (None, None),
    };
    let fdb = netlink.fdb(index).map_err(unreadable)?;
    let shared = journal.as_ref().map(|journal| shared_uplink(netlink, journal, details));
    let shared = shared.transpose().map_err(unreadable)?.flatten();
    let nat = match (&files, &journal) {
        (Some(files), Some(journal)) => own_network(files, journal, details)?,
        _ => None,
    };
    let mut neighbours = netlink.neighbours(index).map_err(unreadable)?;
    if let Some(shared) = &shared {
        neighbours.extend(netlink.neighbours(shared.share.index).map_err(unreadable)?);
    }
    let leases = files.as_ref().map(dhcp_leases::of).unwrap_or_default();
    let seen = Seen {
        bridge: name,
        journal: journal.as_ref(),
        fdb: &fdb,
        neighbours: &neighbours,
        leases: &leases,
        records,
        has_all_processes: tap_users.is_whole,
    };
    let of_seen = |port: &Detail| {
        let holder = tap_users.of(&port.link.name).map(|process| (process, age(process)));
        seen.port(port, held.get(&port.link.index).cloned().unwrap_or_default(), holder, user_name)
    };
    let ports = details.iter().filter(|port| port.link.controller == Some(index) && !is_probe(&port.link));
    let mut ports: Vec<Port> = ports.map(of_seen).collect();
    ports.sort_by(|a, b| {
        let key = |port: &Port| (port.role != Role::Uplink, port.vm.is_none(), port.vm.clone(), port.detail.link.index);
        key(a).cmp(&key(b))
    });
    Ok(Bridge {
        detail: detail.clone(),
        last_failure: unreadable_journal.or_else(|| files.as_ref().and_then(Files::last_failure)),
        lacks_reaper: journal.as_ref().is_some_and(Journal::needs_reaper)
            && !files.as_ref().is_some_and(Files::has_reaper),
        addresses: addresses(netlink, index).map_err(unreadable)?,
        nat,
        shared,
        journal,
        fdb,
        ports,
    })
}
