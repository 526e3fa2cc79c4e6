//! What can be configured, and the text of the file that says it.
//! It may not know where the file is.
//!
//! Root's is the system's alone; a user's own comes before it. An unknown key is an error with its line: a setting that
//! is silently not there is worse than none.

use crate::ifname::IfName;
use crate::request::{is_model, is_mtu};
use crate::uplink::{Attach, Uplink};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What can be configured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The real QEMU: a path, or a name to be found on PATH.
    pub qemu: Option<PathBuf>,
    /// The network card that guests see, in place of `e1000`.
    #[serde(default, deserialize_with = "model")]
    pub model: Option<String>,
    /// `[bridge.NAME]`: how a bridge is made that is missing.
    #[serde(rename = "bridge", default)]
    pub bridges: BTreeMap<IfName, Bridge>,
}

/// What is not said on the command line about a bridge that is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bridge {
    /// Its way to the network.
    pub uplink: Option<Uplink>,
    /// Whether it stays when its last guest has gone.
    pub keep: Option<bool>,
    /// How the uplink is attached.
    pub attach: Option<Attach>,
    /// Whether the bridge goes with the default route to another uplink.
    pub follow: Option<bool>,
    /// Its MTU in bytes.
    #[serde(default, deserialize_with = "mtu")]
    pub mtu: Option<u32>,
    /// Persistent TAPs on it, each with the user that it belongs to; where the bridge is made to stay, they are made too.
    #[serde(default)]
    pub taps: BTreeMap<IfName, String>,
}

fn mtu<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    let number = u32::deserialize(from)?;
    match is_mtu(number) {
        true => Ok(Some(number)),
        false => Err(serde::de::Error::custom(format!("{number} is no MTU: give a number from 68 to 65535"))),
    }
}

fn model<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(from)?;
    match is_model(&text) {
        true => Ok(Some(text)),
        false => Err(serde::de::Error::custom(format!("'{text}' is no name of a device"))),
    }
}

impl Config {
    /// What is configured for a bridge.
    pub fn bridge(&self, name: &IfName) -> Bridge {
        self.bridges.get(name).cloned().unwrap_or_default()
    }

    /// Reads the text of a file; else says on which line what is wrong.
    pub fn parse_bytes(text: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(text)
            .map_err(|error| format!("line {}: this is not UTF-8", line_of(text, error.valid_up_to())))?;
        Self::parse(text)
    }

    /// The same of UTF-8.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start.min(text.len()));
            format!("line {}: {}", line_of(text.as_bytes(), start), error.message().replace('\n', ", "))
        })?;
        let can_follow = |bridge: &Bridge| bridge.uplink.as_ref().is_none_or(Uplink::can_follow);
        match config.bridges.iter().find(|(_, bridge)| bridge.follow == Some(true) && !can_follow(bridge)) {
            Some((name, _)) => Err(format!("[bridge.{name}]: follow = true is for uplink = \"auto\"")),
            None => Ok(config),
        }
    }
}

/// The number of the line that this byte is on, from 1.
fn line_of(text: &[u8], at: usize) -> usize {
    text[..at].iter().filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_tell_the_line() {
        assert!(Config::parse("qemu = \"x\"\n\ncolour = 1\n").unwrap_err().starts_with("line 3: unknown field"));
        assert!(Config::parse("qemu = 5\n").unwrap_err().starts_with("line 1: "));
        assert!(Config::parse("model = \"virtio-net-pci\"\nqemu = \n").unwrap_err().starts_with("line 2: "));
        assert_eq!(Config::parse_bytes(b"\n# \xff\n").unwrap_err(), "line 2: this is not UTF-8");
        assert_eq!(Config::parse("").unwrap(), Config::default());
        let wrong = Config::parse("[bridge.br0]\nuplink = \"eth1\"\nfollow = true\n").unwrap_err();
        assert_eq!(wrong, "[bridge.br0]: follow = true is for uplink = \"auto\"");
        assert!(Config::parse("[bridge.br0]\nfollow = true\n").is_ok());
    }
}
