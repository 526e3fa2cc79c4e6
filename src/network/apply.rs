//! Changes of links: bridges as they have to be, TAPs, ports.

use crate::netlink::{Body, Netlink, Request};
use crate::output::errno::{as_root, reason};
use crate::sys::sysctl;
use model::error::{Error, Result};
use model::ifname::IfName;
use model::journal::Journal;
use model::mac::Mac;
use model::step::Tap;
use rtnetlink::LinkUnspec;
use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkMessage};
use std::io;
use std::os::fd::OwnedFd;

/// The setting that keeps IPv6 off a link.
pub(super) const NO_IPV6: &str = "ipv6/disable_ipv6";

/// A request, with what it is to do, for an error, and what the kernel needs for it.
pub(super) struct Change {
    request: Request,
    what: String,
    /// The module and the option of the kernel's configuration.
    needs: Option<(&'static str, &'static str)>,
    /// What the request names by its descriptor, which has to be open when it is sent.
    _held: Option<OwnedFd>,
}

impl Change {
    pub(super) fn new(request: Request, what: String) -> Self {
        Self { request, what, needs: None, _held: None }
    }

    pub(super) fn needing(mut self, module: &'static str, option: &'static str) -> Self {
        self.needs = Some((module, option));
        self
    }

    pub(super) fn holding(self, held: Option<OwnedFd>) -> Self {
        Self { _held: held, ..self }
    }

    /// Makes changes in one send. The first that fails is the error; those behind it may be done.
    pub(super) fn all(netlink: &mut Netlink, bridge: &IfName, changes: Vec<Self>) -> Result<()> {
        let (requests, about): (Vec<Request>, Vec<_>) =
            changes.into_iter().map(|change| (change.request, (change.what, change.needs, change._held))).unzip();
        let answers = netlink
            .change(requests)
            .map_err(|error| failed(bridge, "the kernel was asked to make it and did not answer", &error))?;
        for (answer, (what, needs, _)) in answers.into_iter().zip(about) {
            let Err(error) = answer else { continue };
            return Err(match needs {
                Some((module, option)) if is_lacking(&error) => {
                    let remedy = format!(
                        "The kernel needs {module} for that ({option}): load it (modprobe; in a container, on its host), or \
                         give uplink= an interface that nobody uses, or uplink=none."
                    );
                    Error::new(format!("{what}: {}", reason(&error)), remedy)
                }
                _ => failed(bridge, &what, &error),
            });
        }
        Ok(())
    }
}

/// Writes a setting of the IPv6 of a link that is made for a bridge.
pub(super) fn set_ipv6(journal: &Journal, link: &IfName, setting: &str, value: &str) -> Result<()> {
    write_ipv6(link, setting, value)
        .map_err(|error| failed(&journal.bridge, &format!("cannot set {setting} of {link}"), &error))
}

/// A kernel that was booted without IPv6 has no such setting.
fn write_ipv6(link: &IfName, setting: &str, value: &str) -> io::Result<()> {
    match sysctl::write(link.as_str(), setting, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Suits a bridge that has been made for another uplink to a shared one, or to a port: see `Create`. One on which the
/// host has an address by now stays as it is.
pub(super) fn suit(netlink: &mut Netlink, journal: &Journal, is_shared: bool) -> io::Result<()> {
    if netlink.addresses(journal.index)?.iter().any(|address| !address.is_link_local) {
        return Ok(());
    }
    only(netlink.change(vec![set(LinkUnspec::new_with_index(journal.index).arp(!is_shared).build())])?)?;
    let settings = if is_shared { [(NO_IPV6, "1")].as_slice() } else { &[("ipv6/accept_ra", "0"), (NO_IPV6, "0")] };
    settings.iter().try_for_each(|(setting, value)| write_ipv6(&journal.bridge, setting, value))
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

/// Who a new TAP is.
pub struct Identity<'a> {
    /// Its own address, on the host's side.
    pub mac: Mac,
    /// Its alias.
    pub alias: &'a str,
    /// The address of its guest, where that is known.
    pub guest: Option<Mac>,
}

/// Gives a new TAP its address, MTU and alias, sees to it that it never has an IPv6 address of its own, makes it a port
/// that is held to its policy and is up, and carries out what goes with that (`more`): one send.
pub fn plug(
    netlink: &mut Netlink,
    tap: &Tap,
    (name, index): (&IfName, u32),
    Identity { mac, alias, guest }: &Identity,
    bridge: u32,
    more: Option<Request>,
) -> Result<()> {
    let dress = |no_ipv6: bool| {
        let link = LinkUnspec::new_with_index(index).address(mac.0.to_vec()).mtu(tap.mtu).alias(*alias);
        match no_ipv6 {
            true => link.append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![
                AfSpecInet6::AddrGenMode(In6AddrGenMode::None),
            ])])),
            false => link,
        }
    };
    let failed = |error: io::Error| failed(&tap.bridge, &format!("cannot attach {name}"), &error);
    let policy = |requests: Vec<port::Request>| requests.into_iter().map(of_port);
    let guest = guest.map(|mac| mac.0);
    let (before, after) = (tap.policy.before(index, guest), tap.policy.after(index));
    let needs = std::iter::once(None).chain(before.iter().map(Some)).chain([None]).chain(after.iter().map(Some));
    let needs: Vec<Option<(&str, &str)>> = needs.map(|its| its.map(|its| (its.what, its.needs))).collect();
    let join = LinkUnspec::new_with_index(index).controller(bridge);
    // What is held to something as a port is so before it is up.
    let (join, up) = match after.is_empty() {
        true => (join.up(), None),
        false => (join, Some(set(LinkUnspec::new_with_index(index).up().build()))),
    };
    let requests = std::iter::once(set(dress(true).build()))
        .chain(policy(before))
        .chain([set(join.build())])
        .chain(policy(after))
        .chain(up)
        .chain(more);
    let mut answers = netlink.change(requests.collect()).map_err(failed)?;
    // A kernel without IPv6 has no address to be kept off.
    if answers[0].as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EAFNOSUPPORT)) {
        answers[0] = only(netlink.change(vec![set(dress(false).build())]).map_err(failed)?);
    }
    for (answer, policy) in answers.into_iter().zip(needs.into_iter().chain(std::iter::repeat(None))) {
        let Err(error) = answer else { continue };
        return Err(match policy {
            Some((what, needs)) if is_lacking(&error) => {
                Error::new(format!("cannot {what}: {}", reason(&error)), format!("The kernel needs {needs} for that."))
            }
            _ => failed(error),
        });
    }
    Ok(())
}

/// Whether a refusal says that the kernel lacks what it was asked for.
fn is_lacking(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EOPNOTSUPP))
}

/// Takes a port off its bridge; one that is gone is off it.
pub fn free_port(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    let (request, flags, _) = set(LinkUnspec::new_with_index(index).nocontroller().build());
    only(netlink.change(vec![(request, flags, &[libc::ENODEV])])?)
}

/// Deletes a link, if it is there.
pub fn delete_link(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    let delete = LinkUnspec::new_with_index(index).build();
    only(netlink.change(vec![(Message::DelLink(delete).into(), 0, &[libc::ENODEV])])?)
}

/// Deletes a link of the journal's, if it is still as we made it.
pub(super) fn delete_owned(netlink: &mut Netlink, journal: &Journal, index: u32) -> io::Result<()> {
    match netlink.link_at(index)? {
        Some(link) if journal.owns(&link) || journal.owns_end(&link) => delete_link(netlink, link.index),
        _ => Ok(()),
    }
}

/// A request that is there byte by byte.
pub(super) fn of_port(request: port::Request) -> Request {
    (Body::Bytes(request.kind, request.body), request.flags, &[])
}

pub(super) fn set(message: LinkMessage) -> Request {
    (Message::SetLink(message).into(), 0, &[])
}

fn only(answers: Vec<io::Result<()>>) -> io::Result<()> {
    answers.into_iter().next().unwrap_or(Ok(()))
}

/// A refusal of the kernel, with what to do about it.
pub fn failed(bridge: &IfName, what: &str, error: &io::Error) -> Error {
    let remedy = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => format!("CAP_NET_ADMIN is needed. {}", as_root("sudo ...")),
        Some(libc::EXFULL) => {
            format!("A bridge has 1,023 ports at the most; 'ip link show master {bridge}' lists them.")
        }
        Some(libc::EEXIST) => "Something has its name, or of a VXLAN its VNI, even in another network namespace; 'ip -d link' lists what is here. If \
             nothing has, it was made in this moment: try again."
                .to_owned(),
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
