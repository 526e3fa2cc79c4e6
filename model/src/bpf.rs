//! Programs of the kernel's classic machine (linux/filter.h), and those by which sockets hear no more than is asked for.
//! It may not know a socket.
#![forbid(unsafe_code)]

pub use port::bpf::Instruction;
pub(crate) use port::bpf::{DROP, IF_ANY_BIT, IF_AT_LEAST, IF_EQUAL, LOAD_BYTE, LOAD_HALF, LOAD_WORD, RETURN, SKIP};

use port::bpf::{LOAD_HALF_AT_X, LOAD_IP_HEADER_LENGTH};
/// All of it is heard.
pub(crate) const WHOLE: Instruction = Instruction(RETURN, 0, 0, u32::MAX);
/// It is not heard.
pub(crate) const NOTHING: Instruction = Instruction(RETURN, 0, 0, 0);

/// The type of a netlink message as a filter sees it, which reads all numbers as the network has them.
const fn kind(kind: u16) -> u32 {
    kind.to_be() as u32
}

/// A program as `tc` takes it: how many instructions, and each with its four numbers.
pub fn bytecode(program: &[Instruction]) -> String {
    let rest: String = program.iter().map(|Instruction(code, jt, jf, k)| format!(",{code} {jt} {jf} {k}")).collect();
    format!("'{}{rest}'", program.len())
}

/// What hears the frames that a guard drops, and no others.
pub fn inverted(guard: &[Instruction]) -> Vec<Instruction> {
    let invert = |instruction: &Instruction| match *instruction {
        DROP => WHOLE,
        port::bpf::GO_ON => NOTHING,
        other => other,
    };
    guard.iter().map(invert).collect()
}

/// Of what a netlink socket hears of neighbours and of traffic control: deleted qdiscs and filters (RTM_DELQDISC,
/// RTM_DELTFILTER), and of neighbours only those of bridges (nlmsg_type in struct nlmsghdr; ndm_family behind it: AF_BRIDGE).
pub const OF_SHARING: [Instruction; 7] = [
    Instruction(LOAD_HALF, 0, 0, 4),
    Instruction(IF_EQUAL, 3, 0, kind(37)),
    Instruction(IF_EQUAL, 2, 0, kind(45)),
    Instruction(LOAD_BYTE, 0, 0, 16),
    Instruction(IF_EQUAL, 0, 1, 7),
    WHOLE,
    NOTHING,
];

/// Of the frames on an interface DHCP, ARP and neighbour discovery. Behind each test is how many instructions to skip if it
/// holds, and if not.
#[rustfmt::skip]
pub const OF_ADDRESSES: [Instruction; 16] = [
    Instruction(LOAD_HALF, 0, 0, 12),                // 0   the frame's type
    Instruction(IF_EQUAL, 12, 0, 0x0806),            // 1   ARP: to 14
    Instruction(IF_EQUAL, 9, 0, 0x86dd),             // 2   IPv6: to 12
    Instruction(IF_EQUAL, 0, 11, 0x0800),            // 3   not IPv4: to 15
    Instruction(LOAD_BYTE, 0, 0, 23),                // 4
    Instruction(IF_EQUAL, 0, 9, 17),                 // 5   not UDP: to 15
    Instruction(LOAD_HALF, 0, 0, 20),                // 6
    Instruction(IF_ANY_BIT, 7, 0, 0x1fff),           // 7   a later fragment: to 15
    Instruction(LOAD_IP_HEADER_LENGTH, 0, 0, 14),    // 8
    Instruction(LOAD_HALF_AT_X, 0, 0, 16),           // 9   the port that it goes to
    Instruction(IF_EQUAL, 3, 0, 67),                 // 10  a DHCP server's: to 14
    Instruction(IF_EQUAL, 2, 3, 68),                 // 11  a DHCP client's: to 14; else to 15
    Instruction(LOAD_BYTE, 0, 0, 20),                // 12
    Instruction(IF_EQUAL, 0, 1, 58),                 // 13  not ICMPv6: to 15
    WHOLE,                                           // 14
    NOTHING,                                         // 15
];

/// Of these DHCP alone, in both directions.
pub const OF_DHCP: [Instruction; 16] = {
    let mut program = OF_ADDRESSES;
    (program[1].1, program[2].1) = (13, 12);
    program
};

/// Of these DHCP servers' answers alone: what a guest sends, and how much, wakes nobody up.
pub const OF_DHCP_SERVERS: [Instruction; 16] = {
    let mut program = OF_DHCP;
    program[10].1 = 4;
    program
};
