//! What goes over the wire: frames, ARP and neighbour discovery, DHCP.
//! It may not know who sent it.

pub mod arp_probe;
pub mod dhcp;
pub mod frame;
