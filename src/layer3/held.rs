//! A stand-in for what the host has on an interface by IPv4, beside it and not in its place: the addresses as /32, and the
//! routes behind all others. Who has the interface anew neither takes it for its own nor is in its way.

use super::{Layer3, flags, is_ipv4, local, network, peer, text};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, CacheInfo};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use std::collections::HashSet;
use std::net::IpAddr;

/// Marks the routes of a stand-in: nobody's yet (linux/rtnetlink.h, /etc/iproute2/rt_protos).
const PROTOCOL: RouteProtocol = RouteProtocol::Other(107);
/// Behind the metrics that people and managers give.
const BEHIND: u32 = 0xffff_0000;
/// An address that stands alone.
const ALONE: u8 = 32;

impl Layer3 {
    /// The stand-in, on the interface of this index, whose addresses end after so many seconds.
    pub fn stand_in(&self, index: u32, seconds: u32) -> Self {
        let addresses = self.addresses.iter().filter(|address| is_of_network(address));
        let is_ipv4_route = |route: &&RouteMessage| route.header.address_family == AddressFamily::Inet;
        let routes = self.own_networks(index).chain(self.all_routes().filter(is_ipv4_route).map(behind));
        Self {
            addresses: addresses.map(|address| alone(address, seconds)).collect(),
            routes: routes.collect(),
            neighbours: self.neighbours.clone(),
            ..Self::default()
        }
    }

    /// The routes that come with its addresses.
    fn own_networks(&self, index: u32) -> impl Iterator<Item = RouteMessage> {
        let makes_one =
            |address: &&AddressMessage| is_of_network(address) && !flags(address).contains(AddressFlags::Noprefixroute);
        self.addresses.iter().filter(makes_one).filter_map(move |address| to_network(address, index))
    }

    /// What of a stand-in is needed: the addresses that `now` does not have, and the routes to where it has none.
    pub fn needed_in(&self, now: &Self) -> Self {
        let known: HashSet<_> = now.addresses.iter().map(local).collect();
        // Those that come with an address are not told apart.
        let of_addresses = now.own_networks(0).map(|route| target(&route));
        let networks: HashSet<_> = now.all_routes().map(target).chain(of_addresses).collect();
        let is_needed = |route: &&RouteMessage| !networks.contains(&target(route));
        let addresses: Vec<_> =
            self.addresses.iter().filter(|address| !known.contains(&local(address))).cloned().collect();
        let routes: Vec<_> = self.routes.iter().filter(is_needed).cloned().collect();
        // They go with the last address.
        let neighbours = if addresses.is_empty() { Vec::new() } else { self.neighbours.clone() };
        Self { addresses, routes, neighbours, ..Self::default() }
    }

    /// What of it is part of a stand-in: the marked routes, and addresses that stand alone beside themselves with a
    /// network, or for no longer than so many seconds.
    pub fn stand_ins(&self, seconds: u32) -> Self {
        let is_twin = |one: &AddressMessage| {
            self.addresses.iter().any(|other| local(other) == local(one) && other.header.prefix_len < ALONE)
        };
        let is_short = |one: &AddressMessage| {
            one.attributes
                .iter()
                .any(|part| matches!(part, AddressAttribute::CacheInfo(info) if info.ifa_valid <= seconds))
        };
        let is_alone =
            |one: &&AddressMessage| is_ipv4(one) && one.header.prefix_len == ALONE && is_short(one) && is_twin(one);
        let routes = self.all_routes().filter(|route| route.header.protocol == PROTOCOL).cloned().collect();
        Self { addresses: self.addresses.iter().filter(is_alone).cloned().collect(), routes, ..Self::default() }
    }
}

fn is_of_network(address: &AddressMessage) -> bool {
    is_ipv4(address) && address.header.prefix_len < ALONE && local(address) == peer(address)
}

fn target(route: &RouteMessage) -> (u8, u32, String) {
    (route.header.address_family.into(), text::table(route), text::destination(route))
}

fn alone(address: &AddressMessage, seconds: u32) -> AddressMessage {
    let mut alone = AddressMessage::default();
    alone.header.family = address.header.family;
    alone.header.scope = address.header.scope;
    alone.header.index = address.header.index;
    alone.header.prefix_len = ALONE;
    if let Some(ip) = local(address) {
        alone.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    }
    let mut info = CacheInfo::default();
    (info.ifa_valid, info.ifa_preferred) = (seconds, seconds);
    alone.attributes.push(AddressAttribute::CacheInfo(info));
    alone
}

/// The route to the network of an IPv4 address, as a part of a stand-in.
fn to_network(address: &AddressMessage, index: u32) -> Option<RouteMessage> {
    let IpAddr::V4(ip) = local(address)? else { return None };
    let (network, length) = network(address)?;
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.destination_prefix_length = length;
    route.header.table = text::RT_TABLE_MAIN as u8;
    route.header.scope = RouteScope::Link;
    route.header.kind = RouteType::Unicast;
    route.header.protocol = PROTOCOL;
    route.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet(network.into())),
        RouteAttribute::PrefSource(RouteAddress::Inet(ip)),
        RouteAttribute::Oif(index),
        RouteAttribute::Priority(BEHIND),
    ];
    Some(route)
}

/// A route behind all others to the same place.
fn behind(route: &RouteMessage) -> RouteMessage {
    let mut behind = route.clone();
    let metric = BEHIND + text::priority(route).min(u32::from(u16::MAX));
    behind.header.protocol = PROTOCOL;
    behind.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::Priority(_)));
    behind.attributes.push(RouteAttribute::Priority(metric));
    behind
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(addresses: &[&str]) -> Layer3 {
        let address = |text: &&str| {
            let (ip, length) = text.split_once('/').unwrap();
            let ip: IpAddr = ip.parse().unwrap();
            let mut address = AddressMessage::default();
            address.header.family = AddressFamily::Inet;
            address.header.prefix_len = length.parse().unwrap();
            address.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
            address
        };
        Layer3 { addresses: addresses.iter().map(address).collect(), ..Layer3::default() }
    }

    #[test]
    fn a_stand_in_is_beside_what_it_stands_for_and_is_told_from_it() {
        let all = with(&["10.0.0.2/24"]);
        let stand_in = all.stand_in(7, 5);
        assert_eq!(stand_in.address_texts(), ["10.0.0.2/32"]);
        assert_eq!(stand_in.routes.iter().map(text::destination).collect::<Vec<_>>(), ["10.0.0.0/24"]);
        assert!(stand_in.needed_in(&all).is_empty(), "it is not needed beside it");
        assert_eq!(stand_in.needed_in(&Layer3::default()), stand_in);
        let mut both = all.clone();
        both.add_missing(stand_in.clone());
        assert_eq!(both.stand_ins(5), stand_in);
        assert!(all.stand_ins(5).is_empty());
    }

    #[test]
    fn an_address_that_is_alone_anyway_has_none() {
        assert!(with(&["10.0.0.2/32"]).stand_in(7, 5).is_empty());
        assert_eq!(with(&["10.0.0.2/0"]).stand_in(7, 5).routes.len(), 1);
    }
}
