//! Takes steps back, and ends what a kill left half done.

use super::apply::{delete_link, failed, set};
use super::rtnl::Netlink;
use super::share;
use crate::error::{Error, Result, reason};
use crate::host::Link;
use crate::journal::{Files, Journal};
use crate::out;
use crate::step::Step;
use crate::sys::sysctl;
use crate::watch::ask::is_probe;
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
    if !journal.is_current()? {
        return Ok(());
    }
    let unsure = |error: io::Error| {
        Error::new(format!("cannot look at {}: {}", journal.bridge, reason(&error)), "To try again: kvm-bridge recover")
    };
    out::step(|| format!("undoes what was made for {}", journal.bridge));
    let bridge = netlink.link_at(journal.index).map_err(unsure)?;
    let is_ours = bridge.as_ref().is_none_or(|link| journal.owns(link));
    if is_ours && let Some(link) = &bridge {
        if !is_forced && let Some(user) = users(netlink, journal).map_err(unsure)?.first() {
            return Err(in_use(link, user));
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
    if !is_there || !journal.is_current()? || users(netlink, journal).map_err(unsure)?.is_empty() {
        return undo(netlink, files, journal).map(|()| true);
    }
    share::keep(netlink, files, journal)?;
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
    Error::new(format!("{} is used by {}, which is not ours, and stays", bridge.name, user.name), remedy)
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
    let Some(link) = netlink.link_at(index)? else { return Ok(()) };
    let Some(back) = GiveBack::of(journal, &link, !netlink.addresses(index)?.is_empty()) else { return Ok(()) };
    let link_at = || LinkUnspec::new_with_index(index);
    let leaves = back.leaves_bridge.then(|| set(link_at().nocontroller().build()));
    let down = back.goes_down.then(|| set(link_at().down().build()));
    netlink.change_all(leaves.into_iter().chain(down).collect())?;
    match had_ipv6 {
        true => sysctl::write(link.name.as_str(), "ipv6/disable_ipv6", "0"),
        false => Ok(()),
    }
}

/// What is done to an interface that was made a port.
#[derive(Debug, PartialEq, Eq)]
struct GiveBack {
    leaves_bridge: bool,
    goes_down: bool,
}

impl GiveBack {
    /// `None` for another interface that has its index now, and for one that somebody made a port of another bridge.
    fn of(journal: &Journal, link: &Link, is_used: bool) -> Option<Self> {
        let leaves_bridge = link.controller == Some(journal.index);
        if !journal.is_port_of(link) || !leaves_bridge && link.controller.is_some() {
            return None;
        }
        let was_down = journal.steps.iter().any(|step| matches!(step, Step::SetUp { link } if *link != journal.bridge));
        // One that is used by now stays up.
        Some(Self { leaves_bridge, goes_down: was_down && !is_used })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Kind;
    use crate::mac::Mac;
    use crate::name::IfName;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn name(name: &str) -> IfName {
        IfName::new(name).unwrap()
    }

    fn journal(was_down: bool) -> Journal {
        let attach = Step::AttachPort {
            bridge: name("br0"),
            uplink: name("eth0"),
            index: 2,
            mac: MAC,
            had_ipv6: true,
            is_asked: false,
        };
        let up = was_down.then(|| Step::SetUp { link: name("eth0") });
        Journal::new(name("br0"), false, [attach, Step::SetUp { link: name("br0") }].into_iter().chain(up).collect())
            .unwrap()
    }

    #[test]
    fn an_interface_is_given_back_as_it_was_and_no_other() {
        let eth0 = |index, mac, controller| Link { mac: Some(mac), controller, ..Link::bare(index, name("eth0")) };
        let other = Mac([2, 0, 0, 0, 0, 9]);
        let back = |leaves_bridge, goes_down| Some(GiveBack { leaves_bridge, goes_down });
        for was_down in [true, false] {
            let journal = journal(was_down);
            let ours = Some(journal.index);
            for (link, is_used, expected, why) in [
                (eth0(2, MAC, ours), false, back(true, was_down), "as we left it"),
                (eth0(2, other, ours), false, back(true, was_down), "another address, and still our port"),
                (eth0(2, MAC, ours), true, back(true, false), "the host has an address on it by now"),
                (eth0(2, MAC, None), false, back(false, was_down), "somebody took it off"),
                (eth0(2, MAC, Some(7)), false, None, "a port of another bridge by now"),
                (eth0(2, other, None), false, None, "another interface of its index"),
                (eth0(3, MAC, None), false, None, "another index"),
            ] {
                assert_eq!(GiveBack::of(&journal, &link, is_used), expected, "{why}");
            }
        }
    }

    #[test]
    fn a_bridge_is_needed_by_all_ports_but_its_uplink_and_doctors_own() {
        let journal = journal(false);
        let port = |index, alias: &str| Link { alias: Some(alias.to_owned()), ..Link::bare(index, name("kvb0")) };
        let all = vec![port(2, ""), port(5, "kvm-bridge alice"), port(6, "kvm-bridge-doctor"), port(7, "")];
        let needing: Vec<u32> = beside_the_uplink(&journal, all).iter().map(|port| port.index).collect();
        assert_eq!(needing, [5, 7]);
    }

    #[test]
    fn who_keeps_a_bridge_is_told_with_the_way_to_take_it_off() {
        let bridge = Link { kind: Kind::Bridge, ..Link::bare(9, name("br0")) };
        let port = Link { controller: Some(9), ..Link::bare(5, name("veth0")) };
        let vlan = Link { lower: Some(9), ..Link::bare(6, name("br0.7")) };
        for (user, command) in [(port, "ip link set dev veth0 nomaster"), (vlan, "ip link del br0.7")] {
            let text = in_use(&bridge, &user).to_string();
            assert!(text.contains("br0 is used by") && text.contains(command), "{text}");
        }
    }
}
