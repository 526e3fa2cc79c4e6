//! Whom the host reaches through a bridge that shares its uplink: an entry of the hash table for each address behind it.

use super::{cookie_of, links_of, made};
use crate::netlink::tc;
use crate::netlink::tc::Found;
use crate::netlink::{Netlink, Request};
use model::journal::Journal;
use model::mac::Mac;
use model::share::{Action, Classifier, Filter, Hook, On};
use rtnetlink::LinkUnspec;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{InfoBridgePort, InfoPortData, InfoPortKind, LinkAttribute, LinkInfo};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// The change by which the host reaches a guest that has sent nothing yet, for as long as its TAP is there.
pub fn entry(journal: &Journal, mac: Mac, tap: u32) -> Option<Request> {
    let share = journal.share()?;
    Some(tc::add_filter(&share.entry(mac), links_of(journal, share), cookie_of(journal, tap), None))
}

/// A guest can pretend to have any number of addresses. So many that were only heard of have an entry, in all.
const MOST: usize = 2048;
/// And so many on one port, and with one last byte: those are compared one after the other for each of the host's own packets.
const MOST_OF_PORT: usize = 64;
const MOST_OF_BYTE: usize = 32;

/// A port of so many addresses is one of a guest that makes them up: nothing more is learnt there, and what was is forgotten,
/// before the bridge has no room for others' (`fdb_max_learned`). Frames to what is behind it go to all ports then.
const MOST_LEARNT_OF_PORT: usize = 1024;

/// The address of an entry that the bridge has heard of, and that no guest of ours was given.
pub(super) fn learnt(found: &Found) -> Option<Mac> {
    found.entry.filter(|_| found.cookie.is_some_and(|cookie| cookie.tap == 0))
}

/// Sees to it that the host reaches all that are behind the bridge, and nobody else through it.
pub fn keep_entries(netlink: &mut Netlink, journal: &Journal) -> io::Result<()> {
    let Some(share) = journal.share() else { return Ok(()) };
    // While it is not there, nobody is reached by it.
    if netlink.link_at(share.index)?.is_none() {
        return Ok(());
    }
    let found = netlink.filters(share.index, Hook::Egress)?;
    let there: Vec<Found> = found.into_iter().filter(|found| found.entry.is_some() && made(journal, found)).collect();
    let (mut behind, mut beyond) = (BTreeMap::new(), BTreeSet::new());
    for entry in netlink.fdb(journal.index)?.into_iter().filter(|entry| !entry.is_own && entry.mac != share.mac) {
        if entry.port == journal.port_end() {
            beyond.insert(entry.mac);
        } else {
            behind.insert(entry.mac, entry.port);
        }
    }
    let mut of_port = BTreeMap::<u32, usize>::new();
    behind.values().for_each(|port| *of_port.entry(*port).or_default() += 1);
    let floods = of_port.into_iter().filter(|(_, count)| *count > MOST_LEARNT_OF_PORT);
    let mut requests: Vec<Request> = floods.map(|(port, _)| stop_learning(port)).collect();
    let ports = netlink.ports(journal.index)?.into_iter().map(|port| port.index).collect();
    let Wanted { new, unwanted, learnt } = reconcile(there, &behind, &beyond, &ports);
    // Whoever is heard of is heard on the network too, before anything is sent there.
    let links = links_of(journal, share);
    let filter =
        share.filters(&learnt).into_iter().find(|filter| filter.hook == Hook::Ingress && is_programmed(filter));
    for there in netlink.filters(share.index, Hook::Ingress)?.iter().filter(|found| made(journal, found)) {
        if let Some(filter) = filter.as_ref().filter(|filter| filter.pref == there.pref)
            && !tc::is_as(there, filter, links, cookie_of(journal, 0))
        {
            requests.push(tc::change_filter(filter, links, cookie_of(journal, 0), there));
        }
    }
    requests.extend(unwanted.iter().map(|found| tc::delete_filter(share.index, Hook::Egress, found)));
    requests.extend(new.into_iter().filter_map(|mac| entry(journal, mac, 0)));
    match netlink.change(requests)?.into_iter().collect::<io::Result<()>>() {
        // It goes in this moment, or its filters do, which is seen where the links are looked at.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL | libc::ENOENT)) => Ok(()),
        done => done,
    }
}

/// The change by which a bridge learns nothing more on a port, and forgets what it has learnt there.
fn stop_learning(port: u32) -> Request {
    let settings = InfoPortData::BridgePort(vec![InfoBridgePort::Learning(false), InfoBridgePort::Flush]);
    let info = vec![LinkInfo::PortKind(InfoPortKind::Bridge), LinkInfo::PortData(settings)];
    // RTM_SETLINK passes over what is a port's (do_setlink in net/core/rtnetlink.c).
    let link = LinkUnspec::new_with_index(port).append_extra_attribute(LinkAttribute::LinkInfo(info)).build();
    (RouteNetlinkMessage::NewLink(link), 0, &[libc::ENODEV])
}

/// Whether it is the filter on the uplink whose program knows addresses.
fn is_programmed(filter: &Filter) -> bool {
    filter.on == On::Uplink
        && matches!(filter.classifier, Classifier::Bpf(_))
        && matches!(filter.actions[..], [Action::Mirred { .. }])
}

/// What is to be done about entries.
struct Wanted {
    /// Addresses that lack one.
    new: Vec<Mac>,
    /// Entries that go: those that are doubled, of addresses that are on the network by now, of such that neither the bridge has
    /// seen nor a TAP that is there was given, and of such as are too many.
    unwanted: Vec<Found>,
    /// The addresses that have one then for no other reason than that the bridge has heard of them.
    learnt: BTreeSet<Mac>,
}

fn reconcile(there: Vec<Found>, behind: &BTreeMap<Mac, u32>, beyond: &BTreeSet<Mac>, ports: &BTreeSet<u32>) -> Wanted {
    let given = |found: &Found| found.cookie.is_some_and(|cookie| cookie.tap != 0 && ports.contains(&cookie.tap));
    let (of_taps, heard_of): (Vec<Found>, Vec<Found>) = there.into_iter().partition(given);
    let (mut kept, mut unwanted) = (BTreeSet::new(), Vec::new());
    for found in of_taps {
        let Some(mac) = found.entry else { continue };
        if beyond.contains(&mac) || !kept.insert(mac) {
            unwanted.push(found);
        }
    }
    // Nobody's many keep others' few away; those that have an entry keep it.
    let candidates: BTreeMap<Mac, u32> =
        behind.iter().filter(|(mac, _)| !kept.contains(mac)).map(|(mac, port)| (*mac, *port)).collect();
    let all_ports = candidates.values().collect::<BTreeSet<_>>().len().max(1);
    let share_of_port = (MOST / all_ports).clamp(1, MOST_OF_PORT);
    let (mut of_port, mut of_byte) = (BTreeMap::<u32, usize>::new(), BTreeMap::<u8, usize>::new());
    let mut learnt = BTreeSet::new();
    let mut has_room = |mac: Mac, learnt: &BTreeSet<Mac>| {
        let Some(port) = candidates.get(&mac) else { return false };
        let (of_port, of_byte) = (of_port.entry(*port).or_default(), of_byte.entry(mac.0[5]).or_default());
        let has_room = *of_port < share_of_port && *of_byte < MOST_OF_BYTE && learnt.len() < MOST;
        if has_room {
            *of_port += 1;
            *of_byte += 1;
        }
        has_room
    };
    for found in heard_of {
        let Some(mac) = found.entry else { continue };
        if beyond.contains(&mac) || learnt.contains(&mac) || !has_room(mac, &learnt) {
            unwanted.push(found);
        } else {
            learnt.insert(mac);
        }
    }
    let mut new = Vec::new();
    for mac in candidates.keys() {
        if !beyond.contains(mac) && !learnt.contains(mac) && has_room(*mac, &learnt) {
            learnt.insert(*mac);
            new.push(*mac);
        }
    }
    Wanted { new, unwanted, learnt }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::tc::Cookie;

    #[test]
    fn the_host_reaches_who_is_behind_the_bridge_and_nobody_else_through_it() {
        let mac = |last: u8| Mac([2, 0, 0, 0, 0, last]);
        let entry = |last: u8, tap: u32, handle: u32| Found {
            handle,
            entry: Some(mac(last)),
            cookie: Some(Cookie { bridge: 1, tap }),
            ..Found::default()
        };
        let behind =
            |all: &[(u8, u32)]| all.iter().map(|(last, port)| (mac(*last), *port)).collect::<BTreeMap<Mac, u32>>();
        let there = vec![
            entry(1, 0, 1),  // seen behind the bridge
            entry(2, 20, 2), // a silent guest of a TAP that is there
            entry(3, 21, 3), // one whose TAP has gone
            entry(4, 0, 4),  // gone from the bridge
            entry(5, 20, 5), // moved to the network
            entry(2, 20, 6), // doubled
            entry(1, 0, 7),  // doubled
        ];
        let beyond = BTreeSet::from([mac(5)]);
        let Wanted { new, unwanted, learnt } =
            reconcile(there, &behind(&[(1, 30), (6, 30), (2, 20)]), &beyond, &BTreeSet::from([20]));
        assert_eq!(new, [mac(6)]);
        assert_eq!(learnt, BTreeSet::from([mac(1), mac(6)]));
        let mut gone = unwanted.iter().map(|found| found.handle).collect::<Vec<u32>>();
        gone.sort_unstable();
        assert_eq!(gone, [3, 4, 5, 6, 7]);
        let nothing = reconcile(Vec::new(), &BTreeMap::new(), &beyond, &BTreeSet::new());
        assert!(nothing.new.is_empty() && nothing.unwanted.is_empty() && nothing.learnt.is_empty());
    }

    #[test]
    fn nobodys_many_addresses_keep_others_few_away() {
        let flood = |port: u32, same_byte: bool| {
            (0..10_000_u32).map(move |number| {
                let [_, a, b, c] = number.to_be_bytes();
                (if same_byte { Mac([2, port as u8, a, b, c, 1]) } else { Mac([2, port as u8, 0, a, b, c]) }, port)
            })
        };
        let honest: Vec<(Mac, u32)> = (1..=5).map(|last| (Mac([0xfe, 0, 0, 0, 0, 100 + last]), 9999)).collect();
        for attackers in [1_u32, 10, 100] {
            let all = (1..=attackers).flat_map(|port| flood(port, false)).chain(honest.clone()).collect();
            let Wanted { new, .. } = reconcile(Vec::new(), &all, &BTreeSet::new(), &BTreeSet::new());
            assert!(new.len() <= MOST && honest.iter().all(|(mac, _)| new.contains(mac)), "{attackers}: {}", new.len());
            assert!(new.len() >= honest.len() + attackers as usize, "{attackers}: {}", new.len());
        }
        let all = flood(1, true).chain(honest.clone()).collect();
        let Wanted { new, .. } = reconcile(Vec::new(), &all, &BTreeSet::new(), &BTreeSet::new());
        assert_eq!(new.len(), MOST_OF_BYTE + honest.len());
    }
}
