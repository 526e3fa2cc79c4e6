//! Whom the host reaches through a bridge that shares its uplink: an entry of the hash table for each address behind it.

use super::links_of;
use crate::netlink::{Netlink, Request, tc};
use model::journal::Journal;
use model::mac::Mac;
use model::share::Hook;
use model::share::entries::{Wanted, reconcile};
use model::share::found::Found;
use rtnetlink::LinkUnspec;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{InfoBridgePort, InfoPortData, InfoPortKind, LinkAttribute, LinkInfo};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// The change by which the host reaches a guest that has sent nothing yet, for as long as its TAP is there.
pub fn entry(journal: &Journal, mac: Mac, tap: u32) -> Option<Request> {
    let share = journal.share()?;
    Some(tc::add_filter(&share.entry(mac), links_of(journal, share), tap, None))
}

/// Sees to it that the host reaches all that are behind the bridge, and nobody else through it.
pub fn keep_entries(netlink: &mut Netlink, journal: &Journal) -> io::Result<()> {
    let Some(share) = journal.share() else { return Ok(()) };
    // While it is not there, nobody is reached by it.
    if netlink.link_at(share.index)?.is_none() {
        return Ok(());
    }
    let found = netlink.filters(share.index, Hook::Egress)?;
    let there: Vec<Found> =
        found.into_iter().filter(|found| found.entry.is_some() && found.is_of(journal.index)).collect();
    let (mut behind, mut beyond) = (BTreeMap::new(), BTreeSet::new());
    for entry in netlink.fdb(journal.index)?.into_iter().filter(|entry| !entry.is_own && entry.mac != share.mac) {
        if entry.port == journal.port_end() {
            beyond.insert(entry.mac);
        } else {
            behind.insert(entry.mac, entry.port);
        }
    }
    let ports = netlink.ports(journal.index)?.into_iter().map(|port| port.index).collect();
    let Wanted { new, unwanted, learnt, floods } = reconcile(there, &behind, &beyond, &ports);
    let mut requests: Vec<Request> = floods.into_iter().map(stop_learning).collect();
    // Whoever is heard of is heard on the network too, before anything is sent there.
    let links = links_of(journal, share);
    let listening = share.listening(&learnt);
    for there in netlink.filters(share.index, Hook::Ingress)?.iter().filter(|found| found.is_of(journal.index)) {
        if listening.pref == there.pref && !there.is_as(&listening, links) {
            requests.push(tc::change_filter(&listening, links, there));
        }
    }
    requests.extend(unwanted.iter().map(|found| tc::delete_filter(share.index, Hook::Egress, found)));
    requests.extend(new.into_iter().filter_map(|mac| entry(journal, mac, 0)));
    match netlink.change(requests)?.into_iter().collect::<io::Result<()>>() {
        // It goes in this moment, or its filters do, which is seen where the links are looked at.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL | libc::ENOENT)) => Ok(()),
        done => done,
    }
}

/// The change by which a bridge learns nothing more on a port, and forgets what it has learnt there.
fn stop_learning(port: u32) -> Request {
    let settings = InfoPortData::BridgePort(vec![InfoBridgePort::Learning(false), InfoBridgePort::Flush]);
    let info = vec![LinkInfo::PortKind(InfoPortKind::Bridge), LinkInfo::PortData(settings)];
    // RTM_SETLINK passes over what is a port's (do_setlink in net/core/rtnetlink.c).
    let link = LinkUnspec::new_with_index(port).append_extra_attribute(LinkAttribute::LinkInfo(info)).build();
    (RouteNetlinkMessage::NewLink(link).into(), 0, &[libc::ENODEV])
}
