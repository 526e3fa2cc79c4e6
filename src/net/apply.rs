//! Carries steps out.

use super::rtnl::{Netlink, Request};
use crate::error::{Error, Result, reason};
use crate::journal::Journal;
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
pub(super) fn carry_out(netlink: &mut Netlink, requests: Vec<Request>) -> io::Result<Vec<io::Result<()>>> {
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

/// Gives a link the address that it has, which is its own from then on and no port's.
pub fn pin(netlink: &mut Netlink, index: u32, mac: Mac) -> io::Result<()> {
    only(netlink.change(vec![set(LinkUnspec::new_with_index(index).address(mac.0.to_vec()).build())])?)
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
        Step::Configure { .. } | Step::Tell { .. } | Step::Spare { .. } => Vec::new(),
    }
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

pub(super) fn set(message: LinkMessage) -> Request {
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
        Step::Spare { by } => format!("cannot keep systemd-networkd off it, which takes it by {}", by.display()),
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
