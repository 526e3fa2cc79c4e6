//! The requests, byte by byte (linux/rtnetlink.h, linux/if_link.h, linux/pkt_sched.h, linux/pkt_cls.h).

use crate::bpf::Instruction;
use crate::{Policy, Rate};
use std::ops::RangeInclusive;

/// The place of the guard among the filters of a TAP (`pref` of tc(8)).
pub const FILTER_PREF: u16 = 1;
/// That of what makes the guest slow: behind the guard, so that what is dropped costs nothing.
pub const RATE_PREF: u16 = 2;

/// NLA_F_NESTED: attributes are in it.
const NESTED: u16 = 1 << 15;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const AF_BRIDGE: u8 = 7;
/// The handle of a qdisc for what comes in, and its parent.
const CLSACT: u32 = 0xffff_0000;
const OF_CLSACT: u32 = 0xffff_fff1;
/// TC_H_MIN_INGRESS of it.
const INGRESS: u32 = 0xffff_fff2;
const TC_H_ROOT: u32 = 0xffff_ffff;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
/// TC_LINKLAYER_ETHERNET: the kernel counts by the rate, and not by a table that comes with it.
const ETHERNET: u8 = 1;

/// One request to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its type (nlmsg_type).
    pub kind: u16,
    /// Its flags, beside NLM_F_REQUEST and NLM_F_ACK.
    pub flags: u16,
    /// What follows the header.
    pub body: Vec<u8>,
    /// What it is to do, behind "cannot".
    pub what: &'static str,
    /// What the kernel needs for it.
    pub needs: &'static str,
}

impl Request {
    fn new(kind: u16, flags: u16, body: Vec<u8>, what: &'static str, needs: &'static str) -> Self {
        Self { kind, flags, body, what, needs }
    }

    fn of_qdisc(
        tap: u32,
        (handle, parent): (u32, u32),
        kind: &str,
        options: &[u8],
        what: &'static str,
        needs: &'static str,
    ) -> Self {
        const RTM_NEWQDISC: u16 = 36;
        Self::new(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, tc(tap, handle, parent, 0, kind, options), what, needs)
    }

    fn of_filter(tap: u32, pref: u16, options: &[u8], what: &'static str, needs: &'static str) -> Self {
        const RTM_NEWTFILTER: u16 = 44;
        const ETH_P_ALL: u16 = 3;
        let info = u32::from(pref) << 16 | u32::from(ETH_P_ALL.to_be());
        Self::new(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, tc(tap, 0, INGRESS, info, "bpf", options), what, needs)
    }

    /// A place for filters of what comes in.
    pub fn clsact(tap: u32) -> Self {
        let needs = "sch_ingress (CONFIG_NET_SCH_INGRESS)";
        Self::of_qdisc(tap, (CLSACT, OF_CLSACT), "clsact", &[], "give the TAP a place for filters", needs)
    }

    /// The guard: a program that decides by itself what is dropped (TCA_BPF_FLAG_ACT_DIRECT).
    pub(crate) fn guard(tap: u32, program: &[Instruction]) -> Self {
        const TCA_BPF_FLAGS: u16 = 8;
        let mut options = classifier(program);
        push(&mut options, TCA_BPF_FLAGS, &1_u32.to_ne_bytes());
        Self::of_filter(tap, FILTER_PREF, &options, "guard the TAP", "cls_bpf (CONFIG_NET_CLS_BPF)")
    }

    /// Another program in the place of a guard that is there.
    pub fn renew(tap: u32, program: &[Instruction]) -> Self {
        /// The only filter of its place.
        const FIRST: u32 = 1;
        let mut request = Self::guard(tap, program);
        request.flags = NLM_F_CREATE;
        // tcm_handle of struct tcmsg.
        request.body[8..12].copy_from_slice(&FIRST.to_ne_bytes());
        request
    }

    /// What a guest sends faster than that is dropped (act_police).
    pub(crate) fn slow_guest(tap: u32, rate: Rate) -> Self {
        const TCA_BPF_ACT: u16 = 1;
        const TCA_ACT_KIND: u16 = 1;
        const TCA_ACT_OPTIONS: u16 = 2;
        const TCA_POLICE_TBF: u16 = 1;
        const TCA_POLICE_RATE: u16 = 2;
        const TCA_POLICE_RATE64: u16 = 8;
        const TC_ACT_SHOT: u32 = 2;
        // struct tc_police: index, action, limit, burst, mtu, two of struct tc_ratespec, refcnt, bindcnt, capab. A burst is
        // counted in ticks of 64 ns.
        let ticks = u64::from(rate.burst_of_guest()) * 1_000_000_000 / rate.bytes / 64;
        let mut parms = Vec::new();
        for word in [0, TC_ACT_SHOT, 0, ticks.min(u32::MAX.into()) as u32, u32::MAX] {
            parms.extend(word.to_ne_bytes());
        }
        parms.extend(ratespec(rate));
        parms.extend([0; 12 + 12]);
        let mut police = Vec::new();
        push(&mut police, TCA_POLICE_TBF, &parms);
        // The kernel wants a table of 256 words, and looks only whether it is there.
        push(&mut police, TCA_POLICE_RATE, &[0; 1024]);
        push(&mut police, TCA_POLICE_RATE64, &rate.bytes.to_ne_bytes());
        let mut action = Vec::new();
        push(&mut action, TCA_ACT_KIND, b"police\0");
        push(&mut action, TCA_ACT_OPTIONS | NESTED, &police);
        let mut actions = Vec::new();
        push(&mut actions, 1 | NESTED, &action);
        let mut options = classifier(&[Instruction(crate::bpf::RETURN, 0, 0, u32::MAX)]);
        push(&mut options, TCA_BPF_ACT | NESTED, &actions);
        let needs = "cls_bpf and act_police (CONFIG_NET_CLS_BPF and CONFIG_NET_ACT_POLICE)";
        Self::of_filter(tap, RATE_PREF, &options, "limit what the guest sends", needs)
    }

    /// What goes to a guest waits until its time has come, for 50 ms at the most (sch_tbf).
    pub(crate) fn slow_bridge(tap: u32, rate: Rate) -> Self {
        const TCA_TBF_PARMS: u16 = 1;
        const TCA_TBF_RATE64: u16 = 4;
        const TCA_TBF_BURST: u16 = 6;
        // struct tc_tbf_qopt: two of struct tc_ratespec, limit, buffer, mtu.
        let limit = (rate.bytes / 20).saturating_add(rate.burst().into()).min(u32::MAX.into()) as u32;
        let mut parms = [ratespec(rate), [0; 12]].concat();
        for word in [limit, 0, 0] {
            parms.extend(word.to_ne_bytes());
        }
        let mut options = Vec::new();
        push(&mut options, TCA_TBF_PARMS, &parms);
        push(&mut options, TCA_TBF_RATE64, &rate.bytes.to_ne_bytes());
        push(&mut options, TCA_TBF_BURST, &rate.burst().to_ne_bytes());
        let needs = "sch_tbf (CONFIG_NET_SCH_TBF)";
        Self::of_qdisc(tap, (0x1_0000, TC_H_ROOT), "tbf", &options, "limit what the guest gets", needs)
    }

    /// A port leaves all VLANs.
    pub(crate) fn leave_vlans(tap: u32) -> Self {
        const RTM_DELLINK: u16 = 17;
        let mut body = port(tap);
        push(&mut body, IFLA_AF_SPEC | NESTED, &vlans(1..=4094, 0));
        Self::new(RTM_DELLINK, 0, body, "take the TAP out of the default VLAN", FILTERING)
    }

    /// A bridge's uplink carries all VLANs, with their tags but for the default one of new bridges.
    pub fn trunk(port_index: u32) -> Self {
        let mut body = port(port_index);
        push(&mut body, IFLA_AF_SPEC | NESTED, &vlans(2..=4094, 0));
        Self::new(RTM_SETLINK, 0, body, "have the uplink carry all VLANs", FILTERING)
    }

    /// What a port is held to as a port.
    pub(crate) fn port(tap: u32, policy: &Policy) -> Self {
        const IFLA_PROTINFO: u16 = 12;
        const IFLA_BRPORT_MULTICAST_ROUTER: u16 = 25;
        const IFLA_BRPORT_ISOLATED: u16 = 33;
        const BRIDGE_VLAN_INFO_PVID: u16 = 2;
        const BRIDGE_VLAN_INFO_UNTAGGED: u16 = 4;
        let mut flags = Vec::new();
        if policy.is_guarded() {
            // A guest that asks who is in a multicast group does not get all of them.
            push(&mut flags, IFLA_BRPORT_MULTICAST_ROUTER, &[0]);
        }
        if policy.isolated {
            push(&mut flags, IFLA_BRPORT_ISOLATED, &[1]);
        }
        let mut body = port(tap);
        if !flags.is_empty() {
            push(&mut body, IFLA_PROTINFO | NESTED, &flags);
        }
        if let Some(its) = &policy.vlans {
            let untagged = BRIDGE_VLAN_INFO_PVID | BRIDGE_VLAN_INFO_UNTAGGED;
            let mut all = vlans(its.untagged..=its.untagged, untagged);
            all.extend(its.tagged.iter().flat_map(|range| vlans(range.clone(), 0)));
            push(&mut body, IFLA_AF_SPEC | NESTED, &all);
        }
        let needs = if policy.vlans.is_some() { FILTERING } else { "Linux 4.18 or later" };
        Self::new(RTM_SETLINK, 0, body, "set the TAP up as a port", needs)
    }

    /// The bridge has the guest's address at this port until the port is gone, whoever says that it is elsewhere (NTF_STICKY of
    /// linux/neighbour.h).
    pub fn claim(tap: u32, mac: [u8; 6]) -> Self {
        const RTM_NEWNEIGH: u16 = 28;
        const NTF_STICKY: u8 = 0x40;
        const NUD_NOARP: u16 = 0x40;
        const NTF_MASTER: u8 = 0x04;
        const NDA_LLADDR: u16 = 2;
        // struct ndmsg: family, padding, index, state, flags, type.
        let mut body = vec![AF_BRIDGE, 0, 0, 0];
        body.extend(tap.to_ne_bytes());
        body.extend(NUD_NOARP.to_ne_bytes());
        body.extend([NTF_MASTER | NTF_STICKY, 0]);
        push(&mut body, NDA_LLADDR, &mac);
        Self::new(
            RTM_NEWNEIGH,
            NLM_F_CREATE | NLM_F_EXCL,
            body,
            "have the guest's address at the TAP",
            "a forwarding database (Linux 3.0 or later)",
        )
    }
}

const RTM_SETLINK: u16 = 19;
const IFLA_AF_SPEC: u16 = 26;
const FILTERING: &str = "VLAN filtering of bridges (CONFIG_BRIDGE_VLAN_FILTERING)";

/// A struct ifinfomsg of the bridge's family.
fn port(tap: u32) -> Vec<u8> {
    let mut body = vec![AF_BRIDGE, 0, 0, 0];
    body.extend(tap.to_ne_bytes());
    body.extend([0; 8]);
    body
}

/// A struct bridge_vlan_info, or two for a range: flags and VLAN.
fn vlans(range: RangeInclusive<u16>, flags: u16) -> Vec<u8> {
    const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
    const BRIDGE_VLAN_INFO_RANGE_BEGIN: u16 = 8;
    const BRIDGE_VLAN_INFO_RANGE_END: u16 = 16;
    let mut attributes = Vec::new();
    let mut add = |flags: u16, vlan: u16| {
        push(&mut attributes, IFLA_BRIDGE_VLAN_INFO, &[flags.to_ne_bytes(), vlan.to_ne_bytes()].concat());
    };
    match range.start() == range.end() {
        true => add(flags, *range.start()),
        false => {
            add(flags | BRIDGE_VLAN_INFO_RANGE_BEGIN, *range.start());
            add(flags | BRIDGE_VLAN_INFO_RANGE_END, *range.end());
        }
    }
    attributes
}

/// A struct tcmsg with the kind and its options.
fn tc(tap: u32, handle: u32, parent: u32, info: u32, kind: &str, options: &[u8]) -> Vec<u8> {
    let mut body = vec![0; 4];
    for word in [tap, handle, parent, info] {
        body.extend(word.to_ne_bytes());
    }
    push(&mut body, TCA_KIND, &[kind.as_bytes(), b"\0"].concat());
    if !options.is_empty() {
        push(&mut body, TCA_OPTIONS | NESTED, options);
    }
    body
}

/// The options of a classifier that is a program.
fn classifier(program: &[Instruction]) -> Vec<u8> {
    const TCA_BPF_OPS_LEN: u16 = 4;
    const TCA_BPF_OPS: u16 = 5;
    let mut options = Vec::new();
    push(&mut options, TCA_BPF_OPS_LEN, &(program.len() as u16).to_ne_bytes());
    // Each a struct sock_filter.
    let ops = program.iter().flat_map(|Instruction(code, jt, jf, k)| {
        let ([a, b], [c, d, e, f]) = (code.to_ne_bytes(), k.to_ne_bytes());
        [a, b, *jt, *jf, c, d, e, f]
    });
    push(&mut options, TCA_BPF_OPS, &ops.collect::<Vec<u8>>());
    options
}

/// A struct tc_ratespec: cell_log, linklayer, overhead, cell_align, mpu, rate. A rate of 32 GBit/s or more is told beside it.
fn ratespec(rate: Rate) -> [u8; 12] {
    /// One that the largest frame is within.
    const CELL_LOG: u8 = 10;
    let [a, b, c, d] = (rate.bytes.min(u32::MAX.into()) as u32).to_ne_bytes();
    [CELL_LOG, ETHERNET, 0, 0, 0, 0, 0, 0, a, b, c, d]
}

/// Adds an attribute (struct nlattr).
fn push(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend(((value.len() + 4) as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}
