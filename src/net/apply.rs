//! Carries steps out, and takes them back.

use super::rtnl::{Netlink, Request};
use crate::error::{Error, Result, reason};
use crate::journal::Journal;
use crate::mac::Mac;
use crate::name::IfName;
use crate::step::{Step, Tap};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, LinkAttribute, LinkMessage,
};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec};
use std::io;

/// Makes the bridge of a journal: all its steps in one send, so that a kill finds either none of them done or all.
///
/// If one fails the others are taken back before this returns.
pub fn make(netlink: &mut Netlink, journal: &Journal) -> Result<()> {
    let (requests, meaning): (Vec<Request>, Vec<&Step>) = journal
        .steps
        .iter()
        .flat_map(|step| requests_of(step, journal).into_iter().map(move |one| (one, step)))
        .unzip();
    let answers = netlink.change(requests).map_err(|error| failed(&journal.bridge, "the kernel", &error))?;
    let failure = answers.into_iter().zip(meaning).find_map(|(answer, step)| Some((answer.err()?, step)));
    let Some((error, step)) = failure else { return Ok(()) };
    let error = failed(&journal.bridge, &said(step), &error);
    match undo(netlink, journal) {
        Ok(()) => Err(error),
        Err(rest) => Err(Error::new(format!("{error}\n{rest}"), "Look at 'ip link' for what is left.")),
    }
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
            vec![(Message::NewLink(add), NLM_F_CREATE | NLM_F_EXCL), set(dress.build())]
        }
        Step::SetUp { link } if *link == journal.bridge => {
            vec![set(LinkUnspec::new_with_index(bridge).up().build())]
        }
        Step::SetUp { link } => vec![set(by_name(link).up().build())],
        Step::TakeUplink { index, .. } => {
            vec![set(LinkUnspec::new_with_index(*index).controller(bridge).build())]
        }
    }
}

/// Takes the steps of a journal back, the last one first, as far as they were carried out: what is not as we left it is
/// somebody else's and stays. All errors are collected.
pub fn undo(netlink: &mut Netlink, journal: &Journal) -> Result<()> {
    let mut faults = Vec::new();
    let mut requests = Vec::new();
    for step in journal.steps.iter().rev() {
        match undo_requests(netlink, step, journal) {
            Ok(mut more) => requests.append(&mut more),
            Err(error) => faults.push(reason(&error)),
        }
    }
    match netlink.change(requests) {
        Ok(answers) => faults.extend(answers.into_iter().filter_map(|answer| Some(reason(&answer.err()?)))),
        Err(error) => faults.push(reason(&error)),
    }
    match faults.is_empty() {
        true => Ok(()),
        false => {
            let bridge = &journal.bridge;
            let what = format!("{bridge} could not be taken back: {}", faults.join("; "));
            Err(Error::new(what, format!("To delete it by hand: ip link del {bridge}")))
        }
    }
}

fn undo_requests(netlink: &mut Netlink, step: &Step, journal: &Journal) -> io::Result<Vec<Request>> {
    Ok(match step {
        Step::AddBridge { .. } => match netlink.link_at(journal.index)? {
            Some(link) if journal.owns(&link) => {
                vec![(Message::DelLink(LinkUnspec::new_with_index(link.index).build()), 0)]
            }
            _ => Vec::new(),
        },
        // A bridge goes as a whole.
        Step::SetUp { link } if *link == journal.bridge => Vec::new(),
        Step::SetUp { link } => match netlink.link(link)? {
            Some(found) if journal.is_port(&found) => {
                vec![set(LinkUnspec::new_with_index(found.index).down().build())]
            }
            _ => Vec::new(),
        },
        Step::TakeUplink { index, .. } => match netlink.link_at(*index)? {
            Some(found) if journal.is_port(&found) => {
                vec![set(LinkUnspec::new_with_index(found.index).nocontroller().build())]
            }
            _ => Vec::new(),
        },
    })
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
    (Message::SetLink(message), 0)
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
