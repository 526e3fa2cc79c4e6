//! An interface that nobody uses, as a port of the bridge: it carries nothing of the host's.

use crate::ifname::IfName;
use crate::mac::Mac;
use crate::step::{no_ipv6, set_up};
use crate::text::shell::quote;
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
    pub(super) fn commands(&self, bridge: &IfName) -> Vec<String> {
        let ipv6 = self.had_ipv6.then(|| no_ipv6(&self.uplink));
        let join = format!("ip link set dev {} master {}", quote(&self.uplink), quote(bridge));
        let up = self.was_down.then(|| set_up(&self.uplink));
        ipv6.into_iter().chain([join]).chain(up).collect()
    }
}
