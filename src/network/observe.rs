//! Looks at the links that a request names: one question to the kernel for each, and no dump unless something is amiss
//! or a bridge has to be made.

use crate::netlink::Netlink;
use crate::network::links::{look, unreadable};
use crate::network::uplink::look::look_for;
use crate::state::journal::Files;
use crate::sys::linux;
use crate::sys::random;
use crate::sys::tap_users::{NOT_FOUND_OUT, TapUsers};
use model::config::Config;
use model::error::Result;
use model::host::{Host, Kind, Link};
use model::ifname::IfName;
use model::journal::Journal;
use model::plan::{BridgePlan, Plan, bridge_specs, plan};
use model::request::Nic;
use model::share::Share;
use model::uplink::Uplink;
use std::collections::BTreeMap;
use std::path::Path;

/// A host, and what it lacks of what is asked for: the same for a launch, a dry run, `up`, doctor and users.
#[derive(Debug, Clone)]
pub struct Planned {
    /// What was seen.
    pub host: Host,
    /// What is to be done.
    pub plan: Plan,
}

impl Planned {
    /// The interface that a bridge is to have as its uplink, where one is to be made.
    pub fn uplink(&self) -> Option<&Link> {
        self.host.link(self.plan.bridges.iter().find_map(BridgePlan::uplink)?)
    }
}

/// Looks at the host and plans for it.
pub fn planned(netlink: &mut Netlink, nics: &[Nic], config: &Config) -> Result<Planned> {
    let mut host = observe(netlink, nics, config)?;
    host.holders = holders(&host, nics);
    let plan = plan(nics, config, &host)?;
    Ok(Planned { host, plan })
}

/// What the kernel has of the links that these network cards name, and where a bridge has to be made, of its uplink.
pub(super) fn observe(netlink: &mut Netlink, nics: &[Nic], config: &Config) -> Result<Host> {
    let mut host = named(netlink, nics)?;
    host.has_ipv6 = Path::new("/proc/sys/net/ipv6").exists();
    for spec in bridge_specs(nics, config) {
        let (bridge, spec) = (spec.uplink.bridge, spec.uplink);
        if host.link(bridge).is_none() {
            linux::check()?;
            host.fresh_macs.insert(bridge.clone(), random::mac()?);
            look_for(netlink, &spec, &mut host)?;
        } else if nics.iter().any(|nic| nic.bridge == *bridge && nic.is_about_uplink()) {
            let journal =
                journal_of(bridge)?.filter(|journal| host.link(bridge).is_some_and(|link| journal.owns(link)));
            let network = journal.as_ref().and_then(Journal::nat).map(|masquerade| masquerade.network.clone());
            host.networks.extend(network.map(|network| (bridge.clone(), network)));
            let vtep = journal.as_ref().and_then(Journal::vtep);
            host.vxlans.extend(vtep.map(|vtep| (bridge.clone(), vtep.asked.to_string())));
            host.shared.extend(share_in(netlink, journal.as_ref())?.map(|share| (bridge.clone(), share)));
            if !spec.uplink.is_interface() {
                host.ways_out.extend(way_out(netlink, &host, bridge)?.map(|port| (bridge.clone(), port)));
            }
        }
    }
    Ok(host)
}

/// The port by which a bridge that shares nothing leads to a network.
fn way_out(netlink: &mut Netlink, host: &Host, bridge: &IfName) -> Result<Option<IfName>> {
    let Some(link) = host.link(bridge).filter(|link| link.kind == Kind::Bridge) else { return Ok(None) };
    let journal = Files::of_journal(bridge)?.and_then(|files| files.read().ok().flatten());
    let is_ours = |port: &Link| journal.as_ref().is_some_and(|journal| journal.attached(port.index));
    let ports = netlink.ports(link.index).map_err(unreadable)?;
    Ok(ports.into_iter().find(|port| is_ours(port) || port.kind.is_card()).map(|port| port.name))
}

/// How a bridge of ours shares an uplink, with the uplink's name now.
pub fn shared_by(netlink: &mut Netlink, bridge: &IfName) -> Result<Option<Share>> {
    share_in(netlink, journal_of(bridge)?.as_ref())
}

/// A journal that can't be read is an error for who would change the bridge.
fn journal_of(bridge: &IfName) -> Result<Option<Journal>> {
    Ok(Files::of_journal(bridge)?.and_then(|files| files.read().ok().flatten()))
}

fn share_in(netlink: &mut Netlink, journal: Option<&Journal>) -> Result<Option<Share>> {
    let Some(mut share) = journal.and_then(Journal::share).cloned() else { return Ok(None) };
    if let Some(link) = netlink.link_at(share.index).map_err(unreadable)? {
        share.uplink = link.name;
    }
    Ok(Some(share))
}

/// What the kernel has of the links that these network cards name; all that there is to know where their bridges are there.
pub fn named(netlink: &mut Netlink, nics: &[Nic]) -> Result<Host> {
    let mut host = Host::default();
    for nic in nics {
        look(netlink, &mut host, &nic.bridge)?;
        if let Some(uplink) = nic.uplink.as_ref().and_then(Uplink::interface) {
            look(netlink, &mut host, uplink)?;
        }
        if let Some(ifname) = &nic.ifname {
            look(netlink, &mut host, ifname)?;
        }
    }
    Ok(host)
}

/// Who has the TAPs open that are asked for by name and are in use, for people; for who holds no lock.
pub(super) fn holders(host: &Host, nics: &[Nic]) -> BTreeMap<IfName, String> {
    let is_in_use =
        |link: &Link| matches!(link.kind, Kind::Tap { is_persistent, .. } if link.has_carrier || !is_persistent);
    let asked = nics.iter().filter_map(|nic| nic.ifname.as_ref());
    let taps: Vec<&IfName> = asked.filter(|name| host.link(name).is_some_and(is_in_use)).collect();
    if taps.is_empty() {
        return BTreeMap::new();
    }
    let users = TapUsers::look();
    let unknown = || Some(format!("a process that was {NOT_FOUND_OUT}")).filter(|_| !users.is_whole);
    let holder = |tap: &IfName| users.of(tap).map(ToString::to_string).or_else(unknown);
    taps.into_iter().filter_map(|tap| Some((tap.clone(), holder(tap)?))).collect()
}
