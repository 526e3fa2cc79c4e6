//! What a host has on one interface above Ethernet: addresses, routes and neighbours, and how it goes to another one.
//!
//! The messages are the kernel's own, kept as it told them: what this program has no name for goes along. In one send
//! everything first arrives and then leaves, so that at no moment there is no address and no route, and no kill can come
//! in between (`moves`).
#![forbid(unsafe_code)]

mod held;
mod moves;
mod readdress;
mod text;

pub use moves::{Move, onlink, probe};
pub use readdress::Given;

use crate::name::IfName;
use rtnetlink::packet_core::{Emitable, Parseable};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope};
use rtnetlink::packet_route::neighbour::{NeighbourFlags, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteCacheInfo, RouteFlags, RouteMessage, RouteProtocol,
};
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
    /// IPv4 routes that stand before those of other interfaces to the same place, at the same metric: the first one
    /// counts.
    #[serde(with = "hexadecimal", default, skip_serializing_if = "Vec::is_empty")]
    pub leading: Vec<RouteMessage>,
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

impl Layer3 {
    /// Adds what a dump tells, if it is on this interface.
    pub fn add_address(&mut self, message: AddressMessage, index: u32) {
        if message.header.index == index {
            if is_automatic(&message) { &mut self.automatic } else { &mut self.addresses }.push(message);
        }
    }

    /// As `add_address`, without the table in which the kernel notes its own addresses. A route of several next hops
    /// counts if one of them is on the interface. Whether it was added.
    pub fn add_route(&mut self, mut message: RouteMessage, index: u32) -> bool {
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
        let is_note = is_kernels(&message) && text::table(&message) == text::RT_TABLE_LOCAL;
        let counts =
            !is_note && !message.header.flags.contains(RouteFlags::Cloned) && message.attributes.iter().any(is_here);
        if counts {
            self.routes.push(message);
        }
        counts
    }

    /// As `add_address`.
    pub fn add_neighbour(&mut self, message: NeighbourMessage, index: u32) {
        use NeighbourState::{Delay, Permanent, Probe, Reachable, Stale};
        let is_known = matches!(message.header.state, Reachable | Stale | Delay | Probe | Permanent);
        if message.header.ifindex == index && (is_known || message.header.flags.contains(NeighbourFlags::Proxy)) {
            self.neighbours.push(message);
        }
    }

    /// To be called when all is added: tells apart the routes (by their numbers) that others follow, and leaves out those
    /// that come by themselves with an address.
    pub fn complete(&mut self, followed: &HashSet<usize>) {
        let routes = std::mem::take(&mut self.routes).into_iter().enumerate();
        let (leading, routes): (Vec<_>, Vec<_>) = routes.partition(|(number, _)| followed.contains(number));
        self.leading = leading.into_iter().map(|(_, route)| route).collect();
        let comes_along = |route: &RouteMessage| {
            is_kernels(route) && self.addresses.iter().chain(&self.automatic).any(|address| makes(address, route))
        };
        self.routes = routes.into_iter().map(|(_, route)| route).filter(|route| !comes_along(route)).collect();
    }

    /// Whether there is nothing that would be missed.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.all_routes().next().is_none()
    }

    fn all_routes(&self) -> impl Iterator<Item = &RouteMessage> {
        self.leading.iter().chain(&self.routes)
    }

    /// The addresses, as `10.0.0.1/8`.
    pub fn address_texts(&self) -> Vec<String> {
        self.addresses.iter().map(text::address_with_prefix).collect()
    }

    /// Whether it has an IPv4 address.
    pub fn has_ipv4(&self) -> bool {
        self.addresses.iter().any(is_ipv4)
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
        self.all_routes().find(names_object).map(text::destination)
    }

    /// Whether there are IPv4 routes that say of themselves that they are of a DHCP client.
    pub fn has_routes_of_dhcp(&self) -> bool {
        let is_of_dhcp = |route: &RouteMessage| {
            route.header.address_family == AddressFamily::Inet && route.header.protocol == RouteProtocol::Dhcp
        };
        self.all_routes().any(is_of_dhcp)
    }

    /// The metric of its first IPv4 default route, where it has one.
    pub fn default_metric(&self) -> Option<u32> {
        let is_default = |route: &&RouteMessage| {
            route.header.address_family == AddressFamily::Inet && route.header.destination_prefix_length == 0
        };
        self.all_routes().find(is_default).map(text::priority).filter(|metric| *metric != 0)
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

    /// The gateways that its default routes have on the interface of this index.
    pub fn default_gateways(&self, index: u32) -> Vec<IpAddr> {
        let defaults = self.all_routes().filter(|route| route.header.destination_prefix_length == 0);
        let mut gateways = Vec::new();
        for attribute in defaults.flat_map(|route| &route.attributes) {
            match attribute {
                RouteAttribute::MultiPath(hops) => {
                    let here = hops.iter().filter(|hop| hop.interface_index == index);
                    gateways.extend(here.filter_map(|hop| gateway(&hop.attributes)));
                }
                other => gateways.extend(gateway(std::slice::from_ref(other))),
            }
        }
        let mut seen = HashSet::new();
        gateways.retain(|gateway| seen.insert(*gateway));
        gateways
    }

    /// What of this `there` lacks, for people; empty after a move. Neighbours come and go by themselves.
    pub fn missing_in(&self, there: &Self) -> Vec<String> {
        let mut missing = self.clone();
        missing.forget_what_is_in(there);
        let addresses = missing.addresses.iter().map(text::address_with_prefix);
        addresses.chain(missing.all_routes().map(text::destination)).collect()
    }

    /// Adds what it lacks of another one.
    pub fn add_missing(&mut self, mut other: Self) {
        other.forget_what_is_in(self);
        self.addresses.append(&mut other.addresses);
        self.routes.append(&mut other.routes);
        self.leading.append(&mut other.leading);
    }

    fn forget_what_is_in(&mut self, there: &Self) {
        let key = |address: &AddressMessage| {
            (local(address), peer(address), address.header.prefix_len, (flags(address) & SETTABLE).bits())
        };
        let known: HashSet<_> = there.addresses.iter().map(key).collect();
        self.addresses.retain(|address| !known.contains(&key(address)));
        let key = |route: &RouteMessage| (text::place(route), u8::from(route.header.kind), gateway(&route.attributes));
        let known: HashSet<_> = there.all_routes().map(key).collect();
        self.routes.retain(|route| !known.contains(&key(route)));
        self.leading.retain(|route| !known.contains(&key(route)));
    }

    /// The same as it is `seconds` later, without what has ended by then, and without the neighbours that were learnt.
    pub fn aged(mut self, seconds: u32) -> Self {
        if seconds == 0 {
            return self;
        }
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
        self.neighbours.retain(|neighbour| {
            neighbour.header.state == NeighbourState::Permanent
                || neighbour.header.flags.contains(NeighbourFlags::Proxy)
        });
        self
    }
}

fn is_kernels(route: &RouteMessage) -> bool {
    route.header.protocol == RouteProtocol::Kernel
}

/// Whether the kernel makes this route by itself for this address (fib_add_ifaddr of net/ipv4/fib_frontend.c,
/// addrconf_prefix_route of net/ipv6/addrconf.c): to its prefix or its peer, in the main table, at the address's metric.
fn makes(address: &AddressMessage, route: &RouteMessage) -> bool {
    /// IP6_RT_PRIO_ADDRCONF of linux/ipv6_route.h.
    const IPV6_METRIC: u32 = 256;
    let metric = address.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::RoutePriority(metric) => Some(*metric),
        _ => None,
    });
    let usual = if is_ipv4(address) { 0 } else { IPV6_METRIC };
    let source = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => Some(IpAddr::from(*ip)),
        RouteAttribute::PrefSource(RouteAddress::Inet6(ip)) => Some((*ip).into()),
        _ => None,
    });
    !flags(address).contains(AddressFlags::Noprefixroute)
        && route.header.address_family == address.header.family
        && text::is_to_prefix_of(route, address)
        && text::table(route) == text::RT_TABLE_MAIN
        && text::priority(route) == metric.filter(|metric| *metric != 0).unwrap_or(usual)
        && gateway(&route.attributes).is_none()
        && (!is_ipv4(address) || source == local(address))
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

/// The network of an IPv4 address, and the length of its prefix.
fn network(address: &AddressMessage) -> Option<(u32, u8)> {
    let IpAddr::V4(ip) = local(address)? else { return None };
    let length = address.header.prefix_len;
    let mask = u32::MAX.checked_shl(32_u32.checked_sub(length.into())?).unwrap_or(0);
    Some((u32::from(ip) & mask, length))
}

fn peer(address: &AddressMessage) -> Option<IpAddr> {
    address.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    })
}

/// The flags of an address that can be asked for (inet6_rtm_newaddr of net/ipv6/addrconf.c); the others follow from its
/// lifetimes and from what is heard of it.
const SETTABLE: AddressFlags = AddressFlags::from_bits_retain(
    AddressFlags::Nodad.bits()
        | AddressFlags::Homeaddress.bits()
        | AddressFlags::Managetempaddr.bits()
        | AddressFlags::Noprefixroute.bits()
        | AddressFlags::Mcautojoin.bits(),
);

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

/// Of a second (USER_HZ), in which the kernel tells when a route ends.
const TICKS: u32 = 100;

/// Whether a route has an end; the kernel tells zero or less of one that has none, or has reached it.
fn has_end(info: &RouteCacheInfo) -> bool {
    (1..=i32::MAX as u32).contains(&info.expires)
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
