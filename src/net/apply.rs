//! Carries steps out.

use super::rtnl::{Netlink, Request};
use super::share;
use crate::error::{Error, Result, as_root, reason};
use crate::journal::Journal;
use crate::mac::Mac;
use crate::name::IfName;
use crate::share::ends;
use crate::step::{Ipv6, Step, Tap};
use crate::sys::sysctl;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, LinkAttribute, LinkMessage,
};
use rtnetlink::{LinkBridge, LinkUnspec};
use std::io;
use std::os::fd::OwnedFd;

/// So many addresses a bridge learns at the most (IFLA_BR_FDB_MAX_LEARNED, since Linux 6.7; older kernels pass it over): a
/// guest can pretend to have any number.
const MOST_LEARNT: u32 = 16_384;

/// The setting that keeps IPv6 off a link.
const NO_IPV6: &str = "ipv6/disable_ipv6";

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
            return Err(match (needs, error.raw_os_error()) {
                (Some((module, option)), Some(libc::ENOENT | libc::EOPNOTSUPP)) => {
                    let remedy = format!(
                        "The kernel needs {module} to share an uplink ({option}): load that, or give uplink= an interface \
                         that nobody uses, or uplink=none."
                    );
                    Error::new(format!("{what}: {}", reason(&error)), remedy)
                }
                _ => failed(bridge, &what, &error),
            });
        }
        Ok(())
    }
}

/// Makes the bridge of a journal: first the links, then their IPv6, then all else in one send, of which the
/// uplink is the last.
///
/// After an error anything may be done: undo it.
pub fn make(netlink: &mut Netlink, journal: &Journal) -> Result<()> {
    Change::all(netlink, &journal.bridge, journal.steps.iter().filter_map(|step| create(step, journal)).collect())?;
    for step in &journal.steps {
        set_ipv6(step, journal)?;
        if let Some(share) = step.share() {
            share::clear_lro(&journal.bridge, share)?;
        }
    }
    let mut changes = Vec::new();
    for step in &journal.steps {
        changes.extend(attach(step, journal)?);
    }
    Change::all(netlink, &journal.bridge, changes)
}

/// Sets what a step says of the links' IPv6.
pub(super) fn set_ipv6(step: &Step, journal: &Journal) -> Result<()> {
    ipv6_of(step).into_iter().try_for_each(|(link, setting, value)| {
        let failed = |error| failed(&journal.bridge, &format!("cannot set {setting} of {link}"), &error);
        write_ipv6(&link, setting, value).map_err(failed)
    })
}

/// Sets it where the kernel was not booted without IPv6.
fn write_ipv6(link: &IfName, setting: &str, value: &str) -> io::Result<()> {
    match sysctl::write(link.as_str(), setting, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// The change that makes a link.
fn create(step: &Step, journal: &Journal) -> Option<Change> {
    match step {
        Step::AddBridge { bridge, mac, no_arp, .. } => {
            let add = LinkBridge::new(bridge.as_str())
                .index(journal.index)
                .address(mac.0.to_vec())
                .arp(!no_arp)
                .stp_state(BridgeStpState::Disabled)
                .forward_delay(0)
                .fdb_max_learned(MOST_LEARNT)
                .build();
            let request = (Message::NewLink(add), NLM_F_CREATE | NLM_F_EXCL, &[][..]);
            Some(Change::new(request, format!("cannot make {bridge}")).needing("bridge", "CONFIG_BRIDGE"))
        }
        Step::ShareUplink { share, .. } => Some(share::create_ends(journal, share)),
        Step::SetUp { .. } | Step::AttachPort { .. } | Step::AwaitUplink { .. } => None,
    }
}

/// The links of whose IPv6 a step sets something, with the setting and its value.
fn ipv6_of(step: &Step) -> Vec<(IfName, &'static str, &'static str)> {
    match step {
        Step::AddBridge { bridge, ipv6: Ipv6::NoRouters, .. } => vec![(bridge.clone(), "ipv6/accept_ra", "0")],
        Step::AddBridge { bridge, ipv6: Ipv6::Off, .. } => vec![(bridge.clone(), NO_IPV6, "1")],
        Step::AttachPort { uplink, had_ipv6: true, .. } => vec![(uplink.clone(), NO_IPV6, "1")],
        Step::ShareUplink { bridge, .. } => ends(bridge).map(|end| (end, NO_IPV6, "1")).into(),
        _ => Vec::new(),
    }
}

/// What is left to do when the links are there.
pub(super) fn attach(step: &Step, journal: &Journal) -> Result<Vec<Change>> {
    Ok(match step {
        Step::AddBridge { bridge, mtu, .. } => {
            // The kernel drops an alias and forgets an MTU that come with the creating request.
            let mut dress = LinkUnspec::new_with_index(journal.index).alias(journal.alias());
            if let Some(mtu) = mtu {
                dress = dress.mtu(*mtu);
            }
            vec![Change::new(set(dress.build()), format!("cannot give {bridge} its alias and MTU"))]
        }
        Step::SetUp { link } => {
            let index =
                if *link == journal.bridge { Some(journal.index) } else { journal.port().map(|(_, index)| index) };
            let up = index.map(|index| set(LinkUnspec::new_with_index(index).up().build()));
            up.map(|up| Change::new(up, format!("cannot set {link} up"))).into_iter().collect()
        }
        Step::AttachPort { uplink, index, .. } => {
            let join = set(LinkUnspec::new_with_index(*index).controller(journal.index).build());
            vec![Change::new(join, format!("cannot make {uplink} a port"))]
        }
        Step::AwaitUplink { .. } => Vec::new(),
        Step::ShareUplink { share, .. } => share::attach(journal, share, &[], false)?,
    })
}

/// Suits a bridge that has been made for another uplink to a shared one, or to a port: see `Step::AddBridge`. One on which the
/// host has an address by now stays as it is.
pub(super) fn suit(netlink: &mut Netlink, journal: &Journal, is_shared: bool) -> io::Result<()> {
    if netlink.addresses(journal.index)?.iter().any(|address| !address.is_link_local) {
        return Ok(());
    }
    netlink.change_all(vec![set(LinkUnspec::new_with_index(journal.index).arp(!is_shared).build())])?;
    let settings = if is_shared { [(NO_IPV6, "1")].as_slice() } else { &[("ipv6/accept_ra", "0"), (NO_IPV6, "0")] };
    settings.iter().try_for_each(|(setting, value)| write_ipv6(&journal.bridge, setting, value))
}

/// Sets a bridge up that was there and down.
pub fn set_up(netlink: &mut Netlink, index: u32, up: bool) -> io::Result<()> {
    let link = LinkUnspec::new_with_index(index);
    let link = if up { link.up() } else { link.down() };
    netlink.change_all(vec![set(link.build())])
}

/// Gives a link the address that it has, which is its own from then on and no port's.
pub fn pin(netlink: &mut Netlink, index: u32, mac: Mac) -> io::Result<()> {
    netlink.change_all(vec![set(LinkUnspec::new_with_index(index).address(mac.0.to_vec()).build())])
}

/// Gives a new TAP its address, MTU and alias, sees to it that it never has an IPv6 address of its own, makes it a port
/// that is up, and carries out what goes with that (`more`): one send.
pub fn plug(
    netlink: &mut Netlink,
    tap: &Tap,
    (name, index): (&IfName, u32),
    mac: Mac,
    alias: &str,
    bridge: u32,
    more: Option<Request>,
) -> Result<()> {
    let dress = |no_ipv6: bool| {
        let link = LinkUnspec::new_with_index(index).address(mac.0.to_vec()).mtu(tap.mtu).alias(alias);
        match no_ipv6 {
            true => link.append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![
                AfSpecInet6::AddrGenMode(In6AddrGenMode::None),
            ])])),
            false => link,
        }
    };
    let join = set(LinkUnspec::new_with_index(index).controller(bridge).up().build());
    let failed = |error: io::Error| failed(&tap.bridge, &format!("cannot attach {name}"), &error);
    let requests = [set(dress(true).build()), join].into_iter().chain(more).collect();
    let mut answers = netlink.change(requests).map_err(failed)?;
    // A kernel without IPv6 has no address to be kept off.
    if let Err(error) = &answers[0]
        && error.raw_os_error() == Some(libc::EAFNOSUPPORT)
    {
        answers[0] = netlink.change_all(vec![set(dress(false).build())]);
    }
    answers.into_iter().collect::<io::Result<()>>().map_err(failed)
}

/// Takes a port off its bridge; one that is gone is off it.
pub fn free_port(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    let (request, flags, _) = set(LinkUnspec::new_with_index(index).nocontroller().build());
    netlink.change_all(vec![(request, flags, &[libc::ENODEV])])
}

/// Deletes a link, if it is there.
pub fn delete_link(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    let delete = LinkUnspec::new_with_index(index).build();
    netlink.change_all(vec![(Message::DelLink(delete), 0, &[libc::ENODEV])])
}

pub(super) fn set(message: LinkMessage) -> Request {
    (Message::SetLink(message), 0, &[])
}

/// A refusal of the kernel, with what to do about it.
pub fn failed(bridge: &IfName, what: &str, error: &io::Error) -> Error {
    let remedy = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => format!("CAP_NET_ADMIN is needed. {}", as_root("sudo ...")),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::{Changes, MarkBy, Share};

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn name(name: &str) -> IfName {
        IfName::new(name).unwrap()
    }

    #[test]
    fn each_step_creates_and_attaches_what_it_says_and_nothing_else() {
        let (bridge, uplink) = (name("br0"), name("eth0"));
        let add = |ipv6| Step::AddBridge { bridge: bridge.clone(), mac: MAC, mtu: None, ipv6, no_arp: false };
        let port = |had_ipv6| Step::AttachPort {
            bridge: bridge.clone(),
            uplink: uplink.clone(),
            index: 2,
            mac: MAC,
            had_ipv6,
            is_asked: false,
        };
        let waits =
            Step::AwaitUplink { bridge: bridge.clone(), uplink: None, attach: None, was_port: false, follow: false };
        let (changes, mark) = (Changes::default(), MarkBy::Skbedit);
        let share = Share { uplink: uplink.clone(), index: 2, mac: MAC, mtu: 1500, follow: false, mark, changes };
        let up = |link: &IfName| Step::SetUp { link: link.clone() };
        let steps = vec![add(Ipv6::Usual), up(&bridge), port(true), up(&uplink)];
        let journal = Journal::new(bridge.clone(), false, steps).unwrap();
        let dress = "cannot give br0 its alias and MTU";
        for (step, created, attached, ipv6) in [
            (add(Ipv6::Usual), "cannot make br0", &[dress][..], &[][..]),
            (add(Ipv6::NoRouters), "cannot make br0", &[dress], &[("br0", "ipv6/accept_ra", "0")]),
            (add(Ipv6::Off), "cannot make br0", &[dress], &[("br0", NO_IPV6, "1")]),
            (up(&bridge), "", &["cannot set br0 up"], &[]),
            (up(&uplink), "", &["cannot set eth0 up"], &[]),
            (port(true), "", &["cannot make eth0 a port"], &[("eth0", NO_IPV6, "1")]),
            (port(false), "", &["cannot make eth0 a port"], &[]),
            (waits, "", &[], &[]),
        ] {
            assert_eq!(create(&step, &journal).map_or(String::new(), |change| change.what), created, "{step:?}");
            let changes: Vec<String> = attach(&step, &journal).unwrap().into_iter().map(|change| change.what).collect();
            assert_eq!(changes, attached, "{step:?}");
            let set: Vec<_> = ipv6_of(&step);
            assert_eq!(set.iter().map(|(link, key, value)| (link.as_str(), *key, *value)).collect::<Vec<_>>(), ipv6);
        }
        let step = Step::ShareUplink { bridge, share };
        assert_eq!(create(&step, &journal).unwrap().what, "cannot make the veth pair kvbh-br0 and kvbp-br0");
        let ends = ipv6_of(&step).into_iter().map(|(link, key, value)| (link.to_string(), key, value));
        assert_eq!(ends.collect::<Vec<_>>(), ["kvbh-br0", "kvbp-br0"].map(|end| (end.to_owned(), NO_IPV6, "1")));
        // The last one lets frames in.
        let last = attach(&step, &journal).unwrap().pop().unwrap();
        assert_eq!(last.what, "cannot give eth0 a filter");
    }

    #[test]
    fn what_the_kernel_refuses_is_told_with_what_to_do() {
        for (errno, words) in [
            (libc::EPERM, "CAP_NET_ADMIN is needed"),
            (libc::EXFULL, "the bridge is full"),
            (libc::EEXIST, "Something else made it"),
            (libc::EBUSY, "ip -d link"),
            (libc::EOPNOTSUPP, "another uplink="),
            (libc::ENODEV, "It went away"),
            (libc::EINVAL, "dmesg"),
        ] {
            let text = failed(&name("br0"), "cannot do it", &io::Error::from_raw_os_error(errno)).to_string();
            assert!(text.starts_with("cannot do it: ") && text.contains(words), "{text}");
        }
    }
}
