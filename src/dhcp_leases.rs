//! The DHCP leases that guests were seen to get, kept beside the bridge's journal until they end: a host that never talks to
//! a guest knows of none by itself.
//!
//! The reaper listens on the ports of its bridge; elsewhere `kvm-bridge ip --wait` keeps what it saw. Frames are anybody's:
//! leases are shown, and nothing else rests on them.
#![forbid(unsafe_code)]

use crate::dhcp::{Kind, Message};
use crate::host::{Kind as LinkKind, Link};
use crate::journal::Files;
use crate::mac::Mac;
use crate::sys::packet::{Packets, Traffic};
use crate::sys::{files, netns};
use crate::watch::frame::Told;
use crate::watch::hear;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// How many clients behind one port are remembered: the guest, and some that run in it.
const MOST_ON_A_PORT: usize = 4;
/// Two ends that are so close are one: a lease that is renewed all the time is not written down all the time.
const BLUR: u64 = 30;
/// After a lease was heard, for so long nothing is.
const PAUSE: Duration = Duration::from_secs(1);
/// After anything else.
const SHORT: Duration = Duration::from_millis(200);
/// So many descriptors are not used.
const RESERVE: u64 = 24;

/// A DHCP lease (RFC 2131) of a client behind a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DhcpLease {
    /// The port's index.
    pub port: u32,
    /// The client's MAC (chaddr).
    pub mac: Mac,
    /// Its address.
    pub address: Ipv4Addr,
    /// When it ends, in seconds of CLOCK_BOOTTIME (clock_gettime(2)); `None`: never.
    pub until: Option<u64>,
}

impl DhcpLease {
    /// What a server's answer gives, if it gives anything.
    pub fn of(port: u32, message: &Message) -> Option<Self> {
        let (address, lease) = (message.address?, message.lease?);
        let until = (lease != u32::MAX).then(|| now() + u64::from(lease));
        (message.kind == Kind::Ack).then_some(Self { port, mac: message.client, address, until })
    }

    /// For how many more seconds it is good; `None`: for ever.
    pub fn left(&self) -> Option<u64> {
        self.until.map(|until| until.saturating_sub(now()))
    }

    fn is_over(&self) -> bool {
        self.left() == Some(0)
    }

    /// The same client behind the same port.
    fn is_of(&self, other: &Self) -> bool {
        (self.port, self.mac) == (other.port, other.mac)
    }

    fn says_no_more_than(&self, other: &Self) -> bool {
        let is_close = match (self.until, other.until) {
            (Some(own), Some(other)) => own.abs_diff(other) <= BLUR,
            (own, other) => own == other,
        };
        self.is_of(other) && self.address == other.address && is_close
    }
}

/// Seconds since the machine was started, suspended or not.
fn now() -> u64 {
    clock_gettime(ClockId::Boottime).tv_sec.unsigned_abs()
}

/// What is written down.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    /// The network namespace (SO_NETNS_COOKIE): a folder's name can be that of another one before.
    namespace: Option<u64>,
    leases: Vec<DhcpLease>,
}

/// The leases on a bridge that are known and are not over.
pub fn of(files: &Files) -> Vec<DhcpLease> {
    let mut kept = read(&files.leases());
    kept.retain(|lease| !lease.is_over());
    kept
}

fn read(path: &Path) -> Vec<DhcpLease> {
    let Some(kept) = fs::read(path).ok().and_then(|text| serde_json::from_slice::<Kept>(&text).ok()) else {
        return Vec::new();
    };
    if netns::cookie().ok() == Some(kept.namespace) { kept.leases } else { Vec::new() }
}

/// Writes leases down, with those that are known of these ports. Not to have them is no fault that anybody needs to hear of.
/// On a bridge that is not ours they may be all that there is.
pub fn keep(files: &Files, new: &[DhcpLease], is_port: impl Fn(u32) -> bool) {
    let before = read(&files.leases());
    let after = merged(before.clone(), new, is_port);
    if after != before
        && let Ok(namespace) = netns::cookie()
        && let Ok(text) = serde_json::to_vec(&Kept { namespace, leases: after })
    {
        let path = files.leases();
        let _ = files::create_folder_of(&path);
        let _ = files::replace(&path, &path.with_extension("leases-new"), &text, false);
    }
}

/// The newest last; what is over, or of no port, goes.
fn merged(mut leases: Vec<DhcpLease>, new: &[DhcpLease], is_port: impl Fn(u32) -> bool) -> Vec<DhcpLease> {
    for lease in new {
        if !leases.iter().any(|known| lease.says_no_more_than(known)) {
            leases.retain(|known| !known.is_of(lease));
            leases.push(*lease);
        }
    }
    leases.retain(|lease| is_port(lease.port) && !lease.is_over());
    let mut counts = BTreeMap::<u32, usize>::new();
    let mut kept: Vec<DhcpLease> = leases
        .into_iter()
        .rev()
        .filter(|lease| {
            let count = counts.entry(lease.port).or_default();
            *count += 1;
            *count <= MOST_ON_A_PORT
        })
        .collect();
    kept.reverse();
    kept
}

/// A port that is listened on.
#[derive(Debug)]
struct Ear {
    packets: Packets,
    /// The TAP's MAC where a guest of ours is behind it: it tells the guest's.
    tap: Option<Mac>,
    /// The client behind the port that has asked for an address, and the number of its question. Who answers without having
    /// been asked is no server.
    asked: Option<(Mac, u32)>,
}

/// Listens on the ports of a bridge.
#[derive(Debug, Default)]
pub struct Listeners {
    ports: BTreeMap<u32, Ear>,
    /// When it listens again.
    pauses_until: Option<Instant>,
}

impl Listeners {
    /// Listens on these of the bridge's ports that are TAPs, and on no other from now on. Some descriptors are left for all
    /// else that this process does.
    pub fn follow(&mut self, files: &Files, ports: &[Link]) {
        let taps = || ports.iter().filter(|port| matches!(port.kind, LinkKind::Tap { .. }));
        let (there, before): (BTreeSet<u32>, usize) = (taps().map(|tap| tap.index).collect(), self.ports.len());
        self.ports.retain(|index, _| there.contains(index));
        if self.ports.len() < before {
            keep(files, &[], |port| self.ports.contains_key(&port));
        }
        let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let room = usize::try_from(most.saturating_sub(RESERVE) / 2).unwrap_or(usize::MAX);
        for tap in taps() {
            if self.ports.len() < room
                && !self.ports.contains_key(&tap.index)
                && let Ok(packets) = Packets::open(tap.index, Traffic::Dhcp)
            {
                let is_guests = matches!(tap.kind, LinkKind::Tap { is_persistent: false, .. }) && tap.vm().is_some();
                let ear = Ear { packets, tap: tap.mac.filter(|_| is_guests), asked: None };
                self.ports.insert(tap.index, ear);
            }
        }
    }

    /// How long nothing is to be heard.
    pub fn pause(&self) -> Option<Duration> {
        let left = self.pauses_until?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// What to wait for.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let listens = self.pause().is_none();
        self.ports.values().filter(move |_| listens).map(|ear| ear.packets.as_fd())
    }

    /// Reads what has come, and writes it down.
    pub fn hear(&mut self, files: &Files) {
        if self.pause().is_some() {
            return;
        }
        let (mut leases, mut has_heard) = (Vec::new(), false);
        // A port that is gone is let go of.
        self.ports.retain(|index, ear| {
            let heard = ear.hear(*index, &mut leases);
            has_heard |= heard.as_ref().is_ok_and(|count| *count > 0);
            heard.is_ok()
        });
        // Anybody can send what is heard here, as often as they like.
        if has_heard {
            self.pauses_until = Some(Instant::now() + if leases.is_empty() { SHORT } else { PAUSE });
        }
        if !leases.is_empty() {
            keep(files, &leases, |port| self.ports.contains_key(&port));
        }
    }
}

impl Ear {
    /// Reads what has come on a port; how many frames.
    fn hear(&mut self, port: u32, leases: &mut Vec<DhcpLease>) -> std::io::Result<usize> {
        hear(&self.packets, |told, is_sent| {
            if let Told::Dhcp(message) = told
                && self.tap.is_none_or(|tap| message.client.of_tap() == tap)
            {
                let asks = (message.client, message.transaction);
                match (is_sent, message.kind) {
                    (true, Kind::Request) => self.asked = Some(asks),
                    (false, Kind::Ack) if self.asked == Some(asks) => leases.extend(DhcpLease::of(port, &message)),
                    _ => {}
                }
            }
            false
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(port: u32, client: u8, last: u8, until: u64) -> DhcpLease {
        let mac = Mac([2, 0, 0, 0, 0, client]);
        DhcpLease { port, mac, address: Ipv4Addr::new(10, 0, 0, last), until: Some(now() + until) }
    }

    #[test]
    fn the_newest_lease_of_a_client_counts_until_it_ends() {
        let (old, new) = (lease(7, 1, 50, 600), lease(7, 1, 51, 3600));
        assert_eq!(merged(vec![old], &[new], |_| true), [new]);
        let other = lease(8, 2, 60, 600);
        assert_eq!(merged(vec![old, other], &[new], |_| true), [other, new]);
        assert_eq!(merged(vec![old, other], &[], |port| port == 8), [other]);
        assert_eq!(merged(vec![lease(7, 1, 50, 0)], &[], |_| true), []);
        // The same once more is not written again.
        let renewed = DhcpLease { until: Some(old.until.unwrap() + 3), ..old };
        assert_eq!(merged(vec![old], &[renewed], |_| true), [old]);
        let for_ever = DhcpLease { until: None, ..old };
        assert_eq!(merged(vec![old], &[for_ever], |_| true), [for_ever]);
    }

    #[test]
    fn who_answers_in_the_name_of_many_clients_fills_no_file() {
        let many: Vec<DhcpLease> = (0..200).map(|client| lease(7, client, client, 600)).collect();
        let kept = merged(vec![lease(8, 1, 1, 600)], &many, |_| true);
        assert_eq!(kept.len(), 1 + MOST_ON_A_PORT);
        assert_eq!(kept.last(), many.last());
    }

    #[test]
    fn an_answer_of_a_server_is_a_lease_if_it_gives_one() {
        let message = |kind, address, lease| Message {
            kind,
            transaction: 1,
            client: Mac([2; 6]),
            address,
            prefix: None,
            server: None,
            router: None,
            lease,
            renew: None,
            rebind: None,
        };
        let address = Some(Ipv4Addr::new(10, 0, 0, 5));
        let found = DhcpLease::of(7, &message(Kind::Ack, address, Some(3600))).unwrap();
        assert!((found.port, found.mac, Some(found.address)) == (7, Mac([2; 6]), address));
        assert!(found.left().is_some_and(|left| (3590..=3600).contains(&left)));
        assert_eq!(DhcpLease::of(7, &message(Kind::Ack, address, Some(u32::MAX))).unwrap().left(), None);
        for (kind, address, lease) in
            [(Kind::Offer, address, Some(1)), (Kind::Ack, None, Some(1)), (Kind::Ack, address, None)]
        {
            assert_eq!(DhcpLease::of(7, &message(kind, address, lease)), None);
        }
    }
}
