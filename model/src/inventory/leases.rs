//! DHCP leases that guests were seen to get. Moments are seconds of one clock that never stops.

use crate::mac::Mac;
use crate::packet::dhcp::{Kind, Message};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// How many clients behind one port are remembered: the guest, and some that run in it.
const MOST_ON_A_PORT: usize = 4;
/// Two ends that are so close are one: a lease that is renewed all the time is not written down all the time.
const BLUR: u64 = 30;
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
    /// What a server's answer gives, if it gives anything; `now` is by the same clock.
    pub fn of(port: u32, message: &Message, now: u64) -> Option<Self> {
        let (address, lease) = (message.address?, message.lease?);
        let until = (lease != u32::MAX).then(|| now + u64::from(lease));
        (message.kind == Kind::Ack).then_some(Self { port, mac: message.client, address, until })
    }

    /// For how many more seconds it is good; `None`: for ever.
    pub fn left(&self, now: u64) -> Option<u64> {
        self.until.map(|until| until.saturating_sub(now))
    }

    /// The same client behind the same port.
    pub fn is_of(&self, other: &Self) -> bool {
        (self.port, self.mac) == (other.port, other.mac)
    }

    /// Whether what it says is known by another.
    pub fn says_no_more_than(&self, other: &Self) -> bool {
        let is_close = match (self.until, other.until) {
            (Some(own), Some(other)) => own.abs_diff(other) <= BLUR,
            (own, other) => own == other,
        };
        self.is_of(other) && self.address == other.address && is_close
    }
}

/// What is known of leases, and what is new: the newest last; what is over, or of no port, goes.
pub fn merged(
    mut leases: Vec<DhcpLease>,
    new: &[DhcpLease],
    now: u64,
    is_port: impl Fn(u32) -> bool,
) -> Vec<DhcpLease> {
    for lease in new {
        if !leases.iter().any(|known| lease.says_no_more_than(known)) {
            leases.retain(|known| !known.is_of(lease));
            leases.push(*lease);
        }
    }
    leases.retain(|lease| is_port(lease.port) && lease.left(now) != Some(0));
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

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000;

    fn lease(port: u32, client: u8, last: u8, until: u64) -> DhcpLease {
        let mac = Mac([2, 0, 0, 0, 0, client]);
        DhcpLease { port, mac, address: Ipv4Addr::new(10, 0, 0, last), until: Some(NOW + until) }
    }

    #[test]
    fn the_newest_lease_of_a_client_counts_until_it_ends() {
        let (old, new) = (lease(7, 1, 50, 600), lease(7, 1, 51, 3600));
        assert_eq!(merged(vec![old], &[new], NOW, |_| true), [new]);
        let other = lease(8, 2, 60, 600);
        assert_eq!(merged(vec![old, other], &[new], NOW, |_| true), [other, new]);
        assert_eq!(merged(vec![old, other], &[], NOW, |port| port == 8), [other]);
        assert_eq!(merged(vec![lease(7, 1, 50, 0)], &[], NOW, |_| true), []);
        // The same once more is not written again.
        let renewed = DhcpLease { until: Some(old.until.unwrap() + 3), ..old };
        assert_eq!(merged(vec![old], &[renewed], NOW, |_| true), [old]);
        let for_ever = DhcpLease { until: None, ..old };
        assert_eq!(merged(vec![old], &[for_ever], NOW, |_| true), [for_ever]);
    }

    #[test]
    fn who_answers_in_the_name_of_many_clients_fills_no_file() {
        let many: Vec<DhcpLease> = (0..200).map(|client| lease(7, client, client, 600)).collect();
        let kept = merged(vec![lease(8, 1, 1, 600)], &many, NOW, |_| true);
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
        let found = DhcpLease::of(7, &message(Kind::Ack, address, Some(3600)), NOW).unwrap();
        assert!((found.port, found.mac, Some(found.address)) == (7, Mac([2; 6]), address));
        assert_eq!(found.left(NOW), Some(3600));
        assert_eq!(DhcpLease::of(7, &message(Kind::Ack, address, Some(u32::MAX)), NOW).unwrap().left(NOW), None);
        for (kind, address, lease) in
            [(Kind::Offer, address, Some(1)), (Kind::Ack, None, Some(1)), (Kind::Ack, address, None)]
        {
            assert_eq!(DhcpLease::of(7, &message(kind, address, lease), NOW), None);
        }
    }
}
