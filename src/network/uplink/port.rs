//! An uplink that is a port of its bridge: it carries nothing of the host's.

use crate::netlink::Netlink;
use crate::network::apply::{Change, NO_IPV6, failed, set, set_ipv6};
use crate::network::uplink::share::{mark, sharing};
use crate::network::uplink::trunk;
use crate::sys::sysctl;
use model::error::{Error, Result};
use model::host::Link;
use model::journal::Journal;
use model::share::Share;
use model::uplink::not_shareable;
use model::uplink::{Attach, Attachment, Awaited, Port, Uplink};
use rtnetlink::LinkUnspec;
use std::io;

pub(super) fn prepare(journal: &Journal, port: &Port) -> Result<()> {
    if port.had_ipv6 { set_ipv6(journal, &port.uplink, NO_IPV6, "1") } else { Ok(()) }
}

pub(super) fn attach(journal: &Journal, Port { uplink, index, was_down, .. }: &Port) -> Vec<Change> {
    let join = set(LinkUnspec::new_with_index(*index).controller(journal.index).build());
    let up = || Change::new(set(LinkUnspec::new_with_index(*index).up().build()), format!("cannot set {uplink} up"));
    let join = Change::new(join, format!("cannot make {uplink} a port"));
    std::iter::once(join).chain(trunk(journal, *index)).chain(was_down.then(up)).collect()
}

/// Frees the interface, and leaves it as it was.
pub(super) fn detach(netlink: &mut Netlink, journal: &Journal, port: &Port) -> io::Result<()> {
    let Some(link) = netlink.link_at(port.index)? else { return Ok(()) };
    let is_used = !netlink.addresses(port.index)?.is_empty();
    let Some(restore) = Restore::of(journal, port, &link, is_used) else { return Ok(()) };
    let link_at = || LinkUnspec::new_with_index(port.index);
    let leave = restore.leaves_bridge.then(|| set(link_at().nocontroller().build()));
    let down = restore.goes_down.then(|| set(link_at().down().build()));
    netlink.change(leave.into_iter().chain(down).collect())?.into_iter().collect::<io::Result<()>>()?;
    match port.had_ipv6 {
        true => sysctl::write(link.name.as_str(), NO_IPV6, "0"),
        false => Ok(()),
    }
}

/// What is done to an interface that was made a port.
#[derive(Debug, PartialEq, Eq)]
struct Restore {
    leaves_bridge: bool,
    goes_down: bool,
}

impl Restore {
    /// `None` for another interface that has its index now, and for one that somebody made a port of another bridge.
    fn of(journal: &Journal, port: &Port, link: &Link, is_used: bool) -> Option<Self> {
        let leaves_bridge = link.controller == Some(journal.index);
        if !journal.is_port_of(link) || !leaves_bridge && link.controller.is_some() {
            return None;
        }
        // One that is used by now stays up.
        Some(Self { leaves_bridge, goes_down: port.was_down && !is_used })
    }
}

/// Makes the interface a port again that somebody took off the bridge, and that nobody uses. Whether it did.
///
/// # Errors
///
/// Where it is a port of another link by now.
pub(super) fn keep(netlink: &mut Netlink, journal: &Journal) -> Result<bool> {
    let Some(port) = journal.port() else { return Ok(false) };
    let unsure = |error: io::Error| failed(&journal.bridge, "cannot look at its uplink", &error);
    let Some(link) = netlink.link_at(port.index).map_err(unsure)? else { return Ok(false) };
    let addresses = netlink.addresses(port.index).map_err(unsure)?;
    let is_used = addresses.iter().any(|address| !address.is_link_local);
    if link.controller == Some(journal.index) || !journal.is_port_of(&link) || is_used {
        return Ok(false);
    }
    if link.controller.is_some() {
        let what = format!("its uplink {} is a port of another link by now", link.name);
        return Err(Error::new(
            what,
            format!("To have it back: ip link set dev {} nomaster; kvm-bridge recover", link.name),
        ));
    }
    prepare(journal, port)?;
    Change::all(netlink, &journal.bridge, attach(journal, port)).map(|()| true)
}

/// An interface that has gone is waited for. One that nobody used, and that the host has an address on by now, is shared: as a
/// port it would carry nothing of the host's.
pub(super) fn next(netlink: &mut Netlink, journal: &Journal, port: &Port) -> Result<Option<Attachment>> {
    let unsure = |error: io::Error| failed(&journal.bridge, "cannot look at its uplink", &error);
    let Some(link) = netlink.link_at(port.index).map_err(unsure)? else {
        let attach = port.is_asked.then_some(Attach::Port);
        let uplink = Uplink::Link(port.uplink.clone());
        return Ok(Some(Attachment::Awaited(Awaited { uplink, attach, was_port: true, follow: false })));
    };
    if port.is_asked || !journal.is_port_of(&link) {
        return Ok(None);
    }
    let addresses = netlink.addresses(port.index).map_err(unsure)?;
    let (Some(mac), true) = (link.mac, addresses.iter().any(|address| !address.is_link_local)) else {
        return Ok(None);
    };
    let changes = sharing(netlink, &link).map_err(unsure)?.map_err(|why| not_shareable(&link.name, &why))?;
    let mark = mark(netlink).map_err(unsure)?.ok_or_else(|| {
        let what = format!("{} has an address by now, and can't be shared: the kernel can't mark frames", link.name);
        Error::new(what, format!("To have the host use it: ip link set dev {} nomaster", link.name))
    })?;
    let (mtu, index) = (link.mtu, link.index);
    Ok(Some(Attachment::Shared(Share { uplink: link.name, index, mac, mtu, follow: false, mark, changes })))
}

#[cfg(test)]
pub(in crate::network) mod tests {
    use super::*;
    use model::ifname::IfName;
    use model::journal::Life;
    use model::mac::Mac;
    use model::step::{Create, Ipv6};

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    pub(in crate::network) fn name(text: &str) -> IfName {
        IfName::new(text).unwrap()
    }

    fn port(was_down: bool) -> Port {
        Port { uplink: name("eth0"), index: 2, mac: MAC, had_ipv6: true, was_down, is_asked: false }
    }

    /// br0 with the port eth0, of index 2.
    pub(in crate::network) fn journal(was_down: bool) -> Journal {
        let create = Create { mac: MAC, mtu: None, ipv6: Ipv6::Usual, no_arp: false, filters_vlans: false };
        let life = Life { boot: String::new(), namespace: None };
        Journal::new(name("br0"), false, create, Some(Attachment::Port(port(was_down))), life, [1; 8])
    }

    #[test]
    fn an_interface_is_restored_as_it_was_and_no_other() {
        let eth0 = |index, mac, controller| Link { mac: Some(mac), controller, ..Link::bare(index, name("eth0")) };
        let other = Mac([2, 0, 0, 0, 0, 9]);
        let restore = |leaves_bridge, goes_down| Some(Restore { leaves_bridge, goes_down });
        for was_down in [true, false] {
            let journal = journal(was_down);
            let ours = Some(journal.index);
            for (link, is_used, expected, why) in [
                (eth0(2, MAC, ours), false, restore(true, was_down), "as we left it"),
                (eth0(2, other, ours), false, restore(true, was_down), "another address, and still our port"),
                (eth0(2, MAC, ours), true, restore(true, false), "the host has an address on it by now"),
                (eth0(2, MAC, None), false, restore(false, was_down), "somebody took it off"),
                (eth0(2, MAC, Some(7)), false, None, "a port of another bridge by now"),
                (eth0(2, other, None), false, None, "another interface of its index"),
                (eth0(3, MAC, None), false, None, "another index"),
            ] {
                assert_eq!(Restore::of(&journal, &port(was_down), &link, is_used), expected, "{why}");
            }
        }
    }
}
