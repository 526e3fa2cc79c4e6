//! Traffic control: qdiscs and filters (linux/pkt_sched.h, linux/pkt_cls.h, linux/tc_act/*.h).
//!
//! The message and its header are the crate's; the options of `bpf`, `u32`, `mirred` and `skbedit` are written and read
//! here, of which the crate has only parts.

use crate::netlink::read::{attribute, text, whole};
use crate::netlink::{Netlink, Request, u16_at, u32_at};
use model::mac::Mac;
use model::share::{Action, Classifier, Filter, Hook, Instruction, MARK, On};
use rtnetlink::packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::packet_route::tc::{TcActionMessage, TcActionMessageAttribute, TcAttribute, TcMessage};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The indices of the links that a filter is about.
#[derive(Debug, Clone, Copy)]
pub struct Links {
    /// The bridge.
    pub bridge: u32,
    /// The uplink.
    pub uplink: u32,
    /// The host's end of the veth pair.
    pub host_end: u32,
}

impl Links {
    /// That of one.
    pub fn index(&self, on: On) -> u32 {
        match on {
            On::Bridge => self.bridge,
            On::Uplink => self.uplink,
            On::HostEnd => self.host_end,
        }
    }
}

/// A mark on our filters' actions by which they are known as ours (TCA_ACT_COOKIE): the bridge's own number, and the index of
/// the TAP that a filter is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cookie {
    /// The bridge's index.
    pub bridge: u32,
    /// The TAP's, of an entry that is there before the guest has sent anything.
    pub tap: u32,
}

impl Cookie {
    /// What is the same in all of ours.
    const START: [u8; 4] = *b"kvmb";

    fn bytes(self) -> Vec<u8> {
        [Self::START, self.bridge.to_be_bytes(), self.tap.to_be_bytes()].concat()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        (bytes.get(..4)? == Self::START).then_some(Self { bridge: number(4)?, tap: number(8)? })
    }

    /// The name of an eBPF program, which has no action to carry the mark (TCA_BPF_NAME).
    fn name(self, set: bool) -> String {
        format!("kvmb-{:08x}-{}", self.bridge, if set { "mark" } else { "clear" })
    }

    fn of_name(name: &str) -> Option<Self> {
        let (bridge, _) = name.strip_prefix("kvmb-")?.split_once('-')?;
        Some(Self { bridge: u32::from_str_radix(bridge, 16).ok()?, tap: 0 })
    }
}

/// A filter that is there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// Its place.
    pub pref: u16,
    /// Its number there.
    pub handle: u32,
    /// Its classifier, as the kernel calls it.
    pub kind: String,
    /// Whether it is none, but the place of filters that may be there.
    pub is_place: bool,
    /// The hash table that it is or that it is in (`u32` only).
    pub table: Option<u32>,
    /// The hash table that it leads to (`u32` only).
    pub leads_to: Option<u32>,
    /// Its classic program, of one that has one.
    pub program: Vec<Instruction>,
    /// Its name, of an eBPF program.
    pub name: Option<String>,
    /// The address that it is for, of one in a hash table.
    pub entry: Option<Mac>,
    /// The sender that it is for, of one that leads to a hash table.
    pub sender: Option<Mac>,
    /// Whose it is, if it is ours.
    pub cookie: Option<Cookie>,
    /// Where its first action sends frames.
    pub target: Option<u32>,
    /// How many frames met it.
    pub packets: u64,
    /// And how many bytes they had.
    pub bytes: u64,
}

impl Found {
    /// Whether it classifies frames: a place and a hash table do not.
    pub fn is_filter(&self) -> bool {
        !self.is_place && !self.is_table()
    }

    /// Whether it is a hash table and none of its entries.
    pub fn is_table(&self) -> bool {
        self.table.is_some() && self.handle & 0x000f_ffff == 0
    }
}

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

const TC_H_CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
/// NLA_F_NESTED.
const NESTED: u16 = 1 << 15;
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
const TCA_ACT_KIND: u16 = 1;
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

/// The request that gives a link a clsact qdisc; `fine` are the errnos that mean that it has one.
pub fn add_clsact(index: u32, fine: &'static [i32]) -> Request {
    (Message::NewQueueDiscipline(clsact(index)), NLM_F_CREATE | NLM_F_EXCL, fine)
}

/// The request that takes it away, with all filters.
pub fn delete_clsact(index: u32) -> Request {
    (Message::DelQueueDiscipline(clsact(index)), 0, &[libc::ENODEV])
}

fn clsact(index: u32) -> TcMessage {
    let mut message = TcMessage::with_index(index as i32);
    message.header.handle = CLSACT_HANDLE.into();
    message.header.parent = TC_H_CLSACT.into();
    message.attributes.push(TcAttribute::Kind("clsact".to_owned()));
    message
}

/// The request that makes a filter; `program` is that of one that marks, and has to live until it is sent.
pub fn add_filter(filter: &Filter, links: Links, cookie: Cookie, program: Option<BorrowedFd>) -> Request {
    let mut message = at(links.index(filter.on), filter.hook, filter.pref);
    let kind = match filter.classifier {
        Classifier::Bpf(_) | Classifier::Verdict(_) | Classifier::Mark(_) => "bpf",
        _ => "u32",
    };
    if let Classifier::Table(table) = filter.classifier {
        message.header.handle = (table << 20).into();
    }
    let options = options(filter, links, cookie, program);
    message.attributes.push(TcAttribute::Kind(kind.to_owned()));
    message.attributes.push(TcAttribute::Other(DefaultNla::new(TCA_OPTIONS | NESTED, options)));
    (Message::NewTrafficFilter(message), NLM_F_CREATE | NLM_F_EXCL, &[])
}

/// The request that has a filter that is there be another one.
pub fn change_filter(filter: &Filter, links: Links, cookie: Cookie, there: &Found) -> Request {
    let (mut message, ..) = add_filter(filter, links, cookie, None);
    if let Message::NewTrafficFilter(message) = &mut message {
        message.header.handle = there.handle.into();
    }
    (message, NLM_F_CREATE, &[])
}

/// The request that removes all filters of a place.
pub fn delete_place(index: u32, hook: Hook, pref: u16) -> Request {
    (Message::DelTrafficFilter(at(index, hook, pref)), 0, GONE)
}

/// The request that removes one filter, or a hash table with all in it: EBUSY while something leads there.
pub fn delete_filter(index: u32, hook: Hook, found: &Found) -> Request {
    let mut message = at(index, hook, found.pref);
    message.header.handle = found.handle.into();
    message.attributes.push(TcAttribute::Kind(found.kind.clone()));
    (Message::DelTrafficFilter(message), 0, GONE)
}

/// What says that there is no such filter, or no such link.
const GONE: &[i32] = &[libc::ENOENT, libc::EINVAL, libc::ENODEV];

fn at(index: u32, hook: Hook, pref: u16) -> TcMessage {
    let mut message = TcMessage::with_index(index as i32);
    // TC_H_MIN_INGRESS, TC_H_MIN_EGRESS.
    let minor = if hook == Hook::Ingress { 0xfff2 } else { 0xfff3 };
    message.header.parent = (CLSACT_HANDLE | minor).into();
    message.header.info = u32::from(pref) << 16 | u32::from((libc::ETH_P_ALL as u16).to_be());
    message
}

fn options(filter: &Filter, links: Links, cookie: Cookie, program: Option<BorrowedFd>) -> Vec<u8> {
    let mut options = Vec::new();
    let act = match &filter.classifier {
        Classifier::Bpf(program) | Classifier::Verdict(program) => {
            push(&mut options, TCA_BPF_OPS_LEN, &(program.len() as u16).to_ne_bytes());
            let ops: Vec<u8> = program.iter().flat_map(instruction_bytes).collect();
            push(&mut options, TCA_BPF_OPS, &ops);
            TCA_BPF_ACT
        }
        Classifier::Mark(set) => {
            let fd = program.map_or(-1, |program| program.as_raw_fd());
            push(&mut options, TCA_BPF_FD, &fd.to_ne_bytes());
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

/// Adds an attribute (struct nlattr), at a multiple of four bytes.
fn push(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend((4 + value.len() as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

impl Netlink {
    /// Whether the kernel has an action of this kind now; one that is a module may be loaded later.
    pub fn has_action(&mut self, kind: &str) -> io::Result<bool> {
        const TCA_ACT_TAB: u16 = 1;
        const TCA_ACT_INDEX: u16 = 3;
        let (mut action, mut first) = (Vec::new(), Vec::new());
        push(&mut action, TCA_ACT_KIND, &[kind.as_bytes(), b"\0"].concat());
        // One that nobody has.
        push(&mut action, TCA_ACT_INDEX, &0x7fff_ffff_u32.to_ne_bytes());
        push(&mut first, 1 | NESTED, &action);
        let mut message = TcActionMessage::default();
        message.attributes.push(TcActionMessageAttribute::Other(DefaultNla::new(TCA_ACT_TAB | NESTED, first)));
        // tcf_action_get_1 in net/sched/act_api.c: ENOENT for the number, EINVAL for the kind.
        match self.ask(Message::GetTrafficAction(message), 0, |_| {}) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
            done => done.map(|()| true),
        }
    }

    /// What a link has for what comes in.
    pub fn ingress_qdisc(&mut self, index: u32) -> io::Result<IngressQdisc> {
        let message = TcMessage::with_index(index as i32);
        whole(|| {
            let mut found = IngressQdisc::Absent;
            self.ask(Message::GetQueueDiscipline(message.clone()), NLM_F_DUMP, |answer| {
                let kind = attribute(answer.body.get(20..).unwrap_or_default(), TCA_KIND).map(text);
                let (of, handle) = (u32_at(answer.body, 4), u32_at(answer.body, 8));
                if of == Some(index) && handle == Some(CLSACT_HANDLE) {
                    found = match kind.as_deref() {
                        Some("clsact") => IngressQdisc::Clsact,
                        _ => IngressQdisc::Other,
                    };
                }
            })?;
            Ok(found)
        })
    }

    /// The filters on one side of a link, all of them; none where there is no clsact qdisc.
    pub fn filters(&mut self, index: u32, hook: Hook) -> io::Result<Vec<Found>> {
        let mut message = at(index, hook, 0);
        message.header.info = 0;
        let found = whole(|| {
            let mut found = Vec::new();
            self.ask(Message::GetTrafficFilter(message.clone()), NLM_F_DUMP, |answer| {
                found.extend(parse(answer.body))
            })?;
            Ok(found)
        });
        match found {
            Err(error) if GONE.contains(&error.raw_os_error().unwrap_or_default()) => Ok(Vec::new()),
            found => found,
        }
    }
}

/// A struct tcmsg and its attributes.
pub(super) fn parse(body: &[u8]) -> Option<Found> {
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
            found.leads_to = attribute(options, TCA_U32_LINK).and_then(|link| Some(u32_at(link, 0)? >> 20));
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
        if number == 1
            && let Some(basic) = attribute(action, TCA_ACT_STATS).and_then(|stats| attribute(stats, TCA_STATS_BASIC))
        {
            // struct gnet_stats_basic.
            found.bytes =
                basic.get(..8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_ne_bytes).unwrap_or_default();
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

/// Whether a filter that was found is one that should be.
pub fn is_as(found: &Found, filter: &Filter, links: Links, cookie: Cookie) -> bool {
    let target = filter.actions.iter().find_map(|action| match action {
        Action::Mirred { to, .. } => Some(links.index(*to)),
        Action::Mark(_) => None,
    });
    let is_its = match &filter.classifier {
        Classifier::Bpf(program) | Classifier::Verdict(program) => found.program == *program && found.target == target,
        Classifier::Mark(set) => found.name.as_deref() == Some(&cookie.name(*set)),
        Classifier::Table(table) => found.is_table() && found.table == Some(*table),
        Classifier::ToTable(mac, table) => {
            found.sender == Some(*mac) && found.leads_to == Some(*table) && found.cookie == Some(cookie)
        }
        Classifier::Entry(mac, table) => {
            found.entry == Some(*mac) && found.table == Some(*table) && found.target == target
        }
    };
    found.pref == filter.pref && is_its
}
