//! Shares an uplink, keeps it shared while it changes, and takes that back: see `crate::share` for what the filters do.

use super::apply::{Change, failed, set};
use super::observe;
use super::rtnl::Netlink;
use super::rtnl::tc::{self, Cookie, Found, IngressQdisc, Links};
use crate::error::Result;
use crate::host::{Link, NotShareable};
use crate::journal::{Files, Journal};
use crate::mac::Mac;
use crate::name::IfName;
use crate::plan::why_no_uplink;
use crate::share::{self, Changes, Classifier, Filter, Hook, MarkBy, On, PREF, Share};
use crate::sys::ethtool;
use crate::sys::program::{self, Program};
use rtnetlink::LinkUnspec;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use std::collections::BTreeSet;
use std::io;

/// Whether a link can be shared, and what that changes on it.
pub fn sharing(netlink: &mut Netlink, link: &Link) -> io::Result<std::result::Result<Changes, NotShareable>> {
    let qdisc = netlink.ingress_qdisc(link.index)?;
    if qdisc == IngressQdisc::Other {
        return Ok(Err(NotShareable::IngressQdisc));
    }
    if qdisc == IngressQdisc::Clsact {
        let found = netlink.filters(link.index, Hook::Ingress)?;
        let through = found.iter().find(|found| found.cookie.is_some()).and_then(|found| found.target);
        // One whose other end has gone is left over.
        if let Some(through) = through.map(|index| netlink.link_at(index)).transpose()?.flatten() {
            return Ok(Err(NotShareable::IsShared(through.name)));
        }
    }
    Ok(Ok(Changes {
        adds_clsact: qdisc == IngressQdisc::Absent,
        sets_promiscuous: !link.is_promiscuous,
        clears_lro: ethtool::has_lro(&link.name)?,
    }))
}

/// By what frames can be marked: by the kernel's own action, where it is loaded or can be; `None` where by nothing.
pub fn mark(netlink: &mut Netlink) -> io::Result<Option<MarkBy>> {
    if netlink.has_action("skbedit")? {
        return Ok(Some(MarkBy::Skbedit));
    }
    let release = nix::sys::utsname::uname()?.release().to_string_lossy().into_owned();
    let has_module = |list: &str| {
        let list = std::fs::read_to_string(format!("/lib/modules/{release}/{list}"));
        list.is_ok_and(|list| list.contains("/act_skbedit.ko"))
    };
    if has_module("modules.dep") || has_module("modules.builtin") {
        return Ok(Some(MarkBy::Skbedit));
    }
    Ok(program::is_installed("nft").then_some(MarkBy::Nftables))
}

impl Journal {
    fn links(&self, share: &Share) -> Links {
        Links { uplink: share.index, host_end: self.host_end() }
    }

    fn cookie(&self, tap: u32) -> Cookie {
        Cookie { bridge: self.index, tap }
    }
}

/// The change that makes the veth pair, both ends down.
pub(super) fn create_ends(journal: &Journal, share: &Share) -> Change {
    let [host_end, port] = share::ends(&journal.bridge);
    let message = |index: u32, name: &IfName| {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::IfName(name.to_string()));
        message.attributes.push(LinkAttribute::Mtu(share.mtu));
        message
    };
    let peer = message(journal.port_end(), &port);
    let mut pair = message(journal.host_end(), &host_end);
    pair.attributes.push(LinkAttribute::Address(share.mac.0.to_vec()));
    pair.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    let request = (Message::NewLink(pair), NLM_F_CREATE | NLM_F_EXCL, &[][..]);
    Change::new(request, format!("cannot make the veth pair {host_end} and {port}")).needing("veth", "CONFIG_VETH")
}

/// The changes that make the pair work and attach the uplink to it, the one that lets frames in last.
pub(super) fn attach(journal: &Journal, share: &Share) -> Vec<Change> {
    let [host_end, port] = share::ends(&journal.bridge);
    let host = LinkUnspec::new_with_index(journal.host_end()).arp(false).alias(journal.alias()).up();
    let end = LinkUnspec::new_with_index(journal.port_end()).alias(journal.alias()).controller(journal.index).up();
    let mut changes = vec![
        Change::new(set(host.build()), format!("cannot set {host_end} up")),
        Change::new(set(end.build()), format!("cannot make {port} a port")),
    ];
    changes.extend(attach_uplink(journal, share, &[]));
    changes
}

/// `fine` are the errnos that mean that a clsact qdisc is there already.
fn attach_uplink(journal: &Journal, share: &Share, fine: &'static [i32]) -> Vec<Change> {
    let [host_end, _] = share::ends(&journal.bridge);
    let uplink = &share.uplink;
    let clsact = |index: u32, name: &IfName| {
        let change = Change::new(tc::add_clsact(index, fine), format!("cannot give {name} a clsact qdisc"));
        change.needing("sch_ingress", "CONFIG_NET_SCH_INGRESS")
    };
    let mut changes = vec![clsact(journal.host_end(), &host_end)];
    if share.changes.sets_promiscuous {
        let promiscuous = LinkUnspec::new_with_index(share.index).promiscuous(true).build();
        changes.push(Change::new(set(promiscuous), format!("cannot set {uplink} promiscuous")));
    }
    if share.changes.adds_clsact {
        changes.push(clsact(share.index, uplink));
    }
    for filter in share::filters(share.mac, share.mark) {
        let request = tc::add_filter(&filter, journal.links(share), journal.cookie(0));
        let on = if filter.on == On::Uplink { uplink } else { &host_end };
        let change = Change::new(request, format!("cannot give {on} a filter"));
        changes.push(match filter.classifier {
            Classifier::Bpf(_) | Classifier::Verdict(_) => {
                change.needing("cls_bpf and act_mirred", "CONFIG_NET_CLS_BPF and CONFIG_NET_ACT_MIRRED")
            }
            _ => change.needing("cls_u32", "CONFIG_NET_CLS_U32"),
        });
    }
    changes
}

/// Has nftables mark frames, where that is how it is done.
pub(super) fn start_marking(bridge: &IfName, share: &Share) -> Result<()> {
    match share.mark {
        MarkBy::Skbedit => Ok(()),
        MarkBy::Nftables => Program::new("nft").words([share::ruleset(bridge, &share.uplink)]).run().map(|_| ()),
    }
}

/// Switches large receive offload off, where it is on.
pub(super) fn clear_lro(bridge: &IfName, share: &Share) -> Result<()> {
    let what = || format!("cannot switch large receive offload of {} off", share.uplink);
    match share.changes.clears_lro {
        true => ethtool::set_lro(&share.uplink, false).map_err(|error| failed(bridge, &what(), &error)),
        false => Ok(()),
    }
}

/// The change by which the host reaches a guest that has sent nothing yet, for as long as its TAP is there.
pub fn entry(journal: &Journal, mac: Mac, tap: u32) -> Option<super::rtnl::Request> {
    let share = journal.share()?;
    Some(tc::add_filter(&share::entry(mac), journal.links(share), journal.cookie(tap)))
}

/// Takes ours off the uplink, whatever of it is there; what others put there stays. The bridge and the veth pair go later.
pub(super) fn detach(netlink: &mut Netlink, journal: &Journal, share: &Share) -> io::Result<()> {
    if let Some(link) = netlink.link_at(share.index)? {
        let ingress = netlink.filters(share.index, Hook::Ingress)?;
        let egress = netlink.filters(share.index, Hook::Egress)?;
        let is_ours = |found: &&Found| found.cookie.is_some_and(|cookie| cookie.bridge == journal.index);
        let mut requests = Vec::new();
        // What lets frames in goes first.
        for (hook, all) in [(Hook::Ingress, &ingress), (Hook::Egress, &egress)] {
            let bpf = all.iter().filter(is_ours).filter(|found| !found.program.is_empty());
            requests.extend(bpf.map(|found| tc::delete_filter(share.index, hook, found, "bpf")));
        }
        if egress.iter().any(is_of_table) {
            requests.push(tc::delete_place(share.index, Hook::Egress, PREF + 1));
        }
        if share.changes.sets_promiscuous && link.is_promiscuous {
            requests.push(set(LinkUnspec::new_with_index(share.index).promiscuous(false).build()));
        }
        let is_foreign = |found: &Found| !is_ours(&found) && !is_of_table(found);
        let is_free = !ingress.iter().chain(&egress).any(is_foreign);
        if share.changes.adds_clsact && is_free && netlink.ingress_qdisc(share.index)? == IngressQdisc::Clsact {
            requests.push(tc::delete_clsact(share.index));
        }
        netlink.change(requests)?.into_iter().collect::<io::Result<()>>()?;
        for hook in [Hook::Ingress, Hook::Egress] {
            if netlink.filters(share.index, hook)?.iter().any(|found| is_ours(&found)) {
                return Err(io::Error::other("filters of ours stayed on the uplink"));
            }
        }
        if share.changes.clears_lro {
            ethtool::set_lro(&link.name, true)?;
        }
    }
    Ok(())
}

/// Has nftables mark nothing any more.
pub(super) fn stop_marking(bridge: &IfName, share: &Share) -> Result<()> {
    if share.mark == MarkBy::Nftables {
        let table = share::table(bridge);
        // 'add' makes one where there is none: then there is one to delete.
        let delete = |family: &str| format!("add table {family} {table}; delete table {family} {table}");
        Program::new("nft").words([format!("{}; {}", delete("bridge"), delete("inet"))]).run()?;
    }
    Ok(())
}

/// Whether it is of the hash table, or leads there, or made room for it: these have no cookie.
fn is_of_table(found: &Found) -> bool {
    found.pref == PREF + 1 && found.program.is_empty()
}

/// Those of the filters that are not there as they should be.
pub fn missing(netlink: &mut Netlink, journal: &Journal, share: &Share) -> io::Result<Vec<Filter>> {
    let links = journal.links(share);
    let mut missing = Vec::new();
    for (on, hook) in [(On::HostEnd, Hook::Ingress), (On::Uplink, Hook::Egress), (On::Uplink, Hook::Ingress)] {
        let index = if on == On::Uplink { links.uplink } else { links.host_end };
        let found = netlink.filters(index, hook)?;
        let its =
            share::filters(share.mac, share.mark).into_iter().filter(|filter| (filter.on, filter.hook) == (on, hook));
        missing.extend(its.filter(|filter| !found.iter().any(|found| tc::is_as(found, filter, links))));
    }
    Ok(missing)
}

/// Whether others have filters on the uplink too.
pub fn has_foreign(netlink: &mut Netlink, journal: &Journal, share: &Share) -> io::Result<bool> {
    let is_ours =
        |found: &Found| found.cookie.is_some_and(|cookie| cookie.bridge == journal.index) || is_of_table(found);
    for hook in [Hook::Ingress, Hook::Egress] {
        if !netlink.filters(share.index, hook)?.iter().all(is_ours) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// How many frames and bytes each way has carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// From the network to the bridge: frames and bytes.
    pub from_network: (u64, u64),
    /// From the host to the bridge.
    pub from_host: (u64, u64),
    /// From the bridge, to the network, to the host or to both.
    pub from_bridge: (u64, u64),
}

/// Counts what the filters have passed.
pub fn counts(netlink: &mut Netlink, journal: &Journal, share: &Share) -> io::Result<Counts> {
    let links = journal.links(share);
    let mut sum = |index: u32, hook: Hook| -> io::Result<(u64, u64)> {
        let found = netlink.filters(index, hook)?;
        let ours = found.iter().filter(|found| found.cookie.is_some_and(|cookie| cookie.bridge == journal.index));
        // What only clears a mark sends nothing.
        let ours = ours.filter(|found| found.target.is_some());
        Ok(ours.fold((0, 0), |(packets, bytes), found| (packets + found.packets, bytes + found.bytes)))
    };
    Ok(Counts {
        from_network: sum(links.uplink, Hook::Ingress)?,
        from_host: sum(links.uplink, Hook::Egress)?,
        from_bridge: sum(links.host_end, Hook::Ingress)?,
    })
}

/// Sees to it that the uplink is shared as the journal says, whatever has become of it meanwhile: its address or MTU has
/// changed, it was replaced by another of its name, the default route leads elsewhere, filters of ours were removed. For who
/// holds the bridge's lock alone. Whether anything was changed.
pub fn keep(netlink: &mut Netlink, files: &Files, journal: &mut Journal) -> Result<bool> {
    let Some(share) = journal.share().cloned() else { return Ok(false) };
    let bridge = journal.bridge.clone();
    let unsure = |error: io::Error| failed(&bridge, "cannot look at its uplink", &error);
    let Some(link) = target(netlink, &share)? else { return Ok(false) };
    let Some(mac) = link.mac else { return Ok(false) };
    let is_same = link.index == share.index;
    let is_whole = is_same && mac == share.mac && missing(netlink, journal, &share).map_err(unsure)?.is_empty();
    if is_whole && link.mtu == share.mtu && (link.is_promiscuous || !share.changes.sets_promiscuous) {
        return Ok(false);
    }
    let new = match is_same {
        true => Share { mac, mtu: link.mtu, uplink: link.name.clone(), ..share.clone() },
        false => {
            detach(netlink, journal, &share).map_err(unsure)?;
            let Ok(changes) = sharing(netlink, &link).map_err(unsure)? else { return Ok(false) };
            Share { index: link.index, mac, mtu: link.mtu, uplink: link.name.clone(), changes, ..share.clone() }
        }
    };
    // Of both the journal has to know what is to be undone, whenever we are killed.
    journal.set_share(new.clone());
    files.write(journal)?;
    if !is_whole {
        detach(netlink, journal, &new).map_err(unsure)?;
        clear_lro(&journal.bridge, &new)?;
        if new.uplink != share.uplink {
            start_marking(&journal.bridge, &new)?;
        }
        let address = LinkUnspec::new_with_index(journal.host_end()).address(mac.0.to_vec()).build();
        let mut changes = vec![Change::new(set(address), "cannot give the uplink's address on".to_owned())];
        if netlink.ingress_qdisc(journal.host_end()).map_err(unsure)? == IngressQdisc::Clsact {
            changes.push(Change::new(tc::delete_clsact(journal.host_end()), "cannot replace filters".to_owned()));
        }
        // Where others have filters on ours it has stayed.
        changes.extend(attach_uplink(journal, &new, &[libc::EEXIST]));
        Change::all(netlink, &journal.bridge, changes)?;
    } else if new.changes.sets_promiscuous {
        let promiscuous = LinkUnspec::new_with_index(new.index).promiscuous(true).build();
        Change::all(
            netlink,
            &journal.bridge,
            vec![Change::new(set(promiscuous), "cannot set it promiscuous".to_owned())],
        )?;
    }
    if link.mtu != share.mtu {
        let sized = |index: u32| set(LinkUnspec::new_with_index(index).mtu(link.mtu).build());
        let requests = vec![sized(journal.host_end()), sized(journal.port_end())];
        netlink.change(requests).map_err(unsure)?;
    }
    Ok(true)
}

/// The interface that is to be shared now: the one that was, whatever it is called; or where it has gone, one of its name or
/// address; or the default route's, where the bridge follows that. `None` where there is none.
fn target(netlink: &mut Netlink, share: &Share) -> Result<Option<Link>> {
    let unreadable = observe::unreadable;
    let current = netlink.link_at(share.index).map_err(unreadable)?;
    if share.follow {
        for index in netlink.default_interfaces().map_err(unreadable)? {
            let Some(mut link) = netlink.link_at(index).map_err(unreadable)? else { continue };
            link.uplink.is_wifi = observe::is_wifi(&link.name);
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
        found = all.into_iter().find(|link| link.mac == Some(share.mac) && link.alias.is_none());
    }
    let Some(mut link) = found else { return Ok(None) };
    link.uplink.is_wifi = observe::is_wifi(&link.name);
    Ok(Some(link).filter(|link| why_no_uplink(link).is_none()))
}

/// So many addresses behind the bridge have an entry: a guest can pretend to have any number. A bridge has 1,023 ports at the
/// most.
const MOST_ENTRIES: usize = 4096;

/// Sees to it that the host reaches all that are behind the bridge, and nobody else through it.
pub fn keep_entries(netlink: &mut Netlink, journal: &Journal) -> io::Result<()> {
    let Some(share) = journal.share() else { return Ok(()) };
    // While it is not there, nobody is reached by it.
    if netlink.link_at(share.index)?.is_none() {
        return Ok(());
    }
    let found = netlink.filters(share.index, Hook::Egress)?;
    let there = found.into_iter().filter(|found| found.entry.is_some()).collect();
    let (mut behind, mut beyond) = (BTreeSet::new(), BTreeSet::new());
    for entry in netlink.fdb(journal.index)?.into_iter().filter(|entry| !entry.is_own) {
        if entry.port == journal.port_end() {
            beyond.insert(entry.mac)
        } else {
            behind.insert(entry.mac)
        };
    }
    behind.remove(&share.mac);
    let ports = netlink.ports(journal.index)?.into_iter().map(|port| port.index).collect();
    let (wanted, unwanted) = reconcile(there, &behind, &beyond, &ports);
    let mut requests: Vec<_> =
        unwanted.iter().map(|found| tc::delete_filter(share.index, Hook::Egress, found, "u32")).collect();
    requests.extend(wanted.into_iter().filter_map(|mac| entry(journal, mac, 0)));
    match netlink.change(requests)?.into_iter().collect::<io::Result<()>>() {
        // It goes in this moment, or its filters do, which is seen where the links are looked at.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL | libc::ENOENT)) => Ok(()),
        done => done,
    }
}

/// Which addresses lack an entry, and which entries are not wanted: those that are doubled, of addresses that are on the
/// network by now, and of such that neither the bridge has seen nor a TAP that is there was given.
fn reconcile(
    there: Vec<Found>,
    behind: &BTreeSet<Mac>,
    beyond: &BTreeSet<Mac>,
    ports: &BTreeSet<u32>,
) -> (Vec<Mac>, Vec<Found>) {
    let mut kept = BTreeSet::new();
    let mut unwanted = Vec::new();
    for found in there {
        let Some(mac) = found.entry else { continue };
        let is_of_tap = found.cookie.is_some_and(|cookie| cookie.tap != 0 && ports.contains(&cookie.tap));
        if beyond.contains(&mac) || !(is_of_tap || behind.contains(&mac)) || !kept.insert(mac) {
            unwanted.push(found);
        }
    }
    let room = MOST_ENTRIES.saturating_sub(kept.len());
    (behind.difference(&kept).take(room).copied().collect(), unwanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::TABLE;

    #[test]
    fn the_host_reaches_who_is_behind_the_bridge_and_nobody_else_through_it() {
        let mac = |last: u8| Mac([2, 0, 0, 0, 0, last]);
        let entry = |last: u8, tap: u32, handle: u32| Found {
            pref: PREF + 1,
            handle,
            program: Vec::new(),
            entry: Some(mac(last)),
            sender: None,
            cookie: Some(Cookie { bridge: 1, tap }),
            target: Some(7),
            packets: 0,
            bytes: 0,
        };
        let set = |all: &[u8]| all.iter().map(|last| mac(*last)).collect::<BTreeSet<Mac>>();
        let there = vec![
            entry(1, 0, 1),  // seen behind the bridge
            entry(2, 20, 2), // a silent guest of a TAP that is there
            entry(3, 21, 3), // one whose TAP has gone
            entry(4, 0, 4),  // gone from the bridge
            entry(5, 20, 5), // moved to the network
            entry(1, 20, 6), // doubled
        ];
        let (wanted, unwanted) = reconcile(there, &set(&[1, 6]), &set(&[5]), &BTreeSet::from([20]));
        assert_eq!(wanted, [mac(6)]);
        assert_eq!(unwanted.iter().map(|found| found.handle).collect::<Vec<u32>>(), [3, 4, 5, 6]);
        let flood = (0..10_000_u32).map(|number| {
            let [a, b, c, d] = number.to_be_bytes();
            Mac([2, 0, a, b, c, d])
        });
        assert_eq!(reconcile(Vec::new(), &flood.collect(), &set(&[]), &BTreeSet::new()).0.len(), MOST_ENTRIES);
        let (wanted, unwanted) = reconcile(Vec::new(), &set(&[]), &set(&[1]), &BTreeSet::new());
        assert!(wanted.is_empty() && unwanted.is_empty());
    }

    #[test]
    fn the_table_has_a_number_that_u32_takes() {
        const { assert!(TABLE > 0 && TABLE < 0x800) };
    }
}
