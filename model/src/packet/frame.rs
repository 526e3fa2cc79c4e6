//! What one frame tells of who has which address. Frames are anybody's: nothing in them is believed but for showing it.
#![forbid(unsafe_code)]

use crate::mac::Mac;
use crate::packet::dhcp::{Kind, Message};
use etherparse::{LinkSlice, NetSlice, SlicedPacket, TransportSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The port of DHCP servers and relays (RFC 2131).
const SERVER: u16 = 67;

/// What a frame tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// A step of getting an address.
    Dhcp(Message),
    /// That this address is used by this card.
    Address {
        /// Whose.
        mac: Mac,
        /// Which.
        ip: IpAddr,
    },
}

/// Reads a frame.
pub fn read(frame: &[u8]) -> Option<Told> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let mac = match packet.link? {
        LinkSlice::Ethernet2(header) => Mac(header.source()),
        _ => return None,
    };
    match (packet.net?, packet.transport) {
        (NetSlice::Arp(arp), _) => {
            let ip = Ipv4Addr::from(<[u8; 4]>::try_from(arp.sender_protocol_addr()).ok()?);
            let mac = Mac(arp.sender_hw_addr().try_into().ok()?);
            // Who asks whether an address is free has none yet (RFC 5227).
            (!ip.is_unspecified()).then_some(Told::Address { mac, ip: ip.into() })
        }
        (NetSlice::Ipv4(_), Some(TransportSlice::Udp(udp))) => {
            let message = Message::parse(udp.payload())?;
            // Port 67 is the servers': users have no right to it, and no guest behind a guard sends from it (RFC 2131, 4.1).
            let is_in_place = match message.kind {
                Kind::Offer | Kind::Ack | Kind::Nak => udp.source_port() == SERVER && udp.payload().first() == Some(&2),
                _ => udp.destination_port() == SERVER && udp.payload().first() == Some(&1),
            };
            is_in_place.then_some(Told::Dhcp(message))
        }
        (NetSlice::Ipv6(ip), Some(TransportSlice::Icmpv6(icmp))) => {
            let source = ip.header().source_addr();
            let target = || {
                let bytes: [u8; 16] = icmp.slice().get(8..24)?.try_into().ok()?;
                Some(Ipv6Addr::from(bytes))
            };
            let ip = match icmp.type_u8() {
                // A solicitation from nowhere asks whether the address is free: its sender is going to have it.
                135 if source.is_unspecified() => target()?,
                136 => target()?,
                133 | 135 => source,
                _ => return None,
            };
            let is_an_address = !ip.is_unspecified() && !ip.is_multicast();
            is_an_address.then_some(Told::Address { mac, ip: ip.into() })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::dhcp::discover;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn arp(sender: [u8; 4]) -> Vec<u8> {
        let packet = etherparse::ArpPacket::new(
            etherparse::ArpHardwareId::ETHERNET,
            etherparse::EtherType::IPV4,
            etherparse::ArpOperation::REQUEST,
            &MAC.0,
            &sender,
            &[0; 6],
            &[10, 0, 0, 9],
        );
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(MAC.0, [0xff; 6]).arp(packet.unwrap()).write(&mut frame).unwrap();
        frame
    }

    fn solicitation(source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2(MAC.0, [0x33, 0x33, 0, 0, 0, 1]).ipv6(source.octets(), [0xff; 16], 255);
        let mut frame = Vec::new();
        builder.icmpv6_raw(135, 0, [0; 4]).write(&mut frame, &target.octets()).unwrap();
        frame
    }

    #[test]
    fn who_has_an_address_tells_so_sooner_or_later() {
        let told = |ip: IpAddr| Some(Told::Address { mac: MAC, ip });
        assert_eq!(read(&arp([10, 0, 0, 7])), told([10, 0, 0, 7].into()));
        assert_eq!(read(&arp([0; 4])), None);
        let (own, other): (Ipv6Addr, Ipv6Addr) = ("fd00::7".parse().unwrap(), "fd00::9".parse().unwrap());
        assert_eq!(read(&solicitation(Ipv6Addr::UNSPECIFIED, own)), told(own.into()));
        assert_eq!(read(&solicitation(own, other)), told(own.into()));
    }

    #[test]
    fn only_a_servers_port_answers() {
        let answer = |from: u16, to: u16, op: u8| {
            let mut message = vec![0; 240];
            message[0] = op;
            message[16..20].copy_from_slice(&[10, 0, 0, 7]);
            message[28..34].copy_from_slice(&MAC.0);
            message[236..].copy_from_slice(&[99, 130, 83, 99]);
            message.extend([53, 1, 5, 255]);
            let builder = PacketBuilder::ethernet2([2; 6], MAC.0).ipv4([10, 0, 0, 1], [255; 4], 64).udp(from, to);
            let mut frame = Vec::new();
            builder.write(&mut frame, &message).unwrap();
            read(&frame)
        };
        assert!(matches!(answer(67, 68, 2), Some(Told::Dhcp(message)) if message.kind == Kind::Ack));
        for (from, to, op) in [(1067, 68, 2), (1067, 67, 2), (68, 67, 2), (67, 68, 1)] {
            assert_eq!(answer(from, to, op), None, "{from} {to} {op}");
        }
    }

    #[test]
    fn a_question_of_ours_reads_as_what_it_is() {
        let frame = discover(MAC, 7);
        let Some(Told::Dhcp(message)) = read(&frame) else { panic!("{frame:?}") };
        assert_eq!((message.kind, message.transaction, message.client), (Kind::Discover, 7, MAC));
        assert_eq!((message.address, message.server), (None, None));
        assert_eq!(frame.len(), 14 + 20 + 8 + 300);
    }

    #[test]
    fn an_answer_is_read_whole() {
        let mut message = vec![0; 240];
        message[16..20].copy_from_slice(&[10, 77, 0, 101]);
        message[28..34].copy_from_slice(&MAC.0);
        message[236..].copy_from_slice(&[99, 130, 83, 99]);
        message.extend([
            53, 1, 5, 0, 0, 54, 4, 10, 77, 0, 1, 51, 4, 0, 0, 14, 16, 1, 4, 255, 255, 255, 0, 3, 4, 10, 77, 0, 254, 255,
        ]);
        let found = Message::parse(&message).unwrap();
        assert_eq!((found.kind, found.prefix, found.lease), (Kind::Ack, Some(24), Some(3600)));
        assert_eq!(found.address, Some([10, 77, 0, 101].into()));
        assert_eq!((found.server, found.router), (Some([10, 77, 0, 1].into()), Some([10, 77, 0, 254].into())));
        for end in 0..message.len() - 1 {
            let _ = Message::parse(&message[..end]);
        }
        assert_eq!(Message::parse(&message[..241]), None);
    }

    proptest! {
        #[test]
        fn no_frame_is_too_strange(frame in proptest::collection::vec(any::<u8>(), 0..400), at in 0usize..350, byte: u8) {
            read(&frame);
            let mut frame = discover(MAC, 1);
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
            read(&frame);
            read(&frame[..at.min(frame.len())]);
        }
    }
}
