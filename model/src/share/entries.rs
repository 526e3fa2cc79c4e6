//! Whom the host reaches through a bridge that shares its uplink: an entry of the hash table for each address behind it.

use crate::mac::Mac;
use crate::share::found::Found;
use std::collections::{BTreeMap, BTreeSet};

/// A guest can pretend to have any number of addresses. So many that were only heard of have an entry, in all.
const MOST: usize = 2048;
/// And so many on one port, and with one last byte: those are compared one after the other for each of the host's own packets.
const MOST_OF_PORT: usize = 64;
const MOST_OF_BYTE: usize = 32;

/// A port of so many addresses is one of a guest that makes them up: nothing more is learnt there, and what was is forgotten,
/// before the bridge has no room for others' (`fdb_max_learned`). Frames to what is behind it go to all ports then.
const MOST_LEARNT_OF_PORT: usize = 1024;

/// What is to be done about entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Addresses that lack one.
    pub new: Vec<Mac>,
    /// Entries that go: those that are doubled, of addresses that are on the network by now, of such that neither the bridge has
    /// seen nor a TAP that is there was given, and of such as are too many.
    pub unwanted: Vec<Found>,
    /// The addresses that have one then for no other reason than that the bridge has heard of them.
    pub learnt: BTreeSet<Mac>,
    /// The ports of too many.
    pub floods: Vec<u32>,
}

/// Compares the entries that are there with the addresses behind the bridge, each with its port, and those that are on the
/// network beyond it; `ports` are those that are there.
pub fn reconcile(
    there: Vec<Found>,
    behind: &BTreeMap<Mac, u32>,
    beyond: &BTreeSet<Mac>,
    ports: &BTreeSet<u32>,
) -> Wanted {
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
    let mut learnt_of_port = BTreeMap::<u32, usize>::new();
    behind.values().for_each(|port| *learnt_of_port.entry(*port).or_default() += 1);
    learnt_of_port.retain(|_, count| *count > MOST_LEARNT_OF_PORT);
    Wanted { new, unwanted, learnt, floods: learnt_of_port.into_keys().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::found::Cookie;

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
        let Wanted { new, unwanted, learnt, .. } =
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
