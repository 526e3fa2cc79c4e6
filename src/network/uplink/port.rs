//! An uplink that is a port of its bridge: it carries nothing of the host's.

use crate::netlink::Netlink;
use crate::network::apply::{Change, NO_IPV6, failed, set, set_ipv6};
use crate::network::uplink::share::{mark, sharing};
use crate::sys::sysctl;
use model::error::{Error, Result};
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
    std::iter::once(join).chain(was_down.then(up)).collect()
}

/// Frees the interface, and leaves it as it was.
pub(super) fn detach(netlink: &mut Netlink, journal: &Journal, port: &Port) -> io::Result<()> {
    let Some(link) = netlink.link_at(port.index)?.filter(|link| journal.is_port_of(link)) else { return Ok(()) };
    let is_ours = link.controller == Some(journal.index);
    if !is_ours && link.controller.is_some() {
        return Ok(());
    }
    let mut requests = Vec::new();
    if is_ours {
        requests.push(set(LinkUnspec::new_with_index(port.index).nocontroller().build()));
    }
    // One that is used by now stays up.
    if port.was_down && netlink.addresses(port.index)?.is_empty() {
        requests.push(set(LinkUnspec::new_with_index(port.index).down().build()));
    }
    netlink.change(requests)?.into_iter().collect::<io::Result<()>>()?;
    match port.had_ipv6 {
        true => sysctl::write(link.name.as_str(), NO_IPV6, "0"),
        false => Ok(()),
    }
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
