//! What can be asked of the kernel.
//!
//! Answers are read attribute by attribute, only what is asked for: a kernel whose other attributes the crate can't
//! parse is no reason to fail, and a launch does not pay for statistics.

use crate::netlink::{HEADER, Netlink, u16_at, u32_at};
use model::host::{Address, Kind, Link};
use model::ifname::IfName;
use model::mac::Mac;
use rtnetlink::packet_core::{NLM_F_DUMP, NlaBuffer, NlasIterator};
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourMessage};
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::io;
use std::net::IpAddr;

impl Netlink {
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
            // There is one, and what it is could not be read.
            Ok(()) if found.is_none() => Err(io::ErrorKind::InvalidData.into()),
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

    /// The links that stand on this one, as VLANs and macvlans do. A dump of all links, for where a bridge has to be made;
    /// `links` is never on the launch path.
    pub fn stacked_on(&mut self, index: u32) -> io::Result<Vec<Link>> {
        self.dump_links(LinkMessage::default(), |link| link.lower == Some(index))
    }

    /// All links: there may be thousands.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        self.dump_links(LinkMessage::default(), |_| true)
    }

    fn dump_links(&mut self, message: LinkMessage, wanted: impl Fn(&Link) -> bool) -> io::Result<Vec<Link>> {
        whole_or_some(|links| {
            let mut is_read = true;
            let asked = self.ask(RouteNetlinkMessage::GetLink(message.clone()), NLM_F_DUMP, |answer| {
                let link = parse_link(answer.body);
                is_read &= link.is_some();
                links.extend(link.filter(&wanted));
            });
            // One that is left out would not be counted.
            if is_read { asked } else { Err(io::ErrorKind::InvalidData.into()) }
        })
    }

    /// The host's addresses on a link. One that is there and can't be read is an error.
    pub fn addresses(&mut self, index: u32) -> io::Result<Vec<Address>> {
        whole(|| {
            let (mut found, mut is_read) = (Vec::new(), true);
            self.ask(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP, |answer| {
                if u32_at(answer.body, 4) == Some(index) {
                    let address = parse_address(answer.body);
                    is_read &= address.is_some();
                    found.extend(address);
                }
            })?;
            if is_read { Ok(found) } else { Err(io::Error::other("an address that can't be read")) }
        })
    }

    pub(super) fn dump_routes(&mut self, family: AddressFamily, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        self.ask(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP, |answer| each(answer.body))
    }

    /// The interfaces that the default routes of the main table lead to: IPv4's before IPv6's, the preferred ones first.
    pub fn default_interfaces(&mut self) -> io::Result<Vec<u32>> {
        whole(|| self.default_interfaces_now())
    }

    fn default_interfaces_now(&mut self) -> io::Result<Vec<u32>> {
        let mut interfaces = self.defaults_of(AddressFamily::Inet)?;
        interfaces.extend(self.defaults_of(AddressFamily::Inet6)?);
        Ok(interfaces)
    }

    /// Whether there is a default route of IPv6.
    pub fn has_way_out_by_ipv6(&mut self) -> io::Result<bool> {
        whole(|| self.defaults_of(AddressFamily::Inet6)).map(|defaults| !defaults.is_empty())
    }

    fn defaults_of(&mut self, family: AddressFamily) -> io::Result<Vec<u32>> {
        const RTN_UNICAST: u8 = 1;
        const RTA_OIF: u16 = 4;
        const RTA_PRIORITY: u16 = 6;
        const RTA_MULTIPATH: u16 = 9;
        let mut found = Vec::new();
        self.dump_routes(family, |body| {
            let (prefix, table, kind) = (body.get(1), body.get(4), body.get(7));
            let attributes = body.get(12..).unwrap_or_default();
            let number = |kind| attribute(attributes, kind).and_then(|value| u32_at(value, 0));
            // Of several next hops (struct rtnexthop) the first.
            let hop = attribute(attributes, RTA_MULTIPATH).and_then(|hops| u32_at(hops, 4));
            if let (Some(0), Some(&libc::RT_TABLE_MAIN), Some(&RTN_UNICAST)) = (prefix, table, kind)
                && let Some(interface) = number(RTA_OIF).or(hop)
            {
                found.push((number(RTA_PRIORITY).unwrap_or_default(), interface));
            }
        })?;
        found.sort_unstable();
        Ok(found.into_iter().map(|(_, oif)| oif).collect())
    }

    /// The gateway of the IPv4 default route by this link.
    pub fn gateway(&mut self, index: u32) -> io::Result<Option<IpAddr>> {
        const RTA_OIF: u16 = 4;
        const RTA_GATEWAY: u16 = 5;
        whole(|| {
            let mut found = None;
            self.dump_routes(AddressFamily::Inet, |body| {
                let attributes = body.get(12..).unwrap_or_default();
                let oif = attribute(attributes, RTA_OIF).and_then(|value| u32_at(value, 0));
                if body.get(1) == Some(&0) && oif == Some(index) && found.is_none() {
                    found = attribute(attributes, RTA_GATEWAY).and_then(ip_of);
                }
            })?;
            Ok(found)
        })
    }

    /// Whether the bridge's forwarding database knows this address.
    pub fn fdb_has(&mut self, bridge: u32, mac: Mac) -> io::Result<bool> {
        self.fdb_entry(bridge, mac, false, |_| true)
    }

    /// Whether a bridge holds this address on this port, whoever says that it is elsewhere (NUD_NOARP and NTF_STICKY of
    /// linux/neighbour.h). A kernel that can't be asked for one address does not tell: `true`.
    pub fn fdb_holds(&mut self, bridge: u32, port: u32, mac: Mac) -> io::Result<bool> {
        const NUD_NOARP: u16 = 0x40;
        const NTF_STICKY: u8 = 0x40;
        // struct ndmsg: ndm_ifindex, ndm_state, ndm_flags.
        self.fdb_entry(bridge, mac, true, |body| {
            u32_at(body, 4) == Some(port)
                && u16_at(body, 8).is_some_and(|state| state & NUD_NOARP != 0)
                && body.get(10).is_some_and(|flags| flags & NTF_STICKY != 0)
        })
    }

    /// Whether a bridge's forwarding database has an address, with an entry that is `wanted`; `untold` where the kernel can't be
    /// asked for one address.
    fn fdb_entry(&mut self, bridge: u32, mac: Mac, untold: bool, wanted: impl Fn(&[u8]) -> bool) -> io::Result<bool> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.attributes.push(NeighbourAttribute::Controller(bridge));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        let mut found = false;
        let asked = self.ask(RouteNetlinkMessage::GetNeighbour(message), 0, |answer| found = wanted(answer.body));
        match asked {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(untold),
            done => done.map(|()| found),
        }
    }
}

/// Text up to the final NUL.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(b"\0").unwrap_or(bytes)).into_owned()
}

fn attributes(bytes: &[u8]) -> impl Iterator<Item = NlaBuffer<&[u8]>> {
    NlasIterator::new(bytes).map_while(Result::ok)
}

pub(super) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|found| found.kind() == kind).map(value_of)
}

/// The value of an attribute, for as long as its message lives.
fn value_of<'a>(attribute: NlaBuffer<&'a [u8]>) -> &'a [u8] {
    let length = attribute.value_length();
    let bytes: &'a [u8] = attribute.into_inner();
    bytes.get(4..4 + length).unwrap_or_default()
}

/// A struct ifinfomsg and its attributes (linux/if_link.h).
pub(super) fn parse_link(body: &[u8]) -> Option<Link> {
    const ARPHRD_ETHER: u16 = 1;
    let flags = u32_at(body, 8)?;
    let mut link = Link {
        is_ethernet: u16_at(body, 2)? == ARPHRD_ETHER,
        is_up: flags & libc::IFF_UP as u32 != 0,
        is_promiscuous: flags & libc::IFF_PROMISC as u32 != 0,
        ..Link::bare(u32_at(body, 4)?, IfName::seen(String::new()))
    };
    let mut is_lower_elsewhere = false;
    for attribute in attributes(body.get(HEADER..)?) {
        let kind = attribute.kind();
        let value = value_of(attribute);
        match kind {
            libc::IFLA_LINK_NETNSID => is_lower_elsewhere = true,
            libc::IFLA_IFNAME => link.name = IfName::seen(text(value)),
            libc::IFLA_ADDRESS => link.mac = value.try_into().ok().map(Mac),
            libc::IFLA_MTU => link.mtu = u32_at(value, 0)?,
            libc::IFLA_LINK => link.lower = u32_at(value, 0),
            libc::IFLA_MASTER => link.controller = u32_at(value, 0),
            libc::IFLA_CARRIER => link.has_carrier = value.first() == Some(&1),
            libc::IFLA_IFALIAS => link.alias = Some(text(value)),
            libc::IFLA_LINKINFO => link.kind = parse_kind(value),
            _ => {}
        }
    }
    // Its index is one of another network namespace.
    link.lower = link.lower.filter(|_| !is_lower_elsewhere);
    Some(link)
}

/// IFLA_LINKINFO; for a TAP with the flags that IFLA_TUN_* of linux/if_link.h tell.
fn parse_kind(info: &[u8]) -> Kind {
    const IFLA_INFO_KIND: u16 = 1;
    const IFLA_INFO_DATA: u16 = 2;
    const IFLA_TUN_TYPE: u16 = 3;
    const IFLA_TUN_PERSIST: u16 = 6;
    const IFLA_TUN_MULTI_QUEUE: u16 = 7;
    const IFLA_MACVLAN_MODE: u16 = 1;
    const MACVLAN_MODE_PASSTHRU: u32 = 8;
    const IFLA_BOND_MODE: u16 = 1;
    const BOND_MODE_TLB: u8 = 5;
    const BOND_MODE_ALB: u8 = 6;
    let data = attribute(info, IFLA_INFO_DATA).unwrap_or_default();
    let byte = |kind| attribute(data, kind).and_then(|value| value.first().copied()).unwrap_or_default();
    match attribute(info, IFLA_INFO_KIND).map(text).as_deref() {
        None => Kind::Card,
        Some("bridge") => Kind::Bridge,
        Some("tun") if i32::from(byte(IFLA_TUN_TYPE)) == libc::IFF_TAP => {
            Kind::Tap { is_persistent: byte(IFLA_TUN_PERSIST) != 0, is_multi_queue: byte(IFLA_TUN_MULTI_QUEUE) != 0 }
        }
        Some("macvlan")
            if attribute(data, IFLA_MACVLAN_MODE).and_then(|mode| u32_at(mode, 0)) == Some(MACVLAN_MODE_PASSTHRU) =>
        {
            Kind::Other("macvlan passthru".to_owned())
        }
        Some("bond") if matches!(byte(IFLA_BOND_MODE), BOND_MODE_TLB | BOND_MODE_ALB) => {
            Kind::Other("bond balance".to_owned())
        }
        Some(other) => Kind::Other(other.to_owned()),
    }
}

/// Asks again while others make changes in the midst of an answer (`ResourceBusy`).
pub(super) fn whole<T>(mut ask: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..50 {
        match ask() {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
            answer => return answer,
        }
    }
    ask()
}

/// The same of a list. Where somebody makes and deletes links without end, what was there of it in the last answer has to do: it
/// lacks what comes and goes. An empty list is told of only if it is whole: none is what a bridge is deleted for.
pub(super) fn whole_or_some<T>(mut ask: impl FnMut(&mut Vec<T>) -> io::Result<()>) -> io::Result<Vec<T>> {
    let mut found = Vec::new();
    let mut answer = Ok(());
    for _ in 0..50 {
        found.clear();
        answer = ask(&mut found);
        if !answer.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy) {
            break;
        }
    }
    match answer {
        Err(error) if error.kind() != io::ErrorKind::ResourceBusy || found.is_empty() => Err(error),
        _ => Ok(found),
    }
}

/// An IP address.
pub(super) fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// A struct ifaddrmsg and its attributes (linux/if_addr.h).
pub(super) fn parse_address(body: &[u8]) -> Option<Address> {
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    const IFA_FLAGS: u16 = 8;
    const IFA_F_PERMANENT: u32 = 0x80;
    const RT_SCOPE_LINK: u8 = 253;
    let attributes = body.get(8..)?;
    // Of a point-to-point link IFA_ADDRESS is the other end's.
    let ip = attribute(attributes, IFA_LOCAL).or_else(|| attribute(attributes, IFA_ADDRESS)).and_then(ip_of)?;
    let flags = attribute(attributes, IFA_FLAGS).and_then(|flags| u32_at(flags, 0)).unwrap_or(u32::from(body[2]));
    let is_link_local = body[3] == RT_SCOPE_LINK && ip.is_ipv6();
    Some(Address { ip, prefix: body[1], expires: flags & IFA_F_PERMANENT == 0, is_link_local })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::from((4 + value.len() as u16).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// A link as the kernel tells it (linux/rtnetlink.h, linux/if_link.h), with what its driver tells of itself.
    fn told(kind: &str, data: &[u8]) -> Link {
        parse_link(&message(kind, data)).unwrap()
    }

    fn message(kind: &str, data: &[u8]) -> Vec<u8> {
        let info = [attribute(1, kind.as_bytes()), attribute(2, data)].concat();
        let mut message = vec![0, 0, 1, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        for (kind, value) in [
            (libc::IFLA_IFNAME, &b"up0\0"[..]),
            (libc::IFLA_ADDRESS, &[2, 0, 0, 0, 0, 1]),
            (libc::IFLA_MTU, &1500u32.to_ne_bytes()),
            (libc::IFLA_LINK, &10u32.to_ne_bytes()),
            (libc::IFLA_LINKINFO, &info),
        ] {
            message.extend(attribute(kind, value));
        }
        message
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn what_a_link_can_be_used_for_is_told_by_its_mode() {
        let kind = |kind: &str, data: &[u8]| match told(kind, data).kind {
            Kind::Other(kind) => kind,
            other => panic!("{other:?}"),
        };
        assert_eq!(kind("vlan", &attribute(1, &7u16.to_ne_bytes())), "vlan");
        assert_eq!(kind("bond", &attribute(1, &[1])), "bond");
        assert_eq!(kind("bond", &attribute(1, &[6])), "bond balance");
        assert_eq!(kind("macvlan", &attribute(1, &4u32.to_ne_bytes())), "macvlan");
        assert_eq!(kind("macvlan", &attribute(1, &8u32.to_ne_bytes())), "macvlan passthru");
        let vlan = told("vlan", &[]);
        assert_eq!((vlan.lower, vlan.index, vlan.is_ethernet, vlan.is_up), (Some(10), 5, true, true));
        // As a container has it, where the index is the host's.
        let message = [message("vlan", &[]), attribute(libc::IFLA_LINK_NETNSID, &0u32.to_ne_bytes())].concat();
        assert_eq!(parse_link(&message).unwrap().lower, None);
    }
}
