//! What is put back on an interface from which somebody takes it, for a short time.

use super::{Layer3, gateway, local, text};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use std::collections::HashSet;
use std::net::IpAddr;

impl Layer3 {
    /// The same with leases that end within so many seconds, if nobody gives them another time before. Not addresses without
    /// an end, whose owner may take the time that it finds for its own.
    pub fn for_a_time(mut self, seconds: u32) -> Self {
        for attribute in self.addresses.iter_mut().flat_map(|address| &mut address.attributes) {
            if let AddressAttribute::CacheInfo(info) = attribute
                && info.ifa_valid != u32::MAX
            {
                info.ifa_valid = info.ifa_valid.min(seconds);
                info.ifa_preferred = info.ifa_preferred.min(seconds);
            }
        }
        self
    }

    /// The addresses, and the routes by their places, that `there` has none of, whatever else is to be said of them;
    /// with the neighbours that it does not know. What IPv6 has on each link by itself is left to it.
    pub fn lacking_in(&self, there: &Self) -> Self {
        let addresses: HashSet<_> = there.addresses.iter().map(local).collect();
        let places: HashSet<_> = there.all_routes().map(text::place).collect();
        let known: Vec<_> = there.neighbours.iter().map(destination).collect();
        let address = |address: &&AddressMessage| !addresses.contains(&local(address));
        let route = |route: &&RouteMessage| !places.contains(&text::place(route)) && !is_of_link(route);
        let neighbour = |neighbour: &&NeighbourMessage| !known.contains(&destination(neighbour));
        Self {
            addresses: self.addresses.iter().filter(address).cloned().collect(),
            automatic: Vec::new(),
            routes: self.routes.iter().filter(route).cloned().collect(),
            leading: self.leading.iter().filter(route).cloned().collect(),
            neighbours: self.neighbours.iter().filter(neighbour).cloned().collect(),
        }
    }

    /// Of the routes that this has, those to whose destination `now` has others too, and of the addresses those in whose
    /// network it has others: somebody gave them in their place.
    pub fn displaced_in(&self, now: &Self) -> Self {
        let identity = |route: &RouteMessage| (text::place(route), gateway(&route.attributes));
        let target = |route: &RouteMessage| {
            (u8::from(route.header.address_family), text::table(route), text::destination(route))
        };
        let own: HashSet<_> = self.all_routes().map(identity).collect();
        let others: HashSet<_> = now.all_routes().filter(|route| !own.contains(&identity(route))).map(target).collect();
        let routes = self.all_routes().filter(|route| others.contains(&target(route))).cloned().collect();
        let own: HashSet<_> = self.addresses.iter().map(local).collect();
        let others: HashSet<_> =
            now.addresses.iter().filter(|address| !own.contains(&local(address))).filter_map(network).collect();
        let is_displaced = |address: &&AddressMessage| network(address).is_some_and(|known| others.contains(&known));
        let addresses = self.addresses.iter().filter(is_displaced).cloned().collect();
        Self { addresses, routes, ..Self::default() }
    }
}

/// The network of an IPv4 address, of which a host has one there.
fn network(address: &AddressMessage) -> Option<(u32, u8)> {
    let length = address.header.prefix_len;
    match local(address)? {
        IpAddr::V4(ip) => Some((u32::from(ip) & u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0), length)),
        IpAddr::V6(_) => None,
    }
}

fn destination(neighbour: &NeighbourMessage) -> Option<&NeighbourAttribute> {
    neighbour.attributes.iter().find(|part| matches!(part, NeighbourAttribute::Destination(_)))
}

/// Whether a route is to the addresses that IPv6 makes for each link.
fn is_of_link(route: &RouteMessage) -> bool {
    let to = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(ip.is_unicast_link_local()),
        _ => None,
    });
    route.header.address_family == AddressFamily::Inet6 && to.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(addresses: &[&str]) -> Layer3 {
        let address = |text: &&str| {
            let (ip, length) = text.split_once('/').unwrap();
            let mut address = AddressMessage::default();
            address.header.prefix_len = length.parse().unwrap();
            address.attributes.push(AddressAttribute::Local(ip.parse().unwrap()));
            address
        };
        Layer3 { addresses: addresses.iter().map(address).collect(), ..Layer3::default() }
    }

    #[test]
    fn what_is_lacking_is_told_by_its_address_alone() {
        let all = with(&["10.0.0.2/24", "10.0.0.3/24"]);
        assert_eq!(all.lacking_in(&with(&["10.0.0.2/16"])), with(&["10.0.0.3/24"]));
        assert_eq!(all.lacking_in(&all), Layer3::default());
    }

    #[test]
    fn an_address_goes_for_another_one_in_its_network() {
        let all = with(&["10.0.0.2/24", "10.0.1.2/24", "10.0.2.2/32"]);
        assert_eq!(all.displaced_in(&with(&["10.0.0.2/24", "10.0.0.9/24"])), with(&["10.0.0.2/24"]));
        assert_eq!(all.displaced_in(&all), Layer3::default());
        assert_eq!(with(&["1.2.3.4/0"]).displaced_in(&with(&["10.0.0.9/0"])), with(&["1.2.3.4/0"]));
    }
}
