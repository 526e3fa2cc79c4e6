//! An interface that nobody uses, as a port of the bridge: it carries nothing of the host's.

use crate::error::{Error, Phrase, Result};
use crate::host::Link;
use crate::ifname::IfName;
use crate::mac::Mac;
use crate::step::{no_ipv6, set_up};
use crate::text::shell::quote;
use crate::uplink::{Attach, BridgeSpec, permanent};
use serde::{Deserialize, Serialize};

/// An interface that is made a port, and what it was before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// The interface.
    pub uplink: IfName,
    /// Its index when this was planned.
    pub index: u32,
    /// Its address.
    pub mac: Mac,
    /// Whether it has IPv6, which a port must not have of its own.
    pub had_ipv6: bool,
    /// Whether it was down: it is set up.
    pub was_down: bool,
    /// Whether that was asked for (`attach=port`): it stays a port, whatever comes. Else it is shared as soon as the host has
    /// an address on it.
    pub is_asked: bool,
}

impl Port {
    /// The interface as a port. One that was asked for to be one may be of more use to the host.
    pub(super) fn plan(uplink: &Link, spec: &BridgeSpec) -> Result<Self> {
        let is_asked = spec.attach == Some(Attach::Port);
        if is_asked {
            check(uplink, spec.bridge)?;
        }
        let unpinned = || Error::new(format!("{} has no address", uplink.name), "Give uplink= another interface.");
        Ok(Self {
            uplink: uplink.name.clone(),
            index: uplink.index,
            mac: uplink.mac.ok_or_else(unpinned)?,
            had_ipv6: uplink.uplink.has_ipv6,
            was_down: !uplink.is_up,
            is_asked,
        })
    }

    pub(super) fn commands(&self, bridge: &IfName) -> Vec<String> {
        let ipv6 = self.had_ipv6.then(|| no_ipv6(&self.uplink));
        let join = format!("ip link set dev {} master {}", quote(&self.uplink), quote(bridge));
        let up = self.was_down.then(|| set_up(&self.uplink));
        ipv6.into_iter().chain([join]).chain(up).collect()
    }
}

/// A port carries nothing of the host's.
fn check(uplink: &Link, bridge: &IfName) -> Result<()> {
    let name = &uplink.name;
    let shared = || Phrase::from("Leave ").key("attach", "port").say(" out, and it is shared");
    let refuse = |why: String, remedy: Phrase| Err(Error::new(format!("{name} cannot be a port: {why}"), remedy));
    if uplink.has_addresses() {
        let addresses: Vec<String> = uplink.addresses.iter().map(ToString::to_string).collect();
        let setup = permanent::setup(uplink.uplink.manager.as_ref(), bridge, uplink);
        let remedy = shared().say(format!(". Or set up a permanent bridge, and it is joined:{setup}"));
        return refuse(format!("the host has {} on it, which a port would cut off", addresses.join(", ")), remedy);
    }
    match &uplink.uplink.rx_handler {
        Some(upper) => refuse(
            format!("{upper} is stacked on it and gets its frames, which the kernel gives to one only"),
            shared().say(format!(", or delete {upper}")).run_as_root(format!("ip link del {upper}")),
        ),
        None if uplink.controller.is_some() => refuse("it is a port of another link".into(), shared().say(".")),
        None => Ok(()),
    }
}
