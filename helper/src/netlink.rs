//! The few messages to the kernel that are needed (rtnetlink(7)), and what they are answered with. Pure but for
//! [`Socket`].
#![forbid(unsafe_code)]

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recvmsg, send, socket,
};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};

// linux/netlink.h and linux/rtnetlink.h.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWNEIGH: u16 = 28;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
const NESTED: u16 = 0x8000;
// linux/if_link.h.
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_BR_VLAN_PROTOCOL: u16 = 8;
const ETH_P_8021AD: [u8; 2] = [0x88, 0xa8];
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
const AF_INET6: u16 = nix::libc::AF_INET6 as u16;
const IFF_UP: u32 = nix::libc::IFF_UP as u32;

/// struct nlmsghdr and struct ifinfomsg.
const HEADER: usize = 16;
/// Larger than any datagram of the kernel.
const BUFFER: usize = 64 * 1024;

/// A network interface, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name, without the final NUL.
    pub name: Vec<u8>,
    /// What made it.
    pub kind: Vec<u8>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its address.
    pub address: Vec<u8>,
    /// Whether it is set up.
    pub is_up: bool,
    /// The index of the bridge that it is a port of.
    pub controller: Option<u32>,
    /// Its alias.
    pub alias: Vec<u8>,
    /// Of a bridge, whether its ports are members of VLANs.
    pub filters_vlans: bool,
    /// Of a bridge, whether these are 802.1ad's.
    pub has_service_tags: bool,
}

/// What is changed about a link.
#[derive(Debug, Clone, Copy)]
pub enum Change<'a> {
    /// Its address.
    Address(&'a [u8]),
    /// Its MTU.
    Mtu(u32),
    /// Its alias.
    Alias(&'a [u8]),
    /// That IPv6 gives it no address.
    NoIpv6Address,
    /// That it is a port of the link with this index.
    Controller(u32),
    /// That it is up.
    Up,
}

/// Puts a request together.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: u16, sequence: u32, index: u32, up: bool) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        // struct ifinfomsg: family and type, index, flags, and which of these are changed.
        bytes.extend([0; 4]);
        bytes.extend(index.to_ne_bytes());
        let flags = if up { IFF_UP } else { 0 };
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        Self(bytes)
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.0.extend(((value.len() + 4) as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        let length = (self.0.len() as u32).to_ne_bytes();
        self.0[..4].copy_from_slice(&length);
        self.0
    }
}

pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut whole = Request(Vec::new());
    whole.attribute(kind, value);
    whole.0
}

fn change(sequence: u32, index: u32, changes: &[Change]) -> Vec<u8> {
    let up = changes.iter().any(|change| matches!(change, Change::Up));
    let mut request = Request::new(RTM_SETLINK, NLM_F_ACK, sequence, index, up);
    for change in changes {
        match change {
            Change::Address(address) => request.attribute(IFLA_ADDRESS, address),
            Change::Mtu(mtu) => request.attribute(IFLA_MTU, &mtu.to_ne_bytes()),
            Change::Alias(alias) => request.attribute(IFLA_IFALIAS, alias),
            Change::Controller(index) => request.attribute(IFLA_MASTER, &index.to_ne_bytes()),
            Change::NoIpv6Address => {
                let mode = attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
                request.attribute(IFLA_AF_SPEC | NESTED, &attribute(AF_INET6 | NESTED, &mode));
            }
            Change::Up => {}
        }
    }
    request.finish()
}

/// One message of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Which request it answers.
    pub sequence: u32,
    /// Whether nothing changed while it was told.
    pub is_whole: bool,
    /// What it says.
    pub content: Content,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A link.
    Link(Link),
    /// A route, or what a link-layer address is of: a header of twelve bytes and attributes.
    Entry(Vec<u8>),
    /// The end, well or with an errno.
    End(Result<(), i32>),
}

/// The messages in a datagram; `None` if any of it is not understood: a link that is passed over is a TAP that is not
/// counted.
pub fn answers(mut bytes: &[u8]) -> Option<Vec<Answer>> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let (length, flags, sequence) = (u32_at(bytes, 0)? as usize, u16_at(bytes, 6)?, u32_at(bytes, 8)?);
        let body = bytes.get(HEADER..length)?;
        let content = match u16_at(bytes, 4)? {
            RTM_NEWLINK => Content::Link(link(body)?),
            RTM_NEWROUTE | RTM_NEWNEIGH => Content::Entry(body.to_vec()),
            NLMSG_ERROR | NLMSG_DONE => match u32_at(body, 0)? as i32 {
                code if code < 0 => Content::End(Err(code.saturating_neg())),
                _ => Content::End(Ok(())),
            },
            _ => return None,
        };
        answers.push(Answer { sequence, is_whole: flags & NLM_F_DUMP_INTR == 0, content });
        bytes = behind(bytes, length);
    }
    Some(answers)
}

/// What follows `length` bytes and their padding, which the last message or attribute may lack.
fn behind(bytes: &[u8], length: usize) -> &[u8] {
    bytes.get(length.next_multiple_of(4)..).unwrap_or(&[])
}

fn link(body: &[u8]) -> Option<Link> {
    let mut link = Link { index: u32_at(body, 4)?, is_up: u32_at(body, 8)? & IFF_UP != 0, ..Link::default() };
    for (kind, value) in attributes(body.get(16..)?)? {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_MTU => link.mtu = u32_at(value, 0)?,
            IFLA_ADDRESS => link.address = value.to_vec(),
            IFLA_MASTER => link.controller = Some(u32_at(value, 0)?),
            IFLA_IFALIAS => link.alias = text(value),
            IFLA_LINKINFO => {
                // A network card has none: if it is a port, only what its bridge says of it is here.
                let info = attributes(value)?;
                let of = |wanted: u16| info.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
                link.kind = of(IFLA_INFO_KIND).map_or_else(Vec::new, text);
                if let Some(data) = of(IFLA_INFO_DATA).filter(|_| link.kind == b"bridge") {
                    let is_on =
                        |(kind, value): &(u16, &[u8])| *kind == IFLA_BR_VLAN_FILTERING && value.first() == Some(&1);
                    let settings = attributes(data)?;
                    link.filters_vlans = settings.iter().any(is_on);
                    link.has_service_tags = settings.contains(&(IFLA_BR_VLAN_PROTOCOL, &ETH_P_8021AD));
                }
            }
            _ => {}
        }
    }
    Some(link)
}

pub(crate) fn attributes(mut bytes: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut attributes = Vec::new();
    while !bytes.is_empty() {
        let length = usize::from(u16_at(bytes, 0)?);
        attributes.push((u16_at(bytes, 2)? & !NESTED, bytes.get(4..length)?));
        bytes = behind(bytes, length);
    }
    Some(attributes)
}

fn text(value: &[u8]) -> Vec<u8> {
    value.iter().copied().take_while(|byte| *byte != 0).collect()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A socket to the kernel, of the network namespace of this process.
#[derive(Debug)]
pub struct Socket {
    socket: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// Opens it.
    pub fn open() -> io::Result<Self> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
        connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The link of this name, if there is one. (The kernel also takes alternative names: it is for the caller to compare.)
    pub fn link(&mut self, name: &[u8]) -> io::Result<Option<Link>> {
        self.get(0, Some(name))
    }

    /// The link with this index, if there is one.
    pub fn link_at(&mut self, index: u32) -> io::Result<Option<Link>> {
        self.get(index, None)
    }

    fn get(&mut self, index: u32, name: Option<&[u8]>) -> io::Result<Option<Link>> {
        let mut request = Request::new(RTM_GETLINK, 0, self.sequence + 1, index, false);
        if let Some(name) = name {
            request.attribute(IFLA_IFNAME, &[name, b"\0"].concat());
        }
        match self.ask(&request.finish(), false) {
            Ok(found) => Ok(links_of(found).into_iter().next()),
            Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All links, or those that are ports of the bridge with this index. A list through which a change went may lack something,
    /// and is asked for again.
    pub fn links(&mut self, controller: Option<u32>) -> io::Result<Vec<Link>> {
        for _ in 0..100 {
            let mut request = Request::new(RTM_GETLINK, NLM_F_DUMP, self.sequence + 1, 0, false);
            if let Some(index) = controller {
                request.attribute(IFLA_MASTER, &index.to_ne_bytes());
            }
            match self.ask(&request.finish(), true) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
                answered => return answered.map(links_of),
            }
        }
        Err(io::Error::other("the list of all links changes while it is read, each time"))
    }

    /// Changes a link, all at once for whoever looks (the kernel holds its lock meanwhile).
    pub fn change(&mut self, index: u32, changes: &[Change]) -> io::Result<()> {
        self.ask(&change(self.sequence + 1, index, changes), true).map(|_| ())
    }

    /// Carries out a request that is there byte by byte.
    pub fn carry_out(&mut self, request: &port::Request) -> io::Result<()> {
        self.ask_whole(request.kind, NLM_F_ACK | request.flags, &request.body, true).map(|_| ())
    }

    /// The one route or neighbour that a question is about.
    pub(crate) fn entry(&mut self, kind: u16, body: &[u8]) -> io::Result<Vec<u8>> {
        let found = self.ask_whole(kind, 0, body, false)?.into_iter().next();
        match found {
            Some(Content::Entry(entry)) => Ok(entry),
            _ => Err(not_understood()),
        }
    }

    fn ask_whole(&mut self, kind: u16, flags: u16, body: &[u8], has_end: bool) -> io::Result<Vec<Content>> {
        let mut bytes = Vec::from(((HEADER + body.len()) as u32).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        bytes.extend((self.sequence + 1).to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        self.ask(&bytes, has_end)
    }

    /// Sends a request and gathers what it is answered with, until its end is told or, without one, the first.
    fn ask(&mut self, request: &[u8], has_end: bool) -> io::Result<Vec<Content>> {
        self.sequence += 1;
        loop {
            match send(self.socket.as_raw_fd(), request, MsgFlags::empty()) {
                Err(nix::Error::EINTR) => {}
                sent => break sent.map(|_| ())?,
            }
        }
        let (mut found, mut is_whole) = (Vec::new(), true);
        loop {
            let answers = self.receive()?;
            for answer in answers.into_iter().filter(|answer| answer.sequence == self.sequence) {
                is_whole &= answer.is_whole;
                match answer.content {
                    Content::End(Err(errno)) => return Err(io::Error::from_raw_os_error(errno)),
                    Content::End(Ok(())) if is_whole => return Ok(found),
                    Content::End(Ok(())) => return Err(io::ErrorKind::ResourceBusy.into()),
                    content => found.push(content),
                }
            }
            if !has_end && !found.is_empty() {
                return Ok(found);
            }
        }
    }

    /// One datagram, all of it. What does not come from the kernel is passed over (CVE-2003-0856).
    fn receive(&self) -> io::Result<Vec<Answer>> {
        let mut buffer = vec![0; BUFFER];
        let (size, is_cut) = loop {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            match recvmsg::<NetlinkAddr>(self.socket.as_raw_fd(), &mut parts, None, MsgFlags::empty()) {
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
                Ok(message) if message.address.is_some_and(|sender| sender.pid() == 0) => {
                    break (message.bytes, message.flags.contains(MsgFlags::MSG_TRUNC));
                }
                Ok(_) => {}
            }
        };
        let whole = buffer.get(..size).filter(|_| !is_cut);
        whole.and_then(answers).ok_or_else(not_understood)
    }
}

fn links_of(found: Vec<Content>) -> Vec<Link> {
    let link = |content| if let Content::Link(link) = content { Some(link) } else { None };
    found.into_iter().filter_map(link).collect()
}

pub(crate) fn not_understood() -> io::Error {
    io::Error::other("the kernel's answer is not understood")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_link_is_read_as_it_was_written() {
        let mut request = Request::new(RTM_NEWLINK, 0, 7, 5, true);
        request.attribute(IFLA_IFNAME, b"br0\0");
        request.attribute(IFLA_MTU, &1400u32.to_ne_bytes());
        request.attribute(IFLA_LINKINFO | NESTED, &attribute(IFLA_INFO_KIND, b"bridge\0"));
        request.attribute(IFLA_IFALIAS, b"x");
        let expected = Link {
            index: 5,
            name: b"br0".to_vec(),
            kind: b"bridge".to_vec(),
            mtu: 1400,
            is_up: true,
            alias: b"x".to_vec(),
            ..Link::default()
        };
        let content = Content::Link(expected);
        assert_eq!(answers(&request.finish()), Some(vec![Answer { sequence: 7, is_whole: true, content }]));
    }

    /// What is passed over is not counted, so that a quota would be.
    #[test]
    fn an_answer_that_is_not_understood_in_full_is_none() {
        let mut request = Request::new(RTM_NEWLINK, 0, 7, 5, true);
        request.attribute(IFLA_IFALIAS, b"x");
        request.attribute(IFLA_MASTER, &9u32.to_ne_bytes());
        let good = request.finish();
        for length in 1..good.len() {
            assert_eq!(answers(&good[..length]), None, "cut at {length}");
            assert_eq!(answers(&[&good, &good[..length]].concat()), None, "the second cut at {length}");
        }
        let broken = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            answers(&bytes)
        };
        // A message of another kind, an attribute of no length, and one that is longer than what is there.
        assert_eq!((broken(4, 1), broken(32, 0), broken(32, 200)), (None, None, None));
    }

    /// As a network card that is a port of a bridge.
    #[test]
    fn a_link_without_a_kind_is_a_link() {
        let mut request = Request::new(RTM_NEWLINK, 0, 7, 5, true);
        request.attribute(IFLA_LINKINFO | NESTED, &attribute(4, b"bridge\0"));
        let content = Content::Link(Link { index: 5, is_up: true, ..Link::default() });
        assert_eq!(answers(&request.finish()), Some(vec![Answer { sequence: 7, is_whole: true, content }]));
    }

    #[test]
    fn changes_have_their_lengths_and_alignment() {
        let bytes = change(1, 3, &[Change::Alias(b"abc"), Change::Mtu(1500), Change::NoIpv6Address, Change::Up]);
        assert_eq!(u32_at(&bytes, 0), Some(bytes.len() as u32));
        let found = attributes(&bytes[32..]).unwrap();
        assert_eq!(found[0], (IFLA_IFALIAS, &b"abc"[..]));
        assert_eq!(found[1], (IFLA_MTU, &1500u32.to_ne_bytes()[..]));
        let (_, family) = attributes(found[2].1).unwrap()[0];
        assert_eq!(attributes(family).unwrap()[0], (IFLA_INET6_ADDR_GEN_MODE, &[1u8][..]));
    }

    /// CVE-2003-0856. Only root can send such a message at all.
    #[test]
    fn what_others_than_the_kernel_send_is_no_answer() {
        use nix::sys::socket::{getsockname, sendto};
        let mut socket = Socket::open().unwrap();
        let address: NetlinkAddr = getsockname(socket.socket.as_raw_fd()).unwrap();
        let forger = Socket::open().unwrap();
        let mut forged = Request::new(RTM_NEWLINK, 0, 1, 4711, true);
        forged.attribute(IFLA_IFNAME, b"lo\0");
        let _ = sendto(forger.socket.as_raw_fd(), &forged.finish(), &address, MsgFlags::empty());
        assert_eq!(socket.link(b"lo").unwrap().unwrap().index, 1);
    }

    proptest! {
        #[test]
        fn no_answer_is_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            answers(&bytes);
        }
    }
}
