//! `uplink=auto`: the interface of the default route.

use crate::error::{Error, Result};
use crate::host::{Host, Link};
use crate::uplink::Wish;
use crate::uplink::eligible::{candidates, check_uplink, why_no_uplink, why_not};

/// The interface of the default route, if it can be taken.
pub(super) fn choose<'a>(wish: &Wish, host: &'a Host) -> Result<&'a Link> {
    let link = host.default_uplinks.first().and_then(|name| host.link(name));
    match link.filter(|link| why_no_uplink(link).is_none()) {
        Some(link) => check_uplink(link, wish, host),
        None => {
            let first = host.default_uplinks.first();
            let why = first.and_then(|name| why_not(host.link(name)?, host));
            let what = match first {
                Some(name) => {
                    let why = why.as_ref().map(|(why, _)| why.as_str()).unwrap_or_default();
                    format!(
                        "there is no such bridge, and {name}, where the default route leads, cannot be its uplink: {why}"
                    )
                }
                None => "there is no such bridge, and no default route whose interface could be its uplink".to_owned(),
            };
            // A guest behind the host's address is not on the LAN: it is offered, and not done unasked.
            let nat =
                first.map(|_| format!("For guests behind the host's address: --bridge {},uplink=nat\n", wish.bridge));
            let remedy = why.map(|(_, remedy)| format!("{remedy}\n")).unwrap_or_default();
            Err(Error::new(what, nat.unwrap_or_default() + &remedy + &candidates(wish, host)))
        }
    }
}
