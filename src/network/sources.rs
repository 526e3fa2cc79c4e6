//! Which IP addresses guests on a bridge may send from (`guard=ip`): those that DHCP gave them on their own ports, as long as it
//! gave them.
//!
//! A port begins with a guard that lets the guest ask for an address. When it was given one, or that has ended, its guard is
//! renewed. Only answers to what the guest has asked count, and only as they go out by its own port.

use crate::netlink::Netlink;
use crate::network::apply::{free_port, of_port};
use crate::output;
use crate::state::dhcp_leases;
use crate::state::dhcp_leases::now;
use crate::state::journal::Files;
use model::host::{Kind, Link};
use model::mac::Mac;
use model::share::Hook;
use port::bpf::{guard_with_sources, renewable};
use port::{FILTER_PREF, Request};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// What is known of the guard of a port.
#[derive(Debug)]
struct Guarded {
    mac: Mac,
    has_vlans: bool,
    /// What it lets in; `None` for what somebody before us made of it.
    addresses: Option<BTreeSet<Ipv4Addr>>,
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
                    let guard = guard.and_then(|found| renewable(&found.program));
                    unknown.insert(guard.map(|(mac, has_vlans)| Guarded { mac: Mac(mac), has_vlans, addresses: None }))
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
        let mut guarded = self.ports.iter_mut().filter_map(|(index, guard)| Some((*index, guard.as_mut()?))).peekable();
        if guarded.peek().is_none() {
            self.next_end = None;
            return;
        }
        let (leases, now) = (dhcp_leases::of(files), now());
        let mut ends = Vec::new();
        for (tap, guard) in guarded {
            let its = || leases.iter().filter(|lease| (lease.port, lease.mac) == (tap, guard.mac));
            ends.extend(its().filter_map(|lease| lease.left(now)));
            let addresses: BTreeSet<Ipv4Addr> = its().map(|lease| lease.address).collect();
            if guard.addresses.as_ref() == Some(&addresses) {
                continue;
            }
            let octets: Vec<[u8; 4]> = addresses.iter().map(Ipv4Addr::octets).collect();
            let program = guard_with_sources(guard.mac.0, guard.has_vlans, &octets);
            if renewed(tap, &program).is_ok() {
                output::step(|| format!("the guest {} may send from {addresses:?}", guard.mac));
                guard.addresses = Some(addresses);
            }
        }
        self.next_end = ends.into_iter().min().map(|left| Instant::now() + Duration::from_secs(left + 1));
    }

    /// How long it is until a lease ends.
    pub fn pause(&self) -> Option<Duration> {
        Some(self.next_end?.saturating_duration_since(Instant::now()))
    }
}

fn renewed(tap: u32, program: &[port::bpf::Instruction]) -> io::Result<()> {
    Netlink::open()?.change(vec![of_port(Request::renew(tap, program))])?.into_iter().collect()
}
