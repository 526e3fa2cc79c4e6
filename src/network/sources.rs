//! Which IP addresses guests on a bridge may send from (`guard=ip`): those that DHCP gave them on their own ports, as long as it
//! gave them.
//!
//! A port begins with a guard that lets the guest ask for an address. When it was given one, or that has ended, its guard is
//! renewed. Only answers to what the guest has asked count, and only as they go out by its own port.
//!
//! A server that goes by client identifiers (option 61 of RFC 2132) gives a guest the address of another that it has heard the
//! identifier of. What a guest has it keeps, as long as it is there and its lease lasts, and no other may send from it.

use crate::netlink::Netlink;
use crate::network::apply::{free_port, of_port};
use crate::output;
use crate::state::dhcp_leases;
use crate::state::dhcp_leases::now;
use crate::state::journal::Files;
use model::host::{Kind, Link};
use model::mac::Mac;
use model::rtnl::network::PortVlans;
use model::share::Hook;
use port::bpf::{guard_with_sources, renewable, sources};
use port::{FILTER_PREF, Request};
use std::cell::OnceCell;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// What is known of the guard of a port.
#[derive(Debug)]
struct Guarded {
    mac: Mac,
    /// The EtherType of the tags that its guest may send.
    tags: Option<u16>,
    /// What it lets in.
    addresses: BTreeSet<Ipv4Addr>,
    /// Whether it is as we make them, and not as somebody before us did.
    is_ours: bool,
}

/// The guarded ports of a bridge.
#[derive(Default)]
pub struct Sources {
    /// Its TAPs; `None` for one that is not guarded by IP address.
    ports: BTreeMap<u32, Option<Guarded>>,
    /// When the first of the leases that count ends.
    next_end: Option<Instant>,
}

impl Sources {
    /// Looks at the TAPs among these ports that are new, and forgets those that are gone.
    pub fn follow(&mut self, netlink: &mut Netlink, ports: &[Link]) -> io::Result<()> {
        let there: BTreeSet<u32> = ports.iter().map(|port| port.index).collect();
        self.ports.retain(|index, _| there.contains(index));
        for tap in ports.iter().filter(|port| matches!(port.kind, Kind::Tap { .. })) {
            let known = match self.ports.entry(tap.index) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => {
                    let filters = netlink.filters(tap.index, Hook::Ingress)?;
                    let guard = filters.into_iter().find(|found| found.is_filter() && found.pref == FILTER_PREF);
                    unknown.insert(guard.and_then(|found| Guarded::by_others(&found.program)))
                }
            };
            // Whoever holds it could open it anew, with vnet headers (see `Policy::has_vnet_headers`).
            if known.is_some() && matches!(tap.kind, Kind::Tap { is_persistent: true, .. }) {
                free_port(netlink, tap.index)?;
            }
        }
        Ok(())
    }

    /// Renews the guards whose guests have other addresses than before. One that can't be renewed is tried again the next time.
    pub fn renew(&mut self, files: &Files) {
        if self.ports.values().all(Option::is_none) {
            self.next_end = None;
            return;
        }
        let (leases, now) = (dhcp_leases::of(files), now());
        let given = |tap: u32, guard: &Guarded| {
            let mac = guard.mac;
            leases.iter().filter(move |lease| (lease.port, lease.mac) == (tap, mac))
        };
        let guarded = || self.ports.iter().filter_map(|(index, guard)| Some((*index, guard.as_ref()?)));
        let vlans = Vlans::default();
        // Who has what, those first that may send from it already.
        let mut holders: BTreeMap<Ipv4Addr, Vec<u32>> = BTreeMap::new();
        for has_it in [true, false] {
            for (tap, guard) in guarded() {
                let addresses = given(tap, guard).map(|lease| lease.address);
                for address in addresses.filter(|address| guard.addresses.contains(address) == has_it) {
                    let holders = holders.entry(address).or_default();
                    if !holders.iter().any(|other| vlans.meet(*other, tap)) {
                        holders.push(tap);
                    }
                }
            }
        }
        let mut ends = Vec::new();
        for (tap, guard) in self.ports.iter_mut().filter_map(|(index, guard)| Some((*index, guard.as_mut()?))) {
            let its = || given(tap, guard);
            ends.extend(its().filter_map(|lease| lease.left(now)));
            let is_its = |address: &Ipv4Addr| holders.get(address).is_some_and(|holders| holders.contains(&tap));
            let addresses: BTreeSet<Ipv4Addr> = its().map(|lease| lease.address).filter(is_its).collect();
            if guard.is_ours && guard.addresses == addresses {
                continue;
            }
            let octets: Vec<[u8; 4]> = addresses.iter().map(Ipv4Addr::octets).collect();
            let program = guard_with_sources(guard.mac.0, guard.tags, &octets);
            if renewed(tap, &program).is_ok() {
                output::step(|| format!("the guest {} may send from {addresses:?}", guard.mac));
                (guard.addresses, guard.is_ours) = (addresses, true);
            }
        }
        self.next_end = ends.into_iter().min().map(|left| Instant::now() + Duration::from_secs(left + 1));
    }

    /// How long it is until a lease ends.
    pub fn pause(&self) -> Option<Duration> {
        Some(self.next_end?.saturating_duration_since(Instant::now()))
    }
}

impl Guarded {
    /// What a program holds a port to that somebody before us has made, if it is to be renewed.
    fn by_others(program: &[port::bpf::Instruction]) -> Option<Self> {
        let (mac, tags) = renewable(program)?;
        Some(Self { mac: Mac(mac), tags, addresses: sources(program).map(Ipv4Addr::from).collect(), is_ours: false })
    }
}

/// The VLANs of ports, read when they are asked for.
#[derive(Default)]
struct Vlans(OnceCell<Option<BTreeMap<u32, PortVlans>>>);

impl Vlans {
    /// Whether two ports are in one network; also where that can't be read. In VLANs of their own both may have an address.
    fn meet(&self, one: u32, other: u32) -> bool {
        let read = || Some(Netlink::open().and_then(|mut netlink| netlink.port_vlans()).ok()?.into_iter().collect());
        let Some(vlans) = self.0.get_or_init(read) else { return true };
        let of = |port: u32| vlans.get(&port).cloned().unwrap_or_default();
        of(one).meets(&of(other))
    }
}

fn renewed(tap: u32, program: &[port::bpf::Instruction]) -> io::Result<()> {
    Netlink::open()?.change(vec![of_port(Request::renew(tap, program))])?.into_iter().collect()
}
