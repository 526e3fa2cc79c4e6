//! The uplink of a bridge that was made before it: at boot, or when an adapter is pulled out and plugged in again.

use crate::netlink::Netlink;
use crate::network::apply;
use crate::network::apply::{Change, failed};
use crate::network::{observe, share};
use crate::state::journal::Files;
use model::error::Result;
use model::journal::Journal;
use model::plan::{Wish, attach_awaited};
use model::request::Attach;
use model::step::Step;
use std::io;

/// Attaches the uplink that a bridge waits for, if it is there by now; and has a bridge wait whose port is gone. For who holds
/// the bridge's lock alone. Whether anything was changed.
///
/// An error says why one that is there can't be attached.
pub fn attach(netlink: &mut Netlink, files: &Files, journal: &mut Journal) -> Result<bool> {
    let bridge = journal.bridge.clone();
    let unsure = |error: io::Error| failed(&bridge, "cannot look at its uplink", &error);
    let has_lost = await_lost_port(netlink, journal).map_err(unsure)?;
    if has_lost {
        files.write(journal)?;
    }
    let Some(Step::AwaitUplink { uplink, attach, was_port, follow, .. }) =
        journal.steps.iter().find(|step| matches!(step, Step::AwaitUplink { .. })).cloned()
    else {
        return Ok(has_lost);
    };
    // What was begun is known already.
    if journal.uplink().is_none() {
        let wish = Wish::awaited(&bridge, uplink.as_ref(), attach, was_port, follow);
        let host = observe::awaited(netlink, &wish)?;
        let Some(steps) = attach_awaited(&wish, &host)? else { return Ok(has_lost) };
        journal.steps.extend(steps);
        files.write(journal)?;
    }
    apply::suit(netlink, journal, journal.share().is_some()).map_err(unsure)?;
    if journal.share().is_some() {
        share::keep(netlink, files, journal)?;
    } else {
        let its = |step: &&Step| match step {
            Step::SetUp { link } => *link != bridge,
            step => matches!(step, Step::AttachPort { .. }),
        };
        let mut changes = Vec::new();
        for step in journal.steps.iter().filter(its) {
            apply::set_ipv6(step, journal)?;
            changes.extend(apply::attach(step, journal)?);
        }
        Change::all(netlink, &bridge, changes)?;
    }
    journal.steps.retain(|step| !matches!(step, Step::AwaitUplink { .. }));
    files.write(journal)?;
    Ok(true)
}

/// Has a bridge whose port is not there any more wait for one of its name.
fn await_lost_port(netlink: &mut Netlink, journal: &mut Journal) -> io::Result<bool> {
    let Some((uplink, is_asked)) = journal.steps.iter().find_map(|step| match step {
        Step::AttachPort { uplink, is_asked, .. } => Some((uplink.clone(), *is_asked)),
        _ => None,
    }) else {
        return Ok(false);
    };
    let index = journal.port().map(|(_, index)| index).unwrap_or_default();
    if netlink.link_at(index)?.is_some() {
        return Ok(false);
    }
    journal.steps.retain(|step| match step {
        Step::AttachPort { .. } | Step::AwaitUplink { .. } => false,
        Step::SetUp { link } => *link == journal.bridge,
        _ => true,
    });
    let attach = is_asked.then_some(Attach::Port);
    let bridge = journal.bridge.clone();
    let uplink = Some(uplink);
    journal.steps.push(Step::AwaitUplink { bridge, uplink, attach, was_port: true, follow: false });
    Ok(true)
}
