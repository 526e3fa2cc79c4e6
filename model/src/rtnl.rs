//! What the kernel says of links, addresses, routes, neighbours and filters (rtnetlink(7)), read; and the parts of requests that
//! are written byte by byte.
//! It may not know a socket.
//!
//! Answers are read attribute by attribute, only what is asked for: other attributes that a kernel has are no reason to
//! fail, and a launch does not pay for statistics.
#![forbid(unsafe_code)]

pub mod detail;
pub mod link;
pub mod network;
pub mod tc;

use std::io;
use std::net::IpAddr;

/// The header of every netlink message (struct nlmsghdr) and of every link message behind it (struct ifinfomsg).
const HEADER: usize = 16;
/// NLA_F_NESTED: attributes are in it.
pub const NESTED: u16 = 1 << 15;
/// Of linux/netlink.h: what a dump goes through has changed meanwhile.
const NLM_F_DUMP_INTR: u16 = 0x10;

/// One answer: its type, and what follows its header.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    kind: u16,
    flags: u16,
    /// The number of the request that it is for.
    pub sequence: u32,
    /// What follows.
    pub body: &'a [u8],
}

impl Answer<'_> {
    /// Whether it is of a dump through which a change went.
    pub fn is_interrupted(&self) -> bool {
        self.flags & NLM_F_DUMP_INTR != 0
    }

    /// How a request ended: NLMSG_ERROR with an errno or with zero, or NLMSG_DONE. `None` for data.
    pub fn outcome(&self) -> Option<io::Result<()>> {
        const NLMSG_ERROR: u16 = 2;
        const NLMSG_DONE: u16 = 3;
        const EINVAL: i32 = 22;
        if !matches!(self.kind, NLMSG_ERROR | NLMSG_DONE) {
            return None;
        }
        Some(match u32_at(self.body, 0).map(|code| code as i32) {
            Some(code) if code < 0 => Err(io::Error::from_raw_os_error(code.checked_neg().unwrap_or(EINVAL))),
            Some(_) => Ok(()),
            // The end of a dump may come alone; of a request it would say nothing.
            None if self.kind == NLMSG_DONE => Ok(()),
            None => Err(io::ErrorKind::InvalidData.into()),
        })
    }
}

/// Splits a datagram.
pub fn answers(datagram: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let (length, kind, flags, sequence) =
            (u32_at(rest, 0)? as usize, u16_at(rest, 4)?, u16_at(rest, 6)?, u32_at(rest, 8)?);
        let body = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Answer { kind, flags, sequence, body })
    })
}

/// Reads a datagram as each of the answers that it may be; for `properties`.
pub(crate) fn read_as_anything(datagram: &[u8]) {
    for answer in answers(datagram) {
        let _ = answer.outcome();
        let _ = link::parse(answer.body);
        let _ = link::vni(answer.body);
        let _ = network::address(answer.body);
        let _ = network::route(answer.body);
        let _ = network::is_held(answer.body, 1);
        let _ = network::fdb_entry(answer.body, 1);
        let _ = network::neighbour(answer.body, 1);
        let _ = detail::parse(answer.body);
        let _ = tc::parse(answer.body);
        let _ = tc::ingress_qdisc(answer.body, 1);
        let _ = tc::port_qdisc(answer.body);
        let _ = network::vlans(answer.body);
    }
}

/// A number in the machine's own order.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// A longer one.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Text up to the final NUL.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(b"\0").unwrap_or(bytes)).into_owned()
}

/// The attributes of a message (struct nlattr), each with its kind, up to one that is cut off.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// Without NLA_F_NESTED and NLA_F_NET_BYTEORDER.
    const KIND: u16 = 0x3fff;
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = u16_at(rest, 0)? as usize;
        let (kind, value) = (u16_at(rest, 2)? & KIND, rest.get(4..length)?);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first of one kind.
fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// The number that it is.
fn number(bytes: &[u8], kind: u16) -> Option<u32> {
    u32_at(attribute(bytes, kind)?, 0)
}

/// The address that it is.
fn ip(bytes: &[u8], kind: u16) -> Option<IpAddr> {
    let bytes = attribute(bytes, kind)?;
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// Adds an attribute, at a multiple of four bytes.
pub fn push(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend((4 + value.len() as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}
