//! Takes steps back, and ends what a kill left half done.

use super::apply::{carry_out, delete_link, failed, set};
use super::rtnl::{Netlink, Request};
use crate::error::{Error, Result, reason};
use crate::host::Link;
use crate::journal::{Files, Journal, Taken};
use crate::keeper::{self, Keeper};
use crate::layer3::{End, Layer3};
use crate::name::IfName;
use crate::step::Step;
use crate::sys::sysctl;
use rtnetlink::LinkUnspec;
use std::io;

/// Takes the steps of a journal back, the last one first, as far as they were carried out. What the host has on the
/// bridge by now goes to the uplink, in one send, and the bridge goes only when it is there. All errors are collected;
/// after one of them the journal is still needed.
///
/// A bridge that somebody else uses stays, with all that is on it. One of the journal's index that is not as we made it is
/// somebody else's altogether: nothing is touched. For who holds the bridge's lock alone.
pub fn undo(netlink: &mut Netlink, files: &Files, journal: &Journal) -> Result<()> {
    if !journal.is_current() {
        return Ok(());
    }
    let unsure = |error: io::Error| {
        Error::new(format!("cannot look at {}: {}", journal.bridge, reason(&error)), "To try again: kvm-bridge recover")
    };
    let bridge = netlink.link_at(journal.index).map_err(unsure)?;
    match &bridge {
        Some(link) if !journal.owns(link) => return Ok(()),
        Some(link) => {
            if let Some(user) = users(netlink, journal).map_err(unsure)?.first() {
                let what = format!("{} is used by {}, which is not ours, and stays", link.name, user.name);
                let remedy = match user.controller {
                    Some(_) => format!("To take it off: ip link set dev {} nomaster", user.name),
                    None => format!("To delete that: ip link del {}", user.name),
                };
                return Err(Error::new(what, remedy));
            }
        }
        None => {}
    }
    // What renews on the bridge would put there again what is taken away.
    keeper::release(netlink, journal)?;
    let (returning, there) = match returning(netlink, journal, bridge.as_ref()) {
        Ok(all) => all,
        Err(error) if journal.moving => return Err(error),
        // The host stays on the bridge.
        Err(error) => return keeper::renew(netlink, journal).and(Err(error)),
    };
    // If there is no room for it, the journal still has what was taken.
    let _ = files.write(&returning);
    let (mut requests, mut frees, mut faults) = (Vec::new(), Vec::new(), Vec::new());
    for taken in returning.taken() {
        match free(netlink, journal, &taken) {
            Ok(request) => frees.extend(request),
            Err(error) => faults.push(reason(&error)),
        }
    }
    if journal.told().is_some_and(Keeper::forgets_freed_ports) {
        requests.append(&mut frees);
    }
    for step in returning.steps.iter().rev() {
        match undo_requests(netlink, step, &returning, bridge.is_some()) {
            Ok(mut more) => requests.append(&mut more),
            Err(error) => faults.push(reason(&error)),
        }
    }
    // Else a kill would leave it twice. What can't be taken off the bridge goes with it in a moment.
    let departures = there.departures();
    let uncounted = requests.len()..requests.len() + departures.len();
    requests.extend(departures);
    // Last of all: what goes out by a bridge without its uplink is lost.
    requests.append(&mut frees);
    match carry_out(netlink, requests) {
        Ok(answers) => {
            let counted = answers.into_iter().enumerate().filter(|(at, _)| !uncounted.contains(at));
            faults.extend(counted.filter_map(|(_, answer)| Some(reason(&answer.err()?))));
        }
        Err(error) => faults.push(reason(&error)),
    }
    if faults.is_empty() {
        faults.extend(delete(netlink, journal).err().map(|error| reason(&error)));
    }
    if faults.is_empty() {
        if journal.tells() {
            // What comes to the uplink from here on is its keeper's.
            let _ = files.write(&returning.settled());
            keeper::wake(netlink, journal)?;
        }
        return Ok(());
    }
    if !journal.moving {
        match stay(netlink, &returning) {
            Ok(()) => {
                faults.extend(keeper::renew(netlink, journal).err().map(|error| error.to_string()));
                let _ = files.write(journal);
            }
            Err(error) => faults.push(reason(&error)),
        }
    }
    let what = format!("{} could not be taken back: {}", journal.bridge, faults.join("; "));
    Err(Error::new(what, "To try again: kvm-bridge recover"))
}

/// Ends what a kill left half done: where the bridge is in use already, forwards, else backwards. Whether it was taken
/// back, and its journal is not needed any more. For who holds the bridge's lock alone.
pub fn settle(netlink: &mut Netlink, files: &Files, journal: &Journal) -> Result<bool> {
    let unsure = |error: io::Error| failed(&journal.bridge, "cannot look at it", &error);
    let is_there = netlink.link_at(journal.index).map_err(unsure)?.is_some_and(|link| journal.owns(&link));
    if !is_there || !journal.is_current() || users(netlink, journal).map_err(unsure)?.is_empty() {
        return undo(netlink, files, journal).map(|()| true);
    }
    stay(netlink, journal).map_err(|error| failed(&journal.bridge, "cannot go on with making it", &error))?;
    keeper::renew(netlink, journal)?;
    files.write(&journal.settled()).map(|()| false)
}

/// The links that need the bridge, whosever they are: its ports beside the uplink, else what stands on it.
pub fn users(netlink: &mut Netlink, journal: &Journal) -> io::Result<Vec<Link>> {
    let mut ports = netlink.ports(journal.index)?;
    ports.retain(|port| !journal.took(port.index));
    if ports.is_empty() { netlink.stacked_on(journal.index) } else { Ok(ports) }
}

/// When not all could be given back, the host stays on the bridge: what it has, and what of it is on the uplink already.
fn stay(netlink: &mut Netlink, journal: &Journal) -> io::Result<()> {
    let mut requests = Vec::new();
    for taken in journal.taken() {
        let Some(uplink) = uplink_of(netlink, journal, &taken)? else { continue };
        if uplink.controller.is_some_and(|controller| controller != journal.index) {
            continue;
        }
        let (from, to) = (End { index: uplink.index, name: taken.uplink }, journal.end());
        requests.push(set(LinkUnspec::new_with_index(uplink.index).controller(journal.index).build()));
        // What is on the uplink by now may have arrived by half.
        requests.extend(taken.layer3.at(from, to).arrivals());
        requests.extend(taken.layer3.departures());
        for step in &journal.steps {
            if let Step::Configure { link, setting, value, .. } = step
                && link == taken.uplink
            {
                sysctl::write(&uplink.name, setting, value)?;
            }
        }
    }
    carry_out(netlink, requests)?.into_iter().collect()
}

fn delete(netlink: &mut Netlink, journal: &Journal) -> io::Result<()> {
    match netlink.link_at(journal.index)? {
        Some(link) if journal.owns(&link) => delete_link(netlink, link.index),
        _ => Ok(()),
    }
}

/// The journal of the way back, whose steps have what each uplink is to have in the end, as it was called then; and what
/// the host has on the bridge.
fn returning(netlink: &mut Netlink, journal: &Journal, bridge: Option<&Link>) -> Result<(Journal, Layer3)> {
    let there = match bridge {
        Some(bridge) => netlink.layer3(bridge.index).map_err(unread)?,
        None => Layer3::default(),
    };
    let mut returning = journal.returning();
    for step in &mut returning.steps {
        if let Step::TakeUplink { uplink, index, mac, layer3, .. } = step {
            let taken = Taken { uplink, index: *index, mac: *mac, layer3 };
            let found = belongings(netlink, journal, bridge.map(|bridge| (bridge, &there)), &taken);
            *layer3 = found.map_err(|error| error.of(&journal.bridge))?;
        }
    }
    Ok((returning, there))
}

fn unread(error: io::Error) -> Error {
    Error::new(format!("cannot read what the host has: {}", reason(&error)), "To try again: kvm-bridge recover")
}

/// What an uplink is to have in the end; `bridge` with what the host has on it.
fn belongings(
    netlink: &mut Netlink,
    journal: &Journal,
    bridge: Option<(&Link, &Layer3)>,
    taken: &Taken,
) -> Result<Layer3> {
    let then = || taken.layer3.clone().aged(journal.age());
    let uplink = uplink_of(netlink, journal, taken).map_err(unread)?;
    let ((bridge, there), uplink) = match (bridge, uplink) {
        _ if journal.moving => return Ok(then()),
        // Where the interface has gone, all that was on it has.
        (_, None) => return Ok(then()),
        (None, Some(uplink)) => {
            // Deleted by hand, with all that was on it.
            let now = netlink.layer3(uplink.index).map_err(unread)?;
            return Ok(if now.is_empty() { then() } else { now });
        }
        (Some(bridge), Some(uplink)) => (bridge, uplink),
    };
    if uplink.controller.is_some() && !journal.is_port(&uplink) && !there.is_empty() {
        let what = format!("{} was given to another link, and the host is on {}", uplink.name, bridge.name);
        let remedy = format!("Take the addresses off {}, or: ip link set dev {} nomaster", bridge.name, uplink.name);
        return Err(Error::new(what, remedy));
    }
    if !uplink.is_up && !there.is_empty() {
        let what = format!("{} is down, and the host stays on {}", uplink.name, bridge.name);
        return Err(Error::new(what, format!("To set it up: ip link set dev {} up", uplink.name)));
    }
    let (from, to) =
        (End { index: journal.index, name: &bridge.name }, End { index: uplink.index, name: taken.uplink });
    let mut all = there.at(from, to);
    if !bridge.is_up {
        // Set down by hand, it has lost its routes.
        all.add_missing(then());
    }
    Ok(all)
}

fn undo_requests(netlink: &mut Netlink, step: &Step, journal: &Journal, is_there: bool) -> io::Result<Vec<Request>> {
    Ok(match step {
        // A bridge goes as a whole, when all else is back.
        Step::AddBridge { .. } | Step::Tell { .. } | Step::Spare { .. } => Vec::new(),
        Step::SetUp { link } | Step::Configure { link, .. } if *link == journal.bridge => Vec::new(),
        Step::SetUp { link } => match of_name(netlink, journal, link)? {
            Some((found, _)) if is_as_we_left_it(netlink, journal, &found, is_there)? => {
                vec![set(LinkUnspec::new_with_index(found.index).down().build())]
            }
            _ => Vec::new(),
        },
        Step::Configure { link, setting, value, was } => {
            if let Some((found, _)) = of_name(netlink, journal, link)?
                && sysctl::read(found.name.as_str(), setting).as_ref() == Some(value)
            {
                sysctl::write(&found.name, setting, was)?;
            }
            Vec::new()
        }
        Step::TakeUplink { uplink, .. } => match of_name(netlink, journal, uplink)? {
            Some((found, taken)) => give_back(netlink, journal, &found, taken.layer3)?,
            None => Vec::new(),
        },
    })
}

/// The interface that was taken as `name`, and what is to become of it.
fn of_name<'a>(netlink: &mut Netlink, journal: &'a Journal, name: &IfName) -> io::Result<Option<(Link, Taken<'a>)>> {
    let Some(taken) = journal.taken().find(|taken| taken.uplink == name) else { return Ok(None) };
    Ok(uplink_of(netlink, journal, &taken)?.map(|found| (found, taken)))
}

/// The interface that was taken, whatever it is called now; `None` if it has gone, and another of its index is not it.
fn uplink_of(netlink: &mut Netlink, journal: &Journal, taken: &Taken) -> io::Result<Option<Link>> {
    let found = netlink.link_at(taken.index)?;
    Ok(found.filter(|link| taken.mac.is_none_or(|mac| link.mac == Some(mac)) || journal.is_port(link)))
}

/// Whether an uplink that was set up for its bridge is so still: a port of it, or freed only by its deletion and without
/// anything that somebody gave it since.
fn is_as_we_left_it(netlink: &mut Netlink, journal: &Journal, uplink: &Link, is_there: bool) -> io::Result<bool> {
    let is_known = journal.taken().any(|taken| taken.index == uplink.index && taken.mac.is_some());
    let is_orphan = !is_there && is_known && uplink.controller.is_none();
    Ok(journal.is_port(uplink) || is_orphan && netlink.layer3(uplink.index)?.is_empty())
}

/// The request that frees an uplink that is a port of the bridge.
fn free(netlink: &mut Netlink, journal: &Journal, taken: &Taken) -> io::Result<Option<Request>> {
    let port = uplink_of(netlink, journal, taken)?.filter(|uplink| journal.is_port(uplink));
    Ok(port.map(|port| set(LinkUnspec::new_with_index(port.index).nocontroller().build())))
}

/// The requests that bring what the host has back to the uplink.
fn give_back(netlink: &mut Netlink, journal: &Journal, uplink: &Link, all: &Layer3) -> io::Result<Vec<Request>> {
    if !journal.is_port(uplink) && uplink.controller.is_some() {
        return Ok(Vec::new());
    }
    let mut requests = Vec::new();
    let now = netlink.layer3(uplink.index)?;
    if !all.missing_in(&now).is_empty() {
        // What is there goes first, so that all comes in its order.
        requests.extend(now.departures());
        let taken = journal.taken().find(|taken| taken.index == uplink.index);
        let then = End { index: uplink.index, name: taken.map_or(&uplink.name, |taken| taken.uplink) };
        requests.extend(all.at(then, End { index: uplink.index, name: &uplink.name }).arrivals());
    }
    Ok(requests)
}
