//! Looks at the links that a request names: one question to the kernel for each, and no dump unless something is amiss
//! or a bridge has to be made.

use super::rtnl::Netlink;
use crate::error::{Error, Result, reason};
use crate::host::{Host, Kind, Link};
use crate::mac::Mac;
use crate::name::IfName;
use crate::request::{Nic, Uplink};
use crate::sys::tap;
use std::path::Path;

/// What the kernel has of the links that these network cards name.
pub fn observe(netlink: &mut Netlink, nics: &[Nic]) -> Result<Host> {
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
    for nic in nics {
        if host.link(&nic.bridge).is_none() {
            host.fresh_macs.insert(nic.bridge.clone(), Mac::generate()?);
        }
    }
    if !host.fresh_macs.is_empty() {
        look_at_uplinks(netlink, nics, &mut host)?;
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
fn look_at_uplinks(netlink: &mut Netlink, nics: &[Nic], host: &mut Host) -> Result<()> {
    for nic in nics {
        if let Some(Uplink::Link(uplink)) = &nic.uplink
            && let Some(Some(link)) = host.links.get_mut(uplink)
        {
            link.addresses = netlink.addresses(link.index).map_err(unreadable)?;
            link.is_wifi = is_wifi(uplink);
        }
    }
    // To be named in the error that is going to come.
    let is_lost = |nic: &Nic| match &nic.uplink {
        None => host.link(&nic.bridge).is_none(),
        Some(Uplink::Link(uplink)) => host.link(uplink).is_none(),
        Some(Uplink::Isolated) => false,
    };
    if nics.iter().any(is_lost) {
        for link in netlink.links().map_err(unreadable)? {
            if could_be_uplink(&link) && netlink.addresses(link.index).map_err(unreadable)?.is_empty() {
                host.candidates.push(link.name);
            }
        }
    }
    Ok(())
}

fn could_be_uplink(link: &Link) -> bool {
    let is_wired = match &link.kind {
        Kind::Card => true,
        Kind::Other(kind) => ["veth", "bond", "team", "vlan"].contains(&kind.as_str()),
        Kind::Bridge | Kind::Tap { .. } => false,
    };
    is_wired && link.is_ethernet && link.controller.is_none() && !is_wifi(&link.name)
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
