//! Keeps a user from taking others' frames by the address of a TAP.
//!
//! Who holds a TAP may give it any address (SIOCSIFHWADDR on its descriptor asks for no capability, drivers/net/tun.c). A
//! bridge delivers what is for the address of a port to that port, and learns it nowhere else (br_fdb_changeaddr in
//! net/bridge/br_fdb.c): with the gateway's or another guest's address all of their frames go to that user. So the reaper
//! takes a TAP off the bridge that has another address than before; only root can put it back. A user's guest to which the helper
//! gave the address of a guest of root's that did not run is taken off when that one comes.

use crate::netlink::Netlink;
use crate::network::apply::free_port;
use crate::network::links::unreadable;
use model::error::{Error, Result};
use model::host::{Kind, Link};
use model::ifname::IfName;
use model::mac::Mac;
use std::collections::BTreeMap;
use std::mem;

/// What a reaper knows of the TAPs on its bridge.
#[derive(Debug, Default)]
pub struct Guard {
    /// The address that each TAP had at first, by the TAP's index.
    first: BTreeMap<u32, Option<Mac>>,
    /// Those that were taken off the bridge, and that are there.
    freed: BTreeMap<u32, Error>,
}

impl Guard {
    /// Looks at the ports of a bridge; `host` is the address of the uplink that it shares. Whether one was taken off.
    pub fn look(&mut self, netlink: &mut Netlink, ports: &[Link], host: Option<Mac>) -> Result<bool> {
        let before = mem::take(&mut self.first);
        let mut has_freed = false;
        let taps = ports.iter().filter(|port| matches!(port.kind, Kind::Tap { .. }));
        let first_of = |port: &Link| before.get(&port.index).copied();
        // Whoever holds a TAP of root's can give it the address of a user's guest: that is no reason to take that one off.
        let (disguised, honest): (Vec<&Link>, Vec<&Link>) =
            taps.partition(|port| is_disguised(port, first_of(port), host));
        let faults = disguised.into_iter().map(|port| (port, Some(Fault::Disguised)));
        let roots = |port| roots_with_address_of(port, &honest).map(|root| Fault::Roots(&root.name));
        for (port, why) in faults.chain(honest.iter().map(|port| (*port, roots(port)))) {
            if let Some(fault) = why {
                free_port(netlink, port.index).map_err(unreadable)?;
                self.freed.insert(port.index, told(port, &fault));
                has_freed = true;
            } else {
                self.first.insert(port.index, first_of(port).unwrap_or(port.mac));
            }
        }
        for index in self.freed.keys().copied().collect::<Vec<_>>() {
            let is_free = |link: Link| link.controller.is_none();
            if !netlink.link_at(index).map_err(unreadable)?.is_some_and(is_free) {
                self.freed.remove(&index);
            }
        }
        Ok(has_freed)
    }

    /// What is to be told of them, for as long as they are there.
    pub fn failure(&self) -> Option<&Error> {
        self.freed.values().next()
    }
}

/// Why a TAP is off the bridge.
enum Fault<'ports> {
    Disguised,
    /// The port of a guest of root's, whose address its user had the helper keep for it.
    Roots(&'ports IfName),
}

fn told(port: &Link, fault: &Fault) -> Error {
    let mac = port.mac.map(|mac| mac.to_string()).unwrap_or_default();
    let vm = port.vm().map(|vm| format!(" of the VM {vm}")).unwrap_or_default();
    let why = match fault {
        Fault::Disguised => format!("who holds it gave it the address {mac}, by which it got what is for that"),
        Fault::Roots(root) => format!("its guest's address is that of a guest of root's, at {root}"),
    };
    let what = format!("{}{vm} is off the bridge: {why}", port.name);
    Error::new(what, "See who that is: kvm-bridge status. A guest that is started again is on the bridge again.")
}

/// The port of a guest of root's that has the address which this user's guest has to itself. A TAP of root's has its guest's
/// address but for the first byte.
fn roots_with_address_of<'ports>(port: &Link, ports: &[&'ports Link]) -> Option<&'ports Link> {
    let of_users = port.address_of_users_guest()?;
    ports.iter().copied().find(|root| root.vm().is_some() && root.mac.is_some_and(|mac| mac.0[1..] == of_users.0[1..]))
}

/// Whether a TAP has an address that it was not given; `first` is the one that it had when it was seen first. Those of ours begin
/// with fe, or fa, as no card's does.
fn is_disguised(tap: &Link, first: Option<Option<Mac>>, host: Option<Mac>) -> bool {
    let is_hosts = tap.mac.is_some() && tap.mac == host;
    is_hosts || first.is_some_and(|first| first != tap.mac) || tap.has_foreign_address()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_that_a_tap_was_given_is_its_own() {
        let mac = |first: u8| Mac([first, 0, 0, 0, 0, 1]);
        let kind = Kind::Tap { is_persistent: false, is_multi_queue: false };
        let tap = |first: u8, alias: Option<&str>| Link {
            kind: kind.clone(),
            mac: Some(mac(first)),
            alias: alias.map(str::to_owned),
            ..Link::bare(7, IfName::new("kvb0").unwrap())
        };
        let host = Some(mac(0x52));
        for (link, first, expected) in [
            (tap(0xfe, Some("kvm-bridge alice")), None, false),
            (tap(0xfa, Some("kvm-bridge alice")), Some(mac(0xfa)), false),
            (tap(0xfe, Some("kvm-bridge alice")), Some(mac(0xfa)), true),
            (tap(0x54, Some("kvm-bridge alice")), None, true),
            (tap(0x54, Some("kvm-bridge-helper br0 uid 7")), None, true),
            (tap(0x54, None), None, false),
            (tap(0x54, None), Some(mac(0x56)), true),
            (tap(0x52, None), None, true),
        ] {
            assert_eq!(is_disguised(&link, first.map(Some), host), expected, "{link:?} {first:?}");
        }
    }

    #[test]
    fn an_address_of_a_guest_of_roots_is_no_users() {
        let port = |name: &str, first: u8, alias: &str| Link {
            kind: Kind::Tap { is_persistent: false, is_multi_queue: false },
            mac: Some(Mac([first, 0, 0, 0, 0, 1])),
            alias: Some(alias.to_owned()),
            ..Link::bare(7, IfName::new(name).unwrap())
        };
        let users = |mac: &str| port("kvb1", 0xfa, &format!("kvm-bridge-helper uid 7 bridge 3 mac {mac}"));
        let ports = [port("kvb0", 0xfe, "kvm-bridge alice"), users("52:00:00:00:00:01"), users("52:00:00:00:00:02")];
        let ports = ports.each_ref();
        let roots = ports.map(|port| roots_with_address_of(port, &ports).map(|root| root.name.as_str()));
        assert_eq!(roots, [None, Some("kvb0"), None]);
        assert!(roots_with_address_of(ports[1], &ports[1..]).is_none());
    }
}
