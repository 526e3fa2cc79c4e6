//! Takes back what was made, and ends what a kill left half done.

use crate::netlink::Netlink;
use crate::network::apply::{delete_owned, failed};
use crate::network::dhcp_probe::is_probe;
use crate::network::uplink;
use crate::output;
use crate::output::errno::reason;
use crate::state::events::{self, Event};
use crate::state::journal;
use crate::state::journal::Files;
use model::error::{Error, Result};
use model::host::Link;
use model::journal::Journal;
use std::io;

/// Takes back what a journal speaks of, the last of it first, as far as they were carried out. All errors are collected; after
/// one of them the journal is still needed.
///
/// A bridge that somebody else uses stays, with all that is on it. One of the journal's index that is not as we made it is
/// somebody else's altogether: it is not touched. For who holds the bridge's lock alone.
pub fn undo(netlink: &mut Netlink, files: &Files, journal: &Journal) -> Result<()> {
    undo_with(netlink, files, journal, false)
}

/// The same; with `is_forced` also of a bridge that somebody uses, of which all was asked before: who comes again and again
/// would keep it for ever.
pub fn undo_with(netlink: &mut Netlink, files: &Files, journal: &Journal, is_forced: bool) -> Result<()> {
    if !journal.is_of(&journal::life()?) {
        return Ok(());
    }
    let unsure = |error: io::Error| {
        Error::new(format!("cannot look at {}: {}", journal.bridge, reason(&error)), "To try again: kvm-bridge recover")
    };
    output::step(|| format!("undoes what was made for {}", journal.bridge));
    let bridge = netlink.link_at(journal.index).map_err(unsure)?;
    let is_ours = bridge.as_ref().is_none_or(|link| journal.owns(link));
    if let Some(link) = bridge.as_ref().filter(|_| is_ours) {
        if !is_forced {
            if let Some(user) = users(netlink, journal).map_err(unsure)?.first() {
                return Err(in_use(link, user));
            }
        }
        // Whoever is killed from here on leaves less than a bridge.
        files.write(&journal.unfinished())?;
    }
    let mut faults = Vec::new();
    // A bridge goes as a whole, when all else is back.
    for attachment in journal.attachments() {
        faults.extend(uplink::detach(netlink, journal, attachment).err().map(|error| reason(&error)));
    }
    if faults.is_empty() && is_ours && bridge.is_some() {
        match delete_owned(netlink, journal, journal.index) {
            Ok(()) => events::tell(Event::BridgeRemoved, &journal.bridge, &format!("removed {}", journal.bridge)),
            Err(error) => faults.push(reason(&error)),
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    let what = format!("{} could not be removed: {}", journal.bridge, faults.join("; "));
    Err(Error::new(what, "To try again: kvm-bridge recover"))
}

/// Ends what a kill left half done: where the bridge is in use already, forwards, else backwards. Whether it was taken
/// back, and its journal is not needed any more. For who holds the bridge's lock alone.
pub fn settle(netlink: &mut Netlink, files: &Files, journal: &mut Journal) -> Result<bool> {
    let unsure = |error: io::Error| failed(&journal.bridge, "cannot look at it", &error);
    let is_there = netlink.link_at(journal.index).map_err(unsure)?.is_some_and(|link| journal.owns(&link));
    if !is_there || !journal.is_of(&journal::life()?) || users(netlink, journal).map_err(unsure)?.is_empty() {
        return undo(netlink, files, journal).map(|()| true);
    }
    uplink::keep(netlink, files, journal)?;
    journal.is_finished = true;
    files.write(journal).map(|()| false)
}

/// The links that need the bridge, whosever they are: its ports beside the uplink, else what is stacked on it.
pub fn users(netlink: &mut Netlink, journal: &Journal) -> io::Result<Vec<Link>> {
    let ports = beside_the_uplink(journal, netlink.ports(journal.index)?);
    if ports.is_empty() { netlink.stacked_on(journal.index) } else { Ok(ports) }
}

fn beside_the_uplink(journal: &Journal, mut ports: Vec<Link>) -> Vec<Link> {
    ports.retain(|port| !journal.attached(port.index) && !is_probe(port));
    ports
}

/// Why a bridge stays.
fn in_use(bridge: &Link, user: &Link) -> Error {
    let remedy = match user.controller {
        Some(_) => format!("To take it off: ip link set dev {} nomaster", user.name),
        None => format!("To delete that: ip link del {}", user.name),
    };
    let what = format!("{} is used by {}, which kvm-bridge did not create, and stays", bridge.name, user.name);
    Error::new(what, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::uplink::port::tests::{journal, name};
    use model::host::Kind;

    #[test]
    fn a_bridge_is_needed_by_all_ports_but_its_uplink_and_doctors_own() {
        let journal = journal(false);
        let port = |index, alias: &str| Link { alias: Some(alias.to_owned()), ..Link::bare(index, name("kvb0")) };
        let all = vec![port(2, ""), port(5, "kvm-bridge alice"), port(6, "kvm-bridge-doctor"), port(7, "")];
        let needing: Vec<u32> = beside_the_uplink(&journal, all).iter().map(|port| port.index).collect();
        assert_eq!(needing, [5, 7]);
    }

    #[test]
    fn who_keeps_a_bridge_is_named_with_the_way_to_take_it_off() {
        let bridge = Link { kind: Kind::Bridge, ..Link::bare(9, name("br0")) };
        let port = Link { controller: Some(9), ..Link::bare(5, name("veth0")) };
        let vlan = Link::bare(6, name("br0.7"));
        for (user, command) in [(port, "ip link set dev veth0 nomaster"), (vlan, "ip link del br0.7")] {
            let text = in_use(&bridge, &user).to_string();
            assert!(text.contains("br0 is used by") && text.contains(command), "{text}");
        }
    }
}
