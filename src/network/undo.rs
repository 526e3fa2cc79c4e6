//! Takes back what was made, and ends what a kill left half done.

use crate::netlink::Netlink;
use crate::network::apply::{delete_link, failed};
use crate::network::dhcp_probe::is_probe;
use crate::network::uplink;
use crate::output;
use crate::output::errno::reason;
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
    if is_ours && let Some(link) = &bridge {
        if !is_forced && let Some(user) = users(netlink, journal).map_err(unsure)?.first() {
            let what = format!("{} is used by {}, which kvm-bridge did not create, and stays", link.name, user.name);
            let remedy = match user.controller {
                Some(_) => format!("To take it off: ip link set dev {} nomaster", user.name),
                None => format!("To delete that: ip link del {}", user.name),
            };
            return Err(Error::new(what, remedy));
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
        faults.extend(delete_owned(netlink, journal, journal.index).err().map(|error| reason(&error)));
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
    let mut ports = netlink.ports(journal.index)?;
    ports.retain(|port| !journal.attached(port.index) && !is_probe(port));
    if ports.is_empty() { netlink.stacked_on(journal.index) } else { Ok(ports) }
}

/// Deletes a link of the journal's, if it is still as we made it.
pub(super) fn delete_owned(netlink: &mut Netlink, journal: &Journal, index: u32) -> io::Result<()> {
    match netlink.link_at(index)? {
        Some(link) if journal.owns(&link) || journal.owns_end(&link) => delete_link(netlink, link.index),
        _ => Ok(()),
    }
}
