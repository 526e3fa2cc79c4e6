//! `uplink=IFACE`: an interface of the host, by its name.

use crate::error::{Error, Phrase, Result};
use crate::host::{Host, Link};
use crate::ifname::IfName;
use crate::slips;
use crate::uplink::BridgeSpec;
use crate::uplink::eligible::{candidates, check_uplink};

/// The interface, if it can be taken.
pub(super) fn find<'a>(name: &IfName, spec: &BridgeSpec, host: &'a Host) -> Result<&'a Link> {
    match host.link(name) {
        Some(link) => check_uplink(link, spec, host),
        None => {
            let near = slips::near(name.as_str(), host.all.iter().map(|link| link.name.as_str()));
            let near = near.map(|near| format!("Is {near} meant? ")).unwrap_or_default();
            let remedy = Phrase::from(near).say(candidates(spec, host, None)).say(" 'ip link' lists all.");
            let by = if spec.is_configured { ", which the configuration names," } else { "" };
            Err(Error::new(format!("there is no interface {name}{by} to be the uplink"), remedy))
        }
    }
}
