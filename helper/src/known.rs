//! Whose a MAC address is, as far as the kernel knows.
#![forbid(unsafe_code)]

use crate::netlink::{Socket, attribute, attributes, not_understood, u32_at};
use nix::libc::{
    AF_BRIDGE, AF_INET, AF_INET6, EACCES, EAFNOSUPPORT, EAGAIN, EHOSTUNREACH, EINVAL, ENETUNREACH, ENOENT, EOPNOTSUPP,
};
use std::io;

// linux/rtnetlink.h and linux/neighbour.h.
const RTM_GETROUTE: u16 = 26;
const RTM_GETNEIGH: u16 = 30;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
/// A gateway of the other family (struct rtvia).
const RTA_VIA: u16 = 18;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_MASTER: u16 = 9;
/// struct rtmsg and struct ndmsg.
const HEADER: usize = 12;

/// Hosts that are elsewhere for everybody: a root name server. Nothing is sent to them.
const ELSEWHERE: [&[u8]; 2] = [&[198, 41, 0, 4], &[0x20, 1, 5, 3, 0xba, 0x3e, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0x30]];

/// The addresses of the routers through which the host sends to elsewhere, as far as it has heard them.
pub fn routers(socket: &mut Socket) -> io::Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    for host in ELSEWHERE {
        if let Some((link, gateway)) = gateway(socket, host)? {
            found.extend(neighbour(socket, link, &gateway)?);
        }
    }
    Ok(found)
}

/// The port at which the bridge has the address: the bridge itself, if it is its own; `None` if it does not say.
pub fn port_of(socket: &mut Socket, bridge: u32, mac: &[u8]) -> io::Result<Option<u32>> {
    let mut question = ndmsg(AF_BRIDGE, 0);
    question.extend(attribute(NDA_MASTER, &bridge.to_ne_bytes()));
    question.extend(attribute(NDA_LLADDR, mac));
    match known(socket.entry(RTM_GETNEIGH, &question), &[ENOENT])? {
        None => Ok(None),
        Some(entry) => u32_at(&entry, 4).map(Some).ok_or_else(not_understood),
    }
}

/// By which link and which router the host sends there.
fn gateway(socket: &mut Socket, host: &[u8]) -> io::Result<Option<(u32, Vec<u8>)>> {
    let mut question = vec![family(host) as u8, (host.len() * 8) as u8];
    question.resize(HEADER, 0);
    question.extend(attribute(RTA_DST, host));
    // What routes are answered with that lead nowhere, and what a kernel says that lacks the family.
    let none = [ENETUNREACH, EHOSTUNREACH, EACCES, EINVAL, EAGAIN, EOPNOTSUPP, EAFNOSUPPORT];
    let Some(route) = known(socket.entry(RTM_GETROUTE, &question), &none)? else { return Ok(None) };
    let all = route.get(HEADER..).and_then(attributes).ok_or_else(not_understood)?;
    let of = |wanted: u16| all.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
    let via = of(RTA_GATEWAY).or_else(|| of(RTA_VIA)?.get(2..));
    Ok(of(RTA_OIF).and_then(|link| u32_at(link, 0)).zip(via.map(<[u8]>::to_vec)))
}

/// The link-layer address of a neighbour, if the host has heard it.
fn neighbour(socket: &mut Socket, link: u32, address: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut question = ndmsg(family(address), link);
    question.extend(attribute(NDA_DST, address));
    let Some(entry) = known(socket.entry(RTM_GETNEIGH, &question), &[ENOENT])? else { return Ok(None) };
    let all = entry.get(HEADER..).and_then(attributes).ok_or_else(not_understood)?;
    Ok(all.iter().find(|(kind, _)| *kind == NDA_LLADDR).map(|(_, value)| value.to_vec()))
}

fn ndmsg(family: i32, link: u32) -> Vec<u8> {
    let mut message = vec![family as u8, 0, 0, 0];
    message.extend(link.to_ne_bytes());
    message.resize(HEADER, 0);
    message
}

fn family(address: &[u8]) -> i32 {
    if address.len() == 4 { AF_INET } else { AF_INET6 }
}

/// What was answered; none, if that was one of these errors.
fn known(answer: io::Result<Vec<u8>>, none: &[i32]) -> io::Result<Option<Vec<u8>>> {
    match answer {
        Err(error) if error.raw_os_error().is_some_and(|errno| none.contains(&errno)) => Ok(None),
        answer => answer.map(Some),
    }
}
