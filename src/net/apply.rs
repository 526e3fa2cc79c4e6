//! Carries steps out, and takes them back.

use super::rtnl::{Netlink, Request};
use crate::error::{Error, Result, reason};
use crate::host::Link;
use crate::journal::{Files, Journal, Taken};
use crate::keeper;
use crate::layer3::{End, Layer3, onlink};
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

/// Makes the bridge of a journal. It is made and given its settings first; then what the host has on the uplink goes over
/// in one send, so that a kill finds either none of it done or all. What it is then is read back.
///
/// After an error anything may be done: undo it.
pub fn make(netlink: &mut Netlink, journal: &Journal) -> Result<()> {
    let is_setting = |step: &Step| matches!(step, Step::Configure { .. });
    for steps in journal.steps.chunk_by(|one, next| !is_setting(one) && !is_setting(next)) {
        match steps {
            [step @ Step::Configure { link, setting, value, .. }] => {
                sysctl::write(link, setting, value).map_err(|error| failed(&journal.bridge, &said(step), &error))?
            }
            _ => send(netlink, journal, steps)?,
        }
    }
    read_back(netlink, journal)
}

fn send(netlink: &mut Netlink, journal: &Journal, steps: &[Step]) -> Result<()> {
    let requests: Vec<(Request, &Step)> = steps
        .iter()
        .flat_map(|step| requests_of(step, journal).into_iter().map(move |request| (request, step)))
        .collect();
    let (requests, steps): (Vec<Request>, Vec<&Step>) = requests.into_iter().unzip();
    let answers = carry_out(netlink, requests)
        .map_err(|error| failed(&journal.bridge, "the kernel was asked to make it and did not answer", &error))?;
    match answers.into_iter().zip(steps).find_map(|(answer, step)| Some((answer.err()?, step))) {
        Some((error, step)) => Err(failed(&journal.bridge, &said(step), &error)),
        None => Ok(()),
    }
}

fn read_back(netlink: &mut Netlink, journal: &Journal) -> Result<()> {
    let unsure = |error: io::Error| failed(&journal.bridge, "cannot read back what was made", &error);
    for taken in journal.taken() {
        let is_port = netlink.link_at(taken.index).map_err(unsure)?.is_some_and(|link| journal.is_port(&link));
        let missing = match taken.layer3.is_empty() {
            true => Vec::new(),
            false => taken.layer3.missing_in(&netlink.layer3(journal.index).map_err(unsure)?),
        };
        if !is_port || !missing.is_empty() {
            let what = format!("{} did not become a port with all that it has: {}", taken.uplink, missing.join(", "));
            return Err(Error::new(what, "Something else changes the network at the same time: ip monitor"));
        }
    }
    Ok(())
}

/// Makes changes in one send, as `Netlink::change`. A route whose gateway the kernel does not find any more, since the
/// route to it has gone, is asked for a second time as it is accepted then.
fn carry_out(netlink: &mut Netlink, requests: Vec<Request>) -> io::Result<Vec<io::Result<()>>> {
    let second = |(message, flags, fine): &Request| match message {
        Message::NewRoute(route) => Some((Message::NewRoute(onlink(route)?), *flags, *fine)),
        _ => None,
    };
    let seconds: Vec<Option<Request>> = requests.iter().map(second).collect();
    let mut answers = netlink.change(requests)?;
    let is_unreachable = |answer: &io::Result<()>| {
        let errno = answer.as_ref().err().and_then(io::Error::raw_os_error);
        matches!(errno, Some(libc::ENETUNREACH | libc::EHOSTUNREACH))
    };
    let (places, again): (Vec<usize>, Vec<Request>) = seconds
        .into_iter()
        .enumerate()
        .filter(|(at, _)| is_unreachable(&answers[*at]))
        .filter_map(|(at, request)| Some((at, request?)))
        .unzip();
    for (at, answer) in places.into_iter().zip(netlink.change(again)?) {
        answers[at] = answer;
    }
    Ok(answers)
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
/// bridge by now goes to the uplink, in one send, and the bridge goes only when it is there. All errors are collected;
/// after one of them the journal is still needed.
///
/// A bridge that somebody else uses stays, with all that is on it. One of the journal's index that is not as we made it is
/// somebody else's altogether: nothing is touched. For who holds the bridge's lock alone.
pub fn undo(netlink: &mut Netlink, files: &Files, journal: &Journal) -> Result<()> {
    if !journal.is_current() {
        return Ok(());
    }
    let unsure = |error: io::Error| {
        Error::new(format!("cannot look at {}: {}", journal.bridge, reason(&error)), "To try again: kvm-bridge recover")
    };
    let bridge = netlink.link_at(journal.index).map_err(unsure)?;
    match &bridge {
        Some(link) if !journal.owns(link) => return Ok(()),
        Some(link) => {
            if let Some(user) = users(netlink, journal).map_err(unsure)?.first() {
                let what = format!("{} is used by {}, which is not ours, and stays", link.name, user.name);
                let remedy = match user.controller {
                    Some(_) => format!("To take it off: ip link set dev {} nomaster", user.name),
                    None => format!("To delete that: ip link del {}", user.name),
                };
                return Err(Error::new(what, remedy));
            }
        }
        None => {}
    }
    // What renews on the bridge would put there again what is taken away.
    keeper::release(netlink, journal)?;
    let returning = match returning(netlink, journal, bridge.as_ref()) {
        Ok(returning) => returning,
        Err(error) if journal.moving => return Err(error),
        // The host stays on the bridge.
        Err(error) => return keeper::renew(netlink, journal).and(Err(error)),
    };
    // If there is no room for it, the journal still has what was taken.
    let _ = files.write(&returning);
    let (mut requests, mut faults) = (Vec::new(), Vec::new());
    for step in returning.steps.iter().rev() {
        match undo_requests(netlink, step, &returning, bridge.is_some()) {
            Ok(mut more) => requests.append(&mut more),
            Err(error) => faults.push(reason(&error)),
        }
    }
    let counting = requests.len();
    if bridge.is_some() {
        // Else a kill would leave it twice. What can't be taken off the bridge goes with it in a moment.
        match netlink.layer3(journal.index) {
            Ok(there) => requests.extend(there.departures()),
            Err(error) => faults.push(reason(&error)),
        }
    }
    match carry_out(netlink, requests) {
        Ok(answers) => {
            faults.extend(answers.into_iter().take(counting).filter_map(|answer| Some(reason(&answer.err()?))));
        }
        Err(error) => faults.push(reason(&error)),
    }
    if faults.is_empty() {
        faults.extend(delete(netlink, journal).err().map(|error| reason(&error)));
    }
    if faults.is_empty() {
        if journal.told().is_some() {
            // What comes to the uplink from here on is its keeper's.
            let _ = files.write(&returning.settled());
            keeper::wake(netlink, journal)?;
        }
        return Ok(());
    }
    if !journal.moving {
        match stay(netlink, &returning) {
            Ok(()) => {
                faults.extend(keeper::renew(netlink, journal).err().map(|error| error.to_string()));
                let _ = files.write(journal);
            }
            Err(error) => faults.push(reason(&error)),
        }
    }
    let what = format!("{} could not be taken back: {}", journal.bridge, faults.join("; "));
    Err(Error::new(what, "To try again: kvm-bridge recover"))
}

/// Ends what a kill left half done: where the bridge is in use already, forwards, else backwards. Whether it was taken
/// back, and its journal is not needed any more. For who holds the bridge's lock alone.
pub fn settle(netlink: &mut Netlink, files: &Files, journal: &Journal) -> Result<bool> {
    let unsure = |error: io::Error| failed(&journal.bridge, "cannot look at it", &error);
    let is_there = netlink.link_at(journal.index).map_err(unsure)?.is_some_and(|link| journal.owns(&link));
    if !is_there || !journal.is_current() || users(netlink, journal).map_err(unsure)?.is_empty() {
        return undo(netlink, files, journal).map(|()| true);
    }
    stay(netlink, journal).map_err(|error| failed(&journal.bridge, "cannot go on with making it", &error))?;
    keeper::renew(netlink, journal)?;
    files.write(&journal.settled()).map(|()| false)
}

/// The links that need the bridge, whosever they are: its ports beside the uplink, else what stands on it.
pub fn users(netlink: &mut Netlink, journal: &Journal) -> io::Result<Vec<Link>> {
    let mut ports = netlink.ports(journal.index)?;
    ports.retain(|port| !journal.took(port.index));
    if ports.is_empty() { netlink.stacked_on(journal.index) } else { Ok(ports) }
}

/// When not all could be given back, the host stays on the bridge: what it has, and what of it is on the uplink already.
fn stay(netlink: &mut Netlink, journal: &Journal) -> io::Result<()> {
    let mut requests = Vec::new();
    for taken in journal.taken() {
        let Some(uplink) = uplink_of(netlink, journal, &taken)? else { continue };
        if uplink.controller.is_some_and(|controller| controller != journal.index) {
            continue;
        }
        let (from, to) = (End { index: uplink.index, name: taken.uplink }, journal.end());
        requests.push(set(LinkUnspec::new_with_index(uplink.index).controller(journal.index).build()));
        // What is on the uplink by now may have arrived by half.
        requests.extend(taken.layer3.at(from, to).arrivals());
        requests.extend(taken.layer3.departures());
        for step in &journal.steps {
            if let Step::Configure { link, setting, value, .. } = step
                && link == taken.uplink
            {
                sysctl::write(&uplink.name, setting, value)?;
            }
        }
    }
    carry_out(netlink, requests)?.into_iter().collect()
}

fn delete(netlink: &mut Netlink, journal: &Journal) -> io::Result<()> {
    match netlink.link_at(journal.index)? {
        Some(link) if journal.owns(&link) => delete_link(netlink, link.index),
        _ => Ok(()),
    }
}

/// The journal of the way back: its steps have what each uplink is to have in the end, as it was called then.
fn returning(netlink: &mut Netlink, journal: &Journal, bridge: Option<&Link>) -> Result<Journal> {
    let mut returning = journal.returning();
    for step in &mut returning.steps {
        if let Step::TakeUplink { uplink, index, mac, layer3, .. } = step {
            let taken = Taken { uplink, index: *index, mac: *mac, layer3 };
            let found = belongings(netlink, journal, bridge, &taken);
            *layer3 = found.map_err(|error| error.of(&journal.bridge))?;
        }
    }
    Ok(returning)
}

/// What an uplink is to have in the end.
fn belongings(netlink: &mut Netlink, journal: &Journal, bridge: Option<&Link>, taken: &Taken) -> Result<Layer3> {
    let unsure = |error: io::Error| {
        Error::new(format!("cannot read what the host has: {}", reason(&error)), "To try again: kvm-bridge recover")
    };
    let then = || taken.layer3.clone().aged(journal.age());
    let uplink = uplink_of(netlink, journal, taken).map_err(unsure)?;
    let (bridge, uplink) = match (bridge, uplink) {
        _ if journal.moving => return Ok(then()),
        // Where the interface has gone, all that was on it has.
        (_, None) => return Ok(then()),
        (None, Some(uplink)) => {
            // Deleted by hand, with all that was on it.
            let now = netlink.layer3(uplink.index).map_err(unsure)?;
            return Ok(if now.is_empty() { then() } else { now });
        }
        (Some(bridge), Some(uplink)) => (bridge, uplink),
    };
    let there = netlink.layer3(journal.index).map_err(unsure)?;
    if uplink.controller.is_some() && !journal.is_port(&uplink) && !there.is_empty() {
        let what = format!("{} was given to another link, and the host is on {}", uplink.name, bridge.name);
        let remedy = format!("Take the addresses off {}, or: ip link set dev {} nomaster", bridge.name, uplink.name);
        return Err(Error::new(what, remedy));
    }
    if !uplink.is_up && !there.is_empty() {
        let what = format!("{} is down, and the host stays on {}", uplink.name, bridge.name);
        return Err(Error::new(what, format!("To set it up: ip link set dev {} up", uplink.name)));
    }
    let (from, to) =
        (End { index: journal.index, name: &bridge.name }, End { index: uplink.index, name: taken.uplink });
    let mut all = there.at(from, to);
    if !bridge.is_up {
        // Set down by hand, it has lost its routes.
        all.add_missing(then());
    }
    Ok(all)
}

fn undo_requests(netlink: &mut Netlink, step: &Step, journal: &Journal, is_there: bool) -> io::Result<Vec<Request>> {
    Ok(match step {
        // A bridge goes as a whole, when all else is back.
        Step::AddBridge { .. } | Step::Tell { .. } => Vec::new(),
        Step::SetUp { link } | Step::Configure { link, .. } if *link == journal.bridge => Vec::new(),
        Step::SetUp { link } => match of_name(netlink, journal, link)? {
            Some((found, _)) if is_as_we_left_it(netlink, journal, &found, is_there)? => {
                vec![set(LinkUnspec::new_with_index(found.index).down().build())]
            }
            _ => Vec::new(),
        },
        Step::Configure { link, setting, value, was } => {
            if let Some((found, _)) = of_name(netlink, journal, link)?
                && sysctl::read(found.name.as_str(), setting).as_ref() == Some(value)
            {
                sysctl::write(&found.name, setting, was)?;
            }
            Vec::new()
        }
        Step::TakeUplink { uplink, .. } => match of_name(netlink, journal, uplink)? {
            Some((found, taken)) => give_back(netlink, journal, &found, taken.layer3)?,
            None => Vec::new(),
        },
    })
}

/// The interface that was taken as `name`, and what is to become of it.
fn of_name<'a>(netlink: &mut Netlink, journal: &'a Journal, name: &IfName) -> io::Result<Option<(Link, Taken<'a>)>> {
    let Some(taken) = journal.taken().find(|taken| taken.uplink == name) else { return Ok(None) };
    Ok(uplink_of(netlink, journal, &taken)?.map(|found| (found, taken)))
}

/// The interface that was taken, whatever it is called now; `None` if it has gone, and another of its index is not it.
fn uplink_of(netlink: &mut Netlink, journal: &Journal, taken: &Taken) -> io::Result<Option<Link>> {
    let found = netlink.link_at(taken.index)?;
    Ok(found.filter(|link| taken.mac.is_none_or(|mac| link.mac == Some(mac)) || journal.is_port(link)))
}

/// Whether an uplink that was set up for its bridge is so still: a port of it, or freed only by its deletion and without
/// anything that somebody gave it since.
fn is_as_we_left_it(netlink: &mut Netlink, journal: &Journal, uplink: &Link, is_there: bool) -> io::Result<bool> {
    let is_known = journal.taken().any(|taken| taken.index == uplink.index && taken.mac.is_some());
    let is_orphan = !is_there && is_known && uplink.controller.is_none();
    Ok(journal.is_port(uplink) || is_orphan && netlink.layer3(uplink.index)?.is_empty())
}

/// The requests that free the uplink and bring what the host has back to it.
fn give_back(netlink: &mut Netlink, journal: &Journal, uplink: &Link, all: &Layer3) -> io::Result<Vec<Request>> {
    let is_port = journal.is_port(uplink);
    if !is_port && uplink.controller.is_some() {
        return Ok(Vec::new());
    }
    let mut requests = Vec::new();
    if is_port {
        requests.push(set(LinkUnspec::new_with_index(uplink.index).nocontroller().build()));
    }
    let now = netlink.layer3(uplink.index)?;
    if !all.missing_in(&now).is_empty() {
        // What is there goes first, so that all comes in its order.
        requests.extend(now.departures());
        let taken = journal.taken().find(|taken| taken.index == uplink.index);
        let then = End { index: uplink.index, name: taken.map_or(&uplink.name, |taken| taken.uplink) };
        requests.extend(all.at(then, End { index: uplink.index, name: &uplink.name }).arrivals());
    }
    Ok(requests)
}

/// What came to an uplink while it was taken, and so stayed on it.
pub fn left_behind(netlink: &mut Netlink, journal: &Journal) -> io::Result<Vec<String>> {
    let mut left = Vec::new();
    for taken in journal.taken() {
        left.extend(netlink.layer3(taken.index)?.missing_in(&Layer3::default()));
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

/// Takes a port off its bridge.
pub fn free_port(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    only(netlink.change(vec![set(LinkUnspec::new_with_index(index).nocontroller().build())])?)
}

/// Deletes a link, if it is there.
pub fn delete_link(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    let delete = LinkUnspec::new_with_index(index).build();
    only(netlink.change(vec![(Message::DelLink(delete), 0, &[libc::ENODEV])])?)
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
