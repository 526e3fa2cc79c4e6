//! What can be asked of the kernel. Answers are read in `model::rtnl`.

use crate::netlink::Netlink;
use model::host::{Address, Link};
use model::ifname::IfName;
use model::mac::Mac;
use model::nat::subnet::Ipv4Net;
use model::rtnl::detail::{self, Detail};
use model::rtnl::network::{self, FdbEntry, Neighbour, PortVlans, Route};
use model::rtnl::{link, u32_at};
use rtnetlink::packet_core::NLM_F_DUMP;
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
        match self.ask(RouteNetlinkMessage::GetLink(message), 0, |answer| found = link::parse(answer.body)) {
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
                let link = link::parse(answer.body);
                is_read &= link.is_some();
                links.extend(link.filter(&wanted));
            });
            // One that is left out would not be counted.
            if is_read { asked } else { Err(io::ErrorKind::InvalidData.into()) }
        })
    }

    /// The VLANs of all ports of bridges.
    pub fn port_vlans(&mut self) -> io::Result<Vec<(u32, PortVlans)>> {
        let mut message = LinkMessage::default();
        message.header.interface_family = AddressFamily::Bridge;
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::BrvlanCompressed]));
        whole(|| {
            let mut found = Vec::new();
            self.ask(RouteNetlinkMessage::GetLink(message.clone()), NLM_F_DUMP, |answer| {
                found.extend(network::vlans(answer.body));
            })?;
            Ok(found)
        })
    }

    /// The host's addresses on a link. One that is there and can't be read is an error.
    pub fn addresses(&mut self, index: u32) -> io::Result<Vec<Address>> {
        whole(|| {
            let (mut found, mut is_read) = (Vec::new(), true);
            self.ask(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP, |answer| {
                if u32_at(answer.body, 4) == Some(index) {
                    let address = network::address(answer.body);
                    is_read &= address.is_some();
                    found.extend(address);
                }
            })?;
            if is_read { Ok(found) } else { Err(io::Error::other("an address that can't be read")) }
        })
    }

    /// All of the host's addresses, each with the index of its link.
    pub fn all_addresses(&mut self) -> io::Result<Vec<(u32, Address)>> {
        whole(|| {
            let mut found = Vec::new();
            self.ask(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP, |answer| {
                found.extend(u32_at(answer.body, 4).zip(network::address(answer.body)));
            })?;
            Ok(found)
        })
    }

    /// All VXLAN devices of one VNI each, with that.
    pub fn vxlans(&mut self) -> io::Result<Vec<(IfName, u32)>> {
        whole(|| {
            let mut found = Vec::new();
            self.ask(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP, |answer| {
                found.extend(link::vni(answer.body));
            })?;
            Ok(found)
        })
    }

    fn dump_routes(&mut self, family: AddressFamily, mut each: impl FnMut(Route)) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        self.ask(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP, |answer| {
            if let Some(route) = network::route(answer.body) {
                each(route);
            }
        })
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
        let mut found = Vec::new();
        self.dump_routes(family, |route| {
            if route.is_usual && route.prefix == 0 {
                found.extend(route.link.or(route.hop).map(|link| (route.priority, link)));
            }
        })?;
        found.sort_unstable();
        Ok(found.into_iter().map(|(_, link)| link).collect())
    }

    /// The gateway of the IPv4 default route by this link.
    pub fn gateway(&mut self, index: u32) -> io::Result<Option<IpAddr>> {
        whole(|| {
            let mut found = None;
            self.dump_routes(AddressFamily::Inet, |route| {
                if route.prefix == 0 && route.link == Some(index) {
                    found = found.or(route.gateway);
                }
            })?;
            Ok(found)
        })
    }

    /// Whether the bridge's forwarding database knows this address.
    pub fn fdb_has(&mut self, bridge: u32, mac: Mac) -> io::Result<bool> {
        self.fdb_entry(bridge, mac, false, |_| true)
    }

    /// Whether a bridge holds this address on this port, whoever says that it is elsewhere. A kernel that can't be asked for one
    /// address does not tell: `true`.
    pub fn fdb_holds(&mut self, bridge: u32, port: u32, mac: Mac) -> io::Result<bool> {
        self.fdb_entry(bridge, mac, true, |body| network::is_held(body, port))
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

    /// All IPv4 networks that the host has a route to or an address in, of all tables of routes, but for those on one link.
    pub fn networks(&mut self, but: Option<u32>) -> io::Result<Vec<Ipv4Net>> {
        whole(|| {
            let mut found = Vec::new();
            self.dump_routes(AddressFamily::Inet, |route| {
                let is_asked_for = but.is_none() || route.link != but;
                if let (Some(IpAddr::V4(address)), true) = (route.to, is_asked_for) {
                    found.push(Ipv4Net::of(address, route.prefix));
                }
            })?;
            // One on a link that is down has no route.
            self.ask(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP, |answer| {
                let address = network::address(answer.body).filter(|_| u32_at(answer.body, 4) != but);
                if let Some(IpAddr::V4(ip)) = address.map(|address| address.ip) {
                    found.push(Ipv4Net::of(ip, address.map_or(32, |address| address.prefix)));
                }
            })?;
            found.sort_unstable();
            found.dedup();
            Ok(found)
        })
    }
}

/// What only people ask about: a port's counters, a bridge's settings, its forwarding database, the host's neighbours. All of
/// them are dumps, and none is ever on the launch path.
impl Netlink {
    /// All links, in detail.
    pub fn details(&mut self) -> io::Result<Vec<Detail>> {
        whole_or_some(|found| {
            self.ask(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP, |answer| {
                found.extend(detail::parse(answer.body));
            })
        })
    }

    /// The forwarding database of a bridge.
    pub fn fdb(&mut self, bridge: u32) -> io::Result<Vec<FdbEntry>> {
        self.dump_neighbours(&[AddressFamily::Bridge], |body| network::fdb_entry(body, bridge))
    }

    /// The neighbours that the host knows on a link, by their Ethernet addresses.
    pub fn neighbours(&mut self, index: u32) -> io::Result<Vec<Neighbour>> {
        self.dump_neighbours(&[AddressFamily::Inet, AddressFamily::Inet6], |body| network::neighbour(body, index))
    }

    fn dump_neighbours<T>(
        &mut self,
        families: &[AddressFamily],
        wanted: impl Fn(&[u8]) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        whole(|| {
            let mut found = Vec::new();
            for family in families {
                let mut message = NeighbourMessage::default();
                message.header.family = *family;
                self.ask(RouteNetlinkMessage::GetNeighbour(message), NLM_F_DUMP, |answer| {
                    found.extend(wanted(answer.body));
                })?;
            }
            Ok(found)
        })
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
fn whole_or_some<T>(mut ask: impl FnMut(&mut Vec<T>) -> io::Result<()>) -> io::Result<Vec<T>> {
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
