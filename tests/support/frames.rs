//! Frames that guests send, for the fake QEMU's `send:`.

use etherparse::PacketBuilder;
use std::net::Ipv6Addr;

pub const MAC: &str = "02:00:00:00:00:99";
const OWN: [u8; 6] = [2, 0, 0, 0, 0, 0x99];

fn hex(frame: &[u8]) -> String {
    frame.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A neighbour solicitation that asks whether an address is free (RFC 4862).
pub fn is_free(address: &str) -> String {
    let address: Ipv6Addr = address.parse().expect("an address");
    let builder = PacketBuilder::ethernet2(OWN, [0x33, 0x33, 0xff, 0, 0, 0x99]).ipv6([0; 16], address.octets(), 255);
    let mut frame = Vec::new();
    builder.icmpv6_raw(135, 0, [0; 4]).write(&mut frame, &address.octets()).expect("write to memory");
    hex(&frame)
}

/// A DHCP message of this kind (option 53), with more options as they are on the wire.
pub fn dhcp(kind: u8, options: &[u8]) -> String {
    let mut message = vec![0; 240];
    message[..8].copy_from_slice(&[1, 1, 6, 0, 1, 2, 3, 4]);
    message[28..34].copy_from_slice(&OWN);
    message[236..].copy_from_slice(&[99, 130, 83, 99]);
    message.extend([53, 1, kind]);
    message.extend(options);
    message.push(255);
    message.resize(300, 0);
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(OWN, [0xff; 6]).ipv4([0; 4], [255; 4], 64).udp(68, 67);
    builder.write(&mut frame, &message).expect("write to memory");
    hex(&frame)
}

/// What a DHCP server answers a client that gets an address (DHCPACK), for an hour.
pub fn dhcp_answer(client: [u8; 6], address: [u8; 4]) -> String {
    let mut message = vec![0; 240];
    message[..4].copy_from_slice(&[2, 1, 6, 0]);
    message[16..20].copy_from_slice(&address);
    message[28..34].copy_from_slice(&client);
    message[236..].copy_from_slice(&[99, 130, 83, 99]);
    message.extend([53, 1, 5, 51, 4, 0, 0, 14, 16, 255]);
    message.resize(300, 0);
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(OWN, client).ipv4([10, 66, 6, 1], address, 64).udp(67, 68);
    builder.write(&mut frame, &message).expect("write to memory");
    hex(&frame)
}
