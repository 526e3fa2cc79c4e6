//! The uplink of a bridge that was made before it: at boot, or when an adapter is pulled out and plugged in again.

use crate::netlink::Netlink;
use crate::network::observe;
use model::error::Result;
use model::ifname::IfName;
use model::plan::{Wish, attach};
use model::uplink::{Attachment, Awaited};

/// How the uplink that a bridge waits for is to be attached, if it is there by now.
pub(super) fn next(netlink: &mut Netlink, bridge: &IfName, awaited: &Awaited) -> Result<Option<Attachment>> {
    let wish = Wish::awaited(bridge, awaited);
    let host = observe::awaited(netlink, &wish)?;
    Ok(attach(&wish, &host)?.filter(|found| found.awaited().is_none()))
}
