//! Links by their names.

use crate::netlink::Netlink;
use crate::output::errno::reason;
use model::error::{Error, Result};
use model::host::{Host, Link};
use model::ifname::IfName;

/// Looks a link up, unless it was.
pub(super) fn look(netlink: &mut Netlink, host: &mut Host, name: &IfName) -> Result<()> {
    if !host.links.contains_key(name) {
        let link = by_name(netlink, name)?;
        host.links.insert(name.clone(), link);
    }
    Ok(())
}

/// The link of this name. The kernel also finds it by an alternative name (`ip link property`), under which neither settings
/// nor journals are: that is refused with its own one.
pub fn by_name(netlink: &mut Netlink, name: &IfName) -> Result<Option<Link>> {
    let link = netlink.link(name).map_err(unreadable)?;
    match link {
        Some(link) if link.name != *name => {
            let what = format!("{name} is another name of {}", link.name);
            Err(Error::new(what, format!("Give its own name: {}", link.name)))
        }
        link => Ok(link),
    }
}

/// The error of a kernel that can't be asked.
pub fn unreadable(error: std::io::Error) -> Error {
    let what = format!("cannot read the kernel's links: {}", reason(&error));
    Error::new(what, "The kernel's rtnetlink is needed; see whether 'ip link' works.")
}
