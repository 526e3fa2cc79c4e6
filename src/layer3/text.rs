//! Addresses and routes as iproute2's commands have them.
#![forbid(unsafe_code)]

use super::{End, flags, gateway, local, peer};
use crate::name::IfName;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags,
    RoutePreference, RouteProtocol, RouteScope, RouteType, RouteVia,
};
use std::net::IpAddr;

/// `10.0.0.1/8`.
pub(super) fn address_with_prefix(address: &AddressMessage) -> String {
    let ip = local(address).map_or_else(|| "?".to_owned(), |ip| ip.to_string());
    format!("{ip}/{}", address.header.prefix_len)
}

pub(super) fn add_address(address: &AddressMessage, device: &IfName) -> Vec<String> {
    let mut words = name_of_address(address, "add");
    let mut say = |key: &str, value: String| words.extend([key.to_owned(), value]);
    for attribute in &address.attributes {
        match attribute {
            AddressAttribute::Broadcast(ip) => say("broadcast", ip.to_string()),
            AddressAttribute::Label(label) if label != device.as_str() => say("label", label.clone()),
            AddressAttribute::RoutePriority(metric) => say("metric", metric.to_string()),
            AddressAttribute::CacheInfo(info) if info.ifa_valid != u32::MAX => {
                say("valid_lft", info.ifa_valid.to_string());
                say("preferred_lft", lifetime(info.ifa_preferred));
            }
            _ => {}
        }
    }
    match address.header.scope {
        AddressScope::Universe => {}
        scope => say("scope", u8::from(scope).to_string()),
    }
    say("dev", device.to_string());
    let named = [
        (AddressFlags::Homeaddress, "home"),
        (AddressFlags::Managetempaddr, "mngtmpaddr"),
        (AddressFlags::Nodad, "nodad"),
        (AddressFlags::Noprefixroute, "noprefixroute"),
        (AddressFlags::Mcautojoin, "autojoin"),
    ];
    let set = named.iter().filter(|(flag, _)| flags(address).contains(*flag));
    words.extend(set.map(|(_, name)| (*name).to_owned()));
    words
}

pub(super) fn delete_address(address: &AddressMessage, device: &IfName) -> Vec<String> {
    let mut words = name_of_address(address, "del");
    words.extend(["dev".to_owned(), device.to_string()]);
    words
}

fn name_of_address(address: &AddressMessage, verb: &str) -> Vec<String> {
    let mut words: Vec<String> = ["ip", "addr", verb].map(str::to_owned).to_vec();
    match (local(address), peer(address)) {
        (Some(own), Some(peer)) if own != peer => {
            words.extend([own.to_string(), "peer".to_owned(), format!("{peer}/{}", address.header.prefix_len)]);
        }
        _ => words.push(address_with_prefix(address)),
    }
    words
}

fn lifetime(seconds: u32) -> String {
    if seconds == u32::MAX { "forever".to_owned() } else { seconds.to_string() }
}

/// Whether a route leads to the whole prefix of an address, or to its peer.
pub(super) fn is_to_prefix_of(route: &RouteMessage, address: &AddressMessage) -> bool {
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(u128::from(u32::from(*ip)) << 96),
        RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(u128::from(*ip)),
        _ => None,
    });
    let length = u32::from(address.header.prefix_len);
    // IPv4's 32 bits in front.
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)) << 96,
        IpAddr::V6(ip) => u128::from(ip),
    };
    let network = |ip: u128| ip.checked_shr(128 - length).unwrap_or_default();
    let is_in = |ip: Option<IpAddr>| match (ip, destination) {
        (Some(ip), Some(destination)) => network(bits(ip)) == network(destination),
        _ => false,
    };
    u32::from(route.header.destination_prefix_length) == length && (is_in(local(address)) || is_in(peer(address)))
}

/// `default` or `10.0.0.0/8`.
pub(super) fn destination(route: &RouteMessage) -> String {
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => Some(route_address(address)),
        _ => None,
    });
    match destination {
        Some(address) => format!("{address}/{}", route.header.destination_prefix_length),
        None => "default".to_owned(),
    }
}

pub(super) fn table(route: &RouteMessage) -> u32 {
    let table = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    table.unwrap_or(route.header.table.into())
}

pub(super) fn priority(route: &RouteMessage) -> u32 {
    let priority = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(priority) => Some(*priority),
        _ => None,
    });
    priority.unwrap_or_default()
}

/// What tells routes to the same place from others: the kernel keeps those in a row, and the first one counts.
pub(super) fn place(route: &RouteMessage) -> (u8, String, u32, u8, u32) {
    let header = &route.header;
    (header.address_family.into(), destination(route), table(route), header.tos, priority(route))
}

/// Behind the others to the same place, or before them.
pub(super) fn add_route(route: &RouteMessage, on: End, is_behind: bool) -> Vec<String> {
    route_command(route, on, if is_behind { "append" } else { "prepend" })
}

pub(super) fn delete_route(route: &RouteMessage, on: End) -> Vec<String> {
    route_command(route, on, "del")
}

fn route_command(route: &RouteMessage, on: End, verb: &str) -> Vec<String> {
    let family = if route.header.address_family == AddressFamily::Inet6 { "-6" } else { "-4" };
    let mut words: Vec<String> = ["ip", family, "route", verb].map(str::to_owned).to_vec();
    words.extend(kind(route.header.kind).map(str::to_owned));
    words.push(destination(route));
    if route.header.tos != 0 {
        words.extend(["tos".to_owned(), format!("0x{:02x}", route.header.tos)]);
    }
    let has_hops = route.attributes.iter().any(|attribute| matches!(attribute, RouteAttribute::MultiPath(_)));
    if !has_hops {
        words.extend(via(&route.attributes, route.header.address_family));
        words.extend(["dev".to_owned(), on.name.to_string()]);
    }
    let mut say = |key: &str, value: String| words.extend([key.to_owned(), value]);
    if table(route) != RT_TABLE_MAIN {
        say("table", table(route).to_string());
    }
    match route.header.protocol {
        // What `ip route` says by itself.
        RouteProtocol::Boot => {}
        RouteProtocol::Static => say("proto", "static".to_owned()),
        RouteProtocol::Ra => say("proto", "ra".to_owned()),
        RouteProtocol::Dhcp => say("proto", "dhcp".to_owned()),
        protocol => say("proto", u8::from(protocol).to_string()),
    }
    match route.header.scope {
        RouteScope::Link => say("scope", "link".to_owned()),
        RouteScope::Universe => {}
        scope => say("scope", u8::from(scope).to_string()),
    }
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Source(address) => {
                say("from", format!("{}/{}", route_address(address), route.header.source_prefix_length));
            }
            RouteAttribute::PrefSource(address) => say("src", route_address(address)),
            RouteAttribute::Priority(metric) => say("metric", metric.to_string()),
            RouteAttribute::Expires(seconds) if verb != "del" => say("expires", seconds.to_string()),
            RouteAttribute::Preference(RoutePreference::High) => say("pref", "high".to_owned()),
            RouteAttribute::Preference(RoutePreference::Low) => say("pref", "low".to_owned()),
            RouteAttribute::Metrics(metrics) => metrics.iter().filter_map(metric).for_each(|(key, value)| {
                say(key, value);
            }),
            _ => {}
        }
    }
    if route.header.flags.contains(RouteFlags::Onlink) && !has_hops {
        words.push("onlink".to_owned());
    }
    for attribute in &route.attributes {
        if let RouteAttribute::MultiPath(hops) = attribute {
            words.extend(hops.iter().flat_map(|hop| next_hop(hop, route.header.address_family, on)));
        }
    }
    words
}

/// Of linux/rtnetlink.h.
pub(super) const RT_TABLE_MAIN: u32 = 254;
pub(super) const RT_TABLE_LOCAL: u32 = 255;

fn next_hop(hop: &RouteNextHop, family: AddressFamily, on: End) -> Vec<String> {
    let mut words = vec!["nexthop".to_owned()];
    words.extend(via(&hop.attributes, family));
    // iproute2 takes ifN for the interface of index N.
    let device =
        if hop.interface_index == on.index { on.name.to_string() } else { format!("if{}", hop.interface_index) };
    words.extend(["dev".to_owned(), device, "weight".to_owned(), (u32::from(hop.hops) + 1).to_string()]);
    if hop.flags.contains(RouteNextHopFlags::Onlink) {
        words.push("onlink".to_owned());
    }
    words
}

/// `via 10.0.0.1`, or `via inet6 fe80::1` for an IPv4 route.
fn via(attributes: &[RouteAttribute], family: AddressFamily) -> Vec<String> {
    let Some(gateway) = gateway(attributes) else { return Vec::new() };
    let inet6 = (gateway.is_ipv6() && family == AddressFamily::Inet).then(|| "inet6".to_owned());
    [Some("via".to_owned()), inet6, Some(gateway.to_string())].into_iter().flatten().collect()
}

pub(super) fn via_address(via: &RouteVia) -> Option<IpAddr> {
    match via {
        RouteVia::Inet(ip) => Some((*ip).into()),
        RouteVia::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

fn route_address(address: &RouteAddress) -> String {
    match address {
        RouteAddress::Inet(ip) => ip.to_string(),
        RouteAddress::Inet6(ip) => ip.to_string(),
        _ => "?".to_owned(),
    }
}

fn kind(kind: RouteType) -> Option<&'static str> {
    match kind {
        RouteType::Local => Some("local"),
        RouteType::Broadcast => Some("broadcast"),
        RouteType::Anycast => Some("anycast"),
        RouteType::Multicast => Some("multicast"),
        _ => None,
    }
}

fn metric(metric: &RouteMetric) -> Option<(&'static str, String)> {
    let milliseconds = |time: u32| format!("{time}ms");
    Some(match metric {
        RouteMetric::Mtu(value) => ("mtu", value.to_string()),
        RouteMetric::Window(value) => ("window", value.to_string()),
        RouteMetric::Rtt(value) => ("rtt", milliseconds(value / 8)),
        RouteMetric::RttVar(value) => ("rttvar", milliseconds(value / 4)),
        RouteMetric::SsThresh(value) => ("ssthresh", value.to_string()),
        RouteMetric::Cwnd(value) => ("cwnd", value.to_string()),
        RouteMetric::Advmss(value) => ("advmss", value.to_string()),
        RouteMetric::Reordering(value) => ("reordering", value.to_string()),
        RouteMetric::Hoplimit(value) => ("hoplimit", value.to_string()),
        RouteMetric::InitCwnd(value) => ("initcwnd", value.to_string()),
        RouteMetric::InitRwnd(value) => ("initrwnd", value.to_string()),
        RouteMetric::RtoMin(value) => ("rto_min", milliseconds(*value)),
        RouteMetric::QuickAck(value) => ("quickack", value.to_string()),
        RouteMetric::CcAlgo(name) => ("congctl", name.clone()),
        _ => return None,
    })
}
