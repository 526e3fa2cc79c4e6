//! What is on a bridge: its ports, and of each guest its VM, process, user, address, slot.
//!
//! Nothing of it is remembered: the kernel has the links, the forwarding database and the host's neighbours, /proc the
//! processes, and the leases say whose address it is. What the caller may not see is `None`.

mod own_network;
#[cfg(test)]
mod tests;

use crate::netlink::{Detail, FdbEntry, Neighbour, Netlink};
use crate::network::dhcp_probe::is_probe;
use crate::network::links::unreadable;
use crate::network::up::user_name;
use crate::network::uplink::share;
use crate::network::uplink::share::Counts;
use crate::output;
use crate::state::dhcp_leases;
use crate::state::dhcp_leases::DhcpLease;
use crate::state::journal::Files;
use crate::sys::tap_users::{NOT_FOUND_OUT, Process, TapUsers};
use crate::vm::{Record, Store};
use model::argv::inspect::QemuLine;
use model::error::Result;
use model::host::Kind;
use model::ifname::IfName;
use model::inventory::{guest_mac, in_order, is_of_this_run, owner};
use model::journal::Journal;
use model::mac::Mac;
use model::packet::arp_probe;
use model::share::{Filter, Share};
use model::text;
use model::text::shell::quote;
use std::net::IpAddr;
use std::sync::Once;

pub use model::inventory::Role;
pub use model::packet::is_link_local;
pub use own_network::OwnNetwork;

/// A bridge and what is on it.
#[derive(Debug, Clone)]
pub struct Bridge {
    /// The bridge itself.
    pub detail: Detail,
    /// Its journal, if it is ours.
    pub journal: Option<Journal>,
    /// Why it could not be taken back, if its reaper tried in vain.
    pub last_failure: Option<String>,
    /// Whether it needs a reaper, and none runs.
    pub lacks_reaper: bool,
    /// The host's addresses on it.
    pub addresses: Vec<String>,
    /// The uplink that it shares, if it does.
    pub shared: Option<SharedUplink>,
    /// Its network of the host's own, if it has one.
    pub nat: Option<OwnNetwork>,
    /// Its forwarding database.
    pub fdb: Vec<FdbEntry>,
    /// Its ports: the uplink first, then by their VMs.
    pub ports: Vec<Port>,
}

impl Bridge {
    /// What keeps a bridge of ours from being what it should be, each with what to do about it.
    pub fn faults(&self) -> Vec<String> {
        let Some(journal) = &self.journal else { return Vec::new() };
        let mut faults = Vec::new();
        if !self.detail.link.is_up {
            faults.push(format!("it is down: ip link set dev {} up", quote(self.detail.link.name.as_str())));
        }
        faults.extend(journal.awaits().map(|awaited| format!("it waits for {}", awaited.in_words())));
        let is_attached = |port: &Port| journal.port().is_none_or(|own| port.detail.link.index == own.index);
        match (&self.shared, journal.port()) {
            (Some(shared), _) if shared.detail.is_none() => {
                faults.push(format!("its uplink {} is not there; it joins again when it appears", shared.name()));
            }
            (Some(shared), _) if !shared.missing.is_empty() => {
                faults.push(format!("{} of its filters are missing: kvm-bridge recover", shared.missing.len()));
            }
            (None, Some(port)) if !self.ports.iter().any(is_attached) => {
                faults.push(format!("its uplink {} is no port of it: kvm-bridge recover", port.uplink));
            }
            _ => {}
        }
        if let Some(nat) = &self.nat {
            // Where there is no reaper, that is to be said.
            if nat.has_server == Some(false) && !self.lacks_reaper {
                faults.push("dnsmasq does not run for it".to_owned());
            }
            if nat.masqueraded == Some(None) {
                faults.push("its firewall rules are missing: kvm-bridge recover".to_owned());
            }
        }
        if self.lacks_reaper {
            faults.push("its reaper does not run: kvm-bridge recover".to_owned());
        }
        faults
    }

    /// The questions to a guest on it that is silent, if the host is on it too: see `watch::probe`.
    pub fn questions(&self, port: &Port) -> Vec<Vec<u8>> {
        let (mac, addresses) = match &self.shared {
            Some(shared) => (Some(shared.share.mac), &shared.addresses),
            None => (self.detail.link.mac, &self.addresses),
        };
        let (Some(host), Some(guest)) = (mac, port.mac) else { return Vec::new() };
        let leases = port.leases.iter().map(|lease| lease.address.into());
        let known: Vec<IpAddr> = leases.chain(port.last_known.iter().copied()).collect();
        arp_probe::questions(host, addresses, guest, &known)
    }
}

/// An uplink that a bridge of ours shares.
#[derive(Debug, Clone)]
pub struct SharedUplink {
    /// How.
    pub share: Share,
    /// The interface; `None` while it is not there.
    pub detail: Option<Detail>,
    /// The host's addresses on it.
    pub addresses: Vec<String>,
    /// What our filters have carried.
    pub counts: Counts,
    /// Our filters that are not there.
    pub missing: Vec<Filter>,
    /// Whether others have filters that see what comes in before ours do.
    pub is_behind_others: bool,
}

impl SharedUplink {
    /// Its name now, or the last that it had.
    pub fn name(&self) -> &IfName {
        self.detail.as_ref().map_or(&self.share.uplink, |detail| &detail.link.name)
    }

    fn look(netlink: &mut Netlink, journal: &Journal, details: &[Detail]) -> std::io::Result<Option<Self>> {
        let Some(share) = journal.share() else { return Ok(None) };
        let detail = details.iter().find(|detail| detail.link.index == share.index).cloned();
        Ok(Some(Self {
            addresses: addresses(netlink, share.index)?,
            counts: share::counts(netlink, journal, share)?,
            missing: share::missing(netlink, journal, share)?,
            is_behind_others: share::is_behind_others(netlink, journal, share)?,
            share: share.clone(),
            detail,
        }))
    }
}

fn addresses(netlink: &mut Netlink, index: u32) -> std::io::Result<Vec<String>> {
    Ok(netlink.addresses(index)?.iter().map(ToString::to_string).collect())
}

/// One port.
#[derive(Debug, Clone)]
pub struct Port {
    /// The port itself.
    pub detail: Detail,
    /// What it is for.
    pub role: Role,
    /// The guest's VM, as people call it.
    pub vm: Option<String>,
    /// The process behind a TAP, as one of whose the guest is.
    pub process: Option<Process>,
    /// Whether there is one that was not found out in time.
    pub is_process_unknown: bool,
    /// Whose the guest is, as people call them.
    pub user: Option<String>,
    /// The guest's address.
    pub mac: Option<Mac>,
    /// The run of the VM that it is, if it has an address of ours.
    pub slot: Option<usize>,
    /// The guest's addresses that the host knows.
    pub addresses: Vec<IpAddr>,
    /// The DHCP leases that it was seen to get.
    pub leases: Vec<DhcpLease>,
    /// Those that a guest of this address once had: whether this one has them nobody has seen.
    pub last_known: Vec<IpAddr>,
}

impl Port {
    /// Whether it is a TAP.
    pub fn is_tap(&self) -> bool {
        matches!(self.detail.link.kind, Kind::Tap { .. })
    }

    /// All of the guest's addresses that are known, those that are good beyond their own link first.
    pub fn known_addresses(&self) -> Vec<IpAddr> {
        let leases = self.leases.iter().map(|lease| IpAddr::from(lease.address));
        in_order(self.addresses.iter().copied().chain(leases))
    }
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
    let shared = journal.as_ref().map(|journal| SharedUplink::look(netlink, journal, details));
    let shared = shared.transpose().map_err(unreadable)?.flatten();
    let nat = match (&files, &journal) {
        (Some(files), Some(journal)) => OwnNetwork::look(files, journal, details)?,
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
        let age = holder.and_then(Process::age);
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
