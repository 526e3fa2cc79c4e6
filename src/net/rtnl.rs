//! One blocking rtnetlink socket.
//!
//! The messages and the socket are the rtnetlink crate's. Its own runtime is not used: a launch has nothing to wait for
//! but the kernel's answer, which is there when `send` returns; and here each request's own answer is read, where the
//! crate's `execute()` says Ok even if the send failed. Several requests go in one send, through which the kernel works
//! before a signal can end the process (netlink_rcv_skb in net/netlink/af_netlink.c).
//!
//! Answers are read attribute by attribute, only what is asked for: a kernel whose other attributes the crate can't
//! parse is no reason to fail, and a launch does not pay for statistics.

use crate::host::{Kind, Link};
use crate::layer3::Layer3;
use crate::mac::Mac;
use crate::name::IfName;
use rtnetlink::packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NlaBuffer, NlasIterator, Parseable,
};
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage};
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;

/// The header of every netlink message (struct nlmsghdr) and of every link message behind it (struct ifinfomsg).
const HEADER: usize = 16;
/// Larger than any datagram that the kernel sends (NLMSG_GOODSIZE, 32 KiB at the most for dumps).
const BUFFER: usize = 64 * 1024;
/// Of linux/netlink.h: what a dump goes through has changed meanwhile.
const NLM_F_DUMP_INTR: u16 = 0x10;

/// A socket to the kernel's routing and link layer, of the network namespace that it was opened in.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// One answer: its type, and what follows its header.
struct Answer<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

/// A request, the flags beside NLM_F_REQUEST that it is sent with, and the errnos that mean that it is so already.
pub type Request = (RouteNetlinkMessage, u16, &'static [i32]);

impl Netlink {
    /// Opens the socket.
    pub fn open() -> io::Result<Self> {
        let socket = Socket::new(NETLINK_ROUTE)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Also hears what changes about links from now on; for `wait`.
    pub fn subscribe_to_links(&mut self) -> io::Result<()> {
        // RTNLGRP_LINK of linux/rtnetlink.h.
        self.socket.add_membership(1)
    }

    /// Also hears what changes about neighbours.
    pub fn subscribe_to_neighbours(&mut self) -> io::Result<()> {
        // RTNLGRP_NEIGH.
        self.socket.add_membership(3)
    }

    /// The descriptor, readable when there is news; for `poll`.
    pub fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.socket)
    }

    /// Reads away all news that has come.
    pub fn drain(&mut self) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(BUFFER);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, libc::MSG_DONTWAIT) {
                Ok(_) => {}
                // More came than the socket could hold: there is news, which is all that matters.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes changes, all in one send. The answers are in the order of the requests: the kernel carries out each of
    /// them, whatever became of those before it.
    ///
    /// An error says that the send, or reading the answers, failed: all may be done, or nothing.
    pub fn change(&mut self, requests: Vec<Request>) -> io::Result<Vec<io::Result<()>>> {
        // The kernel takes an empty send for a mistake (ENODATA).
        let Some(last) = requests.len().checked_sub(1) else { return Ok(Vec::new()) };
        let first = self.sequence + 1;
        let mut bytes = Vec::new();
        let mut fine = Vec::new();
        for (at, (payload, flags, so_already)) in requests.into_iter().enumerate() {
            let payload = fault::injected(payload);
            // Failures are told anyway, and in order: when the last one is answered, all are. A thousand answers more
            // would not fit the socket.
            self.push(&mut bytes, payload, if at == last { flags | NLM_F_ACK } else { flags });
            fine.push(so_already);
        }
        self.make_room(bytes.len());
        self.send(&bytes)?;
        let mut results: Vec<io::Result<()>> = fine.iter().map(|_| Ok(())).collect();
        let mut is_done = false;
        while !is_done {
            self.receive(|answer| {
                let at = answer.sequence.wrapping_sub(first) as usize;
                let (Some(result), Some(fine), Some(outcome)) = (results.get_mut(at), fine.get(at), outcome(&answer))
                else {
                    return;
                };
                *result = outcome.or_else(|error| match error.raw_os_error() {
                    Some(errno) if fine.contains(&errno) => Ok(()),
                    _ => Err(error),
                });
                is_done |= at == last;
            })?;
        }
        Ok(results)
    }

    /// Lets a send of many requests, and their failures, fit the socket. If it can't be, the send fails, and nothing is
    /// changed.
    fn make_room(&self, size: usize) {
        use nix::sys::socket::{setsockopt, sockopt};
        /// Fits every socket (net.core.wmem_default less the kernel's own part).
        const USUAL: usize = 64 * 1024;
        if size > USUAL {
            let _ = setsockopt(&self.socket, sockopt::SndBufForce, &(4 * size));
            let _ = setsockopt(&self.socket, sockopt::RcvBufForce, &(16 * size));
        }
    }

    /// The link of this name; one request, no dump.
    pub fn link(&mut self, name: &IfName) -> io::Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_string()));
        self.get_link(message)
    }

    /// The link of this index.
    pub fn link_at(&mut self, index: u32) -> io::Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.get_link(message)
    }

    fn get_link(&mut self, mut message: LinkMessage) -> io::Result<Option<Link>> {
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let mut found = None;
        match self.ask(RouteNetlinkMessage::GetLink(message), 0, |answer| found = parse_link(answer.body)) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            done => done.map(|()| found),
        }
    }

    /// The ports of a bridge; the kernel picks them out.
    pub fn ports(&mut self, bridge: u32) -> io::Result<Vec<Link>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::Controller(bridge));
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        self.dump_links(message, |link| link.controller == Some(bridge))
    }

    /// All links. Never on the launch path: there may be thousands.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        self.dump_links(LinkMessage::default(), |_| true)
    }

    fn dump_links(&mut self, message: LinkMessage, wanted: impl Fn(&Link) -> bool) -> io::Result<Vec<Link>> {
        whole(|| {
            let mut links = Vec::new();
            self.ask(RouteNetlinkMessage::GetLink(message.clone()), NLM_F_DUMP, |answer| {
                links.extend(parse_link(answer.body).filter(&wanted));
            })?;
            Ok(links)
        })
    }

    /// What the host has on a link above Ethernet. What is there and can't be read is an error: it would be lost.
    pub fn layer3(&mut self, index: u32) -> io::Result<Layer3> {
        whole(|| self.layer3_now(index))
    }

    fn layer3_now(&mut self, index: u32) -> io::Result<Layer3> {
        const RTA_OIF: u16 = 4;
        const RTA_MULTIPATH: u16 = 9;
        let mut found = Layer3::default();
        let mut failure = Ok(());
        self.ask(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP, |answer| {
            if u32_at(answer.body, 4) == Some(index) {
                keep(AddressMessage::parse(answer.body), &mut failure, |address| found.add_address(address, index));
            }
        })?;
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            self.dump_routes(family, |body| {
                let attributes = body.get(12..).unwrap_or_default();
                let oif = attribute(attributes, RTA_OIF).and_then(|value| u32_at(value, 0));
                if oif == Some(index) || attribute(attributes, RTA_MULTIPATH).is_some() {
                    keep(RouteMessage::parse(body), &mut failure, |route| found.add_route(route, index));
                }
            })?;
            for flags in [NeighbourFlags::empty(), NeighbourFlags::Proxy] {
                let mut message = NeighbourMessage::default();
                message.header.family = family;
                message.header.flags = flags;
                message.attributes.push(NeighbourAttribute::IfIndex(index));
                self.ask(RouteNetlinkMessage::GetNeighbour(message), NLM_F_DUMP, |answer| {
                    if u32_at(answer.body, 4) == Some(index) {
                        let message = NeighbourMessage::parse(answer.body);
                        keep(message, &mut failure, |neighbour| found.add_neighbour(neighbour, index));
                    }
                })?;
            }
        }
        failure.map(|()| found)
    }

    fn dump_routes(&mut self, family: AddressFamily, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        self.ask(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP, |answer| each(answer.body))
    }

    /// The interfaces that the default routes of the main table lead to: IPv4's before IPv6's, the preferred ones first.
    pub fn default_interfaces(&mut self) -> io::Result<Vec<u32>> {
        whole(|| self.default_interfaces_now())
    }

    fn default_interfaces_now(&mut self) -> io::Result<Vec<u32>> {
        const RTA_OIF: u16 = 4;
        const RTA_PRIORITY: u16 = 6;
        let mut interfaces = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut found = Vec::new();
            self.dump_routes(family, |body| {
                let (prefix, table) = (body.get(1), body.get(4));
                let attributes = body.get(12..).unwrap_or_default();
                let number = |kind| attribute(attributes, kind).and_then(|value| u32_at(value, 0));
                if let (Some(0), Some(&libc::RT_TABLE_MAIN), Some(oif)) = (prefix, table, number(RTA_OIF)) {
                    found.push((number(RTA_PRIORITY).unwrap_or_default(), oif));
                }
            })?;
            found.sort_unstable();
            interfaces.extend(found.into_iter().map(|(_, oif)| oif));
        }
        Ok(interfaces)
    }

    /// What the kernel knows of a neighbour.
    pub fn neighbour(&mut self, message: NeighbourMessage) -> io::Result<Option<NeighbourMessage>> {
        let mut found = None;
        match self.ask(RouteNetlinkMessage::GetNeighbour(message), 0, |answer| {
            found = NeighbourMessage::parse(answer.body).ok();
        }) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            done => done.map(|()| found),
        }
    }

    /// Whether the bridge's forwarding database knows this address.
    pub fn fdb_has(&mut self, bridge: u32, mac: Mac) -> io::Result<bool> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.attributes.push(NeighbourAttribute::Controller(bridge));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        let mut found = false;
        match self.ask(RouteNetlinkMessage::GetNeighbour(message), 0, |_| found = true) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EOPNOTSUPP)) => Ok(false),
            done => done.map(|()| found),
        }
    }

    /// Asks one question; `each` sees every part of the answer. A dump through which a change went is
    /// `ResourceBusy`: it may lack something, and can be asked for again.
    fn ask(&mut self, payload: RouteNetlinkMessage, flags: u16, mut each: impl FnMut(Answer)) -> io::Result<()> {
        let mut bytes = Vec::new();
        self.push(&mut bytes, payload, flags);
        let sequence = self.sequence;
        self.send(&bytes)?;
        let mut end = None;
        let mut is_whole = true;
        while end.is_none() {
            self.receive(|answer| {
                is_whole &= answer.sequence != sequence || answer.flags & NLM_F_DUMP_INTR == 0;
                if answer.sequence != sequence {
                } else if let Some(outcome) = outcome(&answer) {
                    end = Some(outcome);
                } else {
                    each(answer);
                    if flags & NLM_F_DUMP == 0 {
                        end = Some(Ok(()));
                    }
                }
            })?;
        }
        match end {
            Some(Err(error)) => Err(error),
            _ if is_whole => Ok(()),
            _ => Err(io::ErrorKind::ResourceBusy.into()),
        }
    }

    fn push(&mut self, bytes: &mut Vec<u8>, payload: RouteNetlinkMessage, flags: u16) {
        self.sequence += 1;
        let mut message = NetlinkMessage::from(payload);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        // Messages stand at multiples of four bytes (NLMSG_ALIGN).
        let start = bytes.len().next_multiple_of(4);
        bytes.resize(start + message.buffer_len(), 0);
        message.serialize(&mut bytes[start..]);
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            match self.socket.send(bytes, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => return sent.map(|_| ()),
            }
        }
    }

    /// Reads one datagram and splits it. What does not come from the kernel is passed over (CVE-2003-0856).
    fn receive(&self, mut each: impl FnMut(Answer)) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(BUFFER);
        let sender = loop {
            match self.socket.recv_from(&mut buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                received => break received?.1,
            }
        };
        let mut rest = if sender.port_number() == 0 { buffer.as_slice() } else { &[] };
        while let (Some(length), Some(kind), Some(flags), Some(sequence)) =
            (u32_at(rest, 0), u16_at(rest, 4), u16_at(rest, 6), u32_at(rest, 8))
        {
            let length = length as usize;
            let Some(body) = rest.get(HEADER..length) else { break };
            each(Answer { kind, flags, sequence, body });
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(())
    }
}

/// How a request ended: NLMSG_ERROR with an errno or with zero, or NLMSG_DONE. `None` for data.
fn outcome(answer: &Answer) -> Option<io::Result<()>> {
    const NLMSG_ERROR: u16 = 2;
    const NLMSG_DONE: u16 = 3;
    if !matches!(answer.kind, NLMSG_ERROR | NLMSG_DONE) {
        return None;
    }
    let code = u32_at(answer.body, 0).unwrap_or_default() as i32;
    Some(if code < 0 { Err(io::Error::from_raw_os_error(-code)) } else { Ok(()) })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Text up to the final NUL.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(b"\0").unwrap_or(bytes)).into_owned()
}

fn attributes(bytes: &[u8]) -> impl Iterator<Item = NlaBuffer<&[u8]>> {
    NlasIterator::new(bytes).map_while(Result::ok)
}

fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|found| found.kind() == kind).map(value_of)
}

/// The value of an attribute, for as long as its message lives.
fn value_of<'a>(attribute: NlaBuffer<&'a [u8]>) -> &'a [u8] {
    let length = attribute.value_length();
    let bytes: &'a [u8] = attribute.into_inner();
    bytes.get(4..4 + length).unwrap_or_default()
}

/// A struct ifinfomsg and its attributes (linux/if_link.h).
fn parse_link(body: &[u8]) -> Option<Link> {
    const ARPHRD_ETHER: u16 = 1;
    let flags = u32_at(body, 8)?;
    let mut link = Link {
        is_ethernet: u16_at(body, 2)? == ARPHRD_ETHER,
        is_up: flags & libc::IFF_UP as u32 != 0,
        ..Link::bare(u32_at(body, 4)?, IfName::seen(String::new()))
    };
    for attribute in attributes(body.get(HEADER..)?) {
        let kind = attribute.kind();
        let value = value_of(attribute);
        match kind {
            libc::IFLA_IFNAME => link.name = IfName::seen(text(value)),
            libc::IFLA_ADDRESS => link.mac = value.try_into().ok().map(Mac),
            libc::IFLA_MTU => link.mtu = u32_at(value, 0)?,
            libc::IFLA_MASTER => link.controller = u32_at(value, 0),
            libc::IFLA_IFALIAS => link.alias = Some(text(value)),
            libc::IFLA_LINKINFO => link.kind = parse_kind(value),
            _ => {}
        }
    }
    Some(link)
}

/// IFLA_LINKINFO; for a TAP with the flags that IFLA_TUN_* of linux/if_link.h tell.
fn parse_kind(info: &[u8]) -> Kind {
    const IFLA_INFO_KIND: u16 = 1;
    const IFLA_INFO_DATA: u16 = 2;
    const IFLA_TUN_TYPE: u16 = 3;
    const IFLA_TUN_PERSIST: u16 = 6;
    const IFLA_TUN_MULTI_QUEUE: u16 = 7;
    let data = attribute(info, IFLA_INFO_DATA).unwrap_or_default();
    let byte = |kind| attribute(data, kind).and_then(|value| value.first().copied()).unwrap_or_default();
    match attribute(info, IFLA_INFO_KIND).map(text).as_deref() {
        None => Kind::Card,
        Some("bridge") => Kind::Bridge,
        Some("tun") if i32::from(byte(IFLA_TUN_TYPE)) == libc::IFF_TAP => {
            Kind::Tap { is_persistent: byte(IFLA_TUN_PERSIST) != 0, is_multi_queue: byte(IFLA_TUN_MULTI_QUEUE) != 0 }
        }
        Some(other) => Kind::Other(other.to_owned()),
    }
}

/// Asks again while others make changes in the midst of an answer (`ResourceBusy`).
fn whole<T>(mut ask: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..50 {
        match ask() {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
            answer => return answer,
        }
    }
    ask()
}

/// Keeps a message that could be read; notes the first that could not.
fn keep<M>(message: Result<M, DecodeError>, failure: &mut io::Result<()>, take: impl FnOnce(M)) {
    match message {
        Ok(message) => take(message),
        Err(error) if failure.is_ok() => *failure = Err(io::Error::other(error.to_string())),
        Err(_) => {}
    }
}

/// Lets the tests have the kernel refuse any one request. Not in a release.
mod fault {
    use super::RouteNetlinkMessage;

    #[cfg(not(debug_assertions))]
    pub(super) fn injected(request: RouteNetlinkMessage) -> RouteNetlinkMessage {
        request
    }

    /// The request of the number that KVM_BRIDGE_TEST_FAIL says, counted from 1, is one for no link at all: EINVAL.
    #[cfg(debug_assertions)]
    pub(super) fn injected(request: RouteNetlinkMessage) -> RouteNetlinkMessage {
        use rtnetlink::packet_route::link::LinkMessage;
        use std::sync::atomic::{AtomicUsize, Ordering};
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
        let wanted = std::env::var("KVM_BRIDGE_TEST_FAIL").ok().and_then(|number| number.parse().ok());
        if wanted != Some(number) {
            return request;
        }
        eprintln!("request {number} fails");
        RouteNetlinkMessage::SetLink(LinkMessage::default())
    }
}
