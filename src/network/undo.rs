//! Takes steps back, and ends what a kill left half done.

use crate::netlink::Netlink;
use crate::network::apply::{delete_link, failed, set};
use crate::network::dhcp_probe::is_probe;
use crate::network::share;
use crate::output;
use crate::output::errno::reason;
use crate::state::journal;
use crate::state::journal::Files;
use crate::sys::sysctl;
use model::error::{Error, Result};
use model::host::Link;
use model::journal::Journal;
use model::step::Step;
use rtnetlink::LinkUnspec;
use std::io;

/// Takes the steps of a journal back, the last one first, as far as they were carried out. All errors are collected; after
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
            let what = format!("{} is used by {}, which is not ours, and stays", link.name, user.name);
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
    for step in journal.steps.iter().rev() {
        let undone = match step {
            Step::ShareUplink { share, .. } => {
                let detached = share::detach(netlink, journal, share);
                detached.and_then(|()| delete_owned(netlink, journal, journal.host_end()))
            }
            Step::AttachPort { index, had_ipv6, .. } => give_back(netlink, journal, *index, *had_ipv6),
            // A bridge goes as a whole, when all else is back.
            Step::AddBridge { .. } | Step::SetUp { .. } | Step::AwaitUplink { .. } => Ok(()),
        };
        faults.extend(undone.err().map(|error| reason(&error)));
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
    share::keep(netlink, files, journal)?;
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
fn delete_owned(netlink: &mut Netlink, journal: &Journal, index: u32) -> io::Result<()> {
    match netlink.link_at(index)? {
        Some(link) if journal.owns(&link) || journal.owns_end(&link) => delete_link(netlink, link.index),
        _ => Ok(()),
    }
}

/// Frees an interface that was made a port, and leaves it as it was.
pub(super) fn give_back(netlink: &mut Netlink, journal: &Journal, index: u32, had_ipv6: bool) -> io::Result<()> {
    let Some(link) = netlink.link_at(index)?.filter(|link| journal.is_port_of(link)) else { return Ok(()) };
    let is_ours = link.controller == Some(journal.index);
    if !is_ours && link.controller.is_some() {
        return Ok(());
    }
    let mut requests = Vec::new();
    if is_ours {
        requests.push(set(LinkUnspec::new_with_index(index).nocontroller().build()));
    }
    let was_down = journal.steps.iter().any(|step| matches!(step, Step::SetUp { link } if *link != journal.bridge));
    // One that is used by now stays up.
    if was_down && netlink.addresses(index)?.is_empty() {
        requests.push(set(LinkUnspec::new_with_index(index).down().build()));
    }
    netlink.change(requests)?.into_iter().collect::<io::Result<()>>()?;
    match had_ipv6 {
        true => sysctl::write(link.name.as_str(), "ipv6/disable_ipv6", "0"),
        false => Ok(()),
    }
}
