//! What is put back on an interface from which somebody takes it, for a short time.

use super::{Layer3, gateway, local, text};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, CacheInfo};
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use std::collections::HashSet;

impl Layer3 {
    /// The same with addresses that end within so many seconds, if nobody gives them another time before.
    pub fn for_a_time(mut self, seconds: u32) -> Self {
        for address in &mut self.addresses {
            let times = address.attributes.iter_mut().find_map(|attribute| match attribute {
                AddressAttribute::CacheInfo(info) => Some(info),
                _ => None,
            });
            match times {
                Some(info) => {
                    info.ifa_valid = info.ifa_valid.min(seconds);
                    info.ifa_preferred = info.ifa_preferred.min(seconds);
                }
                None => {
                    let mut info = CacheInfo::default();
                    (info.ifa_valid, info.ifa_preferred) = (seconds, seconds);
                    address.attributes.push(AddressAttribute::CacheInfo(info));
                }
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

    /// Of the routes that this has, those to whose destination `now` has others too: somebody gave them in their place.
    pub fn displaced_in(&self, now: &Self) -> Self {
        let identity = |route: &RouteMessage| (text::place(route), gateway(&route.attributes));
        let target = |route: &RouteMessage| {
            (u8::from(route.header.address_family), text::table(route), text::destination(route))
        };
        let own: HashSet<_> = self.all_routes().map(identity).collect();
        let others: HashSet<_> = now.all_routes().filter(|route| !own.contains(&identity(route))).map(target).collect();
        let routes = self.all_routes().filter(|route| others.contains(&target(route))).cloned().collect();
        Self { routes, ..Self::default() }
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
