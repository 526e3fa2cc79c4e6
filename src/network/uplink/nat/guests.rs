//! Lets guests in.

use crate::netlink::Netlink;
use crate::network::links::unreadable;
use crate::network::uplink::nat::{gateway, rules, server};
use crate::state::journal::Files;
use crate::state::networks::{Kept, Register};
use crate::sys::place;
use model::error::{Error, Result};
use model::host::Link;
use model::journal::Journal;
use model::mac::Mac;
use model::nat::forward::Forward;
use model::nat::guests::Guests;
use std::os::fd::OwnedFd;

/// Gives a guest its address, name and ports before its TAP, of this index, becomes a port. The ports are the guest's for as long as
/// what is returned is open.
pub fn admit(
    files: &Files,
    journal: &Journal,
    mac: Mac,
    vm: &str,
    tap: u32,
    forwards: &[Forward],
) -> Result<Vec<OwnedFd>> {
    let Some(masquerade) = journal.nat() else { return Ok(Vec::new()) };
    let (bridge, network) = (&journal.bridge, &masquerade.network);
    if let Some(forward) = forwards.iter().find(|forward| forward.on.is_ipv6() && network.ula.is_none()) {
        let what = format!("forward={forward}: guests of {bridge} have no IPv6, as the host has no way out by it");
        return Err(Error::new(what, "Give an IPv4 address of the host."));
    }
    let mut register = Register::open(files)?;
    // In a network of a user's own they are the host's outside, and were reserved there.
    let on_host = if place::user_network().is_none() { forwards } else { &[] };
    let reserved = on_host.iter().map(gateway::reserve).collect::<Result<Vec<OwnedFd>>>()?;
    let mut kept = Kept::read(bridge)?;
    let before = kept.clone();
    let mut admit = |guests: &mut Guests| guests.admit(network, &mut kept.addresses, mac, vm, tap, forwards);
    let guest = match admit(&mut register.guests) {
        Some(guest) => guest,
        None => {
            let mut netlink = Netlink::open().map_err(unreadable)?;
            let ports = netlink.ports(journal.index).map_err(unreadable)?;
            let gone = register.guests.forget(|tap| ports.iter().any(|port| port.index == tap));
            gone.into_iter().try_for_each(|mac| server::forget(mac, &files.nat()))?;
            admit(&mut register.guests).ok_or_else(|| {
                let what = format!("no address of {} is left", network.subnet);
                Error::new(what, "Give the bridge a larger network: net=10.77.0.0/16.")
            })?
        }
    };
    if kept != before {
        kept.write(bridge);
    }
    register.write()?;
    server::know(&guest, &network.domain, &files.nat())?;
    if !forwards.is_empty() {
        let guests = register.guests.all();
        rules::apply(bridge, journal.link(), network, &guests)?;
        gateway::open_loopback(bridge, &guests)?;
    }
    Ok(reserved)
}

/// Takes back the ports of guests that have gone. Whether there were any.
pub(super) fn close(files: &Files, journal: &Journal, ports: &[Link]) -> Result<bool> {
    let Some(masquerade) = journal.nat() else { return Ok(false) };
    let mut register = Register::open(files)?;
    if !register.guests.close(|tap| ports.iter().any(|port| port.index == tap)) {
        return Ok(false);
    }
    register.write()?;
    let guests = register.guests.all();
    rules::apply(&journal.bridge, journal.link(), &masquerade.network, &guests)?;
    gateway::open_loopback(&journal.bridge, &guests)?;
    Ok(true)
}
