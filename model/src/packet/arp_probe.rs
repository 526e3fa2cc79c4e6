//! Asks a guest that says nothing for its address: has it this one, or that?
//!
//! A guest that has had its address for long, and whom the host never spoke to, may be silent for hours. It answers who asks
//! (ARP), though. All addresses of a small network are asked for, but of this guest alone: the frames leave by its own port,
//! for its own card, and nobody else hears them. Who asks is the host, as it may at any time; where the host has no address
//! on the bridge nobody asks, since a question without a sender would be taken for the search for a double.
#![forbid(unsafe_code)]

use crate::mac::Mac;
use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

/// All addresses of a network of this prefix, or of a smaller one, are asked for: as many as the queue of a TAP holds.
const SMALLEST_PREFIX: u32 = 23;

/// The questions of a host with these addresses, each `ADDRESS/PREFIX`, for a guest; `known` are addresses that it may have,
/// however large the network is.
pub fn questions(host: Mac, addresses: &[String], guest: Mac, known: &[IpAddr]) -> Vec<Vec<u8>> {
    let networks = addresses.iter().filter_map(|text| {
        let (ip, prefix) = text.split_once('/')?;
        let (ip, prefix) = (ip.parse::<Ipv4Addr>().ok()?, prefix.parse::<u32>().ok()?);
        (1..=30).contains(&prefix).then_some((ip, prefix))
    });
    let known = || known.iter().filter_map(|ip| if let IpAddr::V4(ip) = ip { Some(u32::from(*ip)) } else { None });
    let mut frames = Vec::new();
    for (own, prefix) in networks {
        let mask = u32::MAX << (32 - prefix);
        let (first, last) = (u32::from(own) & mask, u32::from(own) | !mask);
        let all = if prefix >= SMALLEST_PREFIX { first + 1..last } else { 0..0 };
        let targets: BTreeSet<u32> = known().filter(|ip| ip & mask == first).chain(all).collect();
        let targets = targets.into_iter().filter(|ip| *ip != u32::from(own));
        frames.extend(targets.filter_map(|ip| question(host, own, guest, ip.into())));
    }
    frames
}

fn question(host: Mac, own: Ipv4Addr, guest: Mac, wanted: Ipv4Addr) -> Option<Vec<u8>> {
    let (ethernet, request) = (ArpHardwareId::ETHERNET, ArpOperation::REQUEST);
    let (own, wanted) = (own.octets(), wanted.octets());
    let arp = ArpPacket::new(ethernet, EtherType::IPV4, request, &host.0, &own, &[0; 6], &wanted).ok()?;
    let packet = PacketBuilder::ethernet2(host.0, guest.0).arp(arp);
    let mut frame = Vec::with_capacity(packet.size());
    packet.write(&mut frame).ok()?;
    Some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const GUEST: Mac = Mac([2, 0, 0, 0, 0, 2]);

    fn asked(addresses: &[&str], known: &[&str]) -> Vec<String> {
        let addresses: Vec<String> = addresses.iter().map(|&text| text.to_owned()).collect();
        let known: Vec<IpAddr> = known.iter().map(|text| text.parse().unwrap()).collect();
        let frames = questions(HOST, &addresses, GUEST, &known);
        assert!(frames.iter().all(|frame| frame.starts_with(&[GUEST.0, HOST.0].concat())));
        let target = |frame: &Vec<u8>| Ipv4Addr::from(<[u8; 4]>::try_from(&frame[38..42]).unwrap()).to_string();
        frames.iter().map(target).collect()
    }

    #[test]
    fn all_of_a_small_network_are_asked_for_but_the_hosts_own() {
        let asked = asked(&["10.0.0.2/24", "fe80::1/64"], &[]);
        assert_eq!((asked.len(), asked[0].as_str(), asked[1].as_str()), (253, "10.0.0.1", "10.0.0.3"));
        assert_eq!(asked.last().map(String::as_str), Some("10.0.0.254"));
    }

    #[test]
    fn of_a_large_network_only_what_it_may_have() {
        assert_eq!(asked(&["10.9.0.2/16"], &["10.9.7.7", "10.8.0.1", "fe80::2"]), ["10.9.7.7"]);
        assert!(asked(&[], &["10.9.7.7"]).is_empty() && asked(&["10.0.0.1/32", "0.0.0.0/0", "x/8"], &[]).is_empty());
    }
}
