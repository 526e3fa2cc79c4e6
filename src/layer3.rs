//! What a host has on one interface above Ethernet: addresses, routes and neighbours, and how it goes to another one.
//!
//! The messages are the kernel's own, kept as it told them: what this program has no name for goes along. In one send
//! everything first arrives and then leaves, so that at no moment there is no address and no route, and no kill can come
//! in between.
#![forbid(unsafe_code)]

mod text;

use crate::name::IfName;
use rtnetlink::packet_core::{Emitable, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE, Parseable};
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol, AddressScope,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteCacheInfo, RouteFlags, RouteMessage, RouteNextHopFlags, RouteProtocol, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage as Message};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::HashSet;
use std::net::IpAddr;

/// What one interface has. Empty for one that takes no part in IP.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer3 {
    /// Its addresses.
    #[serde(with = "hexadecimal")]
    pub addresses: Vec<AddressMessage>,
    /// The addresses that IPv6 makes for each link by itself: none of them is missed.
    #[serde(with = "hexadecimal", default)]
    pub automatic: Vec<AddressMessage>,
    /// The routes of all tables that lead through it, without those that the kernel makes for addresses.
    #[serde(with = "hexadecimal")]
    pub routes: Vec<RouteMessage>,
    /// Neighbours whose Ethernet address is known, and those that it answers for.
    #[serde(with = "hexadecimal")]
    pub neighbours: Vec<NeighbourMessage>,
}

/// One end of a move.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// The interface's index.
    pub index: u32,
    /// Its name.
    pub name: &'a IfName,
}

/// A request, the flags to send it with, and the errnos that say that what it asks for is so already.
pub type Move = (Message, u16, &'static [i32]);

/// Already there: somebody, or the kernel itself, was faster.
const THERE: &[i32] = &[libc::EEXIST];
/// Or nothing that an interface which an admin set down would have.
const THERE_OR_DOWN: &[i32] = &[libc::EEXIST, libc::ENETDOWN];
/// Already gone: most of it goes with an address.
const GONE: &[i32] = &[libc::ENOENT, libc::ESRCH, libc::EADDRNOTAVAIL, libc::ENODEV];

impl Layer3 {
    /// Adds what a dump tells, if it is on this interface.
    pub fn add_address(&mut self, message: AddressMessage, index: u32) {
        if message.header.index == index {
            if is_automatic(&message) { &mut self.automatic } else { &mut self.addresses }.push(message);
        }
    }

    /// As `add_address`, without what the kernel makes by itself. A route of several next hops counts if one of them is
    /// on the interface.
    pub fn add_route(&mut self, mut message: RouteMessage, index: u32) {
        if message.header.address_family == AddressFamily::Inet6 {
            // IPv6 has each next hop as a route of its own (ip6_route_multipath_add), IPv4 all of them as one.
            for attribute in &mut message.attributes {
                if let RouteAttribute::MultiPath(hops) = attribute {
                    hops.retain(|hop| hop.interface_index == index);
                }
            }
        }
        let is_here = |attribute: &RouteAttribute| match attribute {
            RouteAttribute::Oif(oif) => *oif == index,
            RouteAttribute::MultiPath(hops) => hops.iter().any(|hop| hop.interface_index == index),
            _ => false,
        };
        let is_kernels = message.header.protocol == RouteProtocol::Kernel && message.header.kind != RouteType::Unicast;
        if !is_kernels && !message.header.flags.contains(RouteFlags::Cloned) && message.attributes.iter().any(is_here) {
            self.routes.push(message);
        }
    }

    /// As `add_address`.
    pub fn add_neighbour(&mut self, message: NeighbourMessage, index: u32) {
        use NeighbourState::{Delay, Permanent, Probe, Reachable, Stale};
        let is_known = matches!(message.header.state, Reachable | Stale | Delay | Probe | Permanent);
        if message.header.ifindex == index && (is_known || message.header.flags.contains(NeighbourFlags::Proxy)) {
            self.neighbours.push(message);
        }
    }

    /// To be called when all is added: leaves out the routes that come by themselves with an address.
    pub fn complete(&mut self) {
        let Self { addresses, automatic, routes, .. } = self;
        let has_no_route = |address: &AddressMessage| flags(address).contains(AddressFlags::Noprefixroute);
        // NetworkManager makes them itself and calls them the kernel's.
        let is_made_for_address = |route: &RouteMessage| {
            let mut those = addresses.iter().filter(|address| has_no_route(address));
            those.any(|address| text::is_prefix_route(route, address))
        };
        let comes_with_address = |route: &RouteMessage| {
            let mut those = addresses.iter().filter(|address| !has_no_route(address)).chain(automatic.iter());
            those.any(|address| text::is_prefix_route(route, address))
        };
        routes.retain(|route| {
            route.header.protocol != RouteProtocol::Kernel
                || !comes_with_address(route) && (is_made_for_address(route) || text::is_from_advertisement(route))
        });
    }

    /// Whether there is nothing that would be missed.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.routes.is_empty()
    }

    /// The addresses, as `10.0.0.1/8`.
    pub fn address_texts(&self) -> Vec<String> {
        self.addresses.iter().map(text::address_with_prefix).collect()
    }

    /// Whether an address has an end, as DHCP gives them. IPv6 addresses of a whole prefix have theirs from router
    /// advertisements, to which the kernel itself listens.
    pub fn has_leases(&self) -> bool {
        let ends = |attribute: &AddressAttribute| match attribute {
            AddressAttribute::CacheInfo(info) => info.ifa_valid != u32::MAX,
            _ => false,
        };
        let is_dhcps = |address: &&AddressMessage| is_ipv4(address) || address.header.prefix_len == 128;
        self.addresses.iter().filter(is_dhcps).flat_map(|address| &address.attributes).any(ends)
    }

    /// A route that can't be moved by itself: it names a next hop that is an object of its own (`ip nexthop`).
    pub fn fixed_route(&self) -> Option<String> {
        let names_object = |route: &&RouteMessage| {
            route.attributes.iter().any(|attribute| matches!(attribute, RouteAttribute::NhId(id) if *id != 0))
        };
        self.routes.iter().find(names_object).map(text::destination)
    }

    /// The metric of its first IPv4 default route, where it has one.
    pub fn default_metric(&self) -> Option<u32> {
        let is_default = |route: &&RouteMessage| {
            route.header.address_family == AddressFamily::Inet && route.header.destination_prefix_length == 0
        };
        self.routes.iter().find(is_default).map(text::priority).filter(|metric| *metric != 0)
    }

    /// How long an address lives; `None` if it is not there.
    pub fn seconds_left(&self, ip: IpAddr) -> Option<u32> {
        let address = self.addresses.iter().find(|address| local(address) == Some(ip))?;
        let left = address.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::CacheInfo(info) => Some(info.ifa_valid),
            _ => None,
        });
        Some(left.unwrap_or(u32::MAX))
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

    /// The gateways of its default routes.
    pub fn default_gateways(&self) -> Vec<IpAddr> {
        let defaults = self.routes.iter().filter(|route| route.header.destination_prefix_length == 0);
        let mut gateways: Vec<IpAddr> = defaults.filter_map(|route| gateway(&route.attributes)).collect();
        gateways.dedup();
        gateways
    }

    /// The requests that move all of it.
    pub fn moves(&self, from: End, to: End) -> Vec<Move> {
        // Neighbour discovery waits for the link's own address: one that was here has no duplicate there.
        let automatic = self.automatic.iter().flat_map(|address| arrival(address, from, to));
        automatic.chain(self.arrivals(from, to)).chain(self.departures()).collect()
    }

    /// The requests after which the other interface has all of it too.
    pub fn arrivals(&self, from: End, to: End) -> Vec<Move> {
        let replace = NLM_F_CREATE | NLM_F_REPLACE;
        let (ipv4, ipv6): (Vec<_>, Vec<_>) = self.addresses.iter().partition(|address| is_ipv4(address));
        // The kernel puts a new IPv6 address before the others of its scope.
        let addresses = ipv4.into_iter().chain(ipv6.into_iter().rev());
        let mut moves: Vec<Move> = addresses.flat_map(|address| arrival(address, from, to)).collect();
        // A gateway is only accepted once it can be reached. Routes to the same place keep their order.
        let key = |route: &RouteMessage| (text::destination(route), text::table(route), text::priority(route));
        let with_gateway: HashSet<_> =
            self.routes.iter().filter(|route| gateway(&route.attributes).is_some()).map(key).collect();
        let (by_gateway, direct): (Vec<_>, Vec<_>) =
            self.routes.iter().partition(|route| with_gateway.contains(&key(route)));
        for route in direct.into_iter().chain(by_gateway) {
            let route = route_at(route, from.index, to.index);
            moves.push((Message::NewRoute(route), NLM_F_CREATE | NLM_F_APPEND, THERE_OR_DOWN));
        }
        for neighbour in &self.neighbours {
            moves.push((Message::NewNeighbour(neighbour_at(neighbour, to.index)), replace, THERE));
        }
        moves
    }

    /// The requests after which it is gone from where it was told to be.
    pub fn departures(&self) -> Vec<Move> {
        let neighbours = self.neighbours.iter().map(|neighbour| {
            let neighbour = neighbour_at(neighbour, neighbour.header.ifindex);
            (Message::DelNeighbour(neighbour), 0, GONE)
        });
        // Without an index to be changed, only what a request may not have goes.
        let routes = self.routes.iter().map(|route| (Message::DelRoute(route_at(route, 0, 0)), 0, GONE));
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

    /// What of this `there` lacks, for people; empty after a move. Neighbours come and go by themselves.
    pub fn missing_in(&self, there: &Self) -> Vec<String> {
        let addresses = self.addresses.iter().filter(|address| {
            !there
                .addresses
                .iter()
                .any(|other| local(other) == local(address) && other.header.prefix_len == address.header.prefix_len)
        });
        let key = |route: &RouteMessage| (text::destination(route), text::table(route), text::priority(route));
        let known: HashSet<_> = there.routes.iter().map(key).collect();
        let routes = self.routes.iter().filter(|route| !known.contains(&key(route)));
        addresses.map(text::address_with_prefix).chain(routes.map(text::destination)).collect()
    }

    /// The same as it is `seconds` later, without what has ended by then.
    pub fn aged(mut self, seconds: u32) -> Self {
        let left = |time: u32| if time == u32::MAX { time } else { time.saturating_sub(seconds) };
        self.addresses.retain_mut(|address| {
            address.attributes.iter_mut().all(|attribute| match attribute {
                AddressAttribute::CacheInfo(info) => {
                    info.ifa_valid = left(info.ifa_valid);
                    info.ifa_preferred = left(info.ifa_preferred);
                    info.ifa_valid > 0
                }
                _ => true,
            })
        });
        self.routes.retain_mut(|route| {
            route.attributes.iter_mut().all(|attribute| match attribute {
                RouteAttribute::CacheInfo(info) if has_end(info) => {
                    info.expires = info.expires.saturating_sub(seconds.saturating_mul(TICKS));
                    info.expires > 0
                }
                _ => true,
            })
        });
        self.neighbours.clear();
        self
    }

    /// The `ip` commands that move it; neighbours are learnt again when it is done by hand.
    pub fn commands(&self, from: End, to: End) -> Vec<Vec<String>> {
        let arrive = self.arrivals(from, to).into_iter().filter_map(|(message, ..)| match message {
            Message::NewAddress(address) if is_first(&address) => Some(text::add_address(&address, to.name)),
            Message::NewRoute(route) => Some(text::add_route(&route, to)),
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

/// The requests that give an interface an address. An IPv6 one arrives without waiting for duplicates to answer; the
/// second request takes the mark of that away.
fn arrival(address: &AddressMessage, from: End, to: End) -> Vec<Move> {
    let at_once = address_at(address, from, to, !is_ipv4(address));
    let as_it_was = address_at(address, from, to, false);
    let second = (as_it_was != at_once).then_some((Message::NewAddress(as_it_was), NLM_F_REPLACE, THERE));
    [Some((Message::NewAddress(at_once), NLM_F_CREATE | NLM_F_REPLACE, THERE)), second].into_iter().flatten().collect()
}

/// Whether a request is the one that a person would type, of the two that an IPv6 address takes.
fn is_first(address: &AddressMessage) -> bool {
    is_ipv4(address) || flags(address).contains(AddressFlags::Nodad)
}

/// IPv6 makes these for each link: they neither come along nor are missed.
fn is_automatic(address: &AddressMessage) -> bool {
    let is_link_local = !is_ipv4(address) && address.header.scope == AddressScope::Link;
    let protocol = address.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Protocol(protocol) => Some(*protocol),
        _ => None,
    });
    match protocol {
        Some(protocol) => is_link_local && protocol == AddressProtocol::LinkLocal,
        // Kernels before 5.18 do not tell. An interface identifier with ff:fe in its middle is made from a MAC.
        None => {
            let made_of_mac = |ip: IpAddr| match ip {
                IpAddr::V6(ip) => ip.octets()[11..13] == [0xff, 0xfe],
                IpAddr::V4(_) => false,
            };
            is_link_local && local(address).is_some_and(made_of_mac)
        }
    }
}

fn is_ipv4(address: &AddressMessage) -> bool {
    local(address).is_some_and(|ip| ip.is_ipv4())
}

/// IFA_LOCAL, else IFA_ADDRESS: without a peer they are the same.
fn local(address: &AddressMessage) -> Option<IpAddr> {
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| address.attributes.iter().find_map(wanted);
    find(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    })
    .or_else(|| peer(address))
}

fn peer(address: &AddressMessage) -> Option<IpAddr> {
    address.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    })
}

fn flags(address: &AddressMessage) -> AddressFlags {
    let all = address.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    all.unwrap_or(AddressFlags::from_bits_retain(address.header.flags.bits().into()))
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(ip)) => Some((*ip).into()),
        RouteAttribute::Gateway(RouteAddress::Inet6(ip)) => Some((*ip).into()),
        RouteAttribute::Via(via) => text::via_address(via),
        RouteAttribute::MultiPath(hops) => hops.iter().find_map(|hop| gateway(&hop.attributes)),
        _ => None,
    })
}

/// An address as a request for another interface: with the flags that can be asked for (inet6_rtm_newaddr of
/// net/ipv6/addrconf.c), the rest follows from its lifetimes.
fn address_at(address: &AddressMessage, from: End, to: End, at_once: bool) -> AddressMessage {
    let settable = AddressFlags::Nodad
        | AddressFlags::Homeaddress
        | AddressFlags::Managetempaddr
        | AddressFlags::Noprefixroute
        | AddressFlags::Mcautojoin;
    let mut wanted = flags(address) & settable;
    if at_once {
        wanted |= AddressFlags::Nodad;
    }
    let mut new = address.clone();
    new.header.index = to.index;
    new.header.flags = AddressHeaderFlags::from_bits_retain(wanted.bits() as u8);
    new.attributes.retain_mut(|attribute| match attribute {
        AddressAttribute::Label(label) => match label.strip_prefix(from.name.as_str()) {
            Some(rest) if to.name.as_str().len() + rest.len() <= IfName::MAX => {
                *label = format!("{}{rest}", to.name);
                true
            }
            _ => false,
        },
        AddressAttribute::Flags(_) | AddressAttribute::Multicast(_) | AddressAttribute::Anycast(_) => false,
        _ => true,
    });
    new.attributes.push(AddressAttribute::Flags(wanted));
    new
}

/// A route as a request: its next hops on interface `from` are on `to`. What only an answer has is left out.
fn route_at(route: &RouteMessage, from: u32, to: u32) -> RouteMessage {
    let mut new = route.clone();
    new.header.flags &= RouteFlags::Onlink;
    new.attributes =
        new.attributes.into_iter().filter_map(|attribute| route_attribute_at(attribute, from, to)).collect();
    new
}

/// Of a second (USER_HZ), in which the kernel tells when a route ends.
const TICKS: u32 = 100;

/// Whether a route has an end; the kernel tells zero or less of one that has none, or has reached it.
fn has_end(info: &RouteCacheInfo) -> bool {
    (1..=i32::MAX as u32).contains(&info.expires)
}

fn route_attribute_at(attribute: RouteAttribute, from: u32, to: u32) -> Option<RouteAttribute> {
    Some(match attribute {
        RouteAttribute::Oif(oif) if oif == from => RouteAttribute::Oif(to),
        RouteAttribute::MultiPath(mut hops) => {
            for hop in &mut hops {
                hop.flags &= RouteNextHopFlags::Onlink;
                if hop.interface_index == from {
                    hop.interface_index = to;
                }
            }
            RouteAttribute::MultiPath(hops)
        }
        // It is told so and has to be asked for otherwise.
        RouteAttribute::CacheInfo(info) if has_end(&info) => RouteAttribute::Expires((info.expires / TICKS).max(1)),
        RouteAttribute::CacheInfo(_) | RouteAttribute::MfcStats(_) => return None,
        other => other,
    })
}

/// A neighbour as a request. One that is being probed is good until the probe fails.
fn neighbour_at(neighbour: &NeighbourMessage, index: u32) -> NeighbourMessage {
    let mut new = neighbour.clone();
    new.header.ifindex = index;
    if matches!(new.header.state, NeighbourState::Delay | NeighbourState::Probe) {
        new.header.state = NeighbourState::Stale;
    }
    new.header.flags &= NeighbourFlags::Router | NeighbourFlags::Proxy;
    let is_name = |part: &NeighbourAttribute| {
        matches!(part, NeighbourAttribute::Destination(_) | NeighbourAttribute::LinkLayerAddress(_))
    };
    new.attributes.retain(is_name);
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
            message.attributes.push(address.clone());
        }
        None => message.header.flags = NeighbourFlags::Use,
    }
    message
}

/// Messages in a journal: the bytes that the kernel told them in, which are its ABI.
mod hexadecimal {
    use super::{Deserialize, Deserializer, Emitable, Parseable, Serialize, Serializer};
    use serde::de::Error;

    pub(super) fn serialize<M: Emitable, S: Serializer>(messages: &[M], to: S) -> Result<S::Ok, S::Error> {
        let text = |message: &M| {
            let mut bytes = vec![0; message.buffer_len()];
            message.emit(&mut bytes);
            bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        messages.iter().map(text).collect::<Vec<String>>().serialize(to)
    }

    pub(super) fn deserialize<'de, M: Parseable<[u8]>, D: Deserializer<'de>>(from: D) -> Result<Vec<M>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        let parse = |text: String| {
            let digits = text.as_bytes().chunks(2);
            let bytes = digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
            let bytes: Vec<u8> =
                bytes.collect::<Option<_>>().ok_or_else(|| D::Error::custom("no hexadecimal digits"))?;
            M::parse(&bytes).map_err(|error| D::Error::custom(error.to_string()))
        };
        texts.into_iter().map(parse).collect()
    }
}
