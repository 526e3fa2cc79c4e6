//! Traffic control: requests for qdiscs and filters, and questions about them.
//!
//! The message and its header are the crate's; the options of `bpf`, `u32`, `mirred` and `skbedit`, of which the crate has only
//! parts, are written and read in `model::rtnl::tc`.

use crate::netlink::read::whole;
use crate::netlink::{Body, Netlink, Request};
use model::rtnl::tc::{
    CLSACT_HANDLE, IngressQdisc, PortQdisc, TCA_ACT_KIND, TCA_OPTIONS, ingress_qdisc, options, parse, port_qdisc,
};
use model::rtnl::{NESTED, push};
use model::share::found::{Found, Links};
use model::share::{Classifier, Filter, Hook};
use rtnetlink::packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::packet_route::tc::{TcActionMessage, TcActionMessageAttribute, TcAttribute, TcMessage};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The request that gives a link a clsact qdisc; `fine` are the errnos that mean that it has one.
pub fn add_clsact(index: u32, fine: &'static [i32]) -> Request {
    let request = port::Request::clsact(index);
    (Body::Bytes(request.kind, request.body), request.flags, fine)
}

/// The request that takes it away, with all filters.
pub fn delete_clsact(index: u32) -> Request {
    const RTM_DELQDISC: u16 = 37;
    (Body::Bytes(RTM_DELQDISC, port::Request::clsact(index).body), 0, &[libc::ENODEV])
}

/// The request that makes a filter, for a TAP or for none (0); `program` is that of one that marks, and has to live until it is sent.
pub fn add_filter(filter: &Filter, links: Links, tap: u32, program: Option<BorrowedFd>) -> Request {
    (Message::NewTrafficFilter(message(filter, links, tap, program)).into(), NLM_F_CREATE | NLM_F_EXCL, &[])
}

fn message(filter: &Filter, links: Links, tap: u32, program: Option<BorrowedFd>) -> TcMessage {
    let mut message = at(links.index(filter.on), filter.hook, filter.pref);
    let kind = match filter.classifier {
        Classifier::Bpf(_) | Classifier::Verdict(_) | Classifier::Mark(_) => "bpf",
        _ => "u32",
    };
    if let Classifier::Table(table) = filter.classifier {
        message.header.handle = (table << 20).into();
    }
    let options = options(filter, links, tap, program.map(|program| program.as_raw_fd()));
    message.attributes.push(TcAttribute::Kind(kind.to_owned()));
    message.attributes.push(TcAttribute::Other(DefaultNla::new(TCA_OPTIONS | NESTED, options)));
    message
}

/// The request that has a filter that is there be another one.
pub fn change_filter(filter: &Filter, links: Links, there: &Found) -> Request {
    let mut message = message(filter, links, 0, None);
    message.header.handle = there.handle.into();
    (Message::NewTrafficFilter(message).into(), NLM_F_CREATE, &[])
}

/// The request that removes all filters of a place.
pub fn delete_place(index: u32, hook: Hook, pref: u16) -> Request {
    (Message::DelTrafficFilter(at(index, hook, pref)).into(), 0, GONE)
}

/// The request that removes one filter, or a hash table with all in it: EBUSY while something leads there.
pub fn delete_filter(index: u32, hook: Hook, found: &Found) -> Request {
    let mut message = at(index, hook, found.pref);
    message.header.handle = found.handle.into();
    message.attributes.push(TcAttribute::Kind(found.kind.clone()));
    (Message::DelTrafficFilter(message).into(), 0, GONE)
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

    /// What ports are held to by qdiscs, of all links.
    pub fn port_qdiscs(&mut self) -> io::Result<Vec<(u32, PortQdisc)>> {
        whole(|| {
            let mut found = Vec::new();
            self.ask(Message::GetQueueDiscipline(TcMessage::default()), NLM_F_DUMP, |answer| {
                found.extend(port_qdisc(answer.body));
            })?;
            Ok(found)
        })
    }

    /// What a link has for what comes in.
    pub fn ingress_qdisc(&mut self, index: u32) -> io::Result<IngressQdisc> {
        let message = TcMessage::with_index(index as i32);
        whole(|| {
            let mut found = IngressQdisc::Absent;
            self.ask(Message::GetQueueDiscipline(message.clone()), NLM_F_DUMP, |answer| {
                found = ingress_qdisc(answer.body, index).unwrap_or(found);
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
