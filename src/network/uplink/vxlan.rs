//! A VXLAN device as a port of its bridge: the kernel carries frames to the other hosts, of whom FRR tells, or we, or a group.

use crate::netlink::{Netlink, Request};
use crate::network::apply::{Change, NO_IPV6, delete_owned, failed, set, set_ipv6};
use crate::network::links::{by_name, unreadable};
use crate::network::uplink::trunk;
use model::error::{Error, Result};
use model::host::{Address, Host, Link, Underlay};
use model::ifname::IfName;
use model::journal::Journal;
use model::uplink::vxlan::{PORT, Peers, device};
use model::uplink::{Vtep, Vxlan};
use rtnetlink::packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::{LinkBridgePort, LinkUnspec, LinkVxlan};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs, UdpSocket};

/// Looks for what it goes by.
pub(super) fn look_for(netlink: &mut Netlink, bridge: &IfName, asked: &Vxlan, host: &mut Host) -> Result<()> {
    let found = underlay(netlink, bridge, asked)?;
    host.for_vxlan.insert(bridge.clone(), found);
    Ok(())
}

/// What it goes by, or why it can't: that may come later. The outer error is of a kernel that can't be asked.
fn underlay(netlink: &mut Netlink, bridge: &IfName, asked: &Vxlan) -> Result<Result<Underlay>> {
    let dev = match &asked.dev {
        None => None,
        Some(dev) => match by_name(netlink, dev)? {
            Some(link) => Some(link),
            None => {
                return Ok(Err(Error::new(format!("there is no interface {dev}"), "'ip link' lists the interfaces.")));
            }
        },
    };
    let remotes = match &asked.peers {
        Peers::Static(hosts) => match hosts.iter().map(|host| address_of(host, asked.local)).collect() {
            Ok(remotes) => remotes,
            Err(error) => return Ok(Err(error)),
        },
        Peers::Evpn | Peers::Multicast(_) => Vec::new(),
    };
    // On Debian, /etc/hosts has the host's own name as 127.0.1.1.
    let remotes: Vec<IpAddr> = remotes.into_iter().filter(|remote| !remote.is_loopback()).collect();
    let all = netlink.all_addresses().map_err(unreadable)?;
    let Some((index, local)) = local(netlink, asked, dev.as_ref(), &remotes, &all)? else {
        let what = match (asked.local, &dev) {
            (Some(local), _) => format!("the host has no address {local}"),
            (None, Some(dev)) => format!("the host has no address on {}", dev.name),
            (None, None) => "there is no default route whose address the other hosts could know".to_owned(),
        };
        let remedy = "Give local= an address of the host on the network of the other hosts; 'ip address' lists them.";
        return Ok(Err(Error::new(what, remedy)));
    };
    let Some(link) = dev.map_or_else(|| netlink.link_at(index), |dev| Ok(Some(dev))).map_err(unreadable)? else {
        return Ok(Err(Error::new("the interface of its address went away in this moment", "Try again.")));
    };
    // The same list of hosts can be given on all of them.
    let is_other = |remote: &IpAddr| !all.iter().any(|(_, address)| address.ip == *remote);
    let own = device(bridge);
    let others = netlink.vxlans().map_err(unreadable)?.into_iter().filter(|(name, _)| *name != own).collect();
    Ok(Ok(Underlay {
        link: link.name,
        index: link.index,
        mtu: link.mtu,
        local,
        remotes: remotes.into_iter().filter(is_other).collect(),
        others,
    }))
}

/// The first address of a host that goes with that of this one: of IPv4, unless that is of IPv6.
pub fn address_of(host: &str, local: Option<IpAddr>) -> Result<IpAddr> {
    let fault = |why: &dyn std::fmt::Display| {
        let remedy = "Give its address, or have the name in /etc/hosts: at boot nobody else may know it yet.";
        Error::new(format!("the address of {host} is not known: {why}"), remedy)
    };
    let found: Vec<IpAddr> = match host.parse() {
        Ok(address) => vec![address],
        Err(_) => (host, PORT).to_socket_addrs().map_err(|error| fault(&error))?.map(|found| found.ip()).collect(),
    };
    let is_ipv4 = local.is_none_or(|local| local.is_ipv4());
    let fitting = found.iter().find(|address| address.is_ipv4() == is_ipv4).or(found.first());
    fitting.copied().ok_or_else(|| fault(&"it has none"))
}

/// The host's address that frames go out with, and the interface that has it: the one that was asked for, else the first of the
/// interface that was, else the one by which the host reaches the first of the others, else that of its default route.
fn local(
    netlink: &mut Netlink,
    asked: &Vxlan,
    dev: Option<&Link>,
    remotes: &[IpAddr],
    all: &[(u32, Address)],
) -> Result<Option<(u32, IpAddr)>> {
    let of = |ip: IpAddr| all.iter().find(|(_, address)| address.ip == ip).map(|(index, _)| (*index, ip));
    if let Some(local) = asked.local {
        return Ok(of(local));
    }
    let is_ipv4 = match asked.peers {
        Peers::Multicast(group) => Some(group.is_ipv4()),
        Peers::Evpn | Peers::Static(_) => remotes.first().map(IpAddr::is_ipv4),
    };
    let first_of = |index: u32| {
        let its = all.iter().filter(|(on, address)| *on == index && !address.is_link_local).map(|(_, its)| its.ip);
        let its: Vec<IpAddr> = its.filter(|ip| is_ipv4.is_none_or(|is_ipv4| ip.is_ipv4() == is_ipv4)).collect();
        its.iter().find(|ip| ip.is_ipv4()).or(its.first()).map(|ip| (index, *ip))
    };
    if let Some(dev) = dev {
        return Ok(first_of(dev.index));
    }
    if let Some(found) = remotes.iter().find_map(|remote| of(source_towards(*remote).ok()?)) {
        return Ok(Some(found));
    }
    Ok(netlink.default_interfaces().map_err(unreadable)?.into_iter().find_map(first_of))
}

/// The host's address that the kernel would send from to this one. Nothing is sent.
pub fn source_towards(remote: IpAddr) -> io::Result<IpAddr> {
    let any = if remote.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((remote, PORT))?;
    socket.local_addr().map(|address| address.ip())
}

/// The change that makes the device, down.
pub(super) fn create(journal: &Journal, vtep: &Vtep) -> Change {
    let add = LinkVxlan::new(vtep.device.as_str(), vtep.asked.vni).index(journal.port_end()).port(PORT);
    let add = match vtep.local {
        IpAddr::V4(local) => add.local(local),
        IpAddr::V6(local) => add.local6(local),
    };
    let add = match vtep.group() {
        None => add,
        Some(IpAddr::V4(group)) => add.group(group),
        Some(IpAddr::V6(group)) => add.group6(group),
    };
    let add = vtep.bound_to().into_iter().fold(add, |add, index| add.dev(index));
    let add = add.learning(!vtep.is_evpn()).build();
    let request = (Message::NewLink(add).into(), NLM_F_CREATE | NLM_F_EXCL, &[][..]);
    Change::new(request, format!("cannot make {}", vtep.device)).needing("vxlan", "CONFIG_VXLAN")
}

pub(super) fn prepare(journal: &Journal, vtep: &Vtep) -> Result<()> {
    set_ipv6(journal, &vtep.device, NO_IPV6, "1")
}

/// The changes that make it a port that carries frames.
pub(super) fn attach(journal: &Journal, vtep: &Vtep) -> Vec<Change> {
    let (device, index) = (&vtep.device, journal.port_end());
    let link = || LinkUnspec::new_with_index(index);
    let mut changes = vec![
        Change::new(
            set(link().alias(journal.alias()).mtu(vtep.mtu).build()),
            format!("cannot give {device} its alias and MTU"),
        ),
        Change::new(set(link().controller(journal.index).build()), format!("cannot make {device} a port")),
    ];
    if vtep.is_evpn() {
        // What is on other hosts FRR says, who also answers for them.
        let flags = LinkBridgePort::new(index).learning(false).neigh_suppress(true).build();
        let request = (Message::NewLink(flags).into(), 0, &[][..]);
        changes.push(Change::new(request, format!("cannot leave the forwarding database of {device} to FRR")));
    }
    let flood = |remote: &IpAddr| {
        Change::new(flood_to(index, *remote), format!("cannot have {device} send what is for all to {remote}"))
    };
    changes.extend(vtep.remotes.iter().map(flood));
    changes.extend(trunk(journal, index));
    changes.push(Change::new(set(link().up().build()), format!("cannot set {device} up")));
    changes
}

/// The request that has a device send a copy of what is for many, or for somebody unknown, to this host.
fn flood_to(device: u32, remote: IpAddr) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = device;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(vec![0; 6]));
    message.attributes.push(NeighbourAttribute::Destination(match remote {
        IpAddr::V4(remote) => NeighbourAddress::Inet(remote),
        IpAddr::V6(remote) => NeighbourAddress::Inet6(remote),
    }));
    (Message::NewNeighbour(message).into(), NLM_F_CREATE | NLM_F_APPEND, &[libc::EEXIST])
}

/// Deletes the device, if it is still as we made it.
pub(super) fn detach(netlink: &mut Netlink, journal: &Journal) -> io::Result<()> {
    delete_owned(netlink, journal, journal.port_end())
}

/// Makes the device again that has gone, as one does with the interface that it is bound to, or makes it a port again. Whether it
/// did.
pub(super) fn keep(netlink: &mut Netlink, journal: &Journal) -> Result<bool> {
    let Some(vtep) = journal.vtep() else { return Ok(false) };
    let unsure = |error: io::Error| failed(&journal.bridge, "cannot look at its VXLAN", &error);
    match netlink.link_at(journal.port_end()).map_err(unsure)? {
        Some(link) if link.controller == Some(journal.index) => return Ok(false),
        Some(link) if !journal.owns_end(&link) || link.controller.is_some() => {
            let what = format!("its port {} is not its own any more", link.name);
            return Err(Error::new(what, "To make the bridge again: kvm-bridge down, then up."));
        }
        Some(_) => {}
        None => Change::all(netlink, &journal.bridge, vec![create(journal, vtep)])?,
    }
    prepare(journal, vtep)?;
    Change::all(netlink, &journal.bridge, attach(journal, vtep)).map(|()| true)
}
