//! How far a guest has got on its way to an address, by what is heard on its port.
#![forbid(unsafe_code)]

use crate::mac::Mac;
use crate::packet::dhcp::{Kind, Message};
use crate::packet::frame::Told;
use crate::packet::is_link_local;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// What was heard on a port.
#[derive(Debug, Clone, Copy)]
pub struct Heard {
    /// The port.
    pub index: u32,
    /// Whether who is behind the port sent it.
    pub is_sent: bool,
    /// What it tells.
    pub told: Told,
}

impl Heard {
    /// Whose doings are told, on the port of a guest whose address is not known: who sends from behind the port, or talks
    /// to a DHCP server, is the guest.
    pub fn client(&self) -> Option<Mac> {
        match self.told {
            Told::Dhcp(message) => Some(message.client),
            Told::Address { mac, .. } => self.is_sent.then_some(mac),
        }
    }
}

/// No guest is believed to have more.
const MOST_ADDRESSES: usize = 64;

/// How far a guest has got.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// It asked whether there is a server.
    pub discover: bool,
    /// Servers answered.
    pub offer: bool,
    /// It asked for one of the addresses.
    pub request: bool,
    /// It was refused.
    pub nak: bool,
    /// It has an address.
    pub ack: Option<Message>,
    /// The addresses that it uses, however it came by them.
    pub addresses: BTreeSet<IpAddr>,
}

impl Progress {
    /// Takes in what is told, of this guest.
    pub fn hear(&mut self, told: Told, guest: Mac) {
        match told {
            Told::Dhcp(message) if message.client == guest => match message.kind {
                Kind::Discover => self.discover = true,
                Kind::Offer => self.offer = true,
                Kind::Request => self.request = true,
                Kind::Nak => self.nak = true,
                Kind::Ack if message.address.is_some() => {
                    self.note(message.address.map(IpAddr::from));
                    self.ack = Some(message);
                }
                _ => {}
            },
            Told::Address { mac, ip } if mac == guest => self.note([ip]),
            _ => {}
        }
    }

    /// A guest may say that it has as many as it likes.
    fn note(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        let room = MOST_ADDRESSES.saturating_sub(self.addresses.len());
        self.addresses.extend(addresses.into_iter().take(room));
    }

    /// The address that it has, if that was heard and it is good beyond its own link.
    pub fn address(&self) -> Option<IpAddr> {
        self.addresses.iter().find(|ip| !is_link_local(ip)).copied()
    }

    /// Whether it has what it needs.
    pub fn has_arrived(&self) -> bool {
        self.ack.is_some() || self.address().is_some()
    }

    /// In a few words.
    pub fn describe(&self) -> &'static str {
        match self {
            _ if self.ack.is_some() => "ACK: it has its address",
            _ if self.nak => "its REQUEST was refused (NAK)",
            _ if self.request => "REQUEST without ACK",
            _ if self.offer => "OFFER without REQUEST",
            _ if self.discover => "DISCOVER without OFFER",
            _ => "no DHCP",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_claims_all_addresses_has_some() {
        let (mut progress, mac) = (Progress::default(), Mac([2; 6]));
        for last in 0..=255 {
            progress.hear(Told::Address { mac, ip: IpAddr::from([10, 0, 0, last]) }, mac);
        }
        assert_eq!(progress.addresses.len(), MOST_ADDRESSES);
    }
}
