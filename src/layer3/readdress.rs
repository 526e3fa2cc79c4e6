//! The same host under another address of DHCP's.
#![forbid(unsafe_code)]

use super::{Layer3, gateway, local, network};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use std::net::{IpAddr, Ipv4Addr};

/// An address, and what a DHCP server tells with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    /// The address.
    pub address: Ipv4Addr,
    /// The length of its network's prefix.
    pub prefix: u8,
    /// The way out, if there is one.
    pub router: Option<Ipv4Addr>,
    /// How long it is given for, in seconds.
    pub seconds: u32,
}

impl Layer3 {
    /// The part of this that an address brings along: itself, its network, and the routes by gateways in that.
    pub fn part_of(&self, address: Ipv4Addr) -> Self {
        let Some(own) = self.addresses.iter().find(|own| local(own) == Some(address.into())) else {
            return Self::default();
        };
        let is_part = |route: &&RouteMessage| {
            route.header.address_family == AddressFamily::Inet
                && (source(route) == Some(address)
                    || matches!(gateway(&route.attributes), Some(IpAddr::V4(ip)) if is_in(ip, own)))
        };
        Self {
            addresses: vec![own.clone()],
            routes: self.all_routes().filter(is_part).cloned().collect(),
            ..Self::default()
        }
    }

    /// The first IPv4 address that has an end.
    pub fn leased(&self) -> Option<Ipv4Addr> {
        let has_end = |address: &&AddressMessage| {
            let ends = |part: &AddressAttribute| matches!(part, AddressAttribute::CacheInfo(info) if info.ifa_valid != u32::MAX);
            address.attributes.iter().any(ends)
        };
        self.addresses.iter().filter(has_end).find_map(|address| match local(address)? {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        })
    }

    /// A part of that kind with what was given now in place of what was then. Routes by a gateway go by the new one, or
    /// not at all.
    pub fn with_given(&self, given: &Given) -> Self {
        let Some(old) = self.addresses.first() else { return Self::default() };
        let mut new = old.clone();
        new.header.prefix_len = given.prefix;
        let ip = IpAddr::from(given.address);
        new.attributes.retain_mut(|attribute| match attribute {
            AddressAttribute::Local(own) | AddressAttribute::Address(own) => {
                *own = ip;
                true
            }
            AddressAttribute::Broadcast(broadcast) => {
                *broadcast = Ipv4Addr::from(u32::from(given.address) | !mask(given.prefix));
                true
            }
            AddressAttribute::CacheInfo(info) => {
                (info.ifa_valid, info.ifa_preferred) = (given.seconds, given.seconds);
                true
            }
            _ => true,
        });
        let routes = self.routes.iter().filter_map(|route| route_with(route, old, given));
        Self { addresses: vec![new], routes: routes.collect(), ..Self::default() }
    }
}

fn route_with(route: &RouteMessage, old: &AddressMessage, given: &Given) -> Option<RouteMessage> {
    let mut route = route.clone();
    let is_to_network = destination(&route).map(u32::from) == network(old).map(|(network, _)| network)
        && route.header.destination_prefix_length == old.header.prefix_len;
    if is_to_network {
        route.header.destination_prefix_length = given.prefix;
    }
    for attribute in &mut route.attributes {
        match attribute {
            RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => *ip = given.address,
            RouteAttribute::Destination(RouteAddress::Inet(ip)) if is_to_network => {
                *ip = Ipv4Addr::from(u32::from(given.address) & mask(given.prefix));
            }
            // One of several gateways is not told by DHCP.
            RouteAttribute::MultiPath(_) => return None,
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) if is_in(*ip, old) => *ip = given.router?,
            _ => {}
        }
    }
    Some(route)
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32_u32.saturating_sub(prefix.into())).unwrap_or(0)
}

fn is_in(ip: Ipv4Addr, address: &AddressMessage) -> bool {
    network(address).is_some_and(|(network, prefix)| u32::from(ip) & mask(prefix) == network)
}

fn source(route: &RouteMessage) -> Option<Ipv4Addr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => Some(*ip),
        _ => None,
    })
}

fn destination(route: &RouteMessage) -> Option<Ipv4Addr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(*ip),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_address_brings_along_goes_to_the_next_one() {
        let ip = |last| Ipv4Addr::new(10, 77, 0, last);
        let mut address = AddressMessage::default();
        address.header.prefix_len = 24;
        address.attributes = vec![
            AddressAttribute::Local(ip(9).into()),
            AddressAttribute::Address(ip(9).into()),
            AddressAttribute::Broadcast(ip(255)),
        ];
        let mut route = RouteMessage::default();
        route.header.address_family = AddressFamily::Inet;
        let mut to_network = route.clone();
        to_network.header.destination_prefix_length = 24;
        to_network.attributes = vec![
            RouteAttribute::Destination(RouteAddress::Inet(ip(0))),
            RouteAttribute::PrefSource(RouteAddress::Inet(ip(9))),
        ];
        let mut others = route.clone();
        others.attributes = vec![RouteAttribute::Gateway(RouteAddress::Inet(Ipv4Addr::new(192, 168, 0, 1)))];
        route.attributes = vec![RouteAttribute::Gateway(RouteAddress::Inet(ip(1)))];
        let all = Layer3 { addresses: vec![address], routes: vec![to_network, route, others], ..Layer3::default() };
        let part = all.part_of(ip(9));
        assert_eq!(part.routes.len(), 2, "the third one is not by its network");
        let new = Ipv4Addr::new(10, 78, 1, 7);
        let router = Ipv4Addr::new(10, 78, 0, 1);
        let given = Given { address: new, prefix: 16, router: Some(router), seconds: 60 };
        let there = part.with_given(&given);
        assert_eq!(there.address_texts(), ["10.78.1.7/16"]);
        assert_eq!(destination(&there.routes[0]), Some(Ipv4Addr::new(10, 78, 0, 0)));
        assert_eq!((source(&there.routes[0]), there.routes[0].header.destination_prefix_length), (Some(new), 16));
        assert_eq!(gateway(&there.routes[1].attributes), Some(router.into()));
        assert_eq!(part.with_given(&Given { router: None, ..given }).routes.len(), 1, "no way out was given");
        assert_eq!(all.part_of(ip(8)), Layer3::default());
    }
}
