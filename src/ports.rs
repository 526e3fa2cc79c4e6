//! What is on a bridge: its ports, and of each guest its VM, process, user, address, slot.
//!
//! Nothing of it is remembered: the kernel has the links, the forwarding database and the host's neighbours, /proc the
//! processes, and the leases say whose address it is. What the caller may not see is `None`.

use crate::bring_up::up::{is_lasting, user_name};
use crate::dhcp_leases::{self, DhcpLease};
use crate::error::Result;
use crate::holders::{self, Process};
use crate::host::Kind;
use crate::journal::{Files, Journal};
use crate::lease::{Record, Store};
use crate::mac::Mac;
use crate::name::IfName;
use crate::net::observe::unreadable;
use crate::net::rtnl::{Detail, FdbEntry, Neighbour, Netlink};
use crate::net::share::{self, Counts};
use crate::qemu_line::QemuLine;
use crate::share::{Filter, Share};
use crate::shell::quote;
use crate::watch::ask::is_probe;
use crate::watch::probe;
use std::net::IpAddr;
use std::time::Duration;

/// A bridge and what is on it.
#[derive(Debug, Clone)]
pub struct Bridge {
    /// The bridge itself.
    pub detail: Detail,
    /// Its journal, if it is ours.
    pub journal: Option<Journal>,
    /// Why it could not be taken back, if its reaper tried in vain.
    pub complaint: Option<String>,
    /// Whether it needs a reaper, and none runs.
    pub lacks_reaper: bool,
    /// The host's addresses on it.
    pub addresses: Vec<String>,
    /// The uplink that it shares, if it does.
    pub shared: Option<SharedUplink>,
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
        match journal.awaits() {
            Some("auto") => faults.push("it waits for a default route, whose interface is to be its uplink".to_owned()),
            Some(uplink) => faults.push(format!("it waits for {uplink}, which is not there")),
            None => {}
        }
        let is_attached = |port: &Port| journal.port().is_none_or(|(_, index)| port.detail.link.index == index);
        match (&self.shared, journal.port()) {
            (Some(shared), _) if shared.detail.is_none() => {
                faults.push(format!("its uplink {} is not there; it joins when it comes back", shared.name()));
            }
            (Some(shared), _) if !shared.missing.is_empty() => {
                faults.push(format!("{} of its filters are missing: kvm-bridge recover", shared.missing.len()));
            }
            (None, Some((uplink, _))) if !self.ports.iter().any(is_attached) => {
                faults.push(format!("its uplink {uplink} is no port of it: kvm-bridge recover"));
            }
            _ => {}
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
        probe::questions(host, addresses, guest, &known)
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

/// What a port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The way to the network: what we took, or a card of a bridge that was there.
    Uplink,
    /// The TAP of a guest: the shim started it, or a helper made the TAP for it.
    Guest,
    /// A TAP of `kvm-bridge up`.
    Lasting,
    /// Somebody else's.
    Foreign,
}

impl Role {
    /// Its name, for people and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uplink => "uplink",
            Self::Guest => "guest",
            Self::Lasting => "lasting",
            Self::Foreign => "foreign",
        }
    }
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
    /// The process behind a TAP.
    pub process: Option<Process>,
    /// Whose that is, or whose the TAP is.
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

/// Each once, those that are good beyond their own link first.
fn in_order(ips: impl IntoIterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut ips: Vec<IpAddr> = ips.into_iter().collect();
    ips.sort_by_key(|ip| (is_link_local(ip), *ip));
    ips.dedup();
    ips
}

/// All bridges with what is on them, by name.
pub fn look(netlink: &mut Netlink) -> Result<Vec<Bridge>> {
    let details = netlink.details().map_err(unreadable)?;
    let processes = if details.iter().any(|detail| matches!(detail.link.kind, Kind::Tap { .. })) {
        holders::of_taps()
    } else {
        Vec::new()
    };
    let records = Store::everybodys_records();
    let mut bridges = Vec::new();
    for detail in details.iter().filter(|detail| detail.link.kind == Kind::Bridge) {
        bridges.push(look_at(netlink, detail, &details, &processes, &records)?);
    }
    bridges.sort_by(|a, b| a.detail.link.name.cmp(&b.detail.link.name));
    Ok(bridges)
}

fn look_at(
    netlink: &mut Netlink,
    detail: &Detail,
    details: &[Detail],
    processes: &[Process],
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
        processes,
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
        complaint: unreadable_journal.or_else(|| files.as_ref().and_then(Files::complaint)),
        lacks_reaper: journal.as_ref().is_some_and(Journal::needs_reaper)
            && !files.as_ref().is_some_and(Files::has_reaper),
        addresses: addresses(netlink, index).map_err(unreadable)?,
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
    processes: &'a [Process],
    records: &'a [Record],
}

impl Seen<'_> {
    fn port(&self, detail: &Detail) -> Port {
        let link = &detail.link;
        let holder = self.processes.iter().find(|process| process.taps.contains_key(&link.name));
        let role = self.role(detail, holder);
        let line = holder.map(|process| QemuLine::read(process.words.get(1..).unwrap_or_default()));
        let vm = link.vm().filter(|_| role == Role::Guest).map(str::to_owned);
        let is_tap = matches!(link.kind, Kind::Tap { .. });
        let mac = is_tap.then(|| self.mac(detail, holder, line.as_ref())).flatten();
        let slot_of = |record: &Record| record.slots.iter().position(|macs| macs.contains(&mac));
        let kept_for = || {
            let record = self.records.iter().find(|record| mac.is_some() && slot_of(record).is_some())?;
            Some(record.vm.split_once(':').map_or(record.vm.as_str(), |(_, name)| name).to_owned())
        };
        let uid = holder.map(|process| process.uid).or(detail.owner);
        let age = holder.and_then(Process::age);
        let its = self.neighbours.iter().filter(|known| Some(known.mac) == mac);
        let (now, before): (Vec<&Neighbour>, Vec<&Neighbour>) = its.partition(|known| is_of_this_run(known, age));
        let ips = |neighbours: Vec<&Neighbour>| in_order(neighbours.into_iter().map(|known| known.ip));
        let is_its = |lease: &&DhcpLease| lease.port == link.index && mac.is_none_or(|mac| mac == lease.mac);
        Port {
            detail: detail.clone(),
            role,
            vm: vm.or_else(|| line.and_then(|line| line.name)).or_else(kept_for),
            process: holder.cloned(),
            user: uid.map(user_name),
            slot: mac.and_then(|_| self.records.iter().find_map(slot_of)),
            mac,
            addresses: ips(now),
            leases: self.leases.iter().filter(is_its).copied().collect(),
            last_known: ips(before),
        }
    }

    fn role(&self, detail: &Detail, holder: Option<&Process>) -> Role {
        let link = &detail.link;
        let is_ours = |journal: &Journal| journal.attached(link.index);
        let is_tap = matches!(link.kind, Kind::Tap { .. });
        let is_persistent = matches!(link.kind, Kind::Tap { is_persistent: true, .. });
        match self.journal {
            Some(journal) if is_ours(journal) => Role::Uplink,
            _ if is_lasting(link, self.bridge) => Role::Lasting,
            _ if is_tap && link.vm().is_some() => Role::Guest,
            // A helper's TAP has no alias. Where its process can't be seen, one that is in use and goes with it is a guest's.
            _ if is_tap && holder.map_or(!is_persistent && detail.has_carrier, Process::is_qemu) => Role::Guest,
            // What made the bridge gave it its card, too.
            None if link.kind.is_card() => Role::Uplink,
            _ => Role::Foreign,
        }
    }

    /// What QEMU was told; else who spoke behind the port. The TAP has the guest's own address but for its first byte.
    fn mac(&self, detail: &Detail, holder: Option<&Process>, line: Option<&QemuLine>) -> Option<Mac> {
        let name = &detail.link.name;
        let fds = holder.and_then(|process| process.taps.get(name)).map_or(&[][..], Vec::as_slice);
        let told = line.and_then(|line| line.mac_on(name.as_str(), fds));
        let tail = detail.link.mac.map(|mac| mac.0[1..].to_vec());
        let is_its = |mac: &Mac| Some(&mac.0[1..]) == tail.as_deref() && Some(*mac) != detail.link.mac;
        let heard: Vec<Mac> = self
            .fdb
            .iter()
            .filter(|entry| entry.port == detail.link.index && !entry.is_own)
            .map(|entry| entry.mac)
            .collect();
        let kept =
            || self.records.iter().flat_map(|record| record.slots.iter().flatten().flatten()).copied().find(is_its);
        let only = match heard.as_slice() {
            [only] => Some(*only),
            _ => None,
        };
        told.or_else(|| heard.iter().copied().find(is_its)).or_else(kept).or(only)
    }
}

/// Whether a neighbour has answered since the guest's process was started: a VM keeps its address from run to run, and the
/// host remembers for long what an earlier run had. Where the process can't be seen, one that answers now has to do.
fn is_of_this_run(known: &Neighbour, age: Option<Duration>) -> bool {
    // The start of a process is known to the second, and the clock may have been set.
    const BLUR: Duration = Duration::from_secs(2);
    known.is_given
        || match (known.confirmed, age) {
            (Some(confirmed), Some(age)) => confirmed + BLUR < age,
            _ => known.is_fresh,
        }
}

/// Whether an address is good on its own link only.
pub fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bring_up::up::alias;
    use crate::host::Link;
    use crate::net::rtnl::Stats;
    use crate::step::Step;
    use std::collections::BTreeMap;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const TAP: Kind = Kind::Tap { is_persistent: false, is_multi_queue: false };
    const PERSISTENT: Kind = Kind::Tap { is_persistent: true, is_multi_queue: false };

    fn name(name: &str) -> IfName {
        IfName::new(name).unwrap()
    }

    fn detail(link: Link, has_carrier: bool) -> Detail {
        let (stats, bridge, is_forwarding) = (Stats::default(), None, None);
        Detail { link, has_carrier, stats, owner: None, group: None, bridge, is_forwarding, kind: None }
    }

    fn seen<'a>(bridge: &'a IfName, journal: Option<&'a Journal>, fdb: &'a [FdbEntry]) -> Seen<'a> {
        Seen { bridge, journal, fdb, neighbours: &[], leases: &[], processes: &[], records: &[] }
    }

    fn process(program: &str) -> Process {
        let (words, taps) = (Vec::new(), BTreeMap::new());
        Process { pid: 1, program: program.to_owned(), uid: 0, since: None, words, taps }
    }

    fn journal(bridge: &IfName) -> Journal {
        let (bridge, uplink) = (bridge.clone(), name("eth0"));
        let port =
            Step::AttachPort { bridge: bridge.clone(), uplink, index: 2, mac: MAC, had_ipv6: false, is_asked: true };
        Journal::new(bridge, false, vec![port]).unwrap()
    }

    #[test]
    fn what_a_port_is_for_is_told_by_who_made_and_holds_it() {
        let br0 = name("br0");
        let journal = journal(&br0);
        let (qemu, other) = (process("qemu-system-x86"), process("openvpn"));
        let lasting = alias(&br0);
        for (ours, index, kind, alias, holder, has_carrier, role) in [
            (true, 2, Kind::Card, "", None, true, Role::Uplink),
            (true, 3, Kind::Card, "", None, true, Role::Foreign),
            (false, 3, Kind::Card, "", None, true, Role::Uplink),
            (false, 3, Kind::Other("veth".to_owned()), "", None, true, Role::Foreign),
            (false, 3, PERSISTENT, lasting.as_str(), None, false, Role::Lasting),
            // Of another bridge's name.
            (false, 3, PERSISTENT, "kvm-bridge-tap br1", None, false, Role::Foreign),
            (true, 3, TAP, "kvm-bridge alice", None, false, Role::Guest),
            (true, 3, TAP, "", Some(&qemu), false, Role::Guest),
            (true, 3, TAP, "", Some(&other), true, Role::Foreign),
            // Whose process can't be seen: in use, and it goes with that.
            (true, 3, TAP, "", None, true, Role::Guest),
            (true, 3, TAP, "", None, false, Role::Foreign),
            (true, 3, PERSISTENT, "", None, true, Role::Foreign),
        ] {
            let alias = Some(alias.to_owned()).filter(|alias| !alias.is_empty());
            let detail = detail(Link { kind, alias, ..Link::bare(index, name("port")) }, has_carrier);
            let found = seen(&br0, ours.then_some(&journal), &[]).role(&detail, holder);
            assert_eq!(found, role, "{ours} {:?} {has_carrier}", detail.link);
        }
    }

    #[test]
    fn the_address_of_a_guest_is_what_its_taps_tells_else_the_only_one_heard() {
        let (br0, guest) = (name("br0"), Mac([2, 0, 0, 0, 0, 7]));
        let tap = |mac: Mac| detail(Link { kind: TAP, mac: Some(mac), ..Link::bare(5, name("kvb0")) }, true);
        let entry = |mac, port, is_own| FdbEntry { mac, port, is_own };
        let nested = Mac([2, 0, 0, 0, 1, 1]);
        for (fdb, tap, mac) in [
            (vec![], tap(guest.of_tap()), None),
            (vec![entry(nested, 5, false), entry(guest, 5, false)], tap(guest.of_tap()), Some(guest)),
            (vec![entry(nested, 5, false)], tap(guest.of_tap()), Some(nested)),
            (vec![entry(guest, 6, false)], tap(guest.of_tap()), None),
            (vec![entry(guest.of_tap(), 5, true)], tap(guest.of_tap()), None),
            (vec![entry(nested, 5, false), entry(guest, 5, false)], tap(MAC.of_tap()), None),
        ] {
            assert_eq!(seen(&br0, None, &fdb).mac(&tap, None, None), mac, "{fdb:?}");
        }
    }

    #[test]
    fn what_an_earlier_run_had_is_no_address_of_this_one() {
        let seconds = |seconds: Option<u64>| seconds.map(Duration::from_secs);
        for (is_given, is_fresh, confirmed, age, expected) in [
            (true, false, None, None, true),
            (false, false, Some(10), Some(60), true),
            (false, true, Some(70), Some(60), false),
            (false, true, Some(59), Some(60), false),
            (false, true, Some(10), None, true),
            (false, false, Some(10), None, false),
            (false, true, None, Some(60), true),
        ] {
            let ip = IpAddr::from([10, 0, 0, 1]);
            let known = Neighbour { ip, mac: MAC, is_fresh, is_given, confirmed: seconds(confirmed) };
            assert_eq!(is_of_this_run(&known, seconds(age)), expected, "{known:?} {age:?}");
        }
    }

    #[test]
    fn the_faults_of_a_bridge_of_ours_are_told_with_what_to_do() {
        let br0 = name("br0");
        let link = |is_up| Link { kind: Kind::Bridge, is_up, ..Link::bare(9, br0.clone()) };
        let bridge = |is_up, journal, lacks_reaper| Bridge {
            detail: detail(link(is_up), true),
            journal,
            complaint: None,
            lacks_reaper,
            addresses: Vec::new(),
            shared: None,
            fdb: Vec::new(),
            ports: Vec::new(),
        };
        assert!(bridge(false, None, true).faults().is_empty(), "it is somebody else's");
        assert_eq!(
            bridge(false, Some(journal(&br0)), true).faults(),
            [
                "it is down: ip link set dev br0 up",
                "its uplink eth0 is no port of it: kvm-bridge recover",
                "its reaper does not run: kvm-bridge recover"
            ]
        );
        let awaits = |uplink| {
            let bridge = br0.clone();
            let step = Step::AwaitUplink { bridge, uplink, attach: None, was_port: false, follow: false };
            Journal::new(br0.clone(), true, vec![step]).unwrap()
        };
        assert_eq!(
            bridge(true, Some(awaits(None)), false).faults(),
            ["it waits for a default route, whose interface is to be its uplink"]
        );
        assert_eq!(
            bridge(true, Some(awaits(Some(name("usb0")))), false).faults(),
            ["it waits for usb0, which is not there"]
        );
    }
}
