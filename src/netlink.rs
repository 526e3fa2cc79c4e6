//! One blocking rtnetlink socket: requests to the kernel and what it answers.
//! It may not decide anything.
//!
//! The messages and the socket are the rtnetlink crate's. Its own runtime is not used: a launch has nothing to wait for
//! but the kernel's answer, which is there when `send` returns; and here each request's own answer is read, where the
//! crate's `execute()` says Ok even if the send failed. Several requests go in one send, through which the kernel works
//! before a signal can end the process (netlink_rcv_skb in net/netlink/af_netlink.c).
//!
//! `read` has the questions.

mod read;
pub mod tc;

pub use model::host::BridgeDetail;
pub use model::rtnl::detail::{Detail, Stats};
pub use model::rtnl::network::{FdbEntry, Neighbour};

use crate::sys::filter;
use model::bpf::OF_SHARING;
use model::rtnl::{Answer, answers};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;
use std::net::IpAddr;

/// Larger than any datagram that the kernel sends (NLMSG_GOODSIZE, 32 KiB at the most for dumps).
const BUFFER: usize = 64 * 1024;

/// A socket to the kernel's routing and link layer, of the network namespace that it was opened in.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// What a request says.
#[derive(Debug, Clone)]
pub enum Body {
    /// As the crate has it.
    Message(RouteNetlinkMessage),
    /// A type, and what follows the header.
    Bytes(u16, Vec<u8>),
}

impl From<RouteNetlinkMessage> for Body {
    fn from(message: RouteNetlinkMessage) -> Self {
        Self::Message(message)
    }
}

impl From<Body> for NetlinkPayload<Body> {
    fn from(body: Body) -> Self {
        Self::InnerMessage(body)
    }
}

impl NetlinkSerializable for Body {
    fn message_type(&self) -> u16 {
        match self {
            Self::Message(message) => message.message_type(),
            Self::Bytes(kind, _) => *kind,
        }
    }

    fn buffer_len(&self) -> usize {
        match self {
            Self::Message(message) => NetlinkSerializable::buffer_len(message),
            Self::Bytes(_, bytes) => bytes.len(),
        }
    }

    fn serialize(&self, buffer: &mut [u8]) {
        match self {
            Self::Message(message) => NetlinkSerializable::serialize(message, buffer),
            Self::Bytes(_, bytes) => buffer.copy_from_slice(bytes),
        }
    }
}

/// A request, the flags beside NLM_F_REQUEST that it is sent with, and the errnos that mean that it is so already.
pub type Request = (Body, u16, &'static [i32]);

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

    /// Also hears what changes in the forwarding databases of bridges, and of qdiscs and filters that are deleted. The kernel
    /// keeps back the rest, which on a busy host is much.
    pub fn subscribe_to_sharing(&mut self) -> io::Result<()> {
        filter::attach(self.as_fd(), &OF_SHARING)?;
        // RTNLGRP_NEIGH, RTNLGRP_TC.
        [3, 4].into_iter().try_for_each(|group| self.socket.add_membership(group))
    }

    /// Also hears what changes about neighbours, and in the forwarding databases of bridges.
    pub fn subscribe_to_neighbours(&mut self) -> io::Result<()> {
        // RTNLGRP_NEIGH.
        self.socket.add_membership(3)
    }

    /// Also hears what changes about the host's addresses.
    pub fn subscribe_to_addresses(&mut self) -> io::Result<()> {
        // RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR.
        [5, 9].into_iter().try_for_each(|group| self.socket.add_membership(group))
    }

    /// Also hears what changes about routes.
    pub fn subscribe_to_routes(&mut self) -> io::Result<()> {
        // RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE.
        [7, 11].into_iter().try_for_each(|group| self.socket.add_membership(group))
    }

    /// Also hears where forwarding is turned on or off.
    pub fn subscribe_to_forwarding(&mut self) -> io::Result<()> {
        // RTNLGRP_IPV4_NETCONF, RTNLGRP_IPV6_NETCONF.
        [24, 25].into_iter().try_for_each(|group| self.socket.add_membership(group))
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
        let mut refused = None;
        for (at, (payload, flags, so_already)) in requests.into_iter().enumerate() {
            let payload = fault::injected(payload, || refused = Some(at));
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
                let (Some(result), Some(fine), Some(outcome)) = (results.get_mut(at), fine.get(at), answer.outcome())
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
        if let Some(refused) = refused {
            results[refused] = Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        Ok(results)
    }

    /// Gives a link an address of the host's, with the route that goes with it. One that it has stays.
    pub fn add_address(&mut self, index: u32, ip: IpAddr, prefix: u8) -> io::Result<()> {
        self.change(vec![Self::to_add_address(index, ip, prefix)])?.into_iter().collect()
    }

    /// The request for that.
    pub(crate) fn to_add_address(index: u32, ip: IpAddr, prefix: u8) -> Request {
        let mut message = AddressMessage::default();
        message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.prefix_len = prefix;
        message.header.index = index;
        message.attributes.push(AddressAttribute::Local(ip));
        message.attributes.push(AddressAttribute::Address(ip));
        if ip.is_ipv6() {
            // Nobody else is on a link that we have made: guests need not wait until the kernel has asked.
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        (RouteNetlinkMessage::NewAddress(message).into(), NLM_F_CREATE, &[libc::EEXIST][..])
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

    /// Asks one question; `each` sees every part of the answer. A dump through which a change went is
    /// `ResourceBusy`: it may lack something, and can be asked for again.
    fn ask(&mut self, payload: RouteNetlinkMessage, flags: u16, mut each: impl FnMut(Answer)) -> io::Result<()> {
        let mut bytes = Vec::new();
        self.push(&mut bytes, payload.into(), flags);
        let sequence = self.sequence;
        self.send(&bytes)?;
        let mut end = None;
        let mut is_whole = true;
        while end.is_none() {
            self.receive(|answer| {
                is_whole &= answer.sequence != sequence || !answer.is_interrupted();
                if answer.sequence != sequence {
                } else if let Some(outcome) = answer.outcome() {
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

    fn push(&mut self, bytes: &mut Vec<u8>, payload: Body, flags: u16) {
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
        answers(if sender.port_number() == 0 { buffer.as_slice() } else { &[] }).for_each(&mut each);
        Ok(())
    }
}

/// Lets the tests have the kernel refuse any one request. Not in a release.
mod fault {
    use super::Body;

    #[cfg(not(debug_assertions))]
    pub(super) fn injected(request: Body, _: impl FnOnce()) -> Body {
        request
    }

    /// The request of the number that KVM_BRIDGE_TEST_FAIL says, counted from 1, is one for no link at all, and `refuse` is
    /// called: the kernel has to have said that it knows nothing of the kind (EOPNOTSUPP).
    #[cfg(debug_assertions)]
    pub(super) fn injected(request: Body, refuse: impl FnOnce()) -> Body {
        use rtnetlink::packet_route::link::LinkMessage;
        use std::sync::atomic::{AtomicUsize, Ordering};
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
        let wanted = std::env::var("KVM_BRIDGE_TEST_FAIL").ok().and_then(|number| number.parse().ok());
        if wanted != Some(number) {
            return request;
        }
        eprintln!("request {number} fails");
        refuse();
        super::RouteNetlinkMessage::SetLink(LinkMessage::default()).into()
    }
}
