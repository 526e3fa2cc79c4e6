//! Looks at the links that a request names: one question to the kernel for each, and no dump unless something is amiss
//! or a bridge has to be made.

use super::rtnl::Netlink;
use crate::config::Config;
use crate::error::{Error, Result, reason};
use crate::host::{Host, Kind, SETTINGS};
use crate::keeper::keeper;
use crate::keeper::networkd::taps;
use crate::mac::Mac;
use crate::name::IfName;
use crate::plan::{Wish, why_no_uplink, wishes};
use crate::request::{Nic, Uplink};
use crate::sys::{sysctl, tap};
use std::path::Path;

/// What the kernel has of the links that these network cards name, and where a bridge has to be made, of its uplink.
pub fn observe(netlink: &mut Netlink, nics: &[Nic], config: &Config) -> Result<Host> {
    let mut host = named(netlink, nics)?;
    for wish in wishes(nics, config) {
        if host.link(wish.bridge).is_none() {
            host.fresh_macs.insert(wish.bridge.clone(), Mac::generate()?);
            if let Some(file) = taps::would_take(wish.bridge) {
                host.takers.insert(wish.bridge.clone(), file);
            }
            look_for_uplink(netlink, &wish, &mut host)?;
        }
    }
    Ok(host)
}

/// What the kernel has of the links that these network cards name; all that there is to know where their bridges are there.
pub fn named(netlink: &mut Netlink, nics: &[Nic]) -> Result<Host> {
    let mut host = Host::default();
    for nic in nics {
        look(netlink, &mut host, &nic.bridge)?;
        if let Some(Uplink::Link(uplink)) = &nic.uplink {
            look(netlink, &mut host, uplink)?;
        }
        if let Some(ifname) = &nic.ifname {
            look(netlink, &mut host, ifname)?;
            if let Some(Some(link)) = host.links.get_mut(ifname)
                && matches!(link.kind, Kind::Tap { .. })
            {
                link.holder = tap::holder(ifname);
            }
        }
    }
    Ok(host)
}

fn look(netlink: &mut Netlink, host: &mut Host, name: &IfName) -> Result<()> {
    if !host.links.contains_key(name) {
        let link = netlink.link(name).map_err(unreadable)?;
        host.links.insert(name.clone(), link);
    }
    Ok(())
}

/// What only matters where a bridge has to be made.
fn look_for_uplink(netlink: &mut Netlink, wish: &Wish, host: &mut Host) -> Result<()> {
    let mut is_in_sight = false;
    match &wish.uplink {
        Uplink::Isolated => return Ok(()),
        Uplink::Link(uplink) => {
            look(netlink, host, uplink)?;
            is_in_sight = look_closely(netlink, host, uplink)?;
        }
        Uplink::Auto => {
            for index in netlink.default_interfaces().map_err(unreadable)? {
                if let Some(link) = netlink.link_at(index).map_err(unreadable)?
                    && !host.default_uplinks.contains(&link.name)
                {
                    let name = link.name.clone();
                    host.links.insert(name.clone(), Some(link));
                    is_in_sight |= look_closely(netlink, host, &name)?;
                    host.default_uplinks.push(name);
                }
            }
        }
    }
    let begins_with = |setting: &&str| Some(((*setting).to_owned(), sysctl::read("default", setting)?));
    host.default_settings = SETTINGS.iter().filter_map(begins_with).collect();
    if !is_in_sight && host.all.is_empty() {
        host.all = netlink.links().map_err(unreadable)?;
        let on_others: Vec<(u32, IfName)> = (host.all.iter())
            .filter(|link| takes_frames(&link.kind))
            .filter_map(|link| Some((link.lower?, link.name.clone())))
            .collect();
        for link in &mut host.all {
            link.occupant = on_others.iter().find(|(lower, _)| *lower == link.index).map(|(_, name)| name.clone());
            link.is_wifi = is_wifi(&link.name);
            if link.is_ethernet && why_no_uplink(link).is_none() {
                link.layer3 = netlink.layer3(link.index).map_err(unreadable)?;
                link.keeper = keeper(link);
            }
        }
    }
    Ok(())
}

/// Finds out what becoming a port would mean for an interface. Whether it could be one.
fn look_closely(netlink: &mut Netlink, host: &mut Host, name: &IfName) -> Result<bool> {
    let Some(Some(link)) = host.links.get_mut(name) else { return Ok(false) };
    link.layer3 = netlink.layer3(link.index).map_err(unreadable)?;
    let has = |setting: &&str| Some(((*setting).to_owned(), sysctl::read(name.as_str(), setting)?));
    link.settings = SETTINGS.iter().filter_map(has).collect();
    link.is_wifi = is_wifi(name);
    let on_it = netlink.stacked_on(link.index).map_err(unreadable)?;
    link.occupant = on_it.into_iter().find(|other| takes_frames(&other.kind)).map(|other| other.name);
    link.keeper = keeper(link);
    Ok(why_no_uplink(link).is_none())
}

/// Whether what stands on an interface has a handler of its own for all frames there, of which the kernel has one: a VLAN
/// has none.
fn takes_frames(kind: &Kind) -> bool {
    const KINDS: [&str; 5] = ["macvlan", "macvlan passthru", "macvtap", "ipvlan", "ipvtap"];
    matches!(kind, Kind::Other(kind) if KINDS.contains(&kind.as_str()))
}

/// A wireless interface has its radio linked in sysfs. A sysfs of another namespace only costs a better message: the
/// kernel itself refuses to make such an interface a port.
fn is_wifi(name: &IfName) -> bool {
    let folder = Path::new("/sys/class/net").join(name.as_str());
    folder.join("phy80211").exists() || folder.join("wireless").exists()
}

/// The error of a kernel that can't be asked.
pub fn unreadable(error: std::io::Error) -> Error {
    let what = format!("cannot read the kernel's links: {}", reason(&error));
    Error::new(what, "The kernel's rtnetlink is needed; see whether 'ip link' works.")
}
