//! What is on a bridge: its ports, and of each guest its VM, process, user, address, slot.
//!
//! Nothing of it is remembered: the kernel has the links, the forwarding database and the host's neighbours, /proc the
//! processes, and the leases say whose address it is. What the caller may not see is `None`.

mod own_network;

use crate::netlink::{Detail, FdbEntry, Neighbour, Netlink};
use crate::network::dhcp_probe::is_probe;
use crate::network::links::unreadable;
use crate::network::up::user_name;
use crate::network::uplink::share;
use crate::output;
use crate::state::dhcp_leases;
use crate::state::dhcp_leases::DhcpLease;
use crate::state::journal::Files;
use crate::sys::tap_users::{NOT_FOUND_OUT, Process, TapUsers, age};
use crate::vm::{Record, Store};
use model::argv::inspect::QemuLine;
use model::error::Result;
use model::host::Kind;
use model::ifname::IfName;
use model::inventory::{guest_mac, in_order, is_of_this_run, owner};
use model::journal::Journal;
use model::text;
use std::sync::Once;

pub use model::inventory::{Bridge, OwnNetwork, Port, Role, SharedUplink};
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
    let records =
        Store::everybodys().into_iter().filter_map(|store| store.list().ok()).flat_map(|(records, _)| records);
    let records: Vec<Record> = records.collect();
    output::step(|| format!("looked at processes for the TAPs that they have open: {}", tap_users.processes.len()));
    let mut bridges = Vec::new();
    for detail in details.iter().filter(|detail| detail.link.kind == Kind::Bridge) {
        bridges.push(look_at(netlink, detail, &details, &tap_users, &records)?);
    }
    output::step(|| format!("looked at journals, leases and addresses of bridges: {}", bridges.len()));
    bridges.sort_by(|a, b| a.detail.link.name.cmp(&b.detail.link.name));
    if let Some(port) = bridges.iter().flat_map(|bridge| &bridge.ports).find(|port| port.is_process_unknown) {
        let tap = text::name(port.detail.link.name.as_str());
        SAID.call_once(|| output::say("kvm-bridge", format_args!("who has {tap} open was {NOT_FOUND_OUT}")));
    }
    Ok((bridges, tap_users))
}

fn look_at(
    netlink: &mut Netlink,
    detail: &Detail,
    details: &[Detail],
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
        (Some(files), Some(journal)) => own_network::look(files, journal, details)?,
        _ => None,
    };
    let mut neighbours = netlink.neighbours(index).map_err(unreadable)?;
    if let Some(shared) = &shared {
        neighbours.extend(netlink.neighbours(shared.share.index).map_err(unreadable)?);
    }
    let leases = files.as_ref().map(dhcp_leases::of).unwrap_or_default();
    let leases = &leases;
    let seen = Seen {
        bridge: name,
        journal: journal.as_ref(),
        fdb: &fdb,
        neighbours: &neighbours,
        leases,
        tap_users,
        records,
    };
    let ports = details.iter().filter(|port| port.link.controller == Some(index) && !is_probe(&port.link));
    let mut ports: Vec<Port> = ports.map(|port| seen.port(port)).collect();
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

struct Seen<'a> {
    bridge: &'a IfName,
    journal: Option<&'a Journal>,
    fdb: &'a [FdbEntry],
    neighbours: &'a [Neighbour],
    leases: &'a [DhcpLease],
    tap_users: &'a TapUsers,
    records: &'a [Record],
}

impl Seen<'_> {
    fn port(&self, detail: &Detail) -> Port {
        let link = &detail.link;
        let holder = self.tap_users.of(&link.name);
        let role = Role::of(link, detail.has_carrier, self.bridge, self.journal, holder.map(Process::is_qemu));
        let line = holder.map(|process| QemuLine::read(process.words.get(1..).unwrap_or_default()));
        let vm = link.vm().filter(|_| role == Role::Guest).map(str::to_owned);
        let is_tap = matches!(link.kind, Kind::Tap { .. });
        let fds = holder.and_then(|process| process.taps.get(&link.name)).map_or(&[][..], Vec::as_slice);
        let told = line.as_ref().and_then(|line| line.mac_on(link.name.as_str(), fds));
        let mac = is_tap.then(|| guest_mac(link, told, self.fdb, self.records)).flatten();
        let mut kept = self.records.iter().filter_map(|record| Some((record, record.slot_of(mac?)?)));
        let (kept, slot) = kept.next().unzip();
        let kept_for =
            |record: &Record| record.vm.split_once(':').map_or(record.vm.as_str(), |(_, name)| name).to_owned();
        let uid = owner(link, detail.owner, holder.map(|process| process.uid));
        let age = holder.and_then(age);
        let its = self.neighbours.iter().filter(|known| Some(known.mac) == mac);
        let (now, before): (Vec<&Neighbour>, Vec<&Neighbour>) = its.partition(|known| is_of_this_run(known, age));
        let ips = |neighbours: Vec<&Neighbour>| in_order(neighbours.into_iter().map(|known| known.ip));
        let is_its = |lease: &&DhcpLease| lease.port == link.index && mac.is_none_or(|mac| mac == lease.mac);
        Port {
            detail: detail.clone(),
            role,
            vm: vm.or_else(|| line.and_then(|line| line.name)).or_else(|| kept.map(kept_for)),
            process: holder.map(|process| Process { uid: uid.unwrap_or(process.uid), ..process.clone() }),
            is_process_unknown: is_tap && link.has_carrier && holder.is_none() && !self.tap_users.is_whole,
            user: uid.map(user_name),
            slot,
            mac,
            addresses: ips(now),
            leases: self.leases.iter().filter(is_its).copied().collect(),
            last_known: ips(before),
        }
    }
}
