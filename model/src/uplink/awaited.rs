//! An interface that is not there yet: at boot, or an adapter that is pulled out and plugged in again.

use crate::uplink::{Attach, Uplink};
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
    /// What people call it.
    pub fn in_words(&self) -> String {
        match &self.uplink {
            Uplink::Auto => "a default route, whose interface is to be its uplink".to_owned(),
            uplink => format!("{uplink}, which is not there"),
        }
    }
}
