//! The requests that give an interface what another has, and take it away there.

use super::{End, Layer3, SETTABLE, TICKS, flags, gateway, has_end, is_ipv4, local, text};
use crate::name::IfName;
use rtnetlink::packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAttribute, RouteFlags, RouteMessage, RouteNextHopFlags};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage as Message};
use std::collections::HashSet;
use std::net::IpAddr;

/// A request, the flags to send it with, and the errnos that say that what it asks for is so already.
pub type Move = (Message, u16, &'static [i32]);

/// Already there: somebody, or the kernel itself, was faster.
const THERE: &[i32] = &[libc::EEXIST];
/// Already gone: most of it goes with an address.
const GONE: &[i32] = &[libc::ENOENT, libc::ESRCH, libc::EADDRNOTAVAIL, libc::ENODEV];

impl Layer3 {
    /// The same on another interface.
    pub fn at(&self, from: End, to: End) -> Self {
        let address = |address: &AddressMessage| address_at(address, from, to);
        let route = |route: &RouteMessage| route_at(route, from.index, to.index);
        let neighbour = |neighbour: &NeighbourMessage| {
            let mut new = neighbour.clone();
            new.header.ifindex = to.index;
            new
        };
        Self {
            addresses: self.addresses.iter().map(address).collect(),
            automatic: self.automatic.iter().map(address).collect(),
            routes: self.routes.iter().map(route).collect(),
            leading: self.leading.iter().map(route).collect(),
            neighbours: self.neighbours.iter().map(neighbour).collect(),
        }
    }

    /// The requests that move all of it.
    pub fn moves(&self, from: End, to: End) -> Vec<Move> {
        let there = self.at(from, to);
        // Neighbour discovery waits for the link's own address: one that was here has no duplicate there.
        let automatic = there.automatic.iter().flat_map(arrival);
        automatic.chain(there.arrivals()).chain(self.departures()).collect()
    }

    /// The requests after which the interface that it speaks of has all of it.
    pub fn arrivals(&self) -> Vec<Move> {
        let replace = NLM_F_CREATE | NLM_F_REPLACE;
        let (ipv4, ipv6): (Vec<_>, Vec<_>) = self.addresses.iter().partition(|address| is_ipv4(address));
        // The kernel puts a new IPv6 address before the others of its scope.
        let addresses = ipv4.into_iter().chain(ipv6.into_iter().rev());
        let mut moves: Vec<Move> = addresses.flat_map(arrival).collect();
        // A gateway is only accepted once it can be reached. Routes to the same place keep their order.
        let with_gateway: HashSet<_> =
            self.all_routes().filter(|route| gateway(&route.attributes).is_some()).map(text::place).collect();
        let is_by_gateway = |route: &&RouteMessage| with_gateway.contains(&text::place(route));
        for by_gateway in [false, true] {
            for route in self.routes.iter().filter(|route| is_by_gateway(route) == by_gateway) {
                moves.push((Message::NewRoute(request(route)), NLM_F_CREATE | NLM_F_APPEND, THERE));
            }
            // Without NLM_F_APPEND before all others to the same place; not the one that came with an address and stands
            // behind them.
            for route in self.leading.iter().rev().filter(|route| is_by_gateway(route) == by_gateway) {
                moves.push((Message::DelRoute(request(route)), 0, GONE));
                moves.push((Message::NewRoute(request(route)), NLM_F_CREATE, THERE));
            }
        }
        for neighbour in &self.neighbours {
            moves.push((Message::NewNeighbour(neighbour_request(neighbour)), replace, THERE));
        }
        moves
    }

    /// The requests after which it is gone from where it was told to be.
    pub fn departures(&self) -> Vec<Move> {
        let neighbours = self.neighbours.iter().map(|neighbour| {
            let neighbour = neighbour_request(neighbour);
            (Message::DelNeighbour(neighbour), 0, GONE)
        });
        let routes = self.all_routes().map(|route| (Message::DelRoute(request(route)), 0, GONE));
        // The last one first: an IPv4 address takes its secondary ones along.
        let addresses = self.addresses.iter().rev().map(|address| {
            let mut address = address.clone();
            let is_name =
                |part: &AddressAttribute| matches!(part, AddressAttribute::Local(_) | AddressAttribute::Address(_));
            address.attributes.retain(is_name);
            (Message::DelAddress(address), 0, GONE)
        });
        neighbours.chain(routes).chain(addresses).collect()
    }

    /// The request after which an address lives for so many seconds.
    pub fn prolonging(&self, ip: IpAddr, seconds: u32) -> Option<Move> {
        let mut address = self.addresses.iter().find(|address| local(address) == Some(ip))?.clone();
        for attribute in &mut address.attributes {
            if let AddressAttribute::CacheInfo(info) = attribute {
                info.ifa_valid = seconds;
                info.ifa_preferred = seconds;
            }
        }
        address.attributes.retain(|attribute| !matches!(attribute, AddressAttribute::Label(_)));
        Some((Message::NewAddress(address), NLM_F_REPLACE, &[]))
    }

    /// The requests after which the kernel tells anew of the addresses that it makes by itself.
    pub fn announcing(&self) -> Vec<Move> {
        self.automatic.iter().map(|address| (Message::NewAddress(address.clone()), NLM_F_REPLACE, THERE)).collect()
    }

    /// The `ip` commands that move it; neighbours are learnt again when it is done by hand.
    pub fn commands(&self, from: End, to: End) -> Vec<Vec<String>> {
        let arrive = self.at(from, to).arrivals().into_iter().filter_map(|(message, flags, _)| match message {
            Message::NewAddress(address) if is_first(&address) => Some(text::add_address(&address, to.name)),
            Message::NewRoute(route) => Some(text::add_route(&route, to, flags & NLM_F_APPEND != 0)),
            _ => None,
        });
        let leave = self.departures().into_iter().filter_map(|(message, ..)| match message {
            Message::DelAddress(address) => Some(text::delete_address(&address, from.name)),
            Message::DelRoute(route) => Some(text::delete_route(&route, from)),
            _ => None,
        });
        arrive.chain(leave).collect()
    }
}

/// The requests that give an interface an address. An IPv6 one arrives without waiting for duplicates to answer, if it
/// had waited before; the second request takes the mark of that away.
fn arrival(address: &AddressMessage) -> Vec<Move> {
    let is_unsure = flags(address).intersects(AddressFlags::Tentative | AddressFlags::Dadfailed);
    let at_once = address_request(address, !is_ipv4(address) && !is_unsure);
    let as_it_was = address_request(address, false);
    let second = (as_it_was != at_once).then_some((Message::NewAddress(as_it_was), NLM_F_REPLACE, THERE));
    [Some((Message::NewAddress(at_once), NLM_F_CREATE | NLM_F_REPLACE, THERE)), second].into_iter().flatten().collect()
}

/// Whether a request is the one that a person would type, of the two that an IPv6 address takes.
fn is_first(address: &AddressMessage) -> bool {
    is_ipv4(address) || flags(address).contains(AddressFlags::Nodad)
}

fn address_at(address: &AddressMessage, from: End, to: End) -> AddressMessage {
    let mut new = address.clone();
    new.header.index = to.index;
    new.attributes.retain_mut(|attribute| match attribute {
        AddressAttribute::Label(label) => match label.strip_prefix(from.name.as_str()) {
            Some(rest) if to.name.as_str().len() + rest.len() <= IfName::MAX => {
                *label = format!("{}{rest}", to.name);
                true
            }
            _ => false,
        },
        _ => true,
    });
    new
}

/// An address as a request.
fn address_request(address: &AddressMessage, at_once: bool) -> AddressMessage {
    let mut wanted = flags(address) & SETTABLE;
    if at_once {
        wanted |= AddressFlags::Nodad;
    }
    let mut new = address.clone();
    new.header.flags = AddressHeaderFlags::from_bits_retain(wanted.bits() as u8);
    new.attributes.retain(|attribute| {
        !matches!(attribute, AddressAttribute::Flags(_) | AddressAttribute::Multicast(_) | AddressAttribute::Anycast(_))
    });
    new.attributes.push(AddressAttribute::Flags(wanted));
    new
}

/// A route whose next hops on interface `from` are on `to`.
fn route_at(route: &RouteMessage, from: u32, to: u32) -> RouteMessage {
    let mut new = route.clone();
    for attribute in &mut new.attributes {
        match attribute {
            RouteAttribute::Oif(oif) if *oif == from => *oif = to,
            RouteAttribute::MultiPath(hops) => {
                hops.iter_mut().filter(|hop| hop.interface_index == from).for_each(|hop| hop.interface_index = to);
            }
            _ => {}
        }
    }
    new
}

/// A route as a request: what only an answer has is left out.
fn request(route: &RouteMessage) -> RouteMessage {
    let mut new = route.clone();
    new.header.flags &= RouteFlags::Onlink;
    let attributes = new.attributes.into_iter().filter_map(|attribute| match attribute {
        RouteAttribute::MultiPath(mut hops) => {
            hops.iter_mut().for_each(|hop| hop.flags &= RouteNextHopFlags::Onlink);
            Some(RouteAttribute::MultiPath(hops))
        }
        // It is told so and has to be asked for otherwise.
        RouteAttribute::CacheInfo(info) if has_end(&info) => {
            Some(RouteAttribute::Expires(((info.expires + TICKS / 2) / TICKS).max(1)))
        }
        // What an admin gave a bridge by an object of its own (`ip nexthop`) the kernel tells in full beside it; the
        // object goes with the bridge. An uplink that has such a route is not taken.
        RouteAttribute::CacheInfo(_) | RouteAttribute::MfcStats(_) | RouteAttribute::NhId(_) => None,
        other => Some(other),
    });
    new.attributes = attributes.collect();
    new
}

/// The same route for a kernel that does not find its gateway on the link. It was let in when there was another route to
/// it; a second time it has to be asked for like this. `None` for a route that has no gateway.
pub fn onlink(route: &RouteMessage) -> Option<RouteMessage> {
    gateway(&route.attributes)?;
    let mut new = route.clone();
    new.header.flags |= RouteFlags::Onlink;
    for attribute in &mut new.attributes {
        if let RouteAttribute::MultiPath(hops) = attribute {
            let with_gateway = hops.iter_mut().filter(|hop| gateway(&hop.attributes).is_some());
            with_gateway.for_each(|hop| hop.flags |= RouteNextHopFlags::Onlink);
        }
    }
    Some(new)
}

/// A neighbour as a request. One that is being probed is good until the probe fails.
fn neighbour_request(neighbour: &NeighbourMessage) -> NeighbourMessage {
    let mut new = neighbour.clone();
    if matches!(new.header.state, NeighbourState::Delay | NeighbourState::Probe) {
        new.header.state = NeighbourState::Stale;
    }
    new.header.flags &= NeighbourFlags::Router | NeighbourFlags::Proxy | NeighbourFlags::ExtLearned;
    let is_wanted = |part: &NeighbourAttribute| {
        matches!(
            part,
            NeighbourAttribute::Destination(_)
                | NeighbourAttribute::LinkLayerAddress(_)
                | NeighbourAttribute::Protocol(_)
        )
    };
    new.attributes.retain(is_wanted);
    new
}

/// Asks the kernel to find out anew whether a neighbour is there (NUD_PROBE), or, of one that it does not know, to
/// look for it (NTF_USE).
pub fn probe(neighbour: IpAddr, known: Option<&NeighbourMessage>, index: u32) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = index;
    message.header.family = match neighbour {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.attributes.push(NeighbourAttribute::Destination(match neighbour {
        IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
        IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
    }));
    let address = known
        .and_then(|known| known.attributes.iter().find(|part| matches!(part, NeighbourAttribute::LinkLayerAddress(_))));
    match address {
        Some(address) => {
            message.header.state = NeighbourState::Probe;
            message.header.flags =
                known.map_or(NeighbourFlags::empty(), |known| known.header.flags & NeighbourFlags::Router);
            message.attributes.push(address.clone());
        }
        None => message.header.flags = NeighbourFlags::Use,
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_whose_duplicate_was_found_has_to_wait_for_answers_again() {
        let asked = |known: AddressFlags| {
            let mut address = AddressMessage::default();
            address.attributes.push(AddressAttribute::Address(IpAddr::from([0xfd77u16, 0, 0, 0, 0, 0, 0, 1])));
            address.attributes.push(AddressAttribute::Flags(known));
            let requests = arrival(&address).into_iter().map(|(message, ..)| match message {
                Message::NewAddress(address) => flags(&address).contains(AddressFlags::Nodad),
                _ => false,
            });
            requests.collect::<Vec<bool>>()
        };
        assert_eq!(asked(AddressFlags::Permanent), [true, false], "at once, and then without the mark of it");
        assert_eq!(asked(AddressFlags::Permanent | AddressFlags::Tentative | AddressFlags::Dadfailed), [false]);
        assert_eq!(asked(AddressFlags::Tentative), [false]);
    }
}
