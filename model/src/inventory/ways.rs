//! How the host itself reaches a guest on a bridge.

use crate::ifname::IfName;
use crate::inventory::{Bridge, Port, Role};
use crate::packet::is_link_local;
use std::net::IpAddr;

/// A way to a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The guest's address.
    pub address: IpAddr,
    /// The interface that leads there and its index, where the host has an address on it: no route may lead elsewhere. A bridge
    /// with an uplink and without an address of the host's is reached by the host's other ways.
    pub interface: Option<(IfName, u32)>,
}

impl Bridge {
    /// The ways to a guest on it with these addresses, in their order; to one of which none is known or can be reached, by the
    /// link-local address that its kernel makes of its card's.
    pub fn ways(&self, port: &Port, known: &[IpAddr]) -> Vec<Way> {
        let found: Vec<Way> = known.iter().filter_map(|ip| self.way(*ip)).collect();
        let made = port.mac.filter(|_| found.is_empty()).and_then(|mac| self.way(mac.link_local().into()));
        found.into_iter().chain(made).collect()
    }

    fn way(&self, address: IpAddr) -> Option<Way> {
        let (link, own) = match &self.shared {
            Some(shared) => (&shared.detail.as_ref()?.link, &shared.addresses),
            None => (&self.detail.link, &self.addresses),
        };
        let own = own.iter().filter_map(|text| text.split('/').next()?.parse::<IpAddr>().ok());
        let is_like =
            |own: IpAddr| own.is_ipv4() == address.is_ipv4() && is_link_local(&own) == is_link_local(&address);
        if own.into_iter().any(is_like) {
            return Some(Way { address, interface: Some((link.name.clone(), link.index)) });
        }
        let has_uplink = self.shared.is_some() || self.ports.iter().any(|port| port.role == Role::Uplink);
        (has_uplink && !is_link_local(&address)).then_some(Way { address, interface: None })
    }
}
