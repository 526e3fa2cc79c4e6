//! Names of network interfaces, as the kernel takes them.
//! It may not know whether there is one.
#![forbid(unsafe_code)]

use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What the names of our own links begin with, so that one pattern keeps network managers off all of them.
pub const PREFIX: &str = "kvb";

/// An interface name that the kernel accepts as it is: 1 to 15 bytes (IFNAMSIZ holds the final NUL), not `.` or `..`,
/// without `/`, `:`, blanks (`dev_valid_name` in net/core/dev.c) and control characters, and without `%`, which the
/// kernel takes for a template when it makes a link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName(String);

impl IfName {
    /// The longest name in bytes: IFNAMSIZ - 1.
    pub const MAX: usize = 15;

    /// Checks a name; the error says which rule it breaks.
    pub fn new(name: &str) -> Result<Self, Error> {
        let fault = match name {
            "" => "an interface name cannot be empty".to_owned(),
            "." | ".." => format!("'{name}' cannot be the name of an interface"),
            "all" | "default" => format!("'{name}' is the kernel's word for settings of many interfaces"),
            _ if name.len() > Self::MAX => format!("the interface name '{name}' has {} bytes", name.len()),
            // The kernel's isspace() counts the byte of Latin-1's non-breaking blank.
            _ if name.bytes().any(|byte| byte == 0xa0) => {
                format!("the interface name '{name}' has a byte a0 in it, which the kernel takes for a blank")
            }
            _ => match name.chars().find(|c| "/:%".contains(*c) || c.is_whitespace() || c.is_control()) {
                Some(bad) => format!("the interface name {name:?} has a {bad:?} in it"),
                None => return Ok(Self(name.to_owned())),
            },
        };
        Err(Error::new(fault, "Give a name of 1 to 15 bytes without blanks and without / : %, such as br0."))
    }

    /// The name of an interface that is there, as the kernel tells it: any name, with bytes that are not UTF-8 replaced.
    /// Good to be shown, and to be compared.
    pub fn seen(name: String) -> Self {
        Self(name)
    }

    /// The name of a link of a bridge of ours, which begins with `start`. A bridge's name that leaves no room is cut, with a hash
    /// of the whole name behind it.
    pub fn of_bridge(start: &str, bridge: &Self) -> Self {
        let name = bridge.as_str();
        let room = Self::MAX - start.len();
        if name.len() <= room {
            return Self(format!("{start}{name}"));
        }
        // FNV-1a (draft-eastlake-fnv).
        let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619));
        let cut = (0..=room - 6).rev().find(|at| name.is_char_boundary(*at)).unwrap_or_default();
        Self(format!("{start}{}{:06x}", &name[..cut], hash & 0x00ff_ffff))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<std::ffi::OsStr> for IfName {
    fn as_ref(&self) -> &std::ffi::OsStr {
        self.0.as_ref()
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl TryFrom<String> for IfName {
    type Error = Error;

    fn try_from(name: String) -> Result<Self, Error> {
        Self::new(&name)
    }
}

impl From<IfName> for String {
    fn from(name: IfName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_limits_hold() {
        for good in ["br0", "a", "fifteen-bytes-x", "eth0.100", "tap_0", "wlp2s0", "ä"] {
            assert_eq!(IfName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "sixteen-bytes-xy", "a/b", "a b", "a\tb", "a:b", "tap%d", "a\0b", "ääääääää"]
        {
            assert!(IfName::new(bad).is_err(), "{bad:?}");
        }
    }
}
