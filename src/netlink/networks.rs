//! The networks that the host has routes to, and addresses that it is given.

use crate::netlink::read::whole;
use crate::netlink::{Netlink, Request};
use model::nat::subnet::Ipv4Net;
use model::rtnl::{network, u32_at};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_DUMP};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::io;
use std::net::IpAddr;

impl Netlink {
    /// All IPv4 networks that the host has a route to or an address in, of all tables of routes, but for those on one link.
    pub fn networks(&mut self, but: Option<u32>) -> io::Result<Vec<Ipv4Net>> {
        whole(|| {
            let mut found = Vec::new();
            self.dump_routes(AddressFamily::Inet, |route| {
                if let Some(IpAddr::V4(address)) = route.to
                    && (but.is_none() || route.link != but)
                {
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

    /// Gives a link an address of the host's, with the route that goes with it. One that it has stays.
    pub fn add_address(&mut self, index: u32, ip: IpAddr, prefix: u8) -> io::Result<()> {
        self.change(vec![Self::to_add_address(index, ip, prefix)])?.into_iter().collect()
    }

    /// The request for that.
    pub(crate) fn to_add_address(index: u32, ip: IpAddr, prefix: u8) -> Request {
        let mut message = AddressMessage::default();
        message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.prefix_len = prefix;
        message.header.index = index;
        message.attributes.push(AddressAttribute::Local(ip));
        message.attributes.push(AddressAttribute::Address(ip));
        if ip.is_ipv6() {
            // Nobody else is on a link that we have made: guests need not wait until the kernel has asked.
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        (RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE, &[libc::EEXIST][..])
    }
}
