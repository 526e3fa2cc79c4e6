//! Addresses, routes, and neighbours (linux/if_addr.h, linux/rtnetlink.h, linux/neighbour.h).

use crate::host::Address;
use crate::mac::Mac;
use crate::rtnl::{HEADER, attribute, attributes, ip, number, u16_at, u32_at};
// Without a clock.
use core::time::Duration;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// A struct ifaddrmsg and its attributes.
pub fn address(body: &[u8]) -> Option<Address> {
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    const IFA_FLAGS: u16 = 8;
    const IFA_F_PERMANENT: u32 = 0x80;
    const RT_SCOPE_LINK: u8 = 253;
    let attributes = body.get(8..)?;
    // Of a point-to-point link IFA_ADDRESS is the other end's.
    let ip = ip(attributes, IFA_LOCAL).or_else(|| ip(attributes, IFA_ADDRESS))?;
    let flags = number(attributes, IFA_FLAGS).unwrap_or(u32::from(body[2]));
    let is_link_local = body[3] == RT_SCOPE_LINK && ip.is_ipv6();
    Some(Address { ip, prefix: body[1], expires: flags & IFA_F_PERMANENT == 0, is_link_local })
}

/// A route of the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The network that it leads to, if it is not all.
    pub to: Option<IpAddr>,
    /// The length of that network's prefix.
    pub prefix: u8,
    /// Whether it is one of the main table's by which frames go out.
    pub is_usual: bool,
    /// The link that it leads by.
    pub link: Option<u32>,
    /// Of several next hops, the link of the first.
    pub hop: Option<u32>,
    /// The gateway.
    pub gateway: Option<IpAddr>,
    /// Its metric: the lowest is preferred.
    pub priority: u32,
}

/// A struct rtmsg and its attributes.
pub fn route(body: &[u8]) -> Option<Route> {
    const RT_TABLE_MAIN: u8 = 254;
    const RTN_UNICAST: u8 = 1;
    const RTA_DST: u16 = 1;
    const RTA_OIF: u16 = 4;
    const RTA_GATEWAY: u16 = 5;
    const RTA_PRIORITY: u16 = 6;
    const RTA_MULTIPATH: u16 = 9;
    let attributes = body.get(12..)?;
    Some(Route {
        to: ip(attributes, RTA_DST),
        prefix: body[1],
        is_usual: (body[4], body[7]) == (RT_TABLE_MAIN, RTN_UNICAST),
        link: number(attributes, RTA_OIF),
        // A struct rtnexthop.
        hop: attribute(attributes, RTA_MULTIPATH).and_then(|hops| u32_at(hops, 4)),
        gateway: ip(attributes, RTA_GATEWAY),
        priority: number(attributes, RTA_PRIORITY).unwrap_or_default(),
    })
}

/// Who is behind which port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FdbEntry {
    /// Who.
    pub mac: Mac,
    /// The port's index.
    pub port: u32,
    /// Whether it is an address of the host's own (NUD_PERMANENT), and was not learnt.
    pub is_own: bool,
}

/// Somebody whom the host knows by an IP address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// The address.
    pub ip: IpAddr,
    /// Whose it is, or was.
    pub mac: Mac,
    /// Whether the host holds it to be reachable now (NUD_REACHABLE, NUD_DELAY, NUD_PROBE).
    pub is_fresh: bool,
    /// Whether an admin said so (NUD_PERMANENT).
    pub is_given: bool,
    /// How long ago it last answered.
    pub confirmed: Option<Duration>,
}

/// The VLANs that a port is in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortVlans {
    /// That of frames that come in without a tag; they are dropped where there is none.
    pub untagged: Option<u16>,
    /// The others.
    pub others: Vec<RangeInclusive<u16>>,
}

impl PortVlans {
    /// Whether it is in this one.
    pub fn has(&self, vlan: u16) -> bool {
        self.ranges().any(|range| range.contains(&vlan))
    }

    /// Whether both are in one, or neither in any, as on a bridge that does not filter.
    pub fn meets(&self, other: &Self) -> bool {
        let shared =
            |own: RangeInclusive<u16>| other.ranges().any(|its| own.start() <= its.end() && its.start() <= own.end());
        *self == *other || self.ranges().any(shared)
    }

    fn ranges(&self) -> impl Iterator<Item = RangeInclusive<u16>> {
        self.untagged.map(|vlan| vlan..=vlan).into_iter().chain(self.others.iter().cloned())
    }
}

impl fmt::Display for PortVlans {
    /// As `vlan=` has them; `-` stands for none.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.untagged {
            Some(untagged) => write!(out, "{untagged}")?,
            None => write!(out, "-")?,
        }
        port::write_tagged(out, &self.others)
    }
}

/// A port, and its VLANs: a struct ifinfomsg of the bridge's family.
pub fn vlans(body: &[u8]) -> Option<(u32, PortVlans)> {
    const IFLA_AF_SPEC: u16 = 26;
    const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
    const BRIDGE_VLAN_INFO_PVID: u16 = 2;
    const BRIDGE_VLAN_INFO_RANGE_BEGIN: u16 = 8;
    let (index, mut first, mut vlans) = (u32_at(body, 4)?, None, PortVlans::default());
    for (kind, info) in attributes(attribute(body.get(HEADER..)?, IFLA_AF_SPEC)?) {
        let (Some(flags), Some(vlan)) = (u16_at(info, 0), u16_at(info, 2)) else { continue };
        match () {
            () if kind != IFLA_BRIDGE_VLAN_INFO => {}
            () if flags & BRIDGE_VLAN_INFO_PVID != 0 => vlans.untagged = Some(vlan),
            () if flags & BRIDGE_VLAN_INFO_RANGE_BEGIN != 0 => first = Some(vlan),
            () => vlans.others.push(first.take().unwrap_or(vlan)..=vlan),
        }
    }
    Some((index, vlans))
}

const NUD_PERMANENT: u16 = 0x80;

/// The number of its link and its state, and the attributes of a struct ndmsg.
fn parts(body: &[u8]) -> Option<(u32, u16, &[u8])> {
    Some((u32_at(body, 4)?, u16_at(body, 8)?, body.get(12..)?))
}

/// NDA_LLADDR.
fn mac(attributes: &[u8]) -> Option<Mac> {
    attribute(attributes, 2)?.try_into().ok().map(Mac)
}

/// An entry of a bridge's forwarding database, if it is this bridge's.
pub fn fdb_entry(body: &[u8], bridge: u32) -> Option<FdbEntry> {
    const NDA_MASTER: u16 = 9;
    let (port, state, attributes) = parts(body)?;
    let entry = FdbEntry { mac: mac(attributes)?, port, is_own: state & NUD_PERMANENT != 0 };
    (number(attributes, NDA_MASTER) == Some(bridge)).then_some(entry)
}

/// Whether an entry of a forwarding database is held on this port, whoever says that it is elsewhere (NUD_NOARP and
/// NTF_STICKY).
pub fn is_held(body: &[u8], port: u32) -> bool {
    const NUD_NOARP: u16 = 0x40;
    const NTF_STICKY: u8 = 0x40;
    parts(body).is_some_and(|(on, state, _)| on == port && state & NUD_NOARP != 0 && body[10] & NTF_STICKY != 0)
}

/// A neighbour that the host knows on this link, and who has answered.
pub fn neighbour(body: &[u8], link: u32) -> Option<Neighbour> {
    const NDA_DST: u16 = 1;
    const NDA_CACHEINFO: u16 = 3;
    /// NUD_REACHABLE, NUD_DELAY and NUD_PROBE.
    const FRESH: u16 = 0x02 | 0x08 | 0x10;
    /// NUD_INCOMPLETE, NUD_FAILED and NUD_NOARP: nobody has answered.
    const UNKNOWN: u16 = 0x01 | 0x20 | 0x40;
    let (on, state, attributes) = parts(body)?;
    // struct nda_cacheinfo, in clock ticks, which userspace counts a hundred of in a second.
    let ticks = number(attributes, NDA_CACHEINFO);
    let neighbour = Neighbour {
        ip: ip(attributes, NDA_DST)?,
        mac: mac(attributes)?,
        is_fresh: state & FRESH != 0,
        is_given: state & NUD_PERMANENT != 0,
        confirmed: ticks.map(|ticks| Duration::from_millis(u64::from(ticks) * 10)),
    };
    (on == link && state & UNKNOWN == 0).then_some(neighbour)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_meet_in_a_vlan_of_both_or_where_there_are_none() {
        let port = |untagged, others: &[RangeInclusive<u16>]| PortVlans { untagged, others: others.to_vec() };
        let (none, access, trunk) = (port(None, &[]), port(Some(10), &[]), port(Some(1), &[5..=9, 20..=30]));
        for (one, other, expected) in [
            (&none, &none, true),
            (&access, &access, true),
            (&access, &trunk, false),
            (&port(Some(25), &[]), &trunk, true),
            (&port(Some(2), &[8..=12]), &trunk, true),
            (&port(Some(2), &[10..=19]), &trunk, false),
            (&none, &access, false),
        ] {
            assert_eq!((one.meets(other), other.meets(one)), (expected, expected), "{one} {other}");
        }
    }
}
