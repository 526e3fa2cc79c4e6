//! How an uplink is shared with a bridge: the traffic-control filters (tc(8)) that copy frames between the uplink and a
//! veth pair whose other end is a port of the bridge. The uplink keeps all that the host has on it.
//!
//! ```text
//!          host's own stack
//!                 |
//!   network --- eth0 ==(filters)== kvbh-br0 ---veth--- kvbp-br0 --- br0 --- guests
//! ```
//!
//! All matching is done by classic BPF (`cls_bpf`), which reads a frame from its Ethernet header on, whatever VLAN tags it
//! has; only the addresses behind the bridge, of which there may be thousands, are in a hash table (`cls_u32`). What is
//! copied on the uplink goes on to the filters behind ours, so that those of others see every frame that they saw before.
//!
//! Pure: what the filters are, and the `tc` commands that make them. `net::share` carries them out.
#![forbid(unsafe_code)]

use crate::mac::Mac;
use crate::name::IfName;
use crate::shell::quote;
use serde::{Deserialize, Serialize};

/// Where our filters stand among those of others on the uplink (`pref` of tc(8)): behind those that an admin numbers by hand,
/// before those that the kernel numbers (49152 and below).
pub const PREF: u16 = 27510;
/// The bit of a frame's mark that says: this one was put into the uplink's ingress by us, and is not copied back. It is set
/// and cleared again between two filters, without anybody else seeing it. WireGuard's usual mark (0xca6c), Kubernetes'
/// (0xc000), Tailscale's (0xff0000) and Cilium's (0xffff) do not have it, and the other bits stay as they are.
pub const MARK: u32 = 0x1000_0000;
/// The hash table of the addresses behind the bridge: a number that nobody is likely to use on the same hook.
pub const TABLE: u32 = 0x6b7;
/// 01:80:c2:00:00:00 to 0f: link-local control frames (IEEE 802.1Q, 8.6.3), as of STP, LACP, 802.1X and LLDP.
const LINK_LOCAL: u32 = 0x0180_c200;

/// What the names of our own links begin with, so that one pattern keeps network managers off all of them.
pub const PREFIX: &str = "kvb";

/// How an uplink is shared, as the journal keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// The uplink.
    pub uplink: IfName,
    /// Its index.
    pub index: u32,
    /// The host's address on it.
    pub mac: Mac,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether the bridge goes with the default route to another uplink.
    pub follow: bool,
    /// How frames are marked.
    pub mark: MarkBy,
    /// What of the uplink is changed, and so has to be changed back.
    pub changes: Changes,
}

/// What sharing changes on an uplink: only what was not so before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Changes {
    /// It gets a clsact qdisc.
    pub adds_clsact: bool,
    /// It is set promiscuous, as each port of a bridge is: it lets in what is for the guests.
    pub sets_promiscuous: bool,
    /// Its large receive offload is switched off, as for each port of a bridge: frames so merged can't be forwarded.
    pub clears_lro: bool,
}

/// By what frames are marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MarkBy {
    /// The kernel's action `skbedit`.
    Skbedit,
    /// A table of nftables in the bridge family, where the kernel lacks that action.
    Nftables,
}

/// The names of the veth pair of a bridge: the host's end and the bridge's port. A bridge's name that leaves no room is cut,
/// with a hash of the whole name behind it.
pub fn ends(bridge: &IfName) -> [IfName; 2] {
    let name = bridge.as_str();
    let room = IfName::MAX - "kvbh-".len();
    let short = match name.len() <= room {
        true => name.to_owned(),
        false => {
            // FNV-1a (draft-eastlake-fnv).
            let hash =
                name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619));
            let cut = (0..=room - 6).rev().find(|at| name.is_char_boundary(*at)).unwrap_or_default();
            format!("{}{:06x}", &name[..cut], hash & 0x00ff_ffff)
        }
    };
    ["kvbh-", "kvbp-"].map(|start| IfName::seen(format!("{start}{short}")))
}

/// The two links that have filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// The uplink.
    Uplink,
    /// The host's end of the veth pair.
    HostEnd,
}

/// Where on a link (linux/pkt_sched.h, TC_H_MIN_INGRESS and TC_H_MIN_EGRESS).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Hook {
    Ingress,
    Egress,
}

/// An instruction of classic BPF (linux/filter.h): code, how many to skip if true and if false, operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction(pub u16, pub u8, pub u8, pub u32);

/// Which frames a filter is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Classifier {
    /// Those for which a program returns -1.
    Bpf(Vec<Instruction>),
    /// A program that itself returns what becomes of a frame (TC_ACT_SHOT; -1 to go on).
    Verdict(Vec<Instruction>),
    /// None: makes the hash table.
    Table,
    /// Those of this sender: on to the hash table, by the last byte of the address that they are for.
    ToTable(Mac),
    /// In the hash table, those for this address.
    Entry(Mac),
}

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It, or a copy of it, goes to a link (act_mirred).
    Mirred {
        /// Which one.
        to: On,
        /// Out of it, or in by it as if it came from its network.
        hook: Hook,
        /// Whether it is a copy.
        is_copy: bool,
        /// Whether it goes on to the filters behind, and not only to the action behind.
        goes_on: bool,
    },
    /// Its `MARK` is set or cleared (act_skbedit); cleared, it goes on to the filters behind.
    Mark(bool),
}

/// One filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// On which link.
    pub on: On,
    /// Where there.
    pub hook: Hook,
    /// Its place.
    pub pref: u16,
    /// For which frames.
    pub classifier: Classifier,
    /// What becomes of them.
    pub actions: Vec<Action>,
}

/// The filters, those on our own link first, and last the one that lets frames in: in this order they are made, and in the
/// other removed.
pub fn filters(host: Mac, mark: MarkBy) -> Vec<Filter> {
    use Classifier::{Bpf, Table, ToTable, Verdict};
    use Hook::{Egress, Ingress};
    use On::{HostEnd, Uplink};
    let filter = |on, hook, pref, classifier, actions: &[Action]| {
        // Where nftables marks the frames there is no action to do it.
        let actions =
            actions.iter().copied().filter(|action| mark == MarkBy::Skbedit || !matches!(action, Action::Mark(_)));
        Filter { on, hook, pref, classifier, actions: actions.collect() }
    };
    let send = |to, hook| Action::Mirred { to, hook, is_copy: false, goes_on: false };
    let copy = |to, hook, goes_on| Action::Mirred { to, hook, is_copy: true, goes_on };
    let mut filters = vec![
        // From the bridge.
        filter(HostEnd, Ingress, 1, Verdict(program::drop_link_local()), &[]),
        filter(HostEnd, Ingress, 2, Bpf(program::to(host)), &[send(Uplink, Ingress)]),
        filter(
            HostEnd,
            Ingress,
            3,
            Bpf(program::to_many()),
            &[copy(Uplink, Egress, false), Action::Mark(true), send(Uplink, Ingress)],
        ),
        filter(HostEnd, Ingress, 4, Bpf(program::all()), &[send(Uplink, Egress)]),
        // From the host.
        filter(Uplink, Egress, PREF, Bpf(program::copied_from(host)), &[copy(HostEnd, Egress, true)]),
        filter(Uplink, Egress, PREF + 1, Table, &[]),
        filter(Uplink, Egress, PREF + 1, ToTable(host), &[]),
    ];
    // From the network.
    if mark == MarkBy::Skbedit {
        filters.push(filter(Uplink, Ingress, PREF + 1, Bpf(program::marked()), &[Action::Mark(false)]));
    }
    filters.push(filter(Uplink, Ingress, PREF, Bpf(program::not_for_host_alone(host)), &[copy(HostEnd, Egress, true)]));
    filters
}

/// The filter by which the host reaches an address behind the bridge.
pub fn entry(mac: Mac) -> Filter {
    let to_bridge = Action::Mirred { to: On::HostEnd, hook: Hook::Egress, is_copy: false, goes_on: false };
    let classifier = Classifier::Entry(mac);
    Filter { on: On::Uplink, hook: Hook::Egress, pref: PREF + 1, classifier, actions: vec![to_bridge] }
}

/// The programs. A frame begins with the address that it is for (bytes 0 to 5), then its sender's (6 to 11).
mod program {
    use super::{Instruction, LINK_LOCAL, MARK};
    use crate::mac::Mac;

    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const IF_EQUAL: u16 = 0x15;
    const IF_ANY_BIT: u16 = 0x45;
    const RETURN: u16 = 0x06;
    /// SKF_AD_OFF + SKF_AD_MARK: the frame's mark.
    const ITS_MARK: u32 = (-0x1000_i32 + 20) as u32;
    const YES: Instruction = Instruction(RETURN, 0, 0, u32::MAX);
    const NO: Instruction = Instruction(RETURN, 0, 0, 0);
    /// TC_ACT_SHOT.
    const DROP: Instruction = Instruction(RETURN, 0, 0, 2);

    fn high(mac: Mac) -> u32 {
        u32::from_be_bytes([mac.0[0], mac.0[1], mac.0[2], mac.0[3]])
    }

    fn low(mac: Mac) -> u32 {
        u32::from(u16::from_be_bytes([mac.0[4], mac.0[5]]))
    }

    pub(super) fn all() -> Vec<Instruction> {
        vec![YES]
    }

    pub(super) fn marked() -> Vec<Instruction> {
        vec![Instruction(LOAD_WORD, 0, 0, ITS_MARK), Instruction(IF_ANY_BIT, 0, 1, MARK), YES, NO]
    }

    pub(super) fn to_many() -> Vec<Instruction> {
        vec![Instruction(LOAD_BYTE, 0, 0, 0), Instruction(IF_ANY_BIT, 0, 1, 1), YES, NO]
    }

    pub(super) fn to(host: Mac) -> Vec<Instruction> {
        vec![
            Instruction(LOAD_WORD, 0, 0, 0),
            Instruction(IF_EQUAL, 0, 3, high(host)),
            Instruction(LOAD_HALF, 0, 0, 4),
            Instruction(IF_EQUAL, 0, 1, low(host)),
            YES,
            NO,
        ]
    }

    pub(super) fn drop_link_local() -> Vec<Instruction> {
        vec![
            Instruction(LOAD_WORD, 0, 0, 0),
            Instruction(IF_EQUAL, 0, 3, LINK_LOCAL),
            Instruction(LOAD_HALF, 0, 0, 4),
            Instruction(IF_ANY_BIT, 1, 0, 0xfff0),
            DROP,
            YES,
        ]
    }

    /// The host's multicasts and broadcasts, but for link-local control frames; and what it sends with a VLAN tag in the frame
    /// itself (QinQ, packet sockets), whose addresses the hash table looks for in the wrong place: `cls_u32` counts from the
    /// network header. Of these the bridge has a copy, and knows who is behind it.
    pub(super) fn copied_from(host: Mac) -> Vec<Instruction> {
        vec![
            Instruction(LOAD_WORD, 0, 0, 6),
            Instruction(IF_EQUAL, 0, 12, high(host)),
            Instruction(LOAD_HALF, 0, 0, 10),
            Instruction(IF_EQUAL, 0, 10, low(host)),
            Instruction(LOAD_BYTE, 0, 0, 0),
            Instruction(IF_ANY_BIT, 3, 0, 1),
            Instruction(LOAD_HALF, 0, 0, 12),
            Instruction(IF_EQUAL, 5, 0, 0x8100),
            Instruction(IF_EQUAL, 4, 5, 0x88a8),
            Instruction(LOAD_WORD, 0, 0, 0),
            Instruction(IF_EQUAL, 0, 2, LINK_LOCAL),
            Instruction(LOAD_HALF, 0, 0, 4),
            Instruction(IF_ANY_BIT, 0, 1, 0xfff0),
            YES,
            NO,
        ]
    }

    /// All that comes in but what is for the host's address, link-local control frames, and what we put there.
    pub(super) fn not_for_host_alone(host: Mac) -> Vec<Instruction> {
        vec![
            Instruction(LOAD_WORD, 0, 0, ITS_MARK),
            Instruction(IF_ANY_BIT, 8, 0, MARK),
            Instruction(LOAD_WORD, 0, 0, 0),
            Instruction(IF_EQUAL, 0, 2, high(host)),
            Instruction(LOAD_HALF, 0, 0, 4),
            Instruction(IF_EQUAL, 4, 3, low(host)),
            Instruction(IF_EQUAL, 0, 2, LINK_LOCAL),
            Instruction(LOAD_HALF, 0, 0, 4),
            Instruction(IF_ANY_BIT, 0, 1, 0xfff0),
            YES,
            NO,
        ]
    }
}

impl Filter {
    /// The `tc` command that makes it, for an uplink and the host's end of these names.
    pub fn command(&self, uplink: &IfName, host_end: &IfName) -> String {
        let name = |on: On| quote(if on == On::Uplink { uplink } else { host_end });
        let hook = |hook: Hook| if hook == Hook::Ingress { "ingress" } else { "egress" };
        let bytecode = |program: &[Instruction]| {
            let rest: String =
                program.iter().map(|Instruction(code, jt, jf, k)| format!(",{code} {jt} {jf} {k}")).collect();
            format!("'{}{rest}'", program.len())
        };
        let mut command =
            format!("tc filter add dev {} {} protocol all pref {}", name(self.on), hook(self.hook), self.pref);
        command += &match &self.classifier {
            Classifier::Bpf(program) => format!(" bpf bytecode {}", bytecode(program)),
            Classifier::Verdict(program) => format!(" bpf direct-action bytecode {}", bytecode(program)),
            Classifier::Table => format!(" handle {TABLE:x}: u32 divisor 256"),
            Classifier::ToTable(mac) => {
                format!(" u32 match ether src {mac} hashkey mask 0x000000ff at -12 link {TABLE:x}:")
            }
            Classifier::Entry(mac) => format!(" u32 ht {TABLE:x}:{:x}: match ether dst {mac}", mac.0[5]),
        };
        for action in &self.actions {
            command += &match action {
                Action::Mirred { to, hook: at, is_copy, goes_on } => format!(
                    " action mirred {} {} dev {}{}",
                    hook(*at),
                    if *is_copy { "mirror" } else { "redirect" },
                    name(*to),
                    if *goes_on { " continue" } else { "" }
                ),
                Action::Mark(true) => format!(" action skbedit mark {MARK:#x}/{MARK:#x}"),
                Action::Mark(false) => format!(" action skbedit mark 0/{MARK:#x} continue"),
            };
        }
        command
    }
}

/// The name of the tables that mark frames, where nftables does.
pub fn table(bridge: &IfName) -> String {
    let plain =
        |byte: u8| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("_{byte:02x}") };
    format!("kvm_bridge_{}", bridge.as_str().bytes().map(plain).collect::<String>())
}

/// What `nft` is told to make them: what leaves the bridge by its port to the uplink, and is for many, is marked; and before
/// anybody else of the host sees what comes in by the uplink, the mark is cleared. Twice is the same as once.
pub fn ruleset(bridge: &IfName, uplink: &IfName) -> String {
    let table = table(bridge);
    let [_, port] = ends(bridge);
    let anew =
        |family: &str| format!("add table {family} {table}; delete table {family} {table}; add table {family} {table}");
    // A name of any bytes: what nft would take for its own is any byte there.
    let pattern = |name: &IfName| {
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-@".contains(byte);
        let plain: String = name.as_str().bytes().take_while(is_plain).map(char::from).collect();
        if plain.len() == name.as_str().len() { format!("\"{plain}\"") } else { format!("\"{plain}*\"") }
    };
    let (port, uplink) = (pattern(&port), pattern(uplink));
    let rest = !MARK;
    format!(
        "{}; add chain bridge {table} to_uplink {{ type filter hook postrouting priority 0; }}; \
         add rule bridge {table} to_uplink oifname {port} ether daddr and 01:00:00:00:00:00 == 01:00:00:00:00:00 \
         meta mark set mark or {MARK:#x}; \
         {}; add chain inet {table} from_uplink {{ type filter hook prerouting priority -450; }}; \
         add rule inet {table} from_uplink iifname {uplink} meta mark and {MARK:#x} == {MARK:#x} \
         meta mark set mark and {rest:#x}",
        anew("bridge"),
        anew("inet"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Mac = Mac([0x52, 0x54, 0, 1, 2, 3]);

    /// The kernel's machine, as far as our programs use it. A frame, its mark, and what the program returns.
    fn run(program: &[Instruction], frame: &[u8], mark: u32) -> u32 {
        let (mut at, mut a) = (0, 0);
        loop {
            let Instruction(code, jt, jf, k) = program[at];
            at += 1;
            let from = k as usize;
            match code {
                0x20 if k == 0xffff_f014 => a = mark,
                0x20 => a = u32::from_be_bytes(frame[from..from + 4].try_into().unwrap()),
                0x28 => a = u32::from(u16::from_be_bytes(frame[from..from + 2].try_into().unwrap())),
                0x30 => a = u32::from(frame[from]),
                0x15 => at += usize::from(if a == k { jt } else { jf }),
                0x45 => at += usize::from(if a & k != 0 { jt } else { jf }),
                0x06 => return k,
                _ => panic!("{code:#x}"),
            }
        }
    }

    fn frame(to: &str, from: &str) -> Vec<u8> {
        let [to, from] = [to, from].map(|mac| mac.parse::<Mac>().unwrap().0);
        [to.as_slice(), &from, &[8, 0]].concat()
    }

    fn tagged(to: &str, from: &str) -> Vec<u8> {
        let mut frame = frame(to, from);
        frame[12] = 0x81;
        frame
    }

    fn is_for(filters: &[Filter], on: On, hook: Hook, frame: &[u8], mark: u32) -> Vec<u16> {
        let its = filters.iter().filter(|filter| (filter.on, filter.hook) == (on, hook));
        its.filter(|filter| match &filter.classifier {
            Classifier::Bpf(program) => run(program, frame, mark) != 0,
            Classifier::Verdict(program) => run(program, frame, mark) == 2,
            Classifier::ToTable(mac) => frame[6..12] == mac.0,
            _ => false,
        })
        .map(|filter| filter.pref)
        .collect()
    }

    #[test]
    fn each_frame_goes_where_it_belongs() {
        let filters = filters(HOST, MarkBy::Skbedit);
        let (host, guest, other, all) =
            ("52:54:00:01:02:03", "02:00:00:00:00:aa", "02:00:00:00:00:bb", "ff:ff:ff:ff:ff:ff");
        let (stp, many) = ("01:80:c2:00:00:00", "01:00:5e:00:00:01");
        let near_host = "52:54:00:01:02:04";
        for (to, from, mark, filters_met) in [
            (host, other, 0, &[][..]),
            (guest, other, 0, &[PREF]),
            (near_host, other, 0, &[PREF]),
            (all, other, 0, &[PREF]),
            (many, other, 0xca6c, &[PREF]),
            (stp, other, 0, &[]),
            ("01:80:c2:00:00:0f", other, 0, &[]),
            ("01:80:c2:00:00:10", other, 0, &[PREF]),
            ("01:80:c2:00:01:00", other, 0, &[PREF]),
            (all, guest, MARK, &[PREF + 1]),
            (all, guest, MARK | 0xca6c, &[PREF + 1]),
        ] {
            let met = is_for(&filters, On::Uplink, Hook::Ingress, &frame(to, from), mark);
            assert_eq!(met, filters_met, "in by the uplink: to {to} from {from}");
        }
        for (to, from, filters_met) in [
            (all, host, &[PREF, PREF + 1][..]),
            (many, host, &[PREF, PREF + 1]),
            (stp, host, &[PREF + 1]),
            (guest, host, &[PREF + 1]),
            (all, guest, &[]),
            (host, guest, &[]),
            (all, near_host, &[]),
        ] {
            let met = is_for(&filters, On::Uplink, Hook::Egress, &frame(to, from), 0);
            assert_eq!(met, filters_met, "out by the uplink: to {to} from {from}");
        }
        let out = |frame: &[u8]| is_for(&filters, On::Uplink, Hook::Egress, frame, 0);
        assert_eq!(out(&tagged(guest, host)), [PREF, PREF + 1]);
        assert_eq!(out(&tagged(guest, other)), [] as [u16; 0]);
        assert_eq!(out(&tagged(stp, host)), [PREF + 1]);
        for (to, first) in [(stp, 1), (host, 2), (all, 3), (many, 3), (other, 4), (near_host, 4)] {
            let met = is_for(&filters, On::HostEnd, Hook::Ingress, &frame(to, guest), 0);
            assert_eq!(met.first(), Some(&first), "from the bridge: to {to}");
        }
    }

    #[test]
    fn without_skbedit_nothing_of_it_is_asked_for() {
        let filters = filters(HOST, MarkBy::Nftables);
        assert!(filters.iter().flat_map(|filter| &filter.actions).all(|action| !matches!(action, Action::Mark(_))));
        assert!(
            filters.iter().all(|filter| !filter.actions.is_empty() || !matches!(filter.classifier, Classifier::Bpf(_)))
        );
    }

    #[test]
    fn ends_have_names_that_the_kernel_takes_and_that_differ() {
        let name = |name: &str| IfName::new(name).unwrap();
        assert_eq!(ends(&name("br0")).map(|end| end.to_string()), ["kvbh-br0", "kvbp-br0"]);
        let long = ["bridge-number-1", "bridge-number-2", "ünïcödé-br"].map(|long| ends(&name(long)));
        for [host, port] in &long {
            assert!(host.as_str().len() <= 15 && port.as_str().len() <= 15 && host != port, "{host} {port}");
        }
        assert_ne!(long[0], long[1]);
    }
}
