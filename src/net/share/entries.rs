//! Whom the host reaches through a bridge that shares its uplink: an entry of the hash table for each address behind it.

use crate::journal::Journal;
use crate::mac::Mac;
use crate::net::rtnl::tc::{self, Found};
use crate::net::rtnl::{Netlink, Request};
use crate::share::Hook;
use std::collections::BTreeSet;
use std::io;

/// The change by which the host reaches a guest that has sent nothing yet, for as long as its TAP is there.
pub fn entry(journal: &Journal, mac: Mac, tap: u32) -> Option<Request> {
    let share = journal.share()?;
    Some(tc::add_filter(&share.entry(mac), journal.links(share), journal.cookie(tap), None))
}

/// So many addresses behind the bridge have an entry: a guest can pretend to have any number. A bridge has 1,023 ports at the
/// most.
const MOST_ENTRIES: usize = 4096;

/// Sees to it that the host reaches all that are behind the bridge, and nobody else through it.
pub fn keep_entries(netlink: &mut Netlink, journal: &Journal) -> io::Result<()> {
    let Some(share) = journal.share() else { return Ok(()) };
    // While it is not there, nobody is reached by it.
    if netlink.link_at(share.index)?.is_none() {
        return Ok(());
    }
    let found = netlink.filters(share.index, Hook::Egress)?;
    let there = found.into_iter().filter(|found| found.entry.is_some() && journal.made(found)).collect();
    let (mut behind, mut beyond) = (BTreeSet::new(), BTreeSet::new());
    for entry in netlink.fdb(journal.index)?.into_iter().filter(|entry| !entry.is_own) {
        if entry.port == journal.port_end() {
            beyond.insert(entry.mac)
        } else {
            behind.insert(entry.mac)
        };
    }
    behind.remove(&share.mac);
    let ports = netlink.ports(journal.index)?.into_iter().map(|port| port.index).collect();
    let (wanted, unwanted) = reconcile(there, &behind, &beyond, &ports);
    let mut requests: Vec<_> =
        unwanted.iter().map(|found| tc::delete_filter(share.index, Hook::Egress, found)).collect();
    requests.extend(wanted.into_iter().filter_map(|mac| entry(journal, mac, 0)));
    match netlink.change(requests)?.into_iter().collect::<io::Result<()>>() {
        // It goes in this moment, or its filters do, which is seen where the links are looked at.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL | libc::ENOENT)) => Ok(()),
        done => done,
    }
}

/// Which addresses lack an entry, and which entries are not wanted: those that are doubled, of addresses that are on the
/// network by now, and of such that neither the bridge has seen nor a TAP that is there was given.
fn reconcile(
    there: Vec<Found>,
    behind: &BTreeSet<Mac>,
    beyond: &BTreeSet<Mac>,
    ports: &BTreeSet<u32>,
) -> (Vec<Mac>, Vec<Found>) {
    let mut kept = BTreeSet::new();
    let mut unwanted = Vec::new();
    for found in there {
        let Some(mac) = found.entry else { continue };
        let is_of_tap = found.cookie.is_some_and(|cookie| cookie.tap != 0 && ports.contains(&cookie.tap));
        if beyond.contains(&mac) || !(is_of_tap || behind.contains(&mac)) || !kept.insert(mac) {
            unwanted.push(found);
        }
    }
    let room = MOST_ENTRIES.saturating_sub(kept.len());
    (behind.difference(&kept).take(room).copied().collect(), unwanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::rtnl::tc::Cookie;

    #[test]
    fn the_host_reaches_who_is_behind_the_bridge_and_nobody_else_through_it() {
        let mac = |last: u8| Mac([2, 0, 0, 0, 0, last]);
        let entry = |last: u8, tap: u32, handle: u32| Found {
            handle,
            entry: Some(mac(last)),
            cookie: Some(Cookie { bridge: 1, tap }),
            ..Found::default()
        };
        let set = |all: &[u8]| all.iter().map(|last| mac(*last)).collect::<BTreeSet<Mac>>();
        let there = vec![
            entry(1, 0, 1),  // seen behind the bridge
            entry(2, 20, 2), // a silent guest of a TAP that is there
            entry(3, 21, 3), // one whose TAP has gone
            entry(4, 0, 4),  // gone from the bridge
            entry(5, 20, 5), // moved to the network
            entry(1, 20, 6), // doubled
        ];
        let (wanted, unwanted) = reconcile(there, &set(&[1, 6]), &set(&[5]), &BTreeSet::from([20]));
        assert_eq!(wanted, [mac(6)]);
        assert_eq!(unwanted.iter().map(|found| found.handle).collect::<Vec<u32>>(), [3, 4, 5, 6]);
        let flood = (0..10_000_u32).map(|number| {
            let [a, b, c, d] = number.to_be_bytes();
            Mac([2, 0, a, b, c, d])
        });
        assert_eq!(reconcile(Vec::new(), &flood.collect(), &set(&[]), &BTreeSet::new()).0.len(), MOST_ENTRIES);
        let (wanted, unwanted) = reconcile(Vec::new(), &set(&[]), &set(&[1]), &BTreeSet::new());
        assert!(wanted.is_empty() && unwanted.is_empty());
    }
}
