//! `kvm-bridge down`: takes back what `kvm-bridge up` made, and what a guest's start did.

use super::up::is_lasting;
use crate::error::{Error, Result, as_root};
use crate::holders;
use crate::host::{Kind, Link};
use crate::journal::{Files, Journal};
use crate::name::IfName;
use crate::net::observe::{by_name, unreadable};
use crate::net::rtnl::Netlink;
use crate::net::{apply, undo};
use crate::out;
use crate::ports;
use crate::sys::lock::Hold;
use crate::sys::process;
use crate::watch::ask::is_probe;
use std::collections::BTreeMap;

/// What `down` did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Down {
    /// Whether the bridge was ours, and is gone; or its journal was left over, and was undone.
    pub is_taken_back: bool,
    /// Whether the bridge is there still: it is somebody else's.
    pub is_there: bool,
    /// Its uplink, which is free again.
    pub uplink: Option<IfName>,
    /// Whether that is there.
    pub has_uplink: bool,
    /// The TAPs of users that were deleted.
    pub taps: Vec<IfName>,
    /// The TAPs of guests that lost their bridge.
    pub cut_off: Vec<IfName>,
    /// The TAPs of the guests that it had.
    pub guests: Vec<IfName>,
}

/// The exit status of a bridge that stays because guests are on it.
pub const IN_USE: u8 = 1;

/// Takes a bridge back. With guests on it only if that is forced; they run on without a network.
pub fn down(bridge: &IfName, is_forced: bool) -> Result<Down> {
    if !process::can_change_network() {
        let what = format!("down {bridge}: this needs the right to change the network, CAP_NET_ADMIN");
        return Err(Error::new(what, as_root(&format!("sudo kvm-bridge down {bridge}"))));
    }
    take_down(bridge, is_forced).map_err(|error| error.of(format_args!("down {bridge}")))
}

fn take_down(bridge: &IfName, is_forced: bool) -> Result<Down> {
    let mut netlink = Netlink::open().map_err(unreadable)?;
    let files = Files::of(bridge)?;
    // Whoever comes meanwhile waits, and finds that there is no bridge.
    let _lock = if files.exist() { Some(files.lock(Hold::Alone)?) } else { None };
    let journal = files.read()?;
    let link = by_name(&mut netlink, bridge)?;
    if let Some(link) = link.as_ref().filter(|link| link.kind != Kind::Bridge) {
        let what = format!("{} is no bridge", link.name);
        return Err(Error::new(what, "'kvm-bridge status' lists the bridges."));
    }
    let mut done = Down::default();
    let ours = journal.as_ref().filter(|journal| link.as_ref().is_none_or(|link| journal.owns(link)));
    if let Some(link) = &link {
        let ports = netlink.ports(link.index).map_err(unreadable)?;
        free(&mut netlink, link, ports, ours, is_forced, &mut done)?;
    }
    if let Some(journal) = ours {
        undo::undo_with(&mut netlink, &files, journal, is_forced)?;
        files.remove();
        done.is_taken_back = true;
        done.uplink = journal.uplink().cloned();
        done.has_uplink = match &done.uplink {
            Some(uplink) => netlink.link(uplink).map_err(unreadable)?.is_some(),
            None => false,
        };
    }
    done.is_there = link.is_some() && !done.is_taken_back;
    Ok(done)
}

/// Frees a bridge of its guests and of the TAPs that `up` made. All of it is looked at before any is touched.
fn free(
    netlink: &mut Netlink,
    bridge: &Link,
    ports: Vec<Link>,
    ours: Option<&Journal>,
    is_forced: bool,
    done: &mut Down,
) -> Result<()> {
    let is_uplink = |port: &Link| ours.is_some_and(|journal| journal.attached(port.index));
    let (lasting, others): (Vec<Link>, Vec<Link>) = ports
        .into_iter()
        .filter(|port| !is_uplink(port) && !is_probe(port))
        .partition(|port| is_lasting(port, &bridge.name));
    // A TAP has a carrier while somebody has it open, also somebody whose process can't be seen from here.
    let details = netlink.details().map_err(unreadable)?;
    let has_carrier = |port: &Link| details.iter().any(|known| known.link.index == port.index && known.has_carrier);
    // The ports of somebody else's bridge are no matter of ours.
    let others = if ours.is_some() {
        others
    } else {
        let guests = others.into_iter().filter(|port| matches!(port.kind, Kind::Tap { .. }) && has_carrier(port));
        done.guests = guests.map(|port| port.name).collect();
        Vec::new()
    };
    let (taps, foreign): (Vec<Link>, Vec<Link>) =
        others.into_iter().partition(|port| matches!(port.kind, Kind::Tap { .. }));
    if !foreign.is_empty() {
        let names: Vec<&str> = foreign.iter().map(|port| port.name.as_str()).collect();
        let commands: Vec<String> = names.iter().map(|name| format!("ip link set dev {name} nomaster")).collect();
        let what = format!("it has ports that are not ours: {}", names.join(", "));
        return Err(Error::new(what, format!("To take them off it: {}", commands.join("; "))));
    }
    if ours.is_some()
        && let Some(link) = netlink.stacked_on(bridge.index).map_err(unreadable)?.first()
    {
        let what = format!("{} stands on it, which is not ours", link.name);
        return Err(Error::new(what, format!("To delete that: ip link del {}", link.name)));
    }
    let holder = |port: &Link| holders::of(&port.name).or_else(|| has_carrier(port).then(String::new));
    let in_use = lasting.iter().filter_map(|port| Some((port, holder(port)?)));
    let guests: Vec<(&Link, String)> =
        (taps.iter().map(|port| (port, holders::of(&port.name).unwrap_or_default()))).chain(in_use).collect();
    if !guests.is_empty() && !is_forced {
        let vms = vms(netlink);
        let guests: Vec<String> =
            guests.iter().map(|(port, holder)| describe(port, vms.get(&port.index), holder)).collect();
        let what = format!("it has guests:\n    {}", guests.join("\n    "));
        let remedy = format!("End them first. Or take it from under them: kvm-bridge down {} --force", bridge.name);
        return Err(Error::new(what, remedy).with_status(IN_USE));
    }
    done.guests.extend(guests.iter().map(|(port, _)| port.name.clone()));
    let cannot = |name: &IfName| {
        let what = format!("cannot take {name} off it");
        move |error: std::io::Error| apply::failed(&bridge.name, &what, &error)
    };
    for port in taps {
        apply::free_port(netlink, port.index).map_err(cannot(&port.name))?;
        done.cut_off.push(port.name);
    }
    for port in lasting {
        apply::delete_link(netlink, port.index).map_err(cannot(&port.name))?;
        done.taps.push(port.name);
    }
    Ok(())
}

/// The VMs behind ports, by the ports' indices: as 'kvm-bridge status' has them. Where they can't be had the TAP has to do.
fn vms(netlink: &mut Netlink) -> BTreeMap<u32, String> {
    let ports = ports::look(netlink).unwrap_or_default().into_iter().flat_map(|bridge| bridge.ports);
    ports.filter_map(|port| Some((port.detail.link.index, port.vm?))).collect()
}

/// A guest, for people: its TAP, its VM and its process.
fn describe(port: &Link, vm: Option<&String>, holder: &str) -> String {
    let whose = [vm.cloned(), Some(holder.to_owned())].into_iter().flatten().filter(|text| !text.is_empty());
    let whose = out::one_line(&whose.collect::<Vec<_>>().join(", "));
    if whose.is_empty() { port.name.to_string() } else { format!("{}: {whose}", port.name) }
}
