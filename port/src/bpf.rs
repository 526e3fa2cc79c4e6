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

/// TC_ACT_SHOT: what a classifier that decides by itself returns for a frame that is dropped.
pub const DROP: Instruction = Instruction(RETURN, 0, 0, 2);
/// TC_ACT_UNSPEC: on to the filters behind.
pub const GO_ON: Instruction = Instruction(RETURN, 0, 0, u32::MAX);

/// SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT: whether the frame came with a VLAN tag, which the kernel keeps beside it.
const HAS_TAG: u32 = (-0x1000_i32 + 48) as u32;
/// SKF_AD_OFF + SKF_AD_VLAN_TAG: priority and VLAN of that tag.
const TAG: u32 = (-0x1000_i32 + 44) as u32;
/// The VLAN of a tag; without one a frame is only given a priority (IEEE 802.1Q, 9.6).
const VLAN: u32 = 0x0fff;

/// The guard of a port whose guest has this address, or any that is its owner's to choose: a locally administered one (IEEE
/// 802, 8.4), as no switch or router of the factory has. It drops
///
/// - what has another sender,
/// - what has a VLAN tag, unless the guest `has_vlans`, or a tag within a tag,
/// - link-local control frames, of which a switch takes some for those of another switch: all of 01:80:c2:00:00:00 to 3f (STP,
///   LACP, 802.1X, LLDP, MVRP; IEEE 802.1Q, 8.6.3 and 10.5), and Cisco's PVST+, CDP, VTP, DTP and UDLD.
///
/// A frame begins with the address that it is for (bytes 0 to 5), then its sender's (6 to 11), and its type (12, 13). Each part
/// drops what it is about, or goes on with the instruction behind it.
#[rustfmt::skip]
pub fn guard(mac: Option<[u8; 6]>, has_vlans: bool) -> Vec<Instruction> {
    let mut program = Vec::new();
    match mac {
        Some([a, b, c, d, e, f]) => program.extend([
            Instruction(LOAD_WORD, 0, 0, 6),
            Instruction(IF_EQUAL, 0, 2, u32::from_be_bytes([a, b, c, d])),
            Instruction(LOAD_HALF, 0, 0, 10),
            Instruction(IF_EQUAL, 1, 0, u32::from_be_bytes([0, 0, e, f])),
            DROP,
        ]),
        None => program.extend([
            Instruction(LOAD_BYTE, 0, 0, 6),
            Instruction(IF_ANY_BIT, 1, 0, 1),
            Instruction(IF_ANY_BIT, 1, 0, 2),
            DROP,
        ]),
    }
    if !has_vlans {
        program.extend([
            Instruction(LOAD_WORD, 0, 0, HAS_TAG),
            Instruction(IF_EQUAL, 3, 0, 0),
            Instruction(LOAD_WORD, 0, 0, TAG),
            Instruction(IF_ANY_BIT, 0, 1, VLAN),
            DROP,
        ]);
    }
    program.extend([
        Instruction(LOAD_HALF, 0, 0, 12),
        Instruction(IF_EQUAL, 2, 0, 0x8100),
        Instruction(IF_EQUAL, 1, 0, 0x88a8),
        Instruction(IF_EQUAL, 0, 1, 0x9100),
        DROP,
        Instruction(LOAD_WORD, 0, 0, 0),
        Instruction(IF_EQUAL, 0, 2, 0x0180_c200),
        Instruction(LOAD_HALF, 0, 0, 4),
        Instruction(IF_ANY_BIT, 5, 4, 0xffc0),
        Instruction(IF_EQUAL, 0, 4, 0x0100_0ccc),
        Instruction(LOAD_HALF, 0, 0, 4),
        Instruction(IF_EQUAL, 1, 0, 0xcccc),
        Instruction(IF_EQUAL, 0, 1, 0xcccd),
        DROP,
        GO_ON,
    ]);
    program
}

/// What a program returns for a frame with this mark and this VLAN tag beside it: the kernel's machine, as far as our programs
/// use it. For tests.
///
/// # Panics
/// Where the kernel would end the program, or refuse it.
#[allow(clippy::panic)]
pub fn run(program: &[Instruction], frame: &[u8], mark: u32, tag: Option<u16>) -> u32 {
    let (mut at, mut a) = (0, 0);
    loop {
        let Instruction(code, jt, jf, k) = program[at];
        at += 1;
        let from = k as usize;
        let bytes =
            |count: usize| frame[from..from + count].iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
        match code {
            LOAD_WORD if k == 0xffff_f014 => a = mark,
            LOAD_WORD if k == HAS_TAG => a = u32::from(tag.is_some()),
            LOAD_WORD if k == TAG => a = tag.unwrap_or_default().into(),
            LOAD_WORD => a = bytes(4),
            LOAD_HALF => a = bytes(2),
            LOAD_BYTE => a = bytes(1),
            IF_EQUAL => at += usize::from(if a == k { jt } else { jf }),
            IF_ANY_BIT => at += usize::from(if a & k != 0 { jt } else { jf }),
            IF_AT_LEAST => at += usize::from(if a >= k { jt } else { jf }),
            SKIP => at += from,
            RETURN => return k,
            _ => panic!("{code:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
    const ALL: [u8; 6] = [0xff; 6];

    fn frame(to: [u8; 6], from: [u8; 6], kind: u16) -> Vec<u8> {
        [to.as_slice(), &from, &kind.to_be_bytes(), &[0; 46]].concat()
    }

    fn passes(program: &[Instruction], frame: &[u8], tag: Option<u16>) -> bool {
        match run(program, frame, 0, tag) {
            2 => false,
            u32::MAX => true,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn only_the_guests_own_address_is_a_sender() {
        let program = guard(Some(GUEST), false);
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
        let program = guard(None, false);
        let from = |first| passes(&program, &frame(ALL, [first, 1, 2, 3, 4, 5], 0x0800), None);
        for (first, expected) in [(0x52, true), (0x02, true), (0xfe, true), (0x00, false), (0x54, false), (0x03, false)]
        {
            assert_eq!(from(first), expected, "{first:#x}");
        }
    }

    #[test]
    fn a_tag_is_for_those_who_have_vlans_and_two_for_nobody() {
        let [access, trunk] = [false, true].map(|has_vlans| guard(Some(GUEST), has_vlans));
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
        let program = guard(Some(GUEST), false);
        let to = |to| passes(&program, &frame(to, GUEST, 0x0026), None);
        for last in 0..=0xff {
            assert_eq!(to([0x01, 0x80, 0xc2, 0, 0, last]), last > 0x3f, "{last:#x}");
            let is_ciscos = matches!(last, 0xcc | 0xcd);
            assert_eq!(to([0x01, 0x00, 0x0c, 0xcc, 0xcc, last]), !is_ciscos, "{last:#x}");
        }
        for honest in
            [ALL, [0x01, 0x00, 0x5e, 0, 0, 0xfb], [0x33, 0x33, 0, 0, 0, 1], [0x01, 0x80, 0xc2, 0, 1, 0], GUEST]
        {
            assert!(to(honest), "{honest:?}");
        }
    }
}
