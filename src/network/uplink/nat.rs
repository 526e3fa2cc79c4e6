//! A network of the host's own, as `model::nat` has it: the host's address, forwarding, rules, dnsmasq.
//!
//! Who makes a bridge does, in this order, each of it as often as wanted:
//!
//! 1. `look_for`: whether dnsmasq and nft are there and new enough ([`programs`]), and what is taken ([`gateway::taken`]). What is
//!    chosen of it, by `model::uplink`, goes into the journal.
//! 2. `prepare`: [`rules::apply`], so that guests are behind our rules before there is an address; [`forwarding::lend`]; and
//!    [`rules::unblock`] for the firewalls of others that the journal names.
//! 3. `attach`: the bridge has its addresses.
//!
//! Who starts a guest lets it in: [`guests::admit`] reserves its ports ([`gateway::reserve`]), which its QEMU holds from then on, and
//! leads them to it. The reaper does the rest ([`attendant::Attendant`]): dnsmasq, which is killed with it, and all of the above
//! again when links, forwarding or others' rules have changed.
//!
//! And back, in this order: dnsmasq ends, `detach`: [`forwarding::take_back`], [`rules::block_again`], [`rules::remove`]. Addresses
//! and settings of the bridge go with it, its folder with the journal.

pub mod attendant;
pub mod forwarding;
pub mod gateway;
pub mod guests;
pub mod programs;
pub mod rules;
pub mod server;

use crate::netlink::Netlink;
use crate::network::apply::Change;
use crate::network::links::unreadable;
use crate::state::journal::Files;
use crate::state::networks::{self, Kept};
use crate::sys::random;
use model::error::{Error, Result};
use model::host::{ForNat, Host};
use model::ifname::IfName;
use model::journal::Journal;
use model::nat::firewall::Blocked;
use model::nat::guest::Guest;
use model::nat::{Nat, check_name};
use model::uplink::Masquerade;
use std::io;

/// What the choice of such a network depends on.
pub(super) fn look_for(netlink: &mut Netlink, bridge: &IfName, host: &mut Host) -> Result<()> {
    look(netlink, bridge, host).map_err(|error| error.of(format_args!("--bridge {bridge}")))
}

fn look(netlink: &mut Netlink, bridge: &IfName, host: &mut Host) -> Result<()> {
    check_name(bridge)?;
    programs::check()?;
    let random = random::bytes().map_err(|error| {
        Error::new(format!("the kernel gives no random bytes: {error}"), "A usual /dev/urandom is needed.")
    })?;
    let for_nat = ForNat {
        taken: gateway::taken(netlink, None)?,
        kept: Kept::read(bridge)?.subnets,
        has_ipv6: netlink.has_way_out_by_ipv6().map_err(unreadable)?,
        random,
        // Who only asks what would be done may not be let in.
        blocked: if crate::sys::process::can_change_network() { rules::blocked(bridge)? } else { Vec::new() },
    };
    host.for_nat.insert(bridge.clone(), for_nat);
    Ok(())
}

/// Makes all but the addresses.
pub(super) fn prepare(journal: &Journal, masquerade: &Masquerade) -> Result<()> {
    let Masquerade { network, blocked } = masquerade;
    let bridge = &journal.bridge;
    let mut kept = Kept::read(bridge)?;
    if let Some(ula) = network.ula.or(kept.subnets.map(|(_, ula)| ula)).or_else(some_ula) {
        kept.subnets = Some((network.subnet, ula));
        kept.write(bridge);
    }
    rules::apply(bridge, journal.link(), network, &[])?;
    forwarding::lend(bridge, journal.index, network.ula.is_some(), false)?;
    unblock(bridge, blocked);
    Ok(())
}

/// A prefix of IPv6 for the day on which the host has a way out by it.
fn some_ula() -> Option<model::nat::subnet::Ula> {
    random::bytes().ok().map(model::nat::subnet::Ula::new)
}

/// Lets guests' packets pass others' firewalls, as far as these can be changed; the errors say which can't.
fn unblock(bridge: &IfName, blocked: &[Blocked]) -> Option<Error> {
    blocked.iter().filter_map(|blocked| rules::unblock(blocked, bridge).err()).next()
}

/// The changes that give the bridge its addresses.
pub(super) fn attach(journal: &Journal, masquerade: &Masquerade) -> Vec<Change> {
    let addresses = gateway::addresses(&masquerade.network);
    let change = |(ip, prefix)| {
        let what = format!("cannot make {ip} an address of {}", journal.bridge);
        Change::new(Netlink::to_add_address(journal.index, ip, prefix), what)
    };
    addresses.map(change).collect()
}

/// Takes all of it back, whatever is there of it. The end of dnsmasq is its reaper's matter.
pub(super) fn detach(journal: &Journal, masquerade: &Masquerade) -> io::Result<()> {
    let bridge = &journal.bridge;
    let done =
        [forwarding::take_back(journal.index), rules::block_again(&masquerade.blocked, bridge), rules::remove(bridge)];
    let faults: Vec<String> = done.into_iter().filter_map(|done| Some(done.err()?.what())).collect();
    if faults.is_empty() { Ok(()) } else { Err(io::Error::other(faults.join("; "))) }
}

/// Makes all of it as it should be, whatever has become of it. For who holds the bridge's lock alone. Whether the rules were gone.
pub(super) fn keep(netlink: &mut Netlink, files: &Files, journal: &mut Journal) -> Result<bool> {
    let Some(Masquerade { network, .. }) = journal.nat().cloned() else { return Ok(false) };
    let bridge = journal.bridge.clone();
    let guests = networks::guests(files)?.all();
    let was_whole = rules::are_whole(&bridge, journal.link(), &network, &guests)?;
    if !was_whole {
        rules::apply(&bridge, journal.link(), &network, &guests)?;
    }
    keep_forwarding(netlink, journal, &network, &guests, true)?;
    keep_unblocked(files, journal)?;
    Ok(!was_whole)
}

/// The same for addresses and forwarding.
fn keep_forwarding(
    netlink: &mut Netlink,
    journal: &Journal,
    network: &Nat,
    guests: &[Guest],
    is_to_be_made: bool,
) -> Result<()> {
    gateway::give(netlink, &journal.bridge, journal.index, network)?;
    gateway::open_loopback(&journal.bridge, guests)?;
    forwarding::lend(&journal.bridge, journal.index, network.ula.is_some(), is_to_be_made)
}

/// The same for the firewalls of others; the error of one that only its owner can change.
fn keep_unblocked(files: &Files, journal: &mut Journal) -> Result<Option<Error>> {
    let bridge = journal.bridge.clone();
    let found = rules::blocked(&bridge)?;
    let Some(model::uplink::Attachment::Nat(masquerade)) = &mut journal.attachment else { return Ok(None) };
    let new: Vec<Blocked> = found.iter().filter(|found| !masquerade.blocked.contains(found)).cloned().collect();
    if !new.is_empty() {
        masquerade.blocked.extend(new);
        files.write(journal)?;
    }
    Ok(unblock(&bridge, &found))
}
