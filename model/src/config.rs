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
use port::{Guard, Policy, Rate, Vlans};
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
    /// Whether it filters VLANs.
    pub vlan_filtering: Option<bool>,
    /// The VLANs of a guest that is not given others.
    pub vlan: Option<Vlans>,
    /// Whether guests' ports are guarded.
    pub guard: Option<Guard>,
    /// Whether guests' ports are isolated.
    pub isolated: Option<bool>,
    /// How fast each guest is.
    pub rate: Option<Rate>,
    /// Persistent TAPs on it, each with the user that it belongs to; where the bridge is made to stay, they are made too.
    pub taps: BTreeMap<IfName, String>,
}

impl Bridge {
    /// What guests' ports are held to.
    pub fn policy(&self) -> Policy {
        Policy {
            guard: self.guard.unwrap_or_default(),
            isolated: self.isolated.unwrap_or_default(),
            vlans: self.vlan.clone(),
            rate: self.rate,
        }
    }
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

    /// Whether a file's text can have the key `qemu`, which a quoted key may spell with escapes.
    pub fn may_name_qemu(text: &[u8]) -> bool {
        text.windows(4).any(|word| word == b"qemu") || text.contains(&b'\\')
    }

    /// The system's, with a user's own before it.
    pub fn overlaid(self, own: Self) -> Self {
        let mut bridges = self.bridges;
        bridges.extend(own.bridges);
        // What root makes is root's to decide.
        let falls_back = self.falls_back;
        Self { qemu: own.qemu.or(self.qemu), model: own.model.or(self.model), falls_back, bridges }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_a_qemu_is_seen_without_parsing() {
        for (text, named) in [("qemu = \"/x\"", true), (r#""q\u0065mu" = "/x""#, true), ("model = \"e1000\"", false)] {
            assert_eq!(Config::may_name_qemu(text.as_bytes()), named, "{text}");
            assert_eq!(Config::parse_bytes(text.as_bytes()).unwrap().qemu.is_some(), named, "{text}");
        }
    }

    #[test]
    fn a_users_own_comes_before_the_systems() {
        let read = |text: &str| Config::parse_bytes(text.as_bytes()).unwrap();
        let system = "qemu = \"/a\"\nmodel = \"e1000\"\n[bridge.br0]\nmtu = 1400\n[bridge.br1]\nmtu = 1400\n";
        let own = "qemu = \"/b\"\n[defaults]\nuplink_fallback = \"nat\"\n[bridge.br0]\nkeep = true\n";
        let both = read(system).overlaid(read(own));
        assert_eq!((both.qemu, both.model.as_deref()), (Some("/b".into()), Some("e1000")));
        assert!(!both.falls_back, "that is root's to decide");
        let [br0, br1] = ["br0", "br1"].map(|name| both.bridges[&IfName::new(name).unwrap()].clone());
        assert_eq!((br0.keep, br0.mtu, br1.mtu), (Some(true), None, Some(1400)), "a bridge is one's as a whole");
    }
}
