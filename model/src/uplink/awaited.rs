//! An interface that is not there yet: at boot, or an adapter that is pulled out and plugged in again.

use crate::ifname::IfName;
use crate::uplink::{Attach, BridgeSpec, Uplink};
use serde::{Deserialize, Serialize};

/// An uplink that the bridge waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Awaited {
    /// What was asked for.
    pub uplink: Uplink,
    /// How it is to be attached, if that was said.
    pub attach: Option<Attach>,
    /// Whether it was a port before, that nobody used.
    pub was_port: bool,
    /// Whether the bridge goes with the default route to another uplink.
    pub follow: bool,
}

impl Awaited {
    pub(super) fn plan(spec: &BridgeSpec) -> Self {
        let BridgeSpec { attach, was_port, follow, .. } = *spec;
        Self { uplink: spec.uplink.clone(), attach, was_port, follow }
    }

    /// What was asked for.
    pub fn spec<'a>(&self, bridge: &'a IfName) -> BridgeSpec<'a> {
        let Self { uplink, attach, was_port, follow } = self.clone();
        BridgeSpec {
            bridge,
            uplink,
            attach,
            mtu: None,
            is_late: true,
            was_port,
            follow,
            is_configured: false,
            net: None,
            falls_back: false,
        }
    }

    /// What people call it.
    pub fn in_words(&self) -> String {
        match &self.uplink {
            Uplink::Auto => "a default route, whose interface is to be its uplink".to_owned(),
            Uplink::Vxlan(vxlan) => format!("an address of the host's for {vxlan}"),
            uplink => format!("{uplink}, which is not there"),
        }
    }
}
