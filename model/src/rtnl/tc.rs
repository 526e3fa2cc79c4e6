//! The options of filters, and what the kernel says of them (linux/pkt_sched.h, linux/pkt_cls.h, linux/tc_act/*.h).

use crate::bpf::Instruction;
use crate::mac::Mac;
use crate::rtnl::{NESTED, attribute, number, push, text, u16_at, u32_at, u64_at};
use crate::share::found::{Cookie, Found, Links};
use crate::share::{Action, Classifier, Filter, Hook, MARK};
use port::Rate;

/// The qdisc that a link has for what comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IngressQdisc {
    /// None.
    #[default]
    Absent,
    /// `clsact`, which is for what goes out as well.
    Clsact,
    /// `ingress`, or another in its place.
    Other,
}

/// The handle of a qdisc for what comes in.
pub const CLSACT_HANDLE: u32 = 0xffff_0000;
const TCA_KIND: u16 = 1;
/// Where the options of a filter are.
pub const TCA_OPTIONS: u16 = 2;
const TCA_BPF_ACT: u16 = 1;
const TCA_BPF_OPS_LEN: u16 = 4;
const TCA_BPF_OPS: u16 = 5;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_U32_HASH: u16 = 2;
const TCA_U32_LINK: u16 = 3;
const TCA_U32_DIVISOR: u16 = 4;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
/// The kind of an action.
pub const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_ACT_STATS: u16 = 4;
const TCA_ACT_COOKIE: u16 = 6;
const TCA_STATS_BASIC: u16 = 1;
/// TCA_MIRRED_PARMS and TCA_SKBEDIT_PARMS.
const PARMS: u16 = 2;
const TCA_SKBEDIT_MARK: u16 = 5;
const TCA_SKBEDIT_MASK: u16 = 8;
const TC_ACT_UNSPEC: i32 = -1;
const TC_ACT_STOLEN: i32 = 4;

/// The options of a filter, made for this TAP or for none (0); `program` is the descriptor of one that marks.
pub fn options(filter: &Filter, links: Links, tap: u32, program: Option<i32>) -> Vec<u8> {
    let cookie = links.cookie(tap);
    let mut options = Vec::new();
    let act = match &filter.classifier {
        Classifier::Bpf(program) | Classifier::Verdict(program) => {
            push(&mut options, TCA_BPF_OPS_LEN, &(program.len() as u16).to_ne_bytes());
            let ops: Vec<u8> = program.iter().flat_map(instruction_bytes).collect();
            push(&mut options, TCA_BPF_OPS, &ops);
            TCA_BPF_ACT
        }
        Classifier::Mark(set) => {
            push(&mut options, TCA_BPF_FD, &program.unwrap_or(-1).to_ne_bytes());
            push(&mut options, TCA_BPF_NAME, &[cookie.name(*set).as_bytes(), b"\0"].concat());
            TCA_BPF_ACT
        }
        Classifier::Table(_) => {
            push(&mut options, TCA_U32_DIVISOR, &256_u32.to_ne_bytes());
            TCA_U32_ACT
        }
        Classifier::ToTable(mac, table) => {
            push(&mut options, TCA_U32_LINK, &(table << 20).to_ne_bytes());
            // The sender stands 8 bytes before the network header, the last byte of the receiver 9.
            let [a, b, c, d, e, f] = mac.0;
            let keys = [([a, b, c, d], u32::MAX, -8), ([e, f, 0, 0], 0xffff_0000, -4)];
            push(&mut options, TCA_U32_SEL, &selector(&keys, Some((0x0000_00ff, -12))));
            TCA_U32_ACT
        }
        Classifier::Entry(mac, table) => {
            let [a, b, c, d, e, f] = mac.0;
            push(&mut options, TCA_U32_HASH, &(table << 20 | u32::from(f) << 12).to_ne_bytes());
            let keys = [([0, 0, a, b], 0x0000_ffff, -16), ([c, d, e, f], u32::MAX, -12)];
            push(&mut options, TCA_U32_SEL, &selector(&keys, None));
            TCA_U32_ACT
        }
    };
    if matches!(filter.classifier, Classifier::Verdict(_) | Classifier::Mark(_)) {
        // TCA_BPF_FLAG_ACT_DIRECT.
        push(&mut options, TCA_BPF_FLAGS, &1_u32.to_ne_bytes());
    }
    if !filter.actions.is_empty() {
        let mut actions = Vec::new();
        for (number, action) in (1..).zip(&filter.actions) {
            push(&mut actions, number | NESTED, &action_bytes(*action, links, cookie));
        }
        push(&mut options, act | NESTED, &actions);
    }
    options
}

/// A struct sock_filter.
fn instruction_bytes(Instruction(code, jt, jf, k): &Instruction) -> [u8; 8] {
    let [a, b] = code.to_ne_bytes();
    let [c, d, e, f] = k.to_ne_bytes();
    [a, b, *jt, *jf, c, d, e, f]
}

/// A struct tc_u32_sel with its keys, each a value, a mask and where the word is from the network header; and by which part
/// of which word the hash table is entered. What only leads there ends nothing; an entry does.
fn selector(keys: &[([u8; 4], u32, i32)], hash: Option<(u32, i16)>) -> Vec<u8> {
    const TERMINAL: u8 = 1;
    let (mask, offset) = hash.unwrap_or_default();
    let mut bytes = vec![if hash.is_some() { 0 } else { TERMINAL }, 0, keys.len() as u8, 0];
    bytes.extend([0; 6]);
    bytes.extend(offset.to_ne_bytes());
    bytes.extend(mask.to_be_bytes());
    for (value, mask, offset) in keys {
        bytes.extend(mask.to_be_bytes());
        bytes.extend(value);
        bytes.extend(offset.to_ne_bytes());
        bytes.extend([0; 4]);
    }
    bytes
}

fn action_bytes(action: Action, links: Links, cookie: Cookie) -> Vec<u8> {
    // struct tc_gen: index, capab, action, refcnt, bindcnt.
    let general =
        |what: i32| [0_i32, 0, what, 0, 0].iter().flat_map(|number| number.to_ne_bytes()).collect::<Vec<u8>>();
    let mut options = Vec::new();
    let kind = match action {
        Action::Mirred { to, hook, is_copy } => {
            // TCA_EGRESS_REDIR, TCA_EGRESS_MIRROR, TCA_INGRESS_REDIR, TCA_INGRESS_MIRROR.
            let what = match (hook, is_copy) {
                (Hook::Egress, false) => 1_u32,
                (Hook::Egress, true) => 2,
                (Hook::Ingress, false) => 3,
                (Hook::Ingress, true) => 4,
            };
            let then = if is_copy { TC_ACT_UNSPEC } else { TC_ACT_STOLEN };
            let parms = [general(then), what.to_ne_bytes().into(), links.index(to).to_ne_bytes().into()].concat();
            push(&mut options, PARMS, &parms);
            "mirred"
        }
        Action::Mark(set) => {
            push(&mut options, PARMS, &general(TC_ACT_UNSPEC));
            push(&mut options, TCA_SKBEDIT_MARK, &(if set { MARK } else { 0 }).to_ne_bytes());
            push(&mut options, TCA_SKBEDIT_MASK, &MARK.to_ne_bytes());
            "skbedit"
        }
    };
    let mut bytes = Vec::new();
    push(&mut bytes, TCA_ACT_KIND, &[kind.as_bytes(), b"\0"].concat());
    push(&mut bytes, TCA_ACT_OPTIONS | NESTED, &options);
    push(&mut bytes, TCA_ACT_COOKIE, &cookie.bytes());
    bytes
}

/// What is to be known of a qdisc of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortQdisc {
    /// The place of filters for what comes in, with how many frames these have dropped.
    Filters(u64),
    /// What goes out no faster than this (sch_tbf).
    Rate(Rate),
}

/// The link of a struct tcmsg's qdisc, and the qdisc if it is one of these.
pub fn port_qdisc(body: &[u8]) -> Option<(u32, PortQdisc)> {
    const TCA_STATS2: u16 = 7;
    const TCA_STATS_QUEUE: u16 = 3;
    const TCA_TBF_PARMS: u16 = 1;
    const TCA_TBF_RATE64: u16 = 4;
    let (link, attributes) = (u32_at(body, 4)?, body.get(20..)?);
    let qdisc = match attribute(attributes, TCA_KIND).map(text)?.as_str() {
        "clsact" => {
            // struct gnet_stats_queue: qlen, backlog, drops.
            let queue = attribute(attributes, TCA_STATS2).and_then(|stats| attribute(stats, TCA_STATS_QUEUE));
            PortQdisc::Filters(queue.and_then(|queue| u32_at(queue, 8)).unwrap_or_default().into())
        }
        "tbf" => {
            let options = attribute(attributes, TCA_OPTIONS)?;
            let long = attribute(options, TCA_TBF_RATE64).and_then(|rate| u64_at(rate, 0));
            let short = || attribute(options, TCA_TBF_PARMS).and_then(|parms| u32_at(parms, 8)).map(u64::from);
            PortQdisc::Rate(Rate { bytes: long.or_else(short)? })
        }
        _ => return None,
    };
    Some((link, qdisc))
}

/// What a link has for what comes in, if that is what a struct tcmsg tells.
pub fn ingress_qdisc(body: &[u8], link: u32) -> Option<IngressQdisc> {
    if (u32_at(body, 4)?, u32_at(body, 8)?) != (link, CLSACT_HANDLE) {
        return None;
    }
    match attribute(body.get(20..).unwrap_or_default(), TCA_KIND).map(text).as_deref() {
        Some("clsact") => Some(IngressQdisc::Clsact),
        _ => Some(IngressQdisc::Other),
    }
}

/// A struct tcmsg and its attributes.
pub fn parse(body: &[u8]) -> Option<Found> {
    let (handle, info) = (u32_at(body, 8)?, u32_at(body, 16)?);
    let attributes = body.get(20..)?;
    let kind = text(attribute(attributes, TCA_KIND)?);
    let mut found = Found { pref: (info >> 16) as u16, handle, kind, ..Found::default() };
    // The place itself is told without options.
    let Some(options) = attribute(attributes, TCA_OPTIONS) else {
        return Some(Found { is_place: true, ..found });
    };
    let act = match found.kind.as_str() {
        "bpf" => {
            let ops = attribute(options, TCA_BPF_OPS).unwrap_or_default();
            found.program = ops
                .chunks_exact(8)
                .filter_map(|op| Some(Instruction(u16_at(op, 0)?, op[2], op[3], u32_at(op, 4)?)))
                .collect();
            found.name = attribute(options, TCA_BPF_NAME).map(text);
            found.cookie = found.name.as_deref().and_then(Cookie::of_name);
            TCA_BPF_ACT
        }
        "u32" => {
            found.table = Some(handle >> 20);
            let selector = attribute(options, TCA_U32_SEL).unwrap_or_default();
            let mac = |first: &[u8], second: &[u8]| Some(Mac([first, second].concat().try_into().ok()?));
            // As `options` writes them.
            found.entry = keys(selector, (-16, -12)).and_then(|[first, second]| mac(first.get(2..)?, second));
            found.sender = keys(selector, (-8, -4)).and_then(|[first, second]| mac(first, second.get(..2)?));
            found.leads_to = number(options, TCA_U32_LINK).map(|link| link >> 20);
            TCA_U32_ACT
        }
        _ => return Some(found),
    };
    let actions = attribute(options, act).unwrap_or_default();
    for number in 1..=32 {
        let Some(action) = attribute(actions, number) else { break };
        found.cookie = found.cookie.or_else(|| Cookie::read(attribute(action, TCA_ACT_COOKIE)?));
        let is_mirred = attribute(action, TCA_ACT_KIND).map(text).as_deref() == Some("mirred");
        let parms = attribute(action, TCA_ACT_OPTIONS).and_then(|options| attribute(options, PARMS));
        if is_mirred && found.target.is_none() {
            found.target = parms.and_then(|parms| u32_at(parms, 24));
        }
        let stats = attribute(action, TCA_ACT_STATS).filter(|_| number == 1);
        if let Some(basic) = stats.and_then(|stats| attribute(stats, TCA_STATS_BASIC)) {
            // struct gnet_stats_basic.
            found.bytes = u64_at(basic, 0).unwrap_or_default();
            found.packets = u32_at(basic, 8).unwrap_or_default().into();
        }
    }
    Some(found)
}

/// The values of a selector that has two keys, at these places.
fn keys(selector: &[u8], places: (i32, i32)) -> Option<[&[u8]; 2]> {
    let key = |at: usize| Some((selector.get(at + 4..at + 8)?, u32_at(selector, at + 8)? as i32));
    let ((first, at_first), (second, at_second)) = (key(16)?, key(32)?);
    (selector.get(2) == Some(&2) && (at_first, at_second) == places).then_some([first, second])
}
