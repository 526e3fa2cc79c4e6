//! The uplink of a bridge that was made before it: at boot, or when an adapter is pulled out and plugged in again.

use crate::netlink::Netlink;
use crate::network::uplink::look;
use model::error::Result;
use model::ifname::IfName;
use model::uplink::{Attachment, Awaited, plan};

/// How the uplink that a bridge waits for is to be attached, if it is there by now.
pub(super) fn next(netlink: &mut Netlink, bridge: &IfName, awaited: &Awaited) -> Result<Option<Attachment>> {
    let spec = awaited.spec(bridge);
    let host = look::awaited(netlink, &spec)?;
    Ok(plan(&spec, &host)?.filter(|found| found.awaited().is_none()))
}
