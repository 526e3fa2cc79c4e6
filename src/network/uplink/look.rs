//! Looks for what each kind of uplink asks of the host first.

use crate::netlink::Netlink;
use crate::network::links::{look, unreadable};
use crate::network::managed;
use crate::network::uplink::{nat, share, vxlan};
use crate::sys::{packet, sysctl};
use model::error::Result;
use model::host;
use model::host::{Host, Kind, Link};
use model::ifname::IfName;
use model::share::ends;
use model::uplink::{Attach, BridgeSpec, Uplink, why_no_uplink};
use std::path::Path;

/// The uplink that a bridge waits for, if it is there by now.
pub(super) fn awaited(netlink: &mut Netlink, spec: &BridgeSpec) -> Result<Host> {
    let mut host = Host::default();
    look_for(netlink, spec, &mut host)?;
    Ok(host)
}

/// What only matters where a bridge has to be made, or waits for its uplink.
pub(in crate::network) fn look_for(netlink: &mut Netlink, spec: &BridgeSpec, host: &mut Host) -> Result<()> {
    let mut is_in_sight = false;
    match &spec.uplink {
        Uplink::Isolated | Uplink::User => return Ok(()),
        Uplink::Nat => return nat::look_for(netlink, spec.bridge, host),
        Uplink::Vxlan(asked) => return vxlan::look_for(netlink, spec.bridge, asked, host),
        Uplink::Link(uplink) => {
            look(netlink, host, uplink)?;
            is_in_sight = look_closely(netlink, host, uplink, spec.attach)?;
        }
        Uplink::Auto => {
            for index in netlink.default_interfaces().map_err(unreadable)? {
                let link = netlink.link_at(index).map_err(unreadable)?;
                if let Some(link) = link.filter(|link| !host.default_uplinks.contains(&link.name)) {
                    let name = link.name.clone();
                    host.links.insert(name.clone(), Some(link));
                    is_in_sight |= look_closely(netlink, host, &name, spec.attach)?;
                    host.default_uplinks.push(name);
                }
            }
        }
    }
    if is_in_sight {
        look(netlink, host, &ends(spec.bridge)[0])?;
        host.taker = managed::taker().map_err(unreadable)?;
        host.mark = share::mark(netlink).map_err(unreadable)?;
    } else if spec.falls_back && spec.uplink == Uplink::Auto && !spec.is_late {
        nat::look_for(netlink, spec.bridge, host)?;
    } else if host.all.is_empty() && !spec.is_late {
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
