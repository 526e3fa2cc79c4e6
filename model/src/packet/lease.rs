//! What servers have leased to the clients behind the ports of a bridge, as far as it was heard.
#![forbid(unsafe_code)]

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
    /// When it ends, in seconds since the machine was started; `None`: never.
    pub until: Option<u64>,
}

impl DhcpLease {
    /// What a server's answer gives at this time, if it gives anything.
    pub fn of(port: u32, message: &Message, now: u64) -> Option<Self> {
        let (address, lease) = (message.address?, message.lease?);
        let until = (lease != u32::MAX).then(|| now + u64::from(lease));
        (message.kind == Kind::Ack).then_some(Self { port, mac: message.client, address, until })
    }

    /// What is known when a client has given its address back, or found that another has it: a lease that is over.
    pub fn given_back(port: u32, message: &Message, now: u64) -> Option<Self> {
        let is_over = matches!(message.kind, Kind::Release | Kind::Decline);
        is_over.then_some(Self { port, mac: message.client, address: Ipv4Addr::UNSPECIFIED, until: Some(now) })
    }

    /// For how many more seconds it is good from this time on; `None`: for ever.
    pub fn left(&self, now: u64) -> Option<u64> {
        self.until.map(|until| until.saturating_sub(now))
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

/// Who has asked for an address behind a port.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// The TAP's MAC where a guest of ours is behind it: it tells the guest's.
    tap: Option<Mac>,
    /// The client, and the number of its question.
    last: Option<(Mac, u32)>,
}

impl Asked {
    /// Nobody yet.
    pub fn by_nobody(tap: Option<Mac>) -> Self {
        Self { tap, last: None }
    }

    /// Takes in a message, which the client sent or was sent. Whether it answers what was asked: who answers without having
    /// been asked is no server.
    pub fn hear(&mut self, message: &Message, is_sent: bool) -> bool {
        let asks = Some((message.client, message.transaction));
        match (is_sent, message.kind) {
            _ if self.tap.is_some_and(|tap| message.client.of_tap() != tap) => false,
            (true, Kind::Request) => {
                self.last = asks;
                false
            }
            (false, Kind::Ack) => self.last == asks,
            _ => false,
        }
    }
}

/// The leases that are known, and new ones, the newest last; what is over, or of no port, goes.
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
    leases.reverse();
    leases.retain(|lease| {
        let count = counts.entry(lease.port).or_default();
        *count += 1;
        *count <= MOST_ON_A_PORT
    });
    leases.reverse();
    leases
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1000;

    fn lease(port: u32, client: u8, last: u8, until: u64) -> DhcpLease {
        let mac = Mac([2, 0, 0, 0, 0, client]);
        DhcpLease { port, mac, address: Ipv4Addr::new(10, 0, 0, last), until: Some(NOW + until) }
    }

    fn message(kind: Kind, address: Option<Ipv4Addr>, lease: Option<u32>) -> Message {
        let client = Mac([2; 6]);
        let (prefix, server, router, renew, rebind) = (None, None, None, None, None);
        Message { kind, transaction: 1, client, address, prefix, server, router, lease, renew, rebind }
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
    fn what_is_given_back_is_known_no_more() {
        let (own, other) = (lease(7, 2, 50, 600), lease(8, 2, 60, 600));
        let own = DhcpLease { mac: Mac([2; 6]), ..own };
        for (kind, left) in
            [(Kind::Release, vec![other]), (Kind::Decline, vec![other]), (Kind::Request, vec![own, other])]
        {
            let given = DhcpLease::given_back(7, &message(kind, None, None), NOW);
            assert_eq!(merged(vec![own, other], given.as_slice(), NOW, |_| true), left, "{kind:?}");
        }
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
        let address = Some(Ipv4Addr::new(10, 0, 0, 5));
        let found = DhcpLease::of(7, &message(Kind::Ack, address, Some(3600)), NOW).unwrap();
        assert!((found.port, found.mac, Some(found.address)) == (7, Mac([2; 6]), address));
        assert_eq!((found.left(NOW), found.left(NOW + 3601)), (Some(3600), Some(0)));
        assert_eq!(DhcpLease::of(7, &message(Kind::Ack, address, Some(u32::MAX)), NOW).unwrap().left(NOW), None);
        for (kind, address, lease) in
            [(Kind::Offer, address, Some(1)), (Kind::Ack, None, Some(1)), (Kind::Ack, address, None)]
        {
            assert_eq!(DhcpLease::of(7, &message(kind, address, lease), NOW), None);
        }
    }

    #[test]
    fn who_answers_without_having_been_asked_is_no_server() {
        let (request, ack) = (message(Kind::Request, None, None), message(Kind::Ack, None, None));
        let mut asked = Asked::by_nobody(None);
        assert!(!asked.hear(&ack, false), "nobody has asked");
        assert!(!asked.hear(&request, true));
        assert!(!asked.hear(&ack, true), "the client itself is none");
        assert!(!asked.hear(&Message { transaction: 2, ..ack }, false), "another question");
        assert!(asked.hear(&ack, false));
        let mut others = Asked::by_nobody(Some(Mac([0xfe, 2, 2, 2, 2, 3])));
        others.hear(&request, true);
        assert!(!others.hear(&ack, false), "it is not the guest's");
    }
}
