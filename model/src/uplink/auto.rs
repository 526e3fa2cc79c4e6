//! `uplink=auto`: the interface of the default route.

use crate::error::{Error, Phrase, Result};
use crate::host::{Host, Link};
use crate::uplink::BridgeSpec;
use crate::uplink::eligible::{candidates, check_uplink, why_no_uplink, why_not};

/// The interface of the default route, if it can be taken.
pub(super) fn choose<'a>(spec: &BridgeSpec, host: &'a Host) -> Result<&'a Link> {
    let link = host.default_uplinks.first().and_then(|name| host.link(name));
    match link.filter(|link| why_no_uplink(link).is_none()) {
        Some(link) => check_uplink(link, spec, host),
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
            let nat = Phrase::from("For guests behind the host's address: ").request(spec.bridge, &[("uplink", "nat")]);
            let nat = first.map(|_| nat.say("\n")).unwrap_or_default();
            let remedy = why.map(|(_, remedy)| remedy.say("\n")).unwrap_or_default();
            Err(Error::new(what, nat.say(remedy).say(candidates(spec, host))))
        }
    }
}
