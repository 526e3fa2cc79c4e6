//! `uplink=auto`: the interface of the default route.

use crate::error::{Error, Result};
use crate::host::{Host, Link};
use crate::uplink::BridgeSpec;
use crate::uplink::eligible::{behind_the_host, candidates, check_uplink, why_not};

/// The interface of the default route, if it can be taken.
pub(super) fn choose<'a>(spec: &BridgeSpec, host: &'a Host) -> Result<&'a Link> {
    let Some(link) = host.default_uplinks.first().and_then(|name| host.link(name)) else {
        let what = "there is no such bridge, and no default route whose interface could be its uplink";
        return Err(Error::new(what, candidates(spec, host, None)));
    };
    let Some((why, remedy)) = why_not(link, host) else { return check_uplink(link, spec, host) };
    let name = &link.name;
    let what =
        format!("there is no such bridge, and {name}, where the default route leads, cannot be its uplink: {why}");
    let ways = behind_the_host(spec).say("\n  ").say(remedy).say("\n  ");
    Err(Error::new(what, ways.say(candidates(spec, host, Some(link)))))
}
