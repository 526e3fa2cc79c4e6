//! Carries steps out, and takes them back.

use super::rtnl::{Netlink, Request};
use crate::error::{Error, Result, reason};
use crate::host::Link;
use crate::journal::Journal;
use crate::keeper;
use crate::layer3::{End, Layer3};
use crate::mac::Mac;
use crate::name::IfName;
use crate::step::{Step, Tap};
use crate::sys::sysctl;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, LinkAttribute, LinkMessage,
};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec};
use std::io;

/// Where what the host had on an uplink is taken from when it goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The bridge, which has all of it and what came since; the journal, if the bridge has gone.
    Bridge,
    /// The journal alone: some of it never arrived on the bridge.
    Journal,
}

/// Makes the bridge of a journal: all its links, addresses and routes in one send, so that a kill finds either none of it
/// done or all, then the settings. What it is then is read back.
///
/// After an error anything may be done: undo it, from `Source::Journal`.
pub fn make(netlink: &mut Netlink, journal: &Journal) -> Result<()> {
    let requests: Vec<(Request, &Step)> = journal
        .steps
        .iter()
        .flat_map(|step| requests_of(step, journal).into_iter().map(move |request| (request, step)))
        .collect();
    let (requests, steps): (Vec<Request>, Vec<&Step>) = requests.into_iter().unzip();
    let answers = netlink
        .change(requests)
        .map_err(|error| failed(&journal.bridge, "the kernel was asked to make it and did not answer", &error))?;
    if let Some((error, step)) = answers.into_iter().zip(steps).find_map(|(answer, step)| Some((answer.err()?, step))) {
        return Err(failed(&journal.bridge, &said(step), &error));
    }
    configure(journal)?;
    for step in &journal.steps {
        if let Step::TakeUplink { uplink, index, layer3, .. } = step {
            let unsure = |error: io::Error| failed(&journal.bridge, "cannot read back what was made", &error);
            let is_port = netlink.link_at(*index).map_err(unsure)?.is_some_and(|link| journal.is_port(&link));
            let missing = match layer3.is_empty() {
                true => Vec::new(),
                false => layer3.missing_in(&netlink.layer3(journal.index).map_err(unsure)?),
            };
            if !is_port || !missing.is_empty() {
                let what = format!("{uplink} did not become a port with all that it has: {}", missing.join(", "));
                return Err(Error::new(what, "Something else changes the network at the same time: ip monitor"));
            }
        }
    }
    Ok(())
}

/// Gives interfaces the settings that the journal has for them, where they have those from before still.
pub fn configure(journal: &Journal) -> Result<()> {
    for step in &journal.steps {
        if let Step::Configure { link, setting, value, was } = step
            && sysctl::read(link.as_str(), setting).as_ref() == Some(was)
        {
            sysctl::write(link, setting, value).map_err(|error| failed(&journal.bridge, &said(step), &error))?;
        }
    }
    Ok(())
}

/// Sets a bridge up that was there and down.
pub fn set_up(netlink: &mut Netlink, index: u32, up: bool) -> io::Result<()> {
    let link = LinkUnspec::new_with_index(index);
    let link = if up { link.up() } else { link.down() };
    only(netlink.change(vec![set(link.build())])?)
}

fn requests_of(step: &Step, journal: &Journal) -> Vec<Request> {
    let bridge = journal.index;
    match step {
        Step::AddBridge { bridge: name, mac, mtu } => {
            let add = LinkBridge::new(name.as_str())
                .index(bridge)
                .address(mac.0.to_vec())
                .stp_state(BridgeStpState::Disabled)
                .forward_delay(0)
                .build();
            // The kernel drops an alias and forgets an MTU that come with the creating request.
            let mut dress = LinkUnspec::new_with_index(bridge).alias(journal.alias());
            if let Some(mtu) = mtu {
                dress = dress.mtu(*mtu);
            }
            vec![(Message::NewLink(add), NLM_F_CREATE | NLM_F_EXCL, &[]), set(dress.build())]
        }
        Step::SetUp { link } if *link == journal.bridge => {
            vec![set(LinkUnspec::new_with_index(bridge).up().build())]
        }
        Step::SetUp { link } => vec![set(by_name(link).up().build())],
        Step::TakeUplink { uplink, index, layer3, .. } => {
            let (from, to) = (End { index: *index, name: uplink }, End { index: bridge, name: &journal.bridge });
            let mut requests = vec![set(LinkUnspec::new_with_index(*index).controller(bridge).build())];
            requests.extend(layer3.moves(from, to));
            requests
        }
        Step::Configure { .. } | Step::Tell { .. } => Vec::new(),
    }
}

/// Takes the steps of a journal back, the last one first, as far as they were carried out. What the host has on the
/// bridge by now goes to the uplink, and the bridge goes only when it is there. All errors are collected; after one of
/// them the journal is still needed.
///
/// A bridge with a port of somebody else stays, with all that is on it. One of the journal's index that is not as we made
/// it is somebody else's altogether: nothing is touched.
pub fn undo(netlink: &mut Netlink, journal: &Journal, source: Source) -> Result<()> {
    let unsure = |error: io::Error| {
        Error::new(format!("cannot look at {}: {}", journal.bridge, reason(&error)), "To try again: kvm-bridge recover")
    };
    if !journal.is_current() {
        return Ok(());
    }
    match netlink.link_at(journal.index).map_err(unsure)? {
        Some(link) if !journal.owns(&link) => return Ok(()),
        Some(link) => {
            if let Some(port) = ports_of_others(netlink, journal).map_err(unsure)?.first() {
                let what = format!("{} has the port {}, which is not ours, and stays", link.name, port.name);
                return Err(Error::new(what, format!("To take it back: ip link set dev {} nomaster", port.name)));
            }
        }
        None => {}
    }
    // What renews on the bridge would put there again what is taken away.
    keeper::release(netlink, journal)?;
    let mut faults = Vec::new();
    let mut requests = Vec::new();
    for step in journal.steps.iter().rev() {
        match undo_requests(netlink, step, journal, source) {
            Ok(mut more) => requests.append(&mut more),
            Err(error) => faults.push(reason(&error)),
        }
    }
    match netlink.change(requests) {
        Ok(answers) => faults.extend(answers.into_iter().filter_map(|answer| Some(reason(&answer.err()?)))),
        Err(error) => faults.push(reason(&error)),
    }
    if faults.is_empty() {
        faults.extend(delete(netlink, journal).err().map(|error| reason(&error)));
    }
    if faults.is_empty() {
        return keeper::wake(netlink, journal);
    }
    faults.extend(stay(netlink, journal).err().map(|error| reason(&error)));
    let what = format!("{} could not be taken back: {}", journal.bridge, faults.join("; "));
    Err(Error::new(what, "To try again: kvm-bridge recover"))
}

/// The ports that the bridge has beside the uplink, whosever they are.
pub fn ports_of_others(netlink: &mut Netlink, journal: &Journal) -> io::Result<Vec<Link>> {
    let mut ports = netlink.ports(journal.index)?;
    ports.retain(|port| !journal.uplinks().any(|uplink| uplink == port.index));
    Ok(ports)
}

/// When not all could be given back, the host stays on the bridge, where it has all.
fn stay(netlink: &mut Netlink, journal: &Journal) -> io::Result<()> {
    if !netlink.link_at(journal.index)?.is_some_and(|link| journal.owns(&link)) {
        return Ok(());
    }
    for step in &journal.steps {
        if let Step::TakeUplink { index, layer3, .. } = step
            && !layer3.is_empty()
            && netlink.link_at(*index)?.is_some_and(|link| link.controller.is_none())
        {
            let mut requests = vec![set(LinkUnspec::new_with_index(*index).controller(journal.index).build())];
            requests.extend(netlink.layer3(*index)?.departures());
            netlink.change(requests)?.into_iter().collect::<io::Result<Vec<()>>>()?;
        }
    }
    configure(journal)
        .and_then(|()| keeper::renew(netlink, journal))
        .map_err(|error| io::Error::other(error.to_string()))
}

fn delete(netlink: &mut Netlink, journal: &Journal) -> io::Result<()> {
    match netlink.link_at(journal.index)? {
        Some(link) if journal.owns(&link) => {
            let delete = LinkUnspec::new_with_index(link.index).build();
            only(netlink.change(vec![(Message::DelLink(delete), 0, &[libc::ENODEV])])?)
        }
        _ => Ok(()),
    }
}

fn undo_requests(netlink: &mut Netlink, step: &Step, journal: &Journal, source: Source) -> io::Result<Vec<Request>> {
    Ok(match step {
        // A bridge goes as a whole, when all else is back.
        Step::AddBridge { .. } | Step::Tell { .. } => Vec::new(),
        Step::SetUp { link } | Step::Configure { link, .. } if *link == journal.bridge => Vec::new(),
        Step::SetUp { link } => match uplink_of(netlink, journal, link)? {
            Some(found) if is_port_or_orphan(netlink, journal, &found)? => {
                vec![set(LinkUnspec::new_with_index(found.index).down().build())]
            }
            _ => Vec::new(),
        },
        Step::Configure { link, setting, value, was } => {
            if let Some(found) = uplink_of(netlink, journal, link)?
                && sysctl::read(found.name.as_str(), setting).as_ref() == Some(value)
            {
                sysctl::write(&found.name, setting, was)?;
            }
            Vec::new()
        }
        Step::TakeUplink { uplink, layer3, .. } => give_back(netlink, journal, uplink, layer3, source)?,
    })
}

/// The interface that was taken as `name`, whatever it is called now; `None` if it has gone, and another of its index is
/// not it.
fn uplink_of(netlink: &mut Netlink, journal: &Journal, name: &IfName) -> io::Result<Option<Link>> {
    for step in &journal.steps {
        if let Step::TakeUplink { uplink, index, mac, .. } = step
            && uplink == name
        {
            let found = netlink.link_at(*index)?;
            return Ok(found.filter(|link| mac.is_none_or(|mac| link.mac == Some(mac)) || journal.is_port(link)));
        }
    }
    Ok(None)
}

/// Whether the uplink is still a port of the bridge, or freed only by the bridge's deletion.
fn is_port_or_orphan(netlink: &mut Netlink, journal: &Journal, uplink: &Link) -> io::Result<bool> {
    Ok(journal.is_port(uplink) || uplink.controller.is_none() && netlink.link_at(journal.index)?.is_none())
}

/// The requests that free the uplink and bring what the host has back to it.
fn give_back(
    netlink: &mut Netlink,
    journal: &Journal,
    name: &IfName,
    taken: &Layer3,
    source: Source,
) -> io::Result<Vec<Request>> {
    let Some(uplink) = uplink_of(netlink, journal, name)? else { return Ok(Vec::new()) };
    let is_port = journal.is_port(&uplink);
    if !is_port && uplink.controller.is_some() {
        return Ok(Vec::new());
    }
    let end = End { index: uplink.index, name: &uplink.name };
    // As it was taken: labels have its name of then.
    let taken_end = End { index: uplink.index, name };
    let then = |taken: &Layer3| taken.clone().aged(journal.age()).arrivals(taken_end, end);
    let mut requests = Vec::new();
    if is_port {
        requests.push(set(LinkUnspec::new_with_index(uplink.index).nocontroller().build()));
    }
    if source == Source::Journal {
        // What did not leave goes first, so that all comes in its order.
        requests.extend(netlink.layer3(uplink.index)?.departures());
        requests.extend(taken.arrivals(taken_end, end));
        return Ok(requests);
    }
    match netlink.link_at(journal.index)?.filter(|link| journal.owns(link)) {
        Some(bridge) => {
            let from = End { index: journal.index, name: &bridge.name };
            requests.extend(netlink.layer3(journal.index)?.arrivals(from, end));
            if !bridge.is_up {
                // Set down by hand, it has lost its routes.
                requests.extend(then(taken));
            }
        }
        // Deleted by hand, with all that was on it.
        None if !taken.is_empty() && netlink.layer3(uplink.index)?.is_empty() => requests.extend(then(taken)),
        None => {}
    }
    Ok(requests)
}

/// What came to an uplink while it was taken, and so stayed on it.
pub fn left_behind(netlink: &mut Netlink, journal: &Journal) -> io::Result<Vec<String>> {
    let mut left = Vec::new();
    for step in &journal.steps {
        if let Step::TakeUplink { index, .. } = step {
            left.extend(netlink.layer3(*index)?.missing_in(&Layer3::default()));
        }
    }
    Ok(left)
}

/// Gives a new TAP its address, MTU and alias, sees to it that it never has an IPv6 address of its own, and makes it a
/// port that is up: one send.
pub fn plug(netlink: &mut Netlink, tap: &Tap, name: &IfName, mac: Mac, alias: &str, bridge: u32) -> Result<()> {
    let dress = |no_ipv6: bool| {
        let link = by_name(name).address(mac.0.to_vec()).mtu(tap.mtu).alias(alias);
        match no_ipv6 {
            true => link.append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![
                AfSpecInet6::AddrGenMode(In6AddrGenMode::None),
            ])])),
            false => link,
        }
    };
    let join = || set(by_name(name).controller(bridge).up().build());
    let failed = |error: io::Error| failed(&tap.bridge, &format!("cannot attach {name}"), &error);
    let mut answers = netlink.change(vec![set(dress(true).build()), join()]).map_err(failed)?;
    // A kernel without IPv6 has no address to be kept off.
    if let Err(error) = &answers[0]
        && error.raw_os_error() == Some(libc::EAFNOSUPPORT)
    {
        answers[0] = only(netlink.change(vec![set(dress(false).build())]).map_err(failed)?);
    }
    answers.into_iter().collect::<io::Result<Vec<()>>>().map_err(failed)?;
    Ok(())
}

fn set(message: LinkMessage) -> Request {
    (Message::SetLink(message), 0, &[])
}

fn by_name(name: &IfName) -> LinkMessageBuilder<LinkUnspec> {
    LinkUnspec::new_with_name(name.as_str())
}

fn only(answers: Vec<io::Result<()>>) -> io::Result<()> {
    answers.into_iter().next().unwrap_or(Ok(()))
}

/// What a step was about to do, for an error.
fn said(step: &Step) -> String {
    match step {
        Step::AddBridge { bridge, .. } => format!("cannot make {bridge}"),
        Step::SetUp { link } => format!("cannot set {link} up"),
        Step::TakeUplink { uplink, .. } => format!("cannot make {uplink} a port"),
        Step::Tell { uplink, keeper, .. } => format!("cannot tell {} about {uplink}", keeper.name()),
        Step::Configure { link, setting, .. } => format!("cannot set {setting} of {link}"),
    }
}

/// A refusal of the kernel, with what to do about it.
pub fn failed(bridge: &IfName, what: &str, error: &io::Error) -> Error {
    let remedy = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "CAP_NET_ADMIN is needed: run it as root.".to_owned(),
        Some(libc::EXFULL) => {
            format!("A bridge has 1,023 ports at the most; 'ip link show master {bridge}' lists them.")
        }
        Some(libc::EEXIST) => "Something else made it in this moment. Try again.".to_owned(),
        Some(libc::EBUSY) => "It is in use by something else; 'ip -d link' tells by what.".to_owned(),
        Some(libc::EOPNOTSUPP) => "The kernel can't do that with this interface: give another uplink=.".to_owned(),
        Some(libc::ENODEV) => "It went away in this moment. Try again.".to_owned(),
        _ => "The kernel's log may tell more: dmesg | tail".to_owned(),
    };
    let why = match error.raw_os_error() {
        Some(libc::EXFULL) => "the bridge is full".to_owned(),
        _ => reason(error),
    };
    Error::new(format!("{what}: {why}"), remedy)
}
