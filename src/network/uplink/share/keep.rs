//! Keeps an uplink shared while the host's network changes under it.

use crate::netlink::{Netlink, tc};
use crate::network::apply::{Change, failed, set};
use crate::network::links::unreadable;
use crate::network::uplink::look::is_wifi;
use crate::network::uplink::share::{attach, create_ends, detach, hold, missing, prepare, release, sharing};
use crate::state::journal::Files;
use model::error::Result;
use model::host::Link;
use model::journal::Journal;
use model::rtnl::tc::IngressQdisc;
use model::share::{On, Share};
use model::uplink::Attachment;
use model::uplink::{not_shareable, why_no_uplink};
use rtnetlink::LinkUnspec;
use std::io;

/// Sees to it that the uplink is shared as the journal says, whatever has become of it meanwhile: its address or MTU has
/// changed, it was replaced by another of its name, the default route leads elsewhere, filters or the veth pair were removed.
/// For who holds the bridge's lock alone. Whether anything was changed.
pub fn keep(netlink: &mut Netlink, files: &Files, journal: &mut Journal) -> Result<bool> {
    let Some(share) = journal.share().cloned() else { return Ok(false) };
    let bridge = journal.bridge.clone();
    let unsure = |error: io::Error| failed(&bridge, "cannot look at its uplink", &error);
    let Some(link) = target(netlink, &share)? else { return Ok(false) };
    let Some(mac) = link.mac else { return Ok(false) };
    let is_whole =
        link.index == share.index && mac == share.mac && is_made(netlink, journal, &share).map_err(unsure)?;
    let is_held = is_held(netlink, journal, &share).map_err(unsure)?;
    // What is made anew is held by that.
    if is_whole && !is_held {
        let change = Change::new(hold(journal.port_end(), mac), format!("cannot hold the host's address on {bridge}"));
        Change::all(netlink, &bridge, vec![change])?;
    }
    if is_whole && link.mtu == share.mtu && (link.is_promiscuous || !share.changes.sets_promiscuous) {
        return Ok(!is_held);
    }
    let mut new = Share { mac, mtu: link.mtu, uplink: link.name.clone(), index: link.index, ..share.clone() };
    if !is_whole {
        detach(netlink, journal, &share).map_err(unsure)?;
        let changes = sharing(netlink, &link).map_err(unsure)?;
        let mut changes = changes.map_err(|why| not_shareable(&link.name, &why))?;
        if link.index == share.index {
            // What was to be changed back still is; `link` is from before that.
            changes.adds_clsact |= share.changes.adds_clsact;
            changes.sets_promiscuous |= share.changes.sets_promiscuous;
            changes.clears_lro |= share.changes.clears_lro;
        }
        new.changes = changes;
    }
    // Whenever we are killed, the journal has to know what is to be changed back.
    journal.attachment = Some(Attachment::Shared(new.clone()));
    files.write(journal)?;
    if new.mac != share.mac {
        netlink.change(vec![release(journal.port_end(), share.mac)]).map_err(unsure)?;
    }
    if !is_whole {
        make_anew(netlink, journal, &new)?;
    } else if new.changes.sets_promiscuous {
        let promiscuous = LinkUnspec::new_with_index(new.index).promiscuous(true).build();
        let change = Change::new(set(promiscuous), "cannot set it promiscuous".to_owned());
        Change::all(netlink, &journal.bridge, vec![change])?;
    }
    if link.mtu != share.mtu {
        let sized = |index: u32| set(LinkUnspec::new_with_index(index).mtu(link.mtu).build());
        let requests = vec![sized(journal.host_end()), sized(journal.port_end())];
        netlink.change(requests).map_err(unsure)?;
    }
    Ok(true)
}

/// Whether all that shares an uplink is there, and the bridge holds the host's address.
pub fn is_whole(netlink: &mut Netlink, journal: &Journal) -> io::Result<bool> {
    let Some(share) = journal.share() else { return Ok(true) };
    Ok(is_made(netlink, journal, share)? && is_held(netlink, journal, share)?)
}

/// Whether the veth pair is as we made it, with the filters.
fn is_made(netlink: &mut Netlink, journal: &Journal, share: &Share) -> io::Result<bool> {
    let host = netlink.link_at(journal.host_end())?;
    let port = netlink.link_at(journal.port_end())?;
    let is_joined = |port: &Link| port.is_up && port.controller == Some(journal.index);
    Ok(host.is_some_and(|host| host.is_up && host.mac == Some(share.mac))
        && port.as_ref().is_some_and(is_joined)
        && missing(netlink, journal, share)?.is_empty())
}

/// Whether the bridge holds the host's address on its port to the uplink: a TAP that gets the same address takes it away, and
/// does not bring it back.
fn is_held(netlink: &mut Netlink, journal: &Journal, share: &Share) -> io::Result<bool> {
    netlink.fdb_holds(journal.index, journal.port_end(), share.mac)
}

/// Makes what shares an uplink from which all of ours was taken: the veth pair where it is not there, and the filters.
fn make_anew(netlink: &mut Netlink, journal: &Journal, share: &Share) -> Result<()> {
    let unsure = |error: io::Error| failed(&journal.bridge, "cannot look at its uplink", &error);
    if netlink.link_at(journal.host_end()).map_err(unsure)?.is_none() {
        Change::all(netlink, &journal.bridge, vec![create_ends(journal, share)])?;
    }
    prepare(journal, share)?;
    // Up again when its filters are there: what comes out of it then would be the host's.
    let down = LinkUnspec::new_with_index(journal.host_end()).down().build();
    let mut changes = vec![Change::new(set(down), "cannot set its end down".to_owned())];
    if netlink.ingress_qdisc(journal.host_end()).map_err(unsure)? == IngressQdisc::Clsact {
        changes.push(Change::new(tc::delete_clsact(journal.host_end()), "cannot replace filters".to_owned()));
    }
    // Where others have filters on the uplink's clsact it has stayed; and so has what keeps frames for the bridge itself out.
    let is_closed = !missing(netlink, journal, share).map_err(unsure)?.iter().any(|filter| filter.on == On::Bridge);
    changes.extend(attach(journal, share, &[libc::EEXIST], is_closed)?);
    Change::all(netlink, &journal.bridge, changes)
}

/// The interface that is to be shared now: the one that was, whatever it is called; or where it has gone, one of its name or
/// address; or the default route's, where the bridge follows that. `None` where there is none.
fn target(netlink: &mut Netlink, share: &Share) -> Result<Option<Link>> {
    let current = netlink.link_at(share.index).map_err(unreadable)?;
    if share.follow {
        for index in netlink.default_interfaces().map_err(unreadable)? {
            let Some(mut link) = netlink.link_at(index).map_err(unreadable)? else { continue };
            link.uplink.is_wifi = is_wifi(&link.name);
            if index == share.index || why_no_uplink(&link).is_none() {
                return Ok(Some(link));
            }
        }
    }
    if current.is_some() {
        return Ok(current);
    }
    let mut found = netlink.link(&share.uplink).map_err(unreadable)?;
    if found.is_none() {
        let all = netlink.links().map_err(unreadable)?;
        // A TAP of a user's may have any address.
        found = all
            .into_iter()
            .find(|link| link.mac == Some(share.mac) && link.alias.is_none() && why_no_uplink(link).is_none());
    }
    let Some(mut link) = found else { return Ok(None) };
    link.uplink.is_wifi = is_wifi(&link.name);
    Ok(Some(link).filter(|link| why_no_uplink(link).is_none()))
}
