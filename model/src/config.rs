//! What can be configured, and the text of the file that says it.
//! It may not know where the file is.
//!
//! Root's is the system's alone; a user's own comes before it. An unknown key is an error with its line: a setting that
//! is silently not there is worse than none.

pub mod read;
pub mod save;

use crate::error::Error;
use crate::ifname::IfName;
use crate::nat::subnet::Ipv4Net;
use crate::uplink::{Attach, Uplink};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What can be configured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// The real QEMU: a path, or a name to be found on PATH.
    pub qemu: Option<PathBuf>,
    /// The network card that guests see, in place of `e1000`.
    pub model: Option<String>,
    /// `[defaults] uplink_fallback = "nat"`: whether a bridge has a network of the host's own where no interface can be its uplink.
    pub falls_back: bool,
    /// `[bridge.NAME]`: how a bridge is made that is missing.
    pub bridges: BTreeMap<IfName, Bridge>,
}

/// What is not said on the command line about a bridge that is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bridge {
    /// Its way to the network.
    pub uplink: Option<Uplink>,
    /// Whether it stays when its last guest has gone.
    pub keep: Option<bool>,
    /// How the uplink is attached.
    pub attach: Option<Attach>,
    /// Whether the bridge goes with the default route to another uplink.
    pub follow: Option<bool>,
    /// The subnet of a network of the host's own.
    pub net: Option<Ipv4Net>,
    /// Its MTU in bytes.
    pub mtu: Option<u32>,
    /// Persistent TAPs on it, each with the user that it belongs to; where the bridge is made to stay, they are made too.
    pub taps: BTreeMap<IfName, String>,
}

impl Config {
    /// What is configured for a bridge.
    pub fn bridge(&self, name: &IfName) -> Bridge {
        self.bridges.get(name).cloned().unwrap_or_default()
    }

    /// Reads a file's text; else tells the line where it is wrong, and what is.
    pub fn parse_bytes(text: &[u8]) -> Result<Self, (usize, Error)> {
        read::read_bytes(text)
    }
}
