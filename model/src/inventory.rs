//! What is on a bridge: what a port is for, whose its guest is, and which addresses that has, by what was seen.
//! It may not know how that was seen.
#![forbid(unsafe_code)]

pub mod events;
mod hosts;
mod ways;

pub use hosts::{Host, hosts};
pub use ways::Way;

use crate::argv::inspect::QemuLine;
use crate::bpf::Instruction;
use crate::host::{Kind, Link};
use crate::ifname::IfName;
use crate::journal::Journal;
use crate::mac::Mac;
use crate::nat::Nat;
use crate::nat::guest::Guest;
use crate::packet::lease::DhcpLease;
use crate::packet::{arp_probe, is_link_local};
use crate::rtnl::detail::{Detail, Stats};
use crate::rtnl::network::{FdbEntry, Neighbour, PortVlans};
use crate::share::found::Counts;
use crate::share::{Filter, Share};
use crate::text;
use crate::text::shell::quote;
use crate::unprivileged::helper::NAME;
use crate::vm::Record;
// Without a clock.
use core::time::Duration;
use port::bpf::renewable;
use port::{Guard, Rate};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;

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
        match (&self.shared, self.lost_uplink()) {
            (Some(shared), _) if shared.detail.is_none() => {
                faults.push(format!("its uplink {} is not there; it joins again when it appears", shared.name()));
            }
            (Some(shared), _) if !shared.missing.is_empty() => {
                faults.push(format!("{} of its filters are missing: kvm-bridge recover", shared.missing.len()));
            }
            (None, Some(uplink)) => faults.push(format!("its uplink {uplink} is no port of it: kvm-bridge recover")),
            _ => {}
        }
        if let Some(nat) = &self.nat {
            // Where there is no reaper, that is to be said.
            if nat.has_server == Some(false) && !self.lacks_reaper {
                faults.push("dnsmasq does not run for it".to_owned());
            }
            faults.extend(nat.cut_off.iter().map(|guest| {
                format!("the ports that are forwarded to {} lead nowhere: start it again", guest.label())
            }));
            if nat.masqueraded == Some(None) {
                faults.push("its firewall rules are missing: kvm-bridge recover".to_owned());
            }
        }
        if self.lacks_reaper {
            faults.push("its reaper does not run: kvm-bridge recover".to_owned());
        }
        faults
    }

    /// The interface that was made its port, and is none of it any more.
    pub fn lost_uplink(&self) -> Option<&IfName> {
        let journal = self.journal.as_ref()?;
        let of_vxlan = || journal.vtep().map(|vtep| (journal.port_end(), &vtep.device));
        let (index, name) = journal.port().map(|port| (port.index, &port.uplink)).or_else(of_vxlan)?;
        (!self.ports.iter().any(|known| known.detail.link.index == index)).then_some(name)
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
}

/// A network of the host's own behind a bridge.
#[derive(Debug, Clone)]
pub struct OwnNetwork {
    /// It.
    pub network: Nat,
    /// The guests that root has started on it and that run.
    pub guests: Vec<Guest>,
    /// Those of them whose forwarded ports lead nowhere: in a network of a user's own their relay was killed.
    pub cut_off: Vec<Guest>,
    /// How many connections of guests were masqueraded, where the rules are there; `None` for who may not ask.
    pub masqueraded: Option<Option<u64>>,
    /// Whether its dnsmasq runs; `None` before it was started first.
    pub has_server: Option<bool>,
}

/// What a port is held to, as the kernel has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// The program of its guard; of no instructions where it has none.
    pub guard: Vec<Instruction>,
    /// How many frames of the guest were dropped: by the guard, or as they came faster than its rate.
    pub dropped: u64,
    /// Whether it is isolated.
    pub is_isolated: bool,
    /// Its VLANs, on a bridge that filters them.
    pub vlans: Option<PortVlans>,
    /// How fast it is.
    pub rate: Option<Rate>,
}

impl Held {
    /// Its guard, as `guard=` has it.
    pub fn guard_kind(&self) -> Guard {
        match () {
            () if self.guard.is_empty() => Guard::Off,
            () if renewable(&self.guard).is_some() => Guard::Ip,
            () => Guard::Mac,
        }
    }
}

impl fmt::Display for Held {
    /// A list: `guarded (dropped 3), isolated, VLAN 10, 100mbit`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dropped = if self.dropped > 0 { format!(" (dropped {})", self.dropped) } else { String::new() };
        let guard = match self.guard_kind() {
            Guard::Off => None,
            Guard::Mac => Some(format!("guarded{dropped}")),
            Guard::Ip => Some(format!("guarded by IP address{dropped}")),
        };
        let isolated = self.is_isolated.then(|| "isolated".to_owned());
        let vlans = self.vlans.as_ref().map(|vlans| format!("VLAN {vlans}"));
        let rate = self.rate.map(|rate| rate.to_string());
        out.write_str(&[guard, isolated, vlans, rate].into_iter().flatten().collect::<Vec<String>>().join(", "))
    }
}

/// One port.
#[derive(Debug, Clone)]
pub struct Port {
    /// The port itself.
    pub detail: Detail,
    /// What it is for.
    pub role: Role,
    /// What it is held to.
    pub held: Held,
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
    /// Those of them that root has set (`ip neigh add`, NUD_PERMANENT): no guest has said them.
    pub set: Vec<IpAddr>,
    /// The DHCP leases that it was seen to get.
    pub leases: Vec<DhcpLease>,
    /// Those that a guest of this address once had: whether this one has them nobody has seen.
    pub last_known: Vec<IpAddr>,
    /// What passes now, where somebody watches.
    pub flows: Option<Flows>,
}

/// What passes a port in a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flows {
    /// From the guest: packets, bytes.
    pub received: (u64, u64),
    /// To the guest: packets, bytes.
    pub sent: (u64, u64),
}

impl Flows {
    /// Those between two readings of the counters.
    pub fn between(before: &Stats, now: &Stats, time: Duration) -> Self {
        let rate =
            |before: u64, now: u64| (now.saturating_sub(before) as f64 / time.as_secs_f64().max(1e-3)).round() as u64;
        Self {
            received: (rate(before.rx_packets, now.rx_packets), rate(before.rx_bytes, now.rx_bytes)),
            sent: (rate(before.tx_packets, now.tx_packets), rate(before.tx_bytes, now.tx_bytes)),
        }
    }
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

/// A process that has TAPs open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Its program's name (/proc/PID/comm).
    pub program: String,
    /// Whose it is: its real user's, and root's only if all of its user IDs are.
    pub uid: u32,
    /// When it was started, in seconds since 1970.
    pub since: Option<u64>,
    /// Its command line, with argv\[0\].
    pub words: Vec<OsString>,
    /// Its descriptors, by the TAP that they are of.
    pub taps: BTreeMap<IfName, Vec<i32>>,
}

impl Process {
    /// Whether it is a QEMU, by the name of its program.
    pub fn is_qemu(&self) -> bool {
        self.program.contains("qemu") || self.program == "kvm"
    }
}

impl fmt::Display for Process {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ({})", text::name(&self.program), self.pid)
    }
}

/// The alias of TAPs that `kvm-bridge up` makes for a bridge. That of a guest's own has a blank there.
pub fn persistent_alias(bridge: &IfName) -> String {
    format!("kvm-bridge-tap {bridge}")
}

/// Whether this is a TAP that `up` made for a bridge.
pub fn is_persistent_tap(link: &Link, bridge: &IfName) -> bool {
    matches!(link.kind, Kind::Tap { is_persistent: true, .. })
        && link.alias.as_deref() == Some(&persistent_alias(bridge))
}

/// What a port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The way to the network: what we took, or a card of a bridge that was there.
    Uplink,
    /// The TAP of a guest: the shim started it, or a helper made the TAP for it.
    Guest,
    /// A TAP of `kvm-bridge up`.
    Persistent,
    /// Somebody else's.
    Foreign,
}

impl Role {
    /// That of a port of a bridge, by our journal of that, if it is ours; `is_qemu` is whether who has it open is a QEMU, if
    /// somebody is seen to.
    pub fn of(
        link: &Link,
        has_carrier: bool,
        bridge: &IfName,
        journal: Option<&Journal>,
        is_qemu: Option<bool>,
    ) -> Self {
        let is_tap = matches!(link.kind, Kind::Tap { .. });
        let is_persistent = matches!(link.kind, Kind::Tap { is_persistent: true, .. });
        match journal {
            Some(journal) if journal.attached(link.index) => Self::Uplink,
            _ if is_persistent_tap(link, bridge) => Self::Persistent,
            _ if is_tap && link.vm().is_some() => Self::Guest,
            // A helper's TAP has no alias. Where its process can't be seen, one that is in use and goes with it is a guest's.
            _ if is_tap && is_qemu.unwrap_or(!is_persistent && has_carrier) => Self::Guest,
            // What made the bridge gave it its card, too.
            None if link.kind.is_card() => Self::Uplink,
            _ => Self::Foreign,
        }
    }

    /// Its name, for people and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uplink => "uplink",
            Self::Guest => "guest",
            Self::Persistent => "persistent",
            Self::Foreign => "foreign",
        }
    }
}

/// Whose a guest is: by its TAP, whom that belongs to, and whose the process is that has it open. The helper's mark outweighs its
/// process, which can be a setuid program; and what has a TAP of another user open is not taken for root's.
fn owner(link: &Link, tap_owner: Option<u32>, process: Option<u32>) -> Option<u32> {
    let mark = link.alias.as_deref().and_then(|alias| alias.strip_prefix(NAME)?.strip_prefix(" uid "));
    let marked = mark.and_then(|mark| mark.split(' ').next()?.parse().ok());
    let process = process.filter(|uid| *uid != 0 || tap_owner.is_none());
    marked.or(process).or(tap_owner)
}

/// The address of the guest behind a TAP: what QEMU was told; else who spoke behind the port. The TAP has the guest's own address
/// but for its first byte.
fn guest_mac(tap: &Link, told: Option<Mac>, fdb: &[FdbEntry], records: &[Record]) -> Option<Mac> {
    let tail = tap.mac.map(|mac| mac.0[1..].to_vec());
    let is_its = |mac: &Mac| Some(&mac.0[1..]) == tail.as_deref() && Some(*mac) != tap.mac;
    let heard: Vec<Mac> =
        fdb.iter().filter(|entry| entry.port == tap.index && !entry.is_own).map(|entry| entry.mac).collect();
    let kept = || records.iter().flat_map(Record::macs).find(is_its);
    let only = match heard.as_slice() {
        [only] => Some(*only),
        _ => None,
    };
    told.or_else(|| heard.iter().copied().find(is_its)).or_else(kept).or(only)
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

/// Each once, those that are good beyond their own link first.
fn in_order(ips: impl IntoIterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut ips: Vec<IpAddr> = ips.into_iter().collect();
    ips.sort_by_key(|ip| (is_link_local(ip), *ip));
    ips.dedup();
    ips
}

/// What was seen of a bridge and of those on it.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Its name.
    pub bridge: &'a IfName,
    /// Its journal, if it is ours.
    pub journal: Option<&'a Journal>,
    /// Its forwarding database.
    pub fdb: &'a [FdbEntry],
    /// Whom the host knows on it.
    pub neighbours: &'a [Neighbour],
    /// The DHCP leases that were heard on it.
    pub leases: &'a [DhcpLease],
    /// The addresses of all VMs.
    pub records: &'a [Record],
    /// Whether all processes were looked at.
    pub has_all_processes: bool,
}

impl Seen<'_> {
    /// One of its ports; `holder` is who has it open, and for how long that has been running.
    pub fn port(
        &self,
        detail: &Detail,
        held: Held,
        holder: Option<(&Process, Option<Duration>)>,
        user_name: impl Fn(u32) -> String,
    ) -> Port {
        let link = &detail.link;
        let (holder, age) = holder.map_or((None, None), |(process, age)| (Some(process), age));
        let role = Role::of(link, detail.has_carrier, self.bridge, self.journal, holder.map(Process::is_qemu));
        let line = holder.map(|process| QemuLine::read(process.words.get(1..).unwrap_or_default()));
        let vm = link.vm().filter(|_| role == Role::Guest).map(str::to_owned);
        let is_tap = matches!(link.kind, Kind::Tap { .. });
        let fds = holder.and_then(|process| process.taps.get(&link.name)).map_or(&[][..], Vec::as_slice);
        let told = line.as_ref().and_then(|line| line.mac_on(link.name.as_str(), fds));
        let mac = is_tap.then(|| guest_mac(link, told, self.fdb, self.records)).flatten();
        let mut kept = self.records.iter().filter_map(|record| Some((record, record.slot_of(mac?)?)));
        let (kept, slot) = kept.next().unzip();
        let uid = owner(link, detail.owner, holder.map(|process| process.uid));
        let its = self.neighbours.iter().filter(|known| Some(known.mac) == mac);
        let (now, before): (Vec<&Neighbour>, Vec<&Neighbour>) = its.partition(|known| is_of_this_run(known, age));
        let ips = |neighbours: Vec<&Neighbour>| in_order(neighbours.into_iter().map(|known| known.ip));
        let is_its = |lease: &&DhcpLease| lease.port == link.index && mac.is_none_or(|mac| mac == lease.mac);
        Port {
            detail: detail.clone(),
            role,
            held,
            vm: vm
                .or_else(|| line.and_then(|line| line.name))
                .or_else(|| kept.map(|record: &Record| record.name().to_owned())),
            process: holder.map(|process| Process { uid: uid.unwrap_or(process.uid), ..process.clone() }),
            is_process_unknown: is_tap && link.has_carrier && holder.is_none() && !self.has_all_processes,
            user: uid.map(user_name),
            slot,
            mac,
            set: ips(now.iter().copied().filter(|known| known.is_given).collect()),
            addresses: ips(now),
            leases: self.leases.iter().filter(is_its).copied().collect(),
            last_known: ips(before),
            flows: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Life;
    use crate::step::{Create, Ipv6};
    use crate::uplink::{Attachment, Port};
    use crate::uplink::{Awaited, Uplink};

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const TAP: Kind = Kind::Tap { is_persistent: false, is_multi_queue: false };
    const PERSISTENT: Kind = Kind::Tap { is_persistent: true, is_multi_queue: false };

    fn name(text: &str) -> IfName {
        IfName::new(text).unwrap()
    }

    /// br0 with the port eth0, of index 2.
    fn journal() -> Journal {
        let uplink = name("eth0");
        let port = Port { uplink, index: 2, mac: MAC, had_ipv6: true, was_down: false, is_asked: false };
        let create = Create { mac: MAC, mtu: None, ipv6: Ipv6::Usual, no_arp: false, filters_vlans: false };
        let life = Life { boot: String::new(), namespace: None };
        Journal::new(name("br0"), false, create, Some(Attachment::Port(port)), life, [1; 8])
    }

    #[test]
    fn what_a_port_is_for_is_decided_by_who_made_and_holds_it() {
        let br0 = name("br0");
        let journal = journal();
        let (qemu, other) = (true, false);
        let persistent = persistent_alias(&br0);
        for (ours, index, kind, alias, holder, has_carrier, role) in [
            (true, 2, Kind::Card, "", None, true, Role::Uplink),
            (true, 3, Kind::Card, "", None, true, Role::Foreign),
            (false, 3, Kind::Card, "", None, true, Role::Uplink),
            (false, 3, Kind::Other("veth".to_owned()), "", None, true, Role::Foreign),
            (false, 3, PERSISTENT, persistent.as_str(), None, false, Role::Persistent),
            // Of another bridge's name.
            (false, 3, PERSISTENT, "kvm-bridge-tap br1", None, false, Role::Foreign),
            (true, 3, TAP, "kvm-bridge alice", None, false, Role::Guest),
            (true, 3, TAP, "", Some(qemu), false, Role::Guest),
            (true, 3, TAP, "", Some(other), true, Role::Foreign),
            // Whose process can't be seen: in use, and it goes with that.
            (true, 3, TAP, "", None, true, Role::Guest),
            (true, 3, TAP, "", None, false, Role::Foreign),
            (true, 3, PERSISTENT, "", None, true, Role::Foreign),
        ] {
            let alias = Some(alias.to_owned()).filter(|alias| !alias.is_empty());
            let link = Link { kind, alias, ..Link::bare(index, name("port")) };
            let found = Role::of(&link, has_carrier, &br0, ours.then_some(&journal), holder);
            assert_eq!(found, role, "{ours} {link:?} {has_carrier}");
        }
    }

    #[test]
    fn the_address_of_a_guest_is_the_one_that_fits_its_tap_else_the_only_one_heard() {
        let guest = Mac([2, 0, 0, 0, 0, 7]);
        let tap = |mac: Mac| Link { kind: TAP, mac: Some(mac), ..Link::bare(5, name("kvb0")) };
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
            assert_eq!(guest_mac(&tap, None, &fdb, &[]), mac, "{fdb:?}");
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

    fn detail(link: Link, has_carrier: bool) -> Detail {
        let (stats, bridge, is_forwarding) = (Stats::default(), None, None);
        Detail {
            link,
            has_carrier,
            stats,
            owner: None,
            group: None,
            bridge,
            is_forwarding,
            is_isolated: false,
            kind: None,
        }
    }

    #[test]
    fn the_faults_of_a_bridge_of_ours_are_named_with_what_to_do() {
        let br0 = name("br0");
        let link = |is_up| Link { kind: Kind::Bridge, is_up, ..Link::bare(9, br0.clone()) };
        let bridge = |is_up, journal, lacks_reaper| Bridge {
            detail: detail(link(is_up), true),
            journal,
            last_failure: None,
            lacks_reaper,
            addresses: Vec::new(),
            shared: None,
            nat: None,
            fdb: Vec::new(),
            ports: Vec::new(),
        };
        assert!(bridge(false, None, true).faults().is_empty(), "kvm-bridge did not create it");
        assert_eq!(
            bridge(false, Some(journal()), true).faults(),
            [
                "it is down: ip link set dev br0 up",
                "its uplink eth0 is no port of it: kvm-bridge recover",
                "its reaper does not run: kvm-bridge recover"
            ]
        );
        let awaits = |uplink| {
            let awaited = Awaited { uplink, attach: None, was_port: false, follow: false };
            let create = Create { mac: MAC, mtu: None, ipv6: Ipv6::Usual, no_arp: true, filters_vlans: false };
            let life = Life { boot: String::new(), namespace: None };
            Journal::new(br0.clone(), true, create, Some(Attachment::Awaited(awaited)), life, [1; 8])
        };
        for (uplink, fault) in [
            (Uplink::Auto, "it waits for a default route, whose interface is to be its uplink"),
            (Uplink::Link(name("usb0")), "it waits for usb0, which is not there"),
        ] {
            assert_eq!(bridge(true, Some(awaits(uplink)), false).faults(), [fault]);
        }
    }
}
