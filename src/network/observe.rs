//! Looks at the links that a request names: one question to the kernel for each, and no dump unless something is amiss
//! or a bridge has to be made.

use crate::netlink::Netlink;
use crate::network::managed;
use crate::network::uplink::share;
use crate::output::errno::reason;
use crate::state::journal::Files;
use crate::sys::random;
use crate::sys::{packet, sysctl, tap};
use model::config::Config;
use model::error::{Error, Result};
use model::host;
use model::host::{Host, Kind, Link};
use model::ifname::IfName;
use model::journal::Journal;
use model::plan::{Wish, why_no_uplink, wishes};
use model::request::Nic;
use model::share::{Share, ends};
use model::uplink::{Attach, Uplink};
use std::path::Path;

/// What the kernel has of the links that these network cards name, and where a bridge has to be made, of its uplink.
pub fn observe(netlink: &mut Netlink, nics: &[Nic], config: &Config) -> Result<Host> {
    let mut host = named(netlink, nics)?;
    host.has_ipv6 = Path::new("/proc/sys/net/ipv6").exists();
    for wish in wishes(nics, config) {
        if host.link(wish.bridge).is_none() {
            host.fresh_macs.insert(wish.bridge.clone(), random::mac()?);
            look_for_uplink(netlink, &wish, &mut host)?;
        } else if nics.iter().any(|nic| nic.bridge == *wish.bridge && nic.is_about_uplink()) {
            host.shared.extend(shared_by(netlink, wish.bridge)?.map(|share| (wish.bridge.clone(), share)));
            if wish.uplink == Uplink::Isolated {
                host.ways_out.extend(way_out(netlink, &host, wish.bridge)?.map(|port| (wish.bridge.clone(), port)));
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
    let Some(files) = Files::of_journal(bridge)? else { return Ok(None) };
    // A journal that can't be read is an error for who would change the bridge.
    let journal = files.read().ok().flatten();
    let Some(mut share) = journal.as_ref().and_then(Journal::share).cloned() else { return Ok(None) };
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
        let link = by_name(netlink, name)?;
        host.links.insert(name.clone(), link);
    }
    Ok(())
}

/// The link of this name. The kernel also finds it by an alternative name (`ip link property`), under which neither settings
/// nor journals are: that is refused with its own one.
pub fn by_name(netlink: &mut Netlink, name: &IfName) -> Result<Option<Link>> {
    let link = netlink.link(name).map_err(unreadable)?;
    match link {
        Some(link) if link.name != *name => {
            let what = format!("{name} is another name of {}", link.name);
            Err(Error::new(what, format!("Give its own name: {}", link.name)))
        }
        link => Ok(link),
    }
}

/// The uplink that a bridge waits for, if it is there by now.
pub fn awaited(netlink: &mut Netlink, wish: &Wish) -> Result<Host> {
    let mut host = Host::default();
    look_for_uplink(netlink, wish, &mut host)?;
    Ok(host)
}

/// What only matters where a bridge has to be made.
fn look_for_uplink(netlink: &mut Netlink, wish: &Wish, host: &mut Host) -> Result<()> {
    let mut is_in_sight = false;
    match &wish.uplink {
        Uplink::Isolated => return Ok(()),
        Uplink::Link(uplink) => {
            look(netlink, host, uplink)?;
            is_in_sight = look_closely(netlink, host, uplink, wish.attach)?;
        }
        Uplink::Auto => {
            for index in netlink.default_interfaces().map_err(unreadable)? {
                if let Some(link) = netlink.link_at(index).map_err(unreadable)?
                    && !host.default_uplinks.contains(&link.name)
                {
                    let name = link.name.clone();
                    host.links.insert(name.clone(), Some(link));
                    is_in_sight |= look_closely(netlink, host, &name, wish.attach)?;
                    host.default_uplinks.push(name);
                }
            }
        }
    }
    if is_in_sight {
        look(netlink, host, &ends(wish.bridge)[0])?;
        host.taker = managed::taker().map_err(unreadable)?;
        host.mark = share::mark(netlink).map_err(unreadable)?;
    } else if host.all.is_empty() && !wish.is_late {
        host.all = netlink.links().map_err(unreadable)?;
        for link in &mut host.all {
            link.uplink.is_wifi = is_wifi(&link.name);
        }
    }
    Ok(())
}

/// Finds out what becoming an uplink would mean for an interface. Whether it could be one.
fn look_closely(netlink: &mut Netlink, host: &mut Host, name: &IfName, attach: Option<Attach>) -> Result<bool> {
    let Some(Some(link)) = host.links.get_mut(name) else { return Ok(false) };
    link.addresses = netlink.addresses(link.index).map_err(unreadable)?;
    if attach == Some(Attach::Port) && link.has_addresses() {
        link.gateway = netlink.gateway(link.index).map_err(unreadable)?;
    }
    if let Some(controller) = link.controller {
        let controller = netlink.link_at(controller).map_err(unreadable)?;
        link.is_in_vrf = controller.is_some_and(|link| link.kind == Kind::Other("vrf".to_owned()));
    }
    let upper = netlink.stacked_on(link.index).map_err(unreadable)?;
    let manager = managed::of(link);
    link.uplink = host::Uplink {
        may_have_programs: manager.is_err() || packet::are_bound_to(link.index).unwrap_or(true),
        manager: manager.unwrap_or_default(),
        rx_handler: upper.iter().find(|upper| takes_frames(&upper.kind)).map(|upper| upper.name.clone()),
        // A veth's other end is not stacked on it.
        upper: upper.into_iter().filter(|upper| !is_peer(link, upper)).map(|upper| upper.name).collect(),
        is_wifi: is_wifi(name),
        has_ipv6: sysctl::read(name.as_str(), "ipv6/disable_ipv6").as_deref() == Some("0"),
        sharing: Some(share::sharing(netlink, link).map_err(unreadable)?),
    };
    Ok(why_no_uplink(link).is_none())
}

/// Whether two links are the ends of one veth pair.
fn is_peer(link: &Link, other: &Link) -> bool {
    let is_veth = |link: &Link| link.kind == Kind::Other("veth".to_owned());
    is_veth(link) && is_veth(other) && link.lower == Some(other.index)
}

/// Whether what is stacked on an interface has a handler of its own for all frames there, of which the kernel has one: a VLAN
/// has none.
fn takes_frames(kind: &Kind) -> bool {
    const KINDS: [&str; 5] = ["macvlan", "macvlan passthru", "macvtap", "ipvlan", "ipvtap"];
    matches!(kind, Kind::Other(kind) if KINDS.contains(&kind.as_str()))
}

/// A wireless interface has its radio linked in sysfs. A sysfs of another namespace only costs a better message: the
/// kernel itself refuses to make such an interface a port.
pub(super) fn is_wifi(name: &IfName) -> bool {
    let folder = Path::new("/sys/class/net").join(name.as_str());
    folder.join("phy80211").exists() || folder.join("wireless").exists()
}

/// The error of a kernel that can't be asked.
pub fn unreadable(error: std::io::Error) -> Error {
    let what = format!("cannot read the kernel's links: {}", reason(&error));
    Error::new(what, "The kernel's rtnetlink is needed; see whether 'ip link' works.")
}
