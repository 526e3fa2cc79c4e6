//! Programs of the kernel's classic machine (linux/filter.h), and the one by which a port is guarded.

/// An instruction: code, how many to skip if true and if false, operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction(pub u16, pub u8, pub u8, pub u32);

/// Loads four bytes of the frame.
pub const LOAD_WORD: u16 = 0x20;
/// Loads two.
pub const LOAD_HALF: u16 = 0x28;
/// Loads one.
pub const LOAD_BYTE: u16 = 0x30;
/// Loads how many bytes the frame has.
const LOAD_LENGTH: u16 = 0x80;
/// Compares what is loaded.
pub const IF_EQUAL: u16 = 0x15;
/// Whether a bit of the operand is set in what is loaded.
pub const IF_ANY_BIT: u16 = 0x45;
/// Whether what is loaded is not below the operand.
pub const IF_AT_LEAST: u16 = 0x35;
/// Goes on that many instructions further.
pub const SKIP: u16 = 0x05;
/// Ends.
pub const RETURN: u16 = 0x06;

/// Loads two bytes behind where the index register points.
pub const LOAD_HALF_AT_X: u16 = 0x48;
/// Loads one.
pub const LOAD_BYTE_AT_X: u16 = 0x50;
/// Points the index register behind an IPv4 header: four times the low half of this byte.
pub const LOAD_IP_HEADER_LENGTH: u16 = 0xb1;

/// TC_ACT_SHOT: what a classifier that decides by itself returns for a frame that is dropped.
pub const DROP: Instruction = Instruction(RETURN, 0, 0, 2);
/// TC_ACT_UNSPEC: on to the filters behind.
pub const GO_ON: Instruction = Instruction(RETURN, 0, 0, u32::MAX);

/// SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT: whether the frame came with a VLAN tag, which the kernel keeps beside it.
const HAS_TAG: u32 = (-0x1000_i32 + 48) as u32;
/// SKF_AD_OFF + SKF_AD_VLAN_TAG: priority and VLAN of that tag.
const TAG: u32 = (-0x1000_i32 + 44) as u32;
/// SKF_AD_OFF + SKF_AD_VLAN_TPID: its EtherType.
const TAG_TYPE: u32 = (-0x1000_i32 + 60) as u32;
/// The VLAN of a tag; without one a frame is only given a priority (IEEE 802.1Q, 9.6).
const VLAN: u32 = 0x0fff;

/// How a program begins that is to be renewed when the guest gets an address: an instruction that does nothing.
const RENEWED: Instruction = Instruction(SKIP, 0, 0, 0);
/// Ethernet types.
const ARP: u32 = 0x0806;
const IPV4: u32 = 0x0800;
const IPV6: u32 = 0x86dd;
/// Loads the EtherType of a tag.
const OF_TAG_TYPE: Instruction = Instruction(LOAD_WORD, 0, 0, TAG_TYPE);
/// Loads the sender of IPv4.
const OF_SENDER: Instruction = Instruction(LOAD_WORD, 0, 0, 26);
/// Reverse ARP, by which QEMU tells switches where a guest is that has moved.
const RARP: u32 = 0x8035;

/// The guard of a port whose guest has this address, or any that is its owner's to choose: a locally administered one (IEEE
/// 802, 8.4), as no switch or router of the factory has. It drops
///
/// - what has another sender,
/// - what has a VLAN tag, unless it is of the EtherType `tags`, or a tag within a tag. One of another EtherType than the bridge's is no
///   tag to the bridge, which has it leave within the port's VLAN (__allowed_ingress in net/bridge/br_vlan.c),
/// - link-local control frames, of which a switch takes some for those of another switch: all of 01:80:c2:00:00:00 to 3f (STP,
///   LACP, 802.1X, LLDP, MVRP; IEEE 802.1Q, 8.6.3 and 10.5), and Cisco's (01:00:0c:cc and cd: PVST+, CDP,
///   VTP, DTP, UDLD, and what L2PT tunnels).
///
/// A frame begins with the address that it is for (bytes 0 to 5), then its sender's (6 to 11), and its type (12, 13). Each part
/// drops what it is about, or goes on with the instruction behind it.
pub fn guard(mac: Option<[u8; 6]>, tags: Option<u16>) -> Vec<Instruction> {
    let mut program = of_frames(mac, tags);
    program.push(GO_ON);
    program
}

/// The same for a guest that has these IPv4 addresses by DHCP. It also drops
///
/// - ARP with another sender, and IPv4 but from its addresses and what asks for one (RFC 2131),
/// - IPv6 but from addresses that end in its own interface identifier (RFC 4291, appendix A; the kernel's and radvd's, not those
///   of privacy extensions), neighbour advertisements for others, and headers in which others could hide (RFC 7113),
/// - who asks whether another's address is free: whoever is about to have that gives it up (RFC 5227, 2.1.1; RFC 4862, 5.4.3),
/// - what servers of DHCP and DHCPv6 send, and routers: advertisements, redirects, who asks for multicast groups, and what they
///   say to each other (EIGRP, OSPF, PIM, VRRP),
/// - all else but QEMU's own RARP.
///
/// A frame that ends before what is looked at would pass (net/core/filter.c), and a network card fills it with zeros, up to 60
/// bytes: what would not pass with these is dropped.
pub fn guard_with_sources(mac: [u8; 6], tags: Option<u16>, addresses: &[[u8; 4]]) -> Vec<Instruction> {
    let mut program = vec![RENEWED];
    program.extend(of_frames(Some(mac), tags));
    program.push(Instruction(LOAD_HALF, 0, 0, 12));
    for (kind, of_kind) in [(ARP, of_arp(mac, addresses)), (IPV4, of_ipv4(addresses)), (IPV6, of_ipv6(mac))] {
        program.push(Instruction(IF_EQUAL, 0, of_kind.len() as u8, kind));
        program.extend(of_kind);
    }
    program.extend(pass_if(RARP));
    program.push(DROP);
    program
}

/// The guest's address, and the EtherType of the tags that it may send, of a program that is to be renewed.
pub fn renewable(program: &[Instruction]) -> Option<([u8; 6], Option<u16>)> {
    match program {
        [RENEWED, _, Instruction(IF_EQUAL, _, _, high), _, Instruction(IF_EQUAL, _, _, low), ..] => {
            let ([a, b, c, d], [_, _, e, f]) = (high.to_be_bytes(), low.to_be_bytes());
            let mut behind = program.iter().skip_while(|instruction| **instruction != OF_TAG_TYPE).skip(1);
            let tags = behind.next().map(|Instruction(.., kind)| *kind as u16);
            Some(([a, b, c, d, e, f], tags))
        }
        _ => None,
    }
}

/// The IPv4 addresses that such a program lets in.
pub fn sources(program: &[Instruction]) -> impl Iterator<Item = [u8; 4]> {
    let behind = program.iter().skip_while(|instruction| **instruction != OF_SENDER).skip(1);
    // Behind them comes nobody's.
    behind.map_while(|Instruction(code, _, _, address)| {
        (*code == IF_EQUAL && *address != 0).then_some(address.to_be_bytes())
    })
}

fn word([a, b, c, d]: [u8; 4]) -> u32 {
    u32::from_be_bytes([a, b, c, d])
}

/// Goes on if what is loaded is this; else the frame is dropped.
fn need(value: u32) -> [Instruction; 2] {
    [Instruction(IF_EQUAL, 1, 0, value), DROP]
}

/// The same of an Ethernet address that stands there.
fn need_address(at: u32, [a, b, c, d, e, f]: [u8; 6]) -> [Instruction; 5] {
    [
        Instruction(LOAD_WORD, 0, 0, at),
        Instruction(IF_EQUAL, 0, 2, word([a, b, c, d])),
        Instruction(LOAD_HALF, 0, 0, at + 4),
        Instruction(IF_EQUAL, 1, 0, word([0, 0, e, f])),
        DROP,
    ]
}

/// Goes on if the frame has so many bytes; else it is dropped.
fn need_length(bytes: u32) -> [Instruction; 3] {
    [Instruction(LOAD_LENGTH, 0, 0, 0), Instruction(IF_AT_LEAST, 1, 0, bytes), DROP]
}

fn drop_if(value: u32) -> [Instruction; 2] {
    [Instruction(IF_EQUAL, 0, 1, value), DROP]
}

fn pass_if(value: u32) -> [Instruction; 2] {
    [Instruction(IF_EQUAL, 0, 1, value), GO_ON]
}

/// What is dropped by the Ethernet header alone; all else goes on.
#[rustfmt::skip]
fn of_frames(mac: Option<[u8; 6]>, tags: Option<u16>) -> Vec<Instruction> {
    let mut program = Vec::new();
    match mac {
        Some(mac) => program.extend(need_address(6, mac)),
        None => program.extend([
            Instruction(LOAD_BYTE, 0, 0, 6),
            Instruction(IF_ANY_BIT, 1, 0, 1),
            Instruction(IF_ANY_BIT, 1, 0, 2),
            DROP,
        ]),
    }
    program.extend([Instruction(LOAD_WORD, 0, 0, HAS_TAG), Instruction(IF_EQUAL, 3, 0, 0)]);
    program.extend(match tags {
        None => [Instruction(LOAD_WORD, 0, 0, TAG), Instruction(IF_ANY_BIT, 0, 1, VLAN), DROP],
        Some(kind) => [OF_TAG_TYPE, Instruction(IF_EQUAL, 1, 0, kind.into()), DROP],
    });
    program.extend([
        Instruction(LOAD_HALF, 0, 0, 12),
        Instruction(IF_EQUAL, 2, 0, 0x8100),
        Instruction(IF_EQUAL, 1, 0, 0x88a8),
        Instruction(IF_EQUAL, 0, 1, 0x9100),
        DROP,
        Instruction(LOAD_WORD, 0, 0, 0),
        Instruction(IF_EQUAL, 4, 0, 0x0100_0ccc),
        Instruction(IF_EQUAL, 3, 0, 0x0100_0ccd),
        Instruction(IF_EQUAL, 0, 3, 0x0180_c200),
        Instruction(LOAD_HALF, 0, 0, 4),
        Instruction(IF_ANY_BIT, 1, 0, 0xffc0),
        DROP,
    ]);
    program
}

/// The sender's addresses stand at 22 and 28 (RFC 826); whoever asks whether an address is free has none, and that stands at 38
/// (RFC 5227).
fn of_arp(mac: [u8; 6], addresses: &[[u8; 4]]) -> Vec<Instruction> {
    let own = || addresses.iter().flat_map(|address| pass_if(word(*address)));
    let mut program = Vec::from(need_length(42));
    program.extend(need_address(22, mac));
    program.push(Instruction(LOAD_WORD, 0, 0, 28));
    program.extend(own());
    program.extend(need(0));
    program.push(Instruction(LOAD_WORD, 0, 0, 38));
    program.extend(own());
    program.push(DROP);
    program
}

/// The header stands at 14 (RFC 791): its length, 20: the fragment, 23: the protocol, 26: the sender.
fn of_ipv4(addresses: &[[u8; 4]]) -> Vec<Instruction> {
    const ICMP: u32 = 1;
    const IGMP: u32 = 2;
    const UDP: u32 = 17;
    /// EIGRP, OSPF, PIM, VRRP and CARP.
    const OF_ROUTERS: [u32; 4] = [88, 89, 103, 112];
    const DHCP_SERVER: u32 = 67;
    const DHCP_CLIENT: u32 = 68;
    let mut asks = Vec::from(need(0));
    asks.extend(need_length(42));
    asks.push(Instruction(LOAD_BYTE, 0, 0, 23));
    asks.extend(need(UDP));
    asks.extend([Instruction(LOAD_IP_HEADER_LENGTH, 0, 0, 14), Instruction(LOAD_HALF_AT_X, 0, 0, 16)]);
    asks.extend(need(DHCP_SERVER));
    asks.push(Instruction(LOAD_HALF_AT_X, 0, 0, 14));
    asks.extend(need(DHCP_CLIENT));
    asks.push(GO_ON);
    let mut program = Vec::from(need_length(34));
    program.push(OF_SENDER);
    let to_own = |at: usize| (addresses.len() - 1 - at + asks.len()) as u8;
    let own = addresses.iter().enumerate().map(|(at, address)| Instruction(IF_EQUAL, to_own(at), 0, word(*address)));
    program.extend(own);
    program.extend(&asks);
    program.push(Instruction(LOAD_HALF, 0, 0, 20));
    program.extend([Instruction(IF_ANY_BIT, 0, 1, 0x1fff), GO_ON]);
    let at_x = |code, at| Instruction(code, 0, 0, at);
    let mut udp = vec![at_x(LOAD_HALF_AT_X, 14)];
    udp.extend(drop_if(DHCP_SERVER));
    // Clients listen to whoever speaks to their port.
    udp.push(at_x(LOAD_HALF_AT_X, 16));
    udp.extend(drop_if(DHCP_CLIENT));
    // Redirects and router advertisements (RFC 792, RFC 1256); who asks for groups (RFC 3376).
    let mut icmp = vec![at_x(LOAD_BYTE_AT_X, 14)];
    icmp.extend([drop_if(5), drop_if(9)].concat());
    let mut igmp = vec![at_x(LOAD_BYTE_AT_X, 14)];
    igmp.extend(drop_if(0x11));
    program.extend([Instruction(LOAD_IP_HEADER_LENGTH, 0, 0, 14), Instruction(LOAD_BYTE, 0, 0, 23)]);
    program.extend(OF_ROUTERS.iter().flat_map(|protocol| drop_if(*protocol)));
    for (protocol, mut of_protocol) in [(UDP, udp), (ICMP, icmp), (IGMP, igmp)] {
        of_protocol.push(GO_ON);
        program.push(Instruction(IF_EQUAL, 0, of_protocol.len() as u8, protocol));
        program.extend(of_protocol);
    }
    program.push(GO_ON);
    program
}

/// The header stands at 14 (RFC 8200): 20: what follows, 22 to 37: the sender; what follows stands at 54.
fn of_ipv6([a, b, c, d, e, f]: [u8; 6]) -> Vec<Instruction> {
    const ICMP: u32 = 58;
    let (high, low) = (word([a ^ 2, b, c, 0xff]), word([0xfe, d, e, f]));
    let load = |code, at| Instruction(code, 0, 0, at);
    // From nobody yet: who asks whether an address is free, or for routers, and who says what groups it is in.
    let mut nobody = Vec::new();
    for at in [22, 26, 30, 34] {
        nobody.push(load(LOAD_WORD, at));
        nobody.extend(need(0));
    }
    nobody.push(load(LOAD_BYTE, 20));
    let of_own = [&[load(LOAD_WORD, 70)], &need(high)[..], &[load(LOAD_WORD, 74)], &need(low), &[GO_ON]].concat();
    let mut of_nobody = vec![load(LOAD_BYTE, 54)];
    of_nobody.extend(pass_if(133));
    of_nobody.extend(need(135));
    of_nobody.extend(&of_own);
    nobody.push(Instruction(IF_EQUAL, 0, of_nobody.len() as u8, ICMP));
    nobody.extend(of_nobody);
    nobody.extend(groups());
    let mut program = Vec::from(need_length(62));
    program.push(load(LOAD_WORD, 30));
    program.push(Instruction(IF_EQUAL, 0, 2, high));
    program.push(load(LOAD_WORD, 34));
    program.push(Instruction(IF_EQUAL, nobody.len() as u8, 0, low));
    program.extend(&nobody);
    // From its own.
    program.push(load(LOAD_BYTE, 20));
    let mut icmp = vec![load(LOAD_BYTE, 54)];
    icmp.extend([drop_if(130), drop_if(134), drop_if(137)].concat());
    icmp.extend([Instruction(IF_EQUAL, 1, 0, 136), GO_ON]);
    icmp.extend(&of_own);
    let udp = of_dhcpv6(54);
    // Of the first fragment the ports are there (RFC 7112).
    let mut fragment = vec![load(LOAD_BYTE, 54)];
    fragment.extend(pass_if(6));
    fragment.extend(need(17));
    fragment.push(load(LOAD_HALF, 56));
    fragment.extend([Instruction(IF_ANY_BIT, 0, 1, 0xfff8), GO_ON]);
    fragment.extend(of_dhcpv6(62));
    for (next, of_next) in [(ICMP, icmp), (17, udp), (44, fragment)] {
        program.push(Instruction(IF_EQUAL, 0, of_next.len() as u8, next));
        program.extend(of_next);
    }
    // TCP, ESP, SCTP.
    program.extend([pass_if(6), pass_if(50), pass_if(132)].concat());
    program.extend(groups());
    program
}

/// Drops what a server sends from its port, and what is for clients' port (RFC 8415, 7.2); the UDP header stands there.
fn of_dhcpv6(at: u32) -> Vec<Instruction> {
    let mut program = vec![Instruction(LOAD_HALF, 0, 0, at)];
    program.extend(drop_if(547));
    program.push(Instruction(LOAD_HALF, 0, 0, at + 2));
    program.extend(drop_if(546));
    program.push(GO_ON);
    program
}

/// Behind a hop-by-hop header of eight bytes stands what a listener says of its multicast groups (RFC 3810); what is loaded is
/// what follows the IPv6 header. All else is dropped.
fn groups() -> Vec<Instruction> {
    let mut program = Vec::from(need(0));
    program.push(Instruction(LOAD_HALF, 0, 0, 54));
    program.extend(need(58 << 8));
    program.push(Instruction(LOAD_BYTE, 0, 0, 62));
    program.extend([pass_if(131), pass_if(132), pass_if(143)].concat());
    program.push(DROP);
    program
}

/// What a program returns for a frame with this mark and this VLAN tag (EtherType and value) beside it: the kernel's machine, as
/// far as our programs use it. A load from behind the frame's end returns 0 (net/core/filter.c). For tests.
///
/// # Panics
/// Where the kernel would refuse the program.
#[allow(clippy::panic)]
pub fn run(program: &[Instruction], frame: &[u8], mark: u32, tag: Option<(u16, u16)>) -> u32 {
    let bytes = |at: usize, count: usize| {
        let bytes = frame.get(at..at + count)?;
        Some(bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    };
    let (mut at, mut a, mut x) = (0, 0, 0);
    loop {
        let Instruction(code, jt, jf, k) = program[at];
        at += 1;
        let from = k as usize;
        let loaded = match code {
            LOAD_WORD if k == 0xffff_f014 => Some(mark),
            LOAD_WORD if k == HAS_TAG => Some(u32::from(tag.is_some())),
            LOAD_WORD if k == TAG => Some(tag.unwrap_or_default().1.into()),
            LOAD_WORD if k == TAG_TYPE => Some(tag.unwrap_or_default().0.into()),
            LOAD_WORD => bytes(from, 4),
            LOAD_HALF => bytes(from, 2),
            LOAD_BYTE => bytes(from, 1),
            LOAD_LENGTH => Some(frame.len() as u32),
            LOAD_HALF_AT_X => bytes(x + from, 2),
            LOAD_BYTE_AT_X => bytes(x + from, 1),
            LOAD_IP_HEADER_LENGTH => {
                let Some(byte) = bytes(from, 1) else { return 0 };
                x = (byte as usize & 0x0f) * 4;
                continue;
            }
            IF_EQUAL => {
                at += usize::from(if a == k { jt } else { jf });
                continue;
            }
            IF_ANY_BIT => {
                at += usize::from(if a & k != 0 { jt } else { jf });
                continue;
            }
            IF_AT_LEAST => {
                at += usize::from(if a >= k { jt } else { jf });
                continue;
            }
            SKIP => {
                at += from;
                continue;
            }
            RETURN => return k,
            _ => panic!("{code:#x}"),
        };
        let Some(loaded) = loaded else { return 0 };
        a = loaded;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
    const ALL: [u8; 6] = [0xff; 6];
    /// 802.1Q's.
    const TAGS: u16 = 0x8100;

    fn frame(to: [u8; 6], from: [u8; 6], kind: u16) -> Vec<u8> {
        [to.as_slice(), &from, &kind.to_be_bytes(), &[0; 46]].concat()
    }

    fn passes(program: &[Instruction], frame: &[u8], tag: Option<u16>) -> bool {
        match run(program, frame, 0, tag.map(|tag| (TAGS, tag))) {
            2 => false,
            u32::MAX => true,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn only_the_guests_own_address_is_a_sender() {
        let program = guard(Some(GUEST), None);
        let from = |from| passes(&program, &frame(ALL, from, 0x0800), None);
        assert!(from(GUEST));
        for at in 0..6 {
            let mut other = GUEST;
            other[at] ^= 4;
            assert!(!from(other), "{other:?}");
        }
    }

    #[test]
    fn without_one_it_is_any_that_no_factory_gives() {
        let program = guard(None, None);
        let from = |first| passes(&program, &frame(ALL, [first, 1, 2, 3, 4, 5], 0x0800), None);
        for (first, expected) in [(0x52, true), (0x02, true), (0xfe, true), (0x00, false), (0x54, false), (0x03, false)]
        {
            assert_eq!(from(first), expected, "{first:#x}");
        }
    }

    #[test]
    fn a_tag_is_for_those_who_have_vlans_and_two_for_nobody() {
        let [access, trunk] = [None, Some(TAGS)].map(|tags| guard(Some(GUEST), tags));
        let plain = frame(ALL, GUEST, 0x0806);
        for (tag, of_access, of_trunk) in [
            (None, true, true),
            (Some(0), true, true),
            (Some(0xe000), true, true),
            (Some(10), false, true),
            (Some(0x2fff), false, true),
        ] {
            assert_eq!(passes(&access, &plain, tag), of_access, "{tag:?}");
            assert_eq!(passes(&trunk, &plain, tag), of_trunk, "{tag:?}");
            // To a bridge of 802.1ad that is no tag.
            let is_untagged = run(&guard(Some(GUEST), Some(0x88a8)), &plain, 0, tag.map(|tag| (TAGS, tag))) == u32::MAX;
            assert_eq!(is_untagged, tag.is_none(), "{tag:?}");
        }
        for kind in [0x8100, 0x88a8, 0x9100] {
            for program in [&access, &trunk] {
                assert!(
                    !passes(program, &frame(ALL, GUEST, kind), Some(0))
                        && !passes(program, &frame(ALL, GUEST, kind), None)
                );
            }
        }
    }

    #[test]
    fn no_switch_takes_it_for_a_switch() {
        let program = guard(Some(GUEST), None);
        let to = |to| passes(&program, &frame(to, GUEST, 0x0026), None);
        for last in 0..=0xff {
            assert_eq!(to([0x01, 0x80, 0xc2, 0, 0, last]), last > 0x3f, "{last:#x}");
            assert!(
                !to([0x01, 0x00, 0x0c, 0xcc, 0xcc, last]) && !to([0x01, 0x00, 0x0c, 0xcd, 0xcd, last]),
                "{last:#x}"
            );
        }
        for honest in
            [ALL, [0x01, 0x00, 0x5e, 0, 0, 0xfb], [0x33, 0x33, 0, 0, 0, 1], [0x01, 0x80, 0xc2, 0, 1, 0], GUEST]
        {
            assert!(to(honest), "{honest:?}");
        }
    }

    const OWN: [u8; 4] = [10, 77, 0, 100];
    /// fe80:: with the guest's interface identifier.
    const OWN6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0x50, 0x54, 0, 0xff, 0xfe, 1, 2, 3];

    fn ipv4(from: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = frame(ALL, GUEST, 0x0800)[..14].to_vec();
        frame.extend([0x46, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0]);
        frame.extend(from);
        // An option: the length of the header is not always the same.
        frame.extend([255, 255, 255, 255, 1, 1, 1, 0]);
        [&frame, payload, &[0; 20]].concat()
    }

    fn ipv6(from: [u8; 16], next: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = frame(ALL, GUEST, 0x86dd)[..14].to_vec();
        frame.extend([0x60, 0, 0, 0, 0, 0, next, 255]);
        frame.extend(from);
        frame.extend([0xff; 16]);
        [&frame, payload, &[0; 40]].concat()
    }

    fn arp(of: [u8; 6], from: [u8; 4]) -> Vec<u8> {
        arp_for(of, from, [0; 4])
    }

    fn arp_for(of: [u8; 6], from: [u8; 4], target: [u8; 4]) -> Vec<u8> {
        let head = frame(ALL, GUEST, 0x0806)[..14].to_vec();
        [&head[..], &[0, 1, 8, 0, 6, 4, 0, 2], &of, &from, &[0; 6], &target].concat()
    }

    /// A neighbour advertisement of this address, or a solicitation.
    fn neighbour(from: [u8; 16], kind: u8, target: [u8; 16]) -> Vec<u8> {
        ipv6(from, 58, &[&[kind, 0, 0, 0, 0, 0, 0, 0], &target[..]].concat())
    }

    #[test]
    fn only_what_dhcp_gave_is_a_source() {
        let program = guard_with_sources(GUEST, None, &[[10, 77, 0, 99], OWN]);
        let udp = |from: u16, to: u16| [from.to_be_bytes(), to.to_be_bytes()].concat();
        let (other, other6) = ([10, 77, 0, 1], [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0x50, 0x54, 0, 0xff, 0xfe, 9, 9, 9]);
        let mut global = OWN6;
        global[..2].copy_from_slice(&[0xfd, 0x77]);
        let mut other_target = OWN6;
        other_target[15] = 9;
        let mut later = ipv4(OWN, 17, &udp(67, 68));
        later[21] = 8;
        let listener = |next: u8, kind: u8| [&[next, 0, 5, 2, 0, 0, 1, 0], &[kind, 0][..]].concat();
        for (frame, expected, what) in [
            (arp(GUEST, OWN), true, "ARP of its own"),
            (arp_for(GUEST, [0; 4], OWN), true, "whether its address is free"),
            (arp_for(GUEST, [0; 4], other), false, "whether another's is"),
            (arp(GUEST, other), false, "ARP for the gateway"),
            (arp([2; 6], OWN), false, "ARP with another sender"),
            (ipv4(OWN, 6, &[]), true, "TCP"),
            (ipv4([10, 77, 0, 99], 1, &[]), true, "ping from its other address"),
            (ipv4(other, 6, &[]), false, "TCP from another"),
            (ipv4([0; 4], 17, &udp(68, 67)), true, "DHCP"),
            (ipv4([0; 4], 17, &udp(68, 53)), false, "from nobody"),
            (ipv4([0; 4], 6, &udp(68, 67)), false, "TCP from nobody"),
            (ipv4(OWN, 17, &udp(68, 67)), true, "DHCP, renewed"),
            (ipv4(OWN, 17, &udp(53, 1068)), true, "UDP"),
            (ipv4(OWN, 17, &udp(1067, 68)), false, "a DHCP server, from another port"),
            (ipv4([0; 4], 17, &udp(1067, 67)), false, "from nobody, from another port"),
            (ipv4(OWN, 17, &udp(67, 68)), false, "a DHCP server"),
            (later, true, "a later fragment, whose first bytes are no ports"),
            (ipv4(OWN, 1, &[8]), true, "ping, IPv4"),
            (ipv4(OWN, 1, &[5]), false, "a redirect, IPv4"),
            (ipv4(OWN, 1, &[9]), false, "a router, IPv4"),
            (ipv4(OWN, 2, &[0x22]), true, "groups, IPv4"),
            (ipv4(OWN, 2, &[0x11]), false, "who asks for groups, IPv4"),
            (ipv4(OWN, 112, &[]), false, "VRRP"),
            (ipv4(OWN, 89, &[]), false, "OSPF"),
            (ipv4(OWN, 47, &[]), true, "GRE"),
            (ipv6(OWN6, 6, &[]), true, "TCP, IPv6"),
            (ipv6(global, 6, &[]), true, "from a global address"),
            (ipv6(other6, 6, &[]), false, "from another"),
            (neighbour([0; 16], 135, global), true, "whether its address is free, IPv6"),
            (neighbour([0; 16], 135, other_target), false, "whether another's is, IPv6"),
            (neighbour(OWN6, 135, other_target), true, "asking for a neighbour"),
            (ipv6([0; 16], 58, &[133]), true, "asking for routers"),
            (ipv6([0; 16], 58, &[134]), false, "a router from nowhere"),
            (ipv6([0; 16], 6, &[]), false, "TCP from nobody"),
            (ipv6([0; 16], 0, &listener(58, 143)), true, "groups, from nobody yet"),
            (ipv6(OWN6, 0, &listener(58, 143)), true, "groups"),
            (ipv6(OWN6, 0, &listener(58, 130)), false, "who asks for groups"),
            (ipv6(OWN6, 0, &listener(58, 134)), false, "a router behind a header"),
            (ipv6(OWN6, 58, &[128]), true, "ping"),
            (ipv6(OWN6, 58, &[134]), false, "a router"),
            (ipv6(OWN6, 58, &[137]), false, "a redirect"),
            (ipv6(OWN6, 58, &[130]), false, "who asks for groups, without options"),
            (neighbour(OWN6, 136, OWN6), true, "its own neighbour advertisement"),
            (neighbour(OWN6, 136, other_target), false, "another's"),
            (ipv6(OWN6, 60, &[58]), false, "what options hide"),
            (ipv6(OWN6, 43, &[58]), false, "what a route hides"),
            (ipv6(OWN6, 44, &[58]), false, "what a fragment hides"),
            (ipv6(OWN6, 44, &[&[17, 0, 0, 1, 0, 0, 0, 1], &udp(53, 53)[..]].concat()), true, "a fragment"),
            (ipv6(OWN6, 44, &[&[17, 0, 0, 9, 0, 0, 0, 1], &udp(547, 546)[..]].concat()), true, "a later fragment"),
            (ipv6(OWN6, 44, &[&[17, 0, 0, 0, 0, 0, 0, 1], &udp(547, 1)[..]].concat()), false, "DHCPv6 in a fragment"),
            (ipv6(OWN6, 44, &[&[17, 0, 0, 1, 0, 0, 0, 1], &udp(1, 546)[..]].concat()), false, "the same for clients"),
            (ipv6(OWN6, 17, &udp(1547, 546)), false, "a DHCPv6 server, from another port"),
            (ipv6(OWN6, 17, &udp(546, 547)), true, "DHCPv6"),
            (ipv6(OWN6, 17, &udp(547, 546)), false, "a DHCPv6 server"),
            (frame(ALL, GUEST, 0x8035), true, "QEMU's announcement"),
            (frame(ALL, GUEST, 0x88cc), false, "something else"),
            (frame(ALL, GUEST, 0x0026), false, "a length"),
        ] {
            assert_eq!(passes(&program, &frame, None), expected, "{what}");
            // Nothing passes because it ends early that would not pass once a card has filled it with zeros.
            for length in 14..frame.len().min(60) {
                let mut filled = frame[..length].to_vec();
                filled.resize(60, 0);
                let is_dropped = run(&program, &frame[..length], 0, None) == 2;
                assert!(is_dropped || passes(&program, &filled, None), "{length} bytes of {what}");
            }
        }
        // Before it has an address, it asks for one.
        let program = guard_with_sources(GUEST, None, &[]);
        assert!(passes(&program, &ipv4([0; 4], 17, &udp(68, 67)), None) && !passes(&program, &ipv4(OWN, 6, &[]), None));
        assert!(!passes(&program, &arp_for(GUEST, [0; 4], OWN), None) && !passes(&program, &arp(GUEST, OWN), None));
        // All that the other guard drops is dropped by this one.
        assert!(!passes(&program, &frame(ALL, [2; 6], 0x8035), None));
        assert!(!passes(&program, &frame([1, 0x80, 0xc2, 0, 0, 0], GUEST, 0x8035), None));
    }

    #[test]
    fn what_is_to_be_renewed_is_known() {
        for tags in [None, Some(TAGS), Some(0x88a8)] {
            assert_eq!(renewable(&guard_with_sources(GUEST, tags, &[OWN])), Some((GUEST, tags)));
            assert_eq!(renewable(&guard(Some(GUEST), tags)), None);
        }
        assert_eq!(renewable(&[]), None);
        let of = |addresses: &[[u8; 4]]| sources(&guard_with_sources(GUEST, None, addresses)).collect::<Vec<_>>();
        assert_eq!((of(&[]), of(&[OWN, [10, 77, 0, 99]])), (vec![], vec![OWN, [10, 77, 0, 99]]));
        assert_eq!(sources(&[]).count(), 0);
        // BPF_MAXINSNS, and what a jump can reach.
        assert!(guard_with_sources(GUEST, None, &[OWN; 8]).len() < 250);
    }
}
