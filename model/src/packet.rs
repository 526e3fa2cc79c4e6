//! What goes over the wire: frames, ARP and neighbour discovery, DHCP.
//! It may not know who sent it.

pub mod arp_probe;
pub mod dhcp;
pub mod frame;

use std::net::IpAddr;

/// Whether an address is good on its own link only.
pub fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}
