//! How an uplink is shared with a bridge: the traffic-control filters (tc(8)) that copy frames between the uplink and a
//! veth pair whose other end is a port of the bridge.
//! It may not know how filters reach the kernel.
//!
//! The uplink keeps all that the host has on it.
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
//! Pure: what the filters are, and the `tc` commands that make them. `network::uplink::share` carries them out.
#![forbid(unsafe_code)]

pub mod entries;
pub mod found;

use crate::bpf::{Instruction, bytecode};
use crate::ifname::IfName;
use crate::mac::Mac;
use crate::text::shell::quote;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Where our filters stand among those of others on the uplink (`pref` of tc(8)): behind those that an admin numbers by hand,
/// before those that the kernel numbers (49152 and below). Where somebody else has one there, the next that are free.
const PREF: u16 = 27510;
/// The bit of a frame's mark that says: this one was put into the uplink's ingress by us, and is not copied back. It is set
/// and cleared again between two filters, without anybody else seeing it. WireGuard's usual mark (0xca6c), Kubernetes'
/// (0xc000), Tailscale's (0xff0000) and Cilium's (0xffff) do not have it, and the other bits stay as they are.
pub const MARK: u32 = 0x1000_0000;
/// The hash table of the addresses behind the bridge: a number that nobody is likely to use on the same hook. Else another.
const TABLE: u32 = 0x6b7;
/// The largest number of a hash table of one's own (`tc-u32(8)`, handles): the kernel's begin behind it.
const LAST_TABLE: u32 = 0x7ff;
/// The pref of the filter on the host's end that sends copies to the network of what the host gets too.
pub const COPIES: u16 = 3;
/// 01:80:c2:00:00:00 to 0f: link-local control frames (IEEE 802.1Q, 8.6.3), as of STP, LACP, 802.1X and LLDP.
const LINK_LOCAL: u32 = 0x0180_c200;

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
    /// Where filters are added.
    pub place: Place,
}

/// Where our filters stand on an uplink, so that no other filter is met or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The first of two prefs that no other filter has, on neither hook.
    pub pref: u16,
    /// The number of the hash table.
    pub table: u32,
}

impl Default for Place {
    fn default() -> Self {
        Self { pref: PREF, table: TABLE }
    }
}

impl Place {
    /// A free one, beside the prefs and hash tables that others have; the usual one if it is. `None` where there is none.
    pub fn beside(prefs: &BTreeSet<u16>, tables: &BTreeSet<u32>) -> Option<Self> {
        let mut places = (PREF..u16::MAX).step_by(2);
        let pref = places.find(|pref| !prefs.contains(pref) && !prefs.contains(&(pref + 1)))?;
        let table = (TABLE..=LAST_TABLE).chain(1..TABLE).find(|table| !tables.contains(table))?;
        Some(Self { pref, table })
    }

    /// The pref of the hash table and of what leads there.
    pub fn of_table(self) -> u16 {
        self.pref + 1
    }
}

/// By what frames are marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MarkBy {
    /// The kernel's action `skbedit`.
    Skbedit,
    /// Two eBPF programs of a few instructions, where the kernel lacks that action.
    Program,
}

/// The names of the veth pair of a bridge: the host's end and the bridge's port.
pub fn ends(bridge: &IfName) -> [IfName; 2] {
    ["kvbh-", "kvbp-"].map(|start| IfName::of_bridge(start, bridge))
}

/// The links that have filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// The bridge itself.
    Bridge,
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

/// Which frames a filter is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Classifier {
    /// Those for which a program returns -1.
    Bpf(Vec<Instruction>),
    /// A program that itself returns what becomes of a frame (TC_ACT_SHOT; -1 to go on).
    Verdict(Vec<Instruction>),
    /// All: an eBPF program that sets or clears their `MARK`, and lets them go on to the filters behind.
    Mark(bool),
    /// None: makes the hash table of this number.
    Table(u32),
    /// Those of this sender: on to the hash table, by the last byte of the address that they are for.
    ToTable(Mac, u32),
    /// In the hash table, those for this address.
    Entry(Mac, u32),
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
        /// Whether it is a copy, and the frame itself goes on to the filters behind.
        is_copy: bool,
    },
    /// Its `MARK` is set or cleared, and it goes on to the filters behind (act_skbedit).
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

impl Share {
    /// The filters, those on our own links first, and last the one that lets frames in: in this order they are made, and in the
    /// other removed. `learnt` are the addresses behind the bridge that it has only heard of: what the network sends from one of
    /// these to the host is copied to the bridge as well, which then knows better.
    pub fn filters(&self, learnt: &BTreeSet<Mac>) -> Vec<Filter> {
        use Classifier::{Bpf, Table, ToTable, Verdict};
        use Hook::{Egress, Ingress};
        use On::{Bridge, HostEnd, Uplink};
        let Place { pref, table } = self.changes.place;
        let host = self.mac;
        let filter = |on, hook, pref, classifier, actions: &[Action]| Filter {
            on,
            hook,
            pref,
            classifier,
            actions: actions.to_vec(),
        };
        let send = |to, hook| Action::Mirred { to, hook, is_copy: false };
        let copy = |to, hook| Action::Mirred { to, hook, is_copy: true };
        let mark = |on, hook, pref, set| match self.mark {
            MarkBy::Skbedit if set => filter(on, hook, pref, Bpf(program::all()), &[Action::Mark(true)]),
            MarkBy::Skbedit => filter(on, hook, pref, Bpf(program::marked()), &[Action::Mark(false)]),
            MarkBy::Program => filter(on, hook, pref, Classifier::Mark(set), &[]),
        };
        vec![
            // The host is reached by its uplink alone, where its firewall looks: it would take its own addresses' packets here
            // as well.
            filter(Bridge, Ingress, 1, Verdict(program::drop_all()), &[]),
            // From the bridge.
            filter(HostEnd, Ingress, 1, Verdict(program::drop_unfit(host)), &[]),
            filter(HostEnd, Ingress, 2, Bpf(program::to_another_than(host)), &[send(Uplink, Egress)]),
            filter(HostEnd, Ingress, COPIES, Bpf(program::to_many()), &[copy(Uplink, Egress)]),
            mark(HostEnd, Ingress, 4, true),
            filter(HostEnd, Ingress, 5, Bpf(program::all()), &[send(Uplink, Ingress)]),
            // From the host.
            filter(Uplink, Egress, pref, Bpf(program::copied_from(host)), &[copy(HostEnd, Egress)]),
            filter(Uplink, Egress, pref + 1, Table(table), &[]),
            // What leads on to the table does nothing else: its action never runs, and says whose it is.
            filter(Uplink, Egress, pref + 1, ToTable(host, table), &[send(HostEnd, Egress)]),
            // From the network.
            mark(Uplink, Ingress, pref + 1, false),
            self.listening(learnt),
        ]
    }

    /// The one of these that lets frames in, and whose program knows addresses.
    pub fn listening(&self, learnt: &BTreeSet<Mac>) -> Filter {
        let to_bridge = Action::Mirred { to: On::HostEnd, hook: Hook::Egress, is_copy: true };
        let classifier = Classifier::Bpf(program::not_for_host_alone(self.mac, learnt));
        let pref = self.changes.place.pref;
        Filter { on: On::Uplink, hook: Hook::Ingress, pref, classifier, actions: vec![to_bridge] }
    }

    /// The filter by which the host reaches an address behind the bridge.
    pub fn entry(&self, mac: Mac) -> Filter {
        let to_bridge = Action::Mirred { to: On::HostEnd, hook: Hook::Egress, is_copy: false };
        let place = self.changes.place;
        let classifier = Classifier::Entry(mac, place.table);
        Filter { on: On::Uplink, hook: Hook::Egress, pref: place.of_table(), classifier, actions: vec![to_bridge] }
    }
}

/// The eBPF program that sets or clears the `MARK` of a frame (struct bpf_insn of linux/bpf.h): its mark is the third word of
/// what the program is given (struct __sk_buff).
pub fn marking(set: bool) -> [u64; 5] {
    const OFFSET_OF_MARK: u16 = 8;
    let instruction = |code: u8, registers: u8, offset: u16, value: u32| {
        let [a, b] = offset.to_ne_bytes();
        let [c, d, e, f] = value.to_ne_bytes();
        u64::from_ne_bytes([code, registers, a, b, c, d, e, f])
    };
    // In which half of the byte the register that is written stands depends on the byte order.
    let registers = |to: u8, from: u8| if cfg!(target_endian = "little") { from << 4 | to } else { to << 4 | from };
    [
        // r2 = mark
        instruction(0x61, registers(2, 1), OFFSET_OF_MARK, 0),
        // r2 |= MARK, or r2 &= !MARK
        if set { instruction(0x44, registers(2, 0), 0, MARK) } else { instruction(0x54, registers(2, 0), 0, !MARK) },
        // mark = r2
        instruction(0x63, registers(1, 2), OFFSET_OF_MARK, 0),
        // r0 = TC_ACT_UNSPEC: on to the filters behind
        instruction(0xb7, registers(0, 0), 0, u32::MAX),
        // return r0
        instruction(0x95, 0, 0, 0),
    ]
}

/// The programs. A frame begins with the address that it is for (bytes 0 to 5), then its sender's (6 to 11).
mod program {
    use super::{Instruction, LINK_LOCAL, MARK};
    use crate::bpf::{
        DROP, IF_ANY_BIT, IF_AT_LEAST, IF_EQUAL, LOAD_BYTE, LOAD_HALF, LOAD_WORD, NOTHING as NO, SKIP, WHOLE as YES,
    };
    use crate::mac::Mac;
    use std::collections::BTreeSet;

    /// SKF_AD_OFF + SKF_AD_MARK: the frame's mark.
    const ITS_MARK: u32 = (-0x1000_i32 + 20) as u32;

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

    /// To one, who is not the host.
    pub(super) fn to_another_than(host: Mac) -> Vec<Instruction> {
        vec![
            Instruction(LOAD_BYTE, 0, 0, 0),
            Instruction(IF_ANY_BIT, 5, 0, 1),
            Instruction(LOAD_WORD, 0, 0, 0),
            Instruction(IF_EQUAL, 0, 2, high(host)),
            Instruction(LOAD_HALF, 0, 0, 4),
            Instruction(IF_EQUAL, 1, 0, low(host)),
            YES,
            NO,
        ]
    }

    pub(super) fn drop_all() -> Vec<Instruction> {
        vec![DROP]
    }

    /// Link-local control frames, which no bridge forwards; and what a guest sends in the host's name.
    pub(super) fn drop_unfit(host: Mac) -> Vec<Instruction> {
        vec![
            Instruction(LOAD_WORD, 0, 0, 6),
            Instruction(IF_EQUAL, 0, 2, high(host)),
            Instruction(LOAD_HALF, 0, 0, 10),
            Instruction(IF_EQUAL, 4, 0, low(host)),
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

    /// All that comes in but what is for the host's address, link-local control frames, and what we put there; of what is for
    /// the host's address, that from a sender who may be behind the bridge.
    pub(super) fn not_for_host_alone(host: Mac, learnt: &BTreeSet<Mac>) -> Vec<Instruction> {
        let search = search(learnt);
        let from_where = if search.is_empty() { 4 } else { 5 };
        let mut program = vec![
            Instruction(LOAD_WORD, 0, 0, ITS_MARK),
            Instruction(IF_ANY_BIT, 8, 0, MARK),
            Instruction(LOAD_WORD, 0, 0, 0),
            Instruction(IF_EQUAL, 0, 2, high(host)),
            Instruction(LOAD_HALF, 0, 0, 4),
            Instruction(IF_EQUAL, from_where, 3, low(host)),
            Instruction(IF_EQUAL, 0, 2, LINK_LOCAL),
            Instruction(LOAD_HALF, 0, 0, 4),
            Instruction(IF_ANY_BIT, 0, 1, 0xfff0),
            YES,
            NO,
        ];
        program.extend(search);
        program
    }

    /// Looks for the last four bytes of the sender: whom it takes for another is copied without harm.
    fn search(senders: &BTreeSet<Mac>) -> Vec<Instruction> {
        fn among(sorted: &[u32]) -> Vec<Instruction> {
            /// So many are compared one after the other.
            const FEW: usize = 16;
            let count = sorted.len();
            if count <= FEW {
                let compare = |(at, low): (usize, &u32)| Instruction(IF_EQUAL, (count - at) as u8, 0, *low);
                return sorted.iter().enumerate().map(compare).chain([NO, YES]).collect();
            }
            let (below, above) = sorted.split_at(count / 2);
            let below = among(below);
            let mut both = vec![Instruction(IF_AT_LEAST, 0, 1, above[0]), Instruction(SKIP, 0, 0, below.len() as u32)];
            both.extend(below);
            both.extend(among(above));
            both
        }
        let lows: BTreeSet<u32> =
            senders.iter().map(|mac| u32::from_be_bytes([mac.0[2], mac.0[3], mac.0[4], mac.0[5]])).collect();
        let lows: Vec<u32> = lows.into_iter().collect();
        match lows.is_empty() {
            true => Vec::new(),
            false => std::iter::once(Instruction(LOAD_WORD, 0, 0, 8)).chain(among(&lows)).collect(),
        }
    }
}

impl Filter {
    /// The `tc` command that makes it, for a bridge and an uplink of these names. `None` for a program that only we can load:
    /// there `nft` has to do it.
    pub fn command(&self, bridge: &IfName, uplink: &IfName) -> Option<String> {
        let [host_end, _] = ends(bridge);
        let name = |on: On| {
            quote(match on {
                On::Bridge => bridge,
                On::Uplink => uplink,
                On::HostEnd => &host_end,
            })
        };
        let hook = |hook: Hook| if hook == Hook::Ingress { "ingress" } else { "egress" };
        let mut command =
            format!("tc filter add dev {} {} protocol all pref {}", name(self.on), hook(self.hook), self.pref);
        command += &match &self.classifier {
            Classifier::Bpf(program) => format!(" bpf bytecode {}", bytecode(program)),
            Classifier::Verdict(program) => format!(" bpf direct-action bytecode {}", bytecode(program)),
            Classifier::Mark(_) => return None,
            Classifier::Table(table) => format!(" handle {table:x}: u32 divisor 256"),
            Classifier::ToTable(mac, table) => {
                format!(" u32 match ether src {mac} hashkey mask 0x000000ff at -12 link {table:x}:")
            }
            Classifier::Entry(mac, table) => format!(" u32 ht {table:x}:{:x}: match ether dst {mac}", mac.0[5]),
        };
        // `tc` would have the kernel carry it out for what the table has no entry for.
        let actions = if matches!(self.classifier, Classifier::ToTable(..)) { &[] } else { self.actions.as_slice() };
        for action in actions {
            command += &match action {
                Action::Mirred { to, hook: at, is_copy } => format!(
                    " action mirred {} {} dev {}{}",
                    hook(*at),
                    if *is_copy { "mirror" } else { "redirect" },
                    name(*to),
                    if *is_copy { " continue" } else { "" }
                ),
                Action::Mark(true) => format!(" action skbedit mark {MARK:#x}/{MARK:#x} continue"),
                Action::Mark(false) => format!(" action skbedit mark 0/{MARK:#x} continue"),
            };
        }
        Some(command)
    }
}

/// The name of the tables that mark frames, where somebody has nftables do it.
fn table(bridge: &IfName) -> String {
    let plain =
        |byte: u8| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("_{byte:02x}") };
    format!("kvm_bridge_{}", bridge.as_str().bytes().map(plain).collect::<String>())
}

/// How frames are marked by hand where `tc` can't do it, what `nft` is told: what leaves the bridge by its port to the uplink, and is for many, is marked; and before
/// anybody else of the host sees what comes in by the uplink, the mark is cleared.
pub fn ruleset(bridge: &IfName, uplink: &IfName) -> String {
    let table = table(bridge);
    let [_, port] = ends(bridge);
    // A name of any bytes: what nft would take for its own is any byte there.
    let pattern = |name: &IfName| {
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-@".contains(byte);
        let plain: String = name.as_str().bytes().take_while(is_plain).map(char::from).collect();
        if plain.len() == name.as_str().len() { format!("\"{plain}\"") } else { format!("\"{plain}*\"") }
    };
    let (port, uplink) = (pattern(&port), pattern(uplink));
    let rest = !MARK;
    format!(
        "add table bridge {table}; add chain bridge {table} to_uplink {{ type filter hook postrouting priority 0; }}; \
         add rule bridge {table} to_uplink oifname {port} ether daddr and 01:00:00:00:00:00 == 01:00:00:00:00:00 \
         meta mark set mark or {MARK:#x}; \
         add table inet {table}; add chain inet {table} from_uplink {{ type filter hook prerouting priority -450; }}; \
         add rule inet {table} from_uplink iifname {uplink} meta mark and {MARK:#x} == {MARK:#x} \
         meta mark set mark and {rest:#x}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Mac = Mac([0x52, 0x54, 0, 1, 2, 3]);

    fn run(program: &[Instruction], frame: &[u8], mark: u32) -> u32 {
        port::bpf::run(program, frame, mark, None)
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

    fn shared(mark: MarkBy) -> Share {
        let uplink = IfName::new("eth0").unwrap();
        Share { uplink, index: 2, mac: HOST, mtu: 1500, follow: false, mark, changes: Changes::default() }
    }

    fn is_for(filters: &[Filter], on: On, hook: Hook, frame: &[u8], mark: u32) -> Vec<u16> {
        let its = filters.iter().filter(|filter| (filter.on, filter.hook) == (on, hook));
        its.filter(|filter| match &filter.classifier {
            Classifier::Bpf(program) => run(program, frame, mark) != 0,
            Classifier::Verdict(program) => run(program, frame, mark) == 2,
            Classifier::ToTable(mac, _) => frame[6..12] == mac.0,
            _ => false,
        })
        .map(|filter| filter.pref)
        .collect()
    }

    #[test]
    fn each_frame_goes_where_it_belongs() {
        let filters = shared(MarkBy::Skbedit).filters(&BTreeSet::new());
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
        // The first that ends it; before that, what is for many is copied, and what the host gets is marked.
        for (to, end) in [(stp, 1), (other, 2), (near_host, 2), (host, 5), (all, 5), (many, 5)] {
            let met = is_for(&filters, On::HostEnd, Hook::Ingress, &frame(to, guest), 0);
            let ends = |pref: &&u16| !matches!(**pref, COPIES | 4);
            assert_eq!(met.iter().find(ends), Some(&end), "from the bridge: to {to}");
            assert_eq!(met.contains(&COPIES) && end == 5, to == all || to == many, "from the bridge: to {to}");
            assert_eq!(met.contains(&4), end == 5 || end < 4, "from the bridge: to {to}");
        }
        // Nobody sends in the host's name, and the bridge itself gets nothing.
        assert_eq!(is_for(&filters, On::HostEnd, Hook::Ingress, &frame(all, host), 0).first(), Some(&1));
        for to in [all, host, guest] {
            assert_eq!(is_for(&filters, On::Bridge, Hook::Ingress, &frame(to, guest), 0), [1]);
        }
    }

    #[test]
    fn who_may_be_behind_the_bridge_is_heard_there_too() {
        let mac = |number: u32| {
            let [a, b, c, d] = number.wrapping_mul(2_654_435_761).to_be_bytes();
            Mac([2, 0, a, b, c, d])
        };
        for count in [0, 1, 2, 15, 16, 17, 33, 100, 2048] {
            let learnt: BTreeSet<Mac> = (0..count).map(mac).collect();
            let program = program::not_for_host_alone(HOST, &learnt);
            // BPF_MAXINSNS.
            assert!(program.len() <= 4096, "{count}: {}", program.len());
            let is_copied =
                |to: Mac, from: Mac, mark: u32| run(&program, &frame(&to.to_string(), &from.to_string()), mark) != 0;
            for number in 0..count {
                assert!(is_copied(HOST, mac(number), 0) && !is_copied(HOST, mac(number), MARK), "{count}: {number}");
            }
            for number in count..count + 100 {
                assert!(!is_copied(HOST, mac(number), 0), "{count}: {number}");
                assert!(is_copied(mac(7), mac(number), 0), "{count}: {number}");
            }
        }
    }

    #[test]
    fn without_skbedit_nothing_of_it_is_asked_for() {
        let (by_action, by_program) =
            (shared(MarkBy::Skbedit).filters(&BTreeSet::new()), shared(MarkBy::Program).filters(&BTreeSet::new()));
        assert!(by_program.iter().flat_map(|filter| &filter.actions).all(|action| !matches!(action, Action::Mark(_))));
        let marks = |filters: &[Filter]| -> Vec<(On, Hook, u16)> {
            let marking = |filter: &&Filter| {
                matches!(filter.classifier, Classifier::Mark(_))
                    || filter.actions.iter().any(|action| matches!(action, Action::Mark(_)))
            };
            filters.iter().filter(marking).map(|filter| (filter.on, filter.hook, filter.pref)).collect()
        };
        assert_eq!(marks(&by_action), [(On::HostEnd, Hook::Ingress, 4), (On::Uplink, Hook::Ingress, PREF + 1)]);
        assert_eq!(marks(&by_action), marks(&by_program));
        let eth0 = IfName::new("eth0").unwrap();
        let typed = |filters: &[Filter]| filters.iter().filter_map(|filter| filter.command(&eth0, &eth0)).count();
        assert_eq!((typed(&by_action), typed(&by_program)), (11, 9));
    }

    #[test]
    fn the_table_has_a_number_that_u32_takes() {
        const { assert!(TABLE > 0 && TABLE <= LAST_TABLE) };
    }

    #[test]
    fn a_place_is_one_that_nobody_has() {
        let place = |prefs: &[u16], tables: &[u32]| {
            Place::beside(&prefs.iter().copied().collect(), &tables.iter().copied().collect())
        };
        assert_eq!(place(&[1, 49152], &[0x800]), Some(Place::default()));
        assert_eq!(place(&[PREF], &[TABLE]), Some(Place { pref: PREF + 2, table: TABLE + 1 }));
        assert_eq!(place(&[PREF + 1, PREF + 2], &[]), Some(Place { pref: PREF + 4, table: TABLE }));
        let all: Vec<u32> = (1..=LAST_TABLE).collect();
        assert_eq!(place(&[], &all), None);
        assert_eq!(place(&[], &all[1..]), Some(Place { pref: PREF, table: 1 }));
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
