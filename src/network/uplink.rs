//! How a bridge has its uplink: each kind is carried out, kept as it should be, and taken back by a file of its own.

mod awaited;
pub(super) mod look;
pub mod nat;
pub(in crate::network) mod port;
pub mod share;
pub mod vxlan;

use crate::netlink::Netlink;
use crate::network::apply;
use crate::network::apply::{Change, failed};
use crate::state::journal::Files;
use model::error::Result;
use model::journal::Journal;
use model::uplink::Attachment;
use std::io;

/// The change that makes the links that an uplink needs.
pub(super) fn links(journal: &Journal, attachment: &Attachment) -> Option<Change> {
    match attachment {
        Attachment::Shared(share) => Some(share::create_ends(journal, share)),
        Attachment::Vxlan(vtep) => Some(vxlan::create(journal, vtep)),
        Attachment::Port(_) | Attachment::Awaited(_) | Attachment::Nat(_) => None,
    }
}

/// Sets what has to be set before it is attached, and is not the kernel's rtnetlink's.
pub(super) fn prepare(journal: &Journal, attachment: &Attachment) -> Result<()> {
    match attachment {
        Attachment::Port(port) => port::prepare(journal, port),
        Attachment::Shared(share) => share::prepare(journal, share),
        Attachment::Nat(masquerade) => nat::prepare(journal, masquerade),
        Attachment::Vxlan(vtep) => vxlan::prepare(journal, vtep),
        Attachment::Awaited(_) => Ok(()),
    }
}

/// The change that has a port carry all VLANs, where its bridge filters them.
fn trunk(journal: &Journal, port: u32) -> Option<Change> {
    let request = || apply::of_port(::port::Request::trunk(port));
    let what = || format!("cannot have the uplink of {} carry all VLANs", journal.bridge);
    journal.create.filters_vlans.then(|| Change::new(request(), what()))
}

/// The changes that attach it.
pub(super) fn attach(journal: &Journal, attachment: &Attachment) -> Result<Vec<Change>> {
    match attachment {
        Attachment::Port(port) => Ok(port::attach(journal, port)),
        Attachment::Shared(share) => share::attach(journal, share, &[], false),
        Attachment::Nat(masquerade) => Ok(nat::attach(journal, masquerade)),
        Attachment::Vxlan(vtep) => Ok(vxlan::attach(journal, vtep)),
        Attachment::Awaited(_) => Ok(Vec::new()),
    }
}

/// Takes all of that back, as far as it was carried out.
pub(super) fn detach(netlink: &mut Netlink, journal: &Journal, attachment: &Attachment) -> io::Result<()> {
    match attachment {
        Attachment::Port(port) => port::detach(netlink, journal, port),
        Attachment::Shared(share) => share::take_back(netlink, journal, share),
        Attachment::Nat(masquerade) => nat::detach(journal, masquerade),
        Attachment::Vxlan(_) => vxlan::detach(netlink, journal),
        Attachment::Awaited(_) => Ok(()),
    }
}

/// What the uplink of a bridge is to be now, if that is another kind: one that was waited for is there, a port has gone or is
/// used by the host.
fn next(netlink: &mut Netlink, journal: &Journal) -> Result<Option<Attachment>> {
    match &journal.attachment {
        Some(Attachment::Port(port)) => port::next(netlink, journal, port),
        Some(Attachment::Awaited(awaited)) => awaited::next(netlink, &journal.bridge, awaited),
        Some(Attachment::Shared(_) | Attachment::Nat(_) | Attachment::Vxlan(_)) | None => Ok(None),
    }
}

/// Sees to it that the uplink of a bridge is of the kind that it is to be now. For who holds the bridge's lock alone. Whether
/// anything was changed.
///
/// An error says why one that is there can't be attached.
pub fn follow(netlink: &mut Netlink, files: &Files, journal: &mut Journal) -> Result<bool> {
    let mut is_changed = false;
    loop {
        if let Some(next) = next(netlink, journal)? {
            // Whoever is killed meanwhile leaves both, to be finished or undone.
            journal.before = journal.attachment.replace(next);
            files.write(journal)?;
        } else if journal.before.is_none() {
            return Ok(is_changed);
        }
        finish(netlink, files, journal)?;
        is_changed = true;
    }
}

/// Has a bridge its uplink as the journal says, in the place of what it had before.
fn finish(netlink: &mut Netlink, files: &Files, journal: &mut Journal) -> Result<()> {
    let bridge = journal.bridge.clone();
    let unsure = |error: io::Error| failed(&bridge, "cannot look at its uplink", &error);
    if let Some(before) = &journal.before {
        detach(netlink, journal, before).map_err(unsure)?;
    }
    match &journal.attachment {
        Some(Attachment::Shared(_)) => {
            apply::suit(netlink, journal, true).map_err(unsure)?;
            share::keep(netlink, files, journal)?;
        }
        Some(port @ Attachment::Port(_)) => {
            apply::suit(netlink, journal, false).map_err(unsure)?;
            prepare(journal, port)?;
            Change::all(netlink, &bridge, attach(journal, port)?)?;
        }
        Some(Attachment::Vxlan(_)) => {
            vxlan::keep(netlink, journal)?;
        }
        // None of these becomes another kind, or comes of one.
        Some(Attachment::Awaited(_) | Attachment::Nat(_)) | None => {}
    }
    journal.before = None;
    files.write(journal)
}

/// Sees to it that a bridge has its uplink as it should, whatever has become of that meanwhile. For who holds the bridge's lock
/// alone. Whether anything was changed.
pub fn keep(netlink: &mut Netlink, files: &Files, journal: &mut Journal) -> Result<bool> {
    let is_changed = follow(netlink, files, journal)?;
    let is_mended = share::keep(netlink, files, journal)?
        | nat::keep(netlink, files, journal)?
        | port::keep(netlink, journal)?
        | vxlan::keep(netlink, journal)?;
    Ok(is_mended || is_changed)
}
