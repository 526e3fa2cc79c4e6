//! Shares an uplink, keeps it shared while it changes, and takes that back: see `model::share` for what the filters do.

mod entries;
mod keep;

use crate::netlink::{Body, Netlink, Request, tc};
use crate::network::apply::{Change, NO_IPV6, delete_owned, failed, set, set_ipv6};
use crate::network::uplink::trunk;
use crate::output::errno::reason;
use crate::sys::{bpf, ethtool, linux};
use model::error::{Error, Result};
use model::host::{Link, NotShareable};
use model::ifname::IfName;
use model::journal::Journal;
use model::mac::Mac;
use model::rtnl::tc::IngressQdisc;
use model::share;
use model::share::found::{Counts, Found, Links, There};
use model::share::{Changes, Classifier, Filter, Hook, MarkBy, On, Place, Share};
use rtnetlink::LinkUnspec;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

pub use entries::{entry, keep_entries};
pub use keep::{is_whole, keep};

fn hooks_of(netlink: &mut Netlink, uplink: u32) -> io::Result<There> {
    Ok(There { ingress: netlink.filters(uplink, Hook::Ingress)?, egress: netlink.filters(uplink, Hook::Egress)? })
}

/// Whether a link can be shared, and what that changes on it.
pub fn sharing(netlink: &mut Netlink, link: &Link) -> io::Result<std::result::Result<Changes, NotShareable>> {
    let qdisc = netlink.ingress_qdisc(link.index)?;
    if qdisc == IngressQdisc::Other {
        return Ok(Err(NotShareable::IngressQdisc));
    }
    let mut place = Some(Place::default());
    if qdisc == IngressQdisc::Clsact {
        let there = hooks_of(netlink, link.index)?;
        // Filters that somebody made by hand, as the dry run says, are known by where they lead.
        for target in there.ingress.iter().filter_map(|found| found.target) {
            // Where the other end has gone, they are left over.
            if let Some(through) = netlink.link_at(target)?.filter(|link| link.name.as_str().starts_with("kvbh-")) {
                return Ok(Err(NotShareable::IsShared(through.name)));
            }
        }
        place = there.place();
    }
    let Some(place) = place else { return Ok(Err(NotShareable::NoPlace)) };
    Ok(Ok(Changes {
        adds_clsact: qdisc == IngressQdisc::Absent,
        sets_promiscuous: !link.is_promiscuous,
        clears_lro: ethtool::has_lro(&link.name)?,
        place,
    }))
}

/// By what frames can be marked: by the kernel's own action, where it is loaded or can be; `None` where by nothing.
pub fn mark(netlink: &mut Netlink) -> io::Result<Option<MarkBy>> {
    if netlink.has_action("skbedit")? {
        return Ok(Some(MarkBy::Skbedit));
    }
    let release = linux::release();
    let has_module = |list: &str| {
        let list = std::fs::read_to_string(format!("/lib/modules/{release}/{list}"));
        list.is_ok_and(|list| list.contains("/act_skbedit.ko"))
    };
    if has_module("modules.dep") || has_module("modules.builtin") {
        return Ok(Some(MarkBy::Skbedit));
    }
    Ok(match bpf::load(&share::marking(true)) {
        Ok(_) => Some(MarkBy::Program),
        // A dry run needs no right.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !nix::unistd::geteuid().is_root() => {
            Some(MarkBy::Program)
        }
        Err(_) => None,
    })
}

/// The links between which filters copy the frames of a shared uplink.
fn links_of(journal: &Journal, share: &Share) -> Links {
    Links { bridge: journal.index, uplink: share.index, host_end: journal.host_end() }
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
    let request = (Message::NewLink(pair).into(), NLM_F_CREATE | NLM_F_EXCL, &[][..]);
    Change::new(request, format!("cannot make the veth pair {host_end} and {port}")).needing("veth", "CONFIG_VETH")
}

/// The changes that make the pair work and attach the uplink to it, the one that lets frames in last. `fine` are the errnos
/// that mean that a clsact qdisc is there already; `is_closed`, whether the bridge has its filter already.
pub(super) fn attach(journal: &Journal, share: &Share, fine: &'static [i32], is_closed: bool) -> Result<Vec<Change>> {
    let [host_end, port] = share::ends(&journal.bridge);
    let uplink = &share.uplink;
    let clsact = |index: u32, name: &IfName| {
        let change = Change::new(tc::add_clsact(index, fine), format!("cannot give {name} a clsact qdisc"));
        change.needing("sch_ingress", "CONFIG_NET_SCH_INGRESS")
    };
    let host =
        LinkUnspec::new_with_index(journal.host_end()).address(share.mac.0.to_vec()).arp(false).alias(journal.alias());
    let end = LinkUnspec::new_with_index(journal.port_end()).alias(journal.alias()).controller(journal.index).up();
    let mut changes = vec![
        clsact(journal.index, &journal.bridge),
        clsact(journal.host_end(), &host_end),
        Change::new(set(host.build()), format!("cannot set up {host_end}")),
        Change::new(set(end.build()), format!("cannot make {port} a port")),
        Change::new(hold(journal.port_end(), share.mac), format!("cannot hold the host's address on {port}")),
    ];
    changes.extend(trunk(journal, journal.port_end()));
    if share.changes.sets_promiscuous {
        let promiscuous = LinkUnspec::new_with_index(share.index).promiscuous(true).build();
        changes.push(Change::new(set(promiscuous), format!("cannot set {uplink} promiscuous")));
    }
    if share.changes.adds_clsact {
        changes.push(clsact(share.index, uplink));
    }
    let mut filters = share.filters(&BTreeSet::new());
    filters.retain(|filter| !(is_closed && filter.on == On::Bridge));
    let own = filters.iter().filter(|filter| filter.on != On::Uplink).count();
    for (at, filter) in filters.into_iter().enumerate() {
        // Nothing gets out of it into the host while its filters are not there.
        if at == own {
            let up = LinkUnspec::new_with_index(journal.host_end()).up().build();
            changes.push(Change::new(set(up), format!("cannot set {host_end} up")));
        }
        let program = match filter.classifier {
            Classifier::Mark(set) => Some(bpf::load(&share::marking(set)).map_err(|error| not_loaded(uplink, &error))?),
            _ => None,
        };
        let file = program.as_ref().map(std::os::fd::AsFd::as_fd);
        let request = tc::add_filter(&filter, links_of(journal, share), 0, file);
        let on = match filter.on {
            On::Bridge => &journal.bridge,
            On::Uplink => uplink,
            On::HostEnd => &host_end,
        };
        let change = Change::new(request, format!("cannot give {on} a filter")).holding(program);
        changes.push(match filter.classifier {
            Classifier::Bpf(_) | Classifier::Verdict(_) | Classifier::Mark(_) => {
                change.needing("cls_bpf and act_mirred", "CONFIG_NET_CLS_BPF and CONFIG_NET_ACT_MIRRED")
            }
            _ => change.needing("cls_u32", "CONFIG_NET_CLS_U32"),
        });
    }
    Ok(changes)
}

/// The request that has the bridge hold the host's address on its port to the uplink, whoever says that it is elsewhere: no
/// guest gets what others send to the host (NTF_STICKY of linux/neighbour.h; the bridge forgets it with the port).
fn hold(port: u32, host: Mac) -> Request {
    let claim = port::Request::claim(port, host.0);
    (Body::Bytes(claim.kind, claim.body), NLM_F_CREATE | NLM_F_REPLACE, &[])
}

/// The request that ends that, when the host has another address.
fn release(port: u32, host: Mac) -> Request {
    const RTM_DELNEIGH: u16 = 29;
    (Body::Bytes(RTM_DELNEIGH, port::Request::claim(port, host.0).body), 0, &[libc::ENOENT, libc::ENODEV])
}

fn not_loaded(uplink: &IfName, error: &io::Error) -> Error {
    let what = format!("cannot share {uplink}: the kernel takes no eBPF program: {}", reason(error));
    Error::new(what, "Load the module act_skbedit, which needs none; in a container, on its host.")
}

/// Switches IPv6 off on the veth pair, and large receive offload on the uplink, where it is on.
pub(super) fn prepare(journal: &Journal, share: &Share) -> Result<()> {
    share::ends(&journal.bridge).iter().try_for_each(|end| set_ipv6(journal, end, NO_IPV6, "1"))?;
    let what = || format!("cannot switch large receive offload of {} off", share.uplink);
    match share.changes.clears_lro {
        true => ethtool::set_lro(&share.uplink, false).map_err(|error| failed(&journal.bridge, &what(), &error)),
        false => Ok(()),
    }
}

/// Takes all of it back: ours off the uplink, and the veth pair.
pub(super) fn take_back(netlink: &mut Netlink, journal: &Journal, share: &Share) -> io::Result<()> {
    detach(netlink, journal, share)?;
    delete_owned(netlink, journal, journal.host_end())
}

/// Takes ours off the uplink, whatever of it is there; what others put there stays. The bridge and the veth pair go later.
fn detach(netlink: &mut Netlink, journal: &Journal, share: &Share) -> io::Result<()> {
    let Some(link) = netlink.link_at(share.index)? else { return Ok(()) };
    let there = hooks_of(netlink, share.index)?;
    let place = share.changes.place;
    let is_alone = there.is_table_alone(journal.index, place);
    let mut requests = Vec::new();
    for (hook, found) in there.of(journal.index) {
        // Where it can't go with its pref, each thing goes by itself.
        if !(is_alone && found.is_in_table_of(place)) {
            requests.push(tc::delete_filter(share.index, hook, found));
        }
    }
    if is_alone && there.egress.iter().any(|found| found.is_in_table_of(place)) {
        requests.push(tc::delete_place(share.index, Hook::Egress, place.of_table()));
    }
    if share.changes.sets_promiscuous && link.is_promiscuous {
        requests.push(set(LinkUnspec::new_with_index(share.index).promiscuous(false).build()));
    }
    let is_free = !there.has_others(journal.index);
    if share.changes.adds_clsact && is_free && netlink.ingress_qdisc(share.index)? == IngressQdisc::Clsact {
        requests.push(tc::delete_clsact(share.index));
    }
    netlink.change(requests)?.into_iter().collect::<io::Result<()>>()?;
    if !is_alone {
        delete_table(netlink, share.index, place)?;
    }
    if hooks_of(netlink, share.index)?.of(journal.index).next().is_some() {
        return Err(io::Error::other("filters of ours stayed on the uplink"));
    }
    if share.changes.clears_lro {
        ethtool::set_lro(&link.name, true)?;
    }
    Ok(())
}

/// Deletes our hash table from among those of others, and its pref if that is ours alone.
fn delete_table(netlink: &mut Netlink, uplink: u32, place: Place) -> io::Result<()> {
    /// What led to a table lets go of it after a grace period of RCU (u32_destroy_key in net/sched/cls_u32.c).
    const LONGEST: Duration = Duration::from_secs(2);
    let end = Instant::now() + LONGEST;
    loop {
        let mut egress = netlink.filters(uplink, Hook::Egress)?;
        egress.retain(|found| found.is_in_table_of(place));
        // Somebody else's are in the table, or beside it.
        let is_used = egress.iter().any(Found::is_filter);
        let Some(table) = egress.iter().find(|found| found.is_table() && found.table == Some(place.table)) else {
            if !is_used && !egress.is_empty() {
                let gone = vec![tc::delete_place(uplink, Hook::Egress, place.of_table())];
                return netlink.change(gone)?.into_iter().collect();
            }
            return Ok(());
        };
        if egress.iter().any(|found| found.is_filter() && found.table == table.table) {
            return Ok(());
        }
        let delete = vec![tc::delete_filter(uplink, Hook::Egress, table)];
        match netlink.change(delete)?.into_iter().collect::<io::Result<()>>() {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(1));
            }
            done => done?,
        }
    }
}

/// Those of the filters that are not there as they should be.
pub fn missing(netlink: &mut Netlink, journal: &Journal, share: &Share) -> io::Result<Vec<Filter>> {
    let links = links_of(journal, share);
    let mut missing = Vec::new();
    let mut learnt = BTreeSet::new();
    // The last of these goes by the entries of the one before.
    let places = [On::Bridge, On::HostEnd].map(|on| (on, Hook::Ingress));
    for (on, hook) in places.into_iter().chain([(On::Uplink, Hook::Egress), (On::Uplink, Hook::Ingress)]) {
        let found = netlink.filters(links.index(on), hook)?;
        let its = share.filters(&learnt).into_iter().filter(|filter| (filter.on, filter.hook) == (on, hook));
        missing.extend(its.filter(|filter| !found.iter().any(|found| found.is_as(filter, links))));
        learnt.extend(found.iter().filter(|found| found.is_of(journal.index)).filter_map(Found::learnt));
    }
    Ok(missing)
}

/// Whether others have filters on the uplink that see what comes in before ours do.
pub fn is_behind_others(netlink: &mut Netlink, journal: &Journal, share: &Share) -> io::Result<bool> {
    let ingress = netlink.filters(share.index, Hook::Ingress)?;
    let is_before = |found: &Found| found.is_filter() && found.pref < share.changes.place.pref;
    Ok(ingress.iter().any(|found| is_before(found) && !found.is_of(journal.index)))
}

/// Counts what the filters have passed.
pub fn counts(netlink: &mut Netlink, journal: &Journal, share: &Share) -> io::Result<Counts> {
    let links = links_of(journal, share);
    let mut sum = |index: u32, hook: Hook| -> io::Result<(u64, u64)> {
        let found = netlink.filters(index, hook)?;
        // What only marks sends nothing; what is for many goes both to the network and to the host, and is counted once.
        let ours = found.iter().filter(|found| found.is_of(journal.index) && found.target.is_some());
        let ours = ours.filter(|found| index != links.host_end || found.pref != share::COPIES);
        Ok(ours.fold((0, 0), |(packets, bytes), found| (packets + found.packets, bytes + found.bytes)))
    };
    Ok(Counts {
        from_network: sum(links.uplink, Hook::Ingress)?,
        from_host: sum(links.uplink, Hook::Egress)?,
        from_bridge: sum(links.host_end, Hook::Ingress)?,
    })
}
