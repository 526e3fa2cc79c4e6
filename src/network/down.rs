//! `kvm-bridge down`: takes back what `kvm-bridge up` made, and what a guest's start did.

use crate::netlink::Netlink;
use crate::network::dhcp_probe::is_probe;
use crate::network::inventory;
use crate::network::inventory::Port;
use crate::network::links::{by_name, unreadable};
use crate::network::{apply, undo};
use crate::output::errno::again_as_root;
use crate::state::journal::Files;
use crate::sys::lock::Hold;
use crate::sys::process;
use crate::sys::tap_users::NOT_FOUND_OUT;
use model::error::{Error, Result};
use model::host::{Kind, Link};
use model::ifname::IfName;
use model::inventory::is_persistent_tap;
use model::journal::Journal;
use model::report::down::Down;
use model::text;
use serde_json::{Value, json};

/// The exit status of a bridge that stays because guests are on it.
pub const IN_USE: u8 = 1;

/// Takes a bridge back. With guests on it only if that is forced; they run on without a network.
pub fn down(bridge: &IfName, is_forced: bool) -> Result<Down> {
    if !process::can_change_network() {
        let what = format!("down {bridge}: this needs the right to change the network, CAP_NET_ADMIN");
        return Err(Error::new(what, again_as_root()));
    }
    take_down(bridge, is_forced).map_err(|error| error.of(format_args!("down {bridge}")))
}

fn take_down(bridge: &IfName, is_forced: bool) -> Result<Down> {
    let mut netlink = Netlink::open().map_err(unreadable)?;
    let files = Files::of(bridge)?;
    // Looked at before the lock is had: users can have it take long.
    let there = if is_forced { Vec::new() } else { inventory::look(&mut netlink).unwrap_or_default() };
    let known: Vec<Port> = there.into_iter().flat_map(|bridge| bridge.ports).collect();
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
        free(&mut netlink, link, ports, ours, &known, is_forced, &mut done)?;
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

/// Frees a bridge of its guests and of the TAPs that `up` made. All of it is looked at before any is touched. `known` has what is
/// known of its ports, for people.
fn free(
    netlink: &mut Netlink,
    bridge: &Link,
    ports: Vec<Link>,
    ours: Option<&Journal>,
    known: &[Port],
    is_forced: bool,
    done: &mut Down,
) -> Result<()> {
    let is_uplink = |port: &Link| ours.is_some_and(|journal| journal.attached(port.index));
    let (persistent, others): (Vec<Link>, Vec<Link>) = ports
        .into_iter()
        .filter(|port| !is_uplink(port) && !is_probe(port))
        .partition(|port| is_persistent_tap(port, &bridge.name));
    // The ports of somebody else's bridge are no matter of ours.
    let others = if ours.is_some() {
        others
    } else {
        let guests = others.into_iter().filter(|port| matches!(port.kind, Kind::Tap { .. }) && port.has_carrier);
        done.guests = guests.map(|port| port.name).collect();
        Vec::new()
    };
    let (taps, foreign): (Vec<Link>, Vec<Link>) =
        others.into_iter().partition(|port| matches!(port.kind, Kind::Tap { .. }));
    if !foreign.is_empty() {
        let names: Vec<&str> = foreign.iter().map(|port| port.name.as_str()).collect();
        let commands: Vec<String> = names.iter().map(|name| format!("ip link set dev {name} nomaster")).collect();
        let what = format!("it has ports that kvm-bridge did not create: {}", names.join(", "));
        let remedy = format!("To take them off it: {}", commands.join("; "));
        return Err(Error::new(what, remedy).with_detail("ports", json!(names)));
    }
    if ours.is_some() {
        if let Some(link) = netlink.stacked_on(bridge.index).map_err(unreadable)?.first() {
            let what = format!("{} is stacked on it, which kvm-bridge did not create", link.name);
            return Err(Error::new(what, format!("To delete that: ip link del {}", link.name)));
        }
    }
    let of = |port: &Link| known.iter().find(|known| known.detail.link.index == port.index);
    // A TAP has a carrier while somebody has it open, unless they switch it off.
    let is_in_use = |port: &&Link| port.has_carrier || of(port).is_some_and(|known| known.process.is_some());
    let guests: Vec<&Link> = taps.iter().chain(persistent.iter().filter(is_in_use)).collect();
    if !guests.is_empty() && !is_forced {
        let told: Vec<String> = guests.iter().map(|port| describe(port, of(port))).collect();
        let what = format!("it has guests:\n    {}", told.join("\n    "));
        let remedy = format!("End them first. Or take it from under them: kvm-bridge down {} --force", bridge.name);
        let guests: Vec<Value> = guests.iter().map(|port| guest_to_json(port, of(port))).collect();
        return Err(Error::new(what, remedy).with_status(IN_USE).with_detail("guests", guests.into()));
    }
    done.guests.extend(guests.iter().map(|port| port.name.clone()));
    let cannot = |name: &IfName| {
        let what = format!("cannot take {name} off it");
        move |error: std::io::Error| apply::failed(&bridge.name, &what, &error)
    };
    for port in taps {
        apply::free_port(netlink, port.index).map_err(cannot(&port.name))?;
        done.cut_off.push(port.name);
    }
    for port in persistent {
        apply::delete_link(netlink, port.index).map_err(cannot(&port.name))?;
        done.taps.push(port.name);
    }
    Ok(())
}

/// A guest, for programs.
fn guest_to_json(tap: &Link, port: Option<&Port>) -> Value {
    let process = port.and_then(|port| port.process.as_ref());
    json!({
        "tap": tap.name.as_str(),
        "vm": port.and_then(|port| port.vm.as_deref()),
        "pid": process.map(|process| process.pid),
        "program": process.map(|process| process.program.as_str()),
        "user": port.and_then(|port| port.user.as_deref()),
    })
}

/// A guest, for people: its TAP, its VM and its process.
fn describe(port: &Link, known: Option<&Port>) -> String {
    let vm = known.and_then(|known| known.vm.as_deref()).map(text::name);
    let process = known.and_then(|known| match &known.process {
        None => known.is_process_unknown.then(|| NOT_FOUND_OUT.to_owned()),
        process => process.as_ref().map(ToString::to_string),
    });
    let whose: Vec<String> = vm.into_iter().chain(process).collect();
    if whose.is_empty() { port.name.to_string() } else { format!("{}: {}", port.name, whose.join(", ")) }
}
