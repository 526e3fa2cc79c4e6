//! A bridge's way to the network: the kinds of it that can be asked for, and what becomes of each.
//! It may not know how that is carried out.
#![forbid(unsafe_code)]

mod awaited;
mod port;
mod shared;

pub use awaited::Awaited;
pub use port::Port;

use crate::error::{Error, Result};
use crate::ifname::IfName;
use crate::share::Share;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Where a missing bridge gets its way to the network from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Uplink {
    /// Nowhere: the guests and the host reach each other only.
    Isolated,
    /// The interface of the default route.
    Auto,
    /// This interface of the host.
    Link(IfName),
}

impl FromStr for Uplink {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "none" => Self::Isolated,
            "auto" => Self::Auto,
            name => Self::Link(IfName::new(name)?),
        })
    }
}

impl fmt::Display for Uplink {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Isolated => "none",
            Self::Auto => "auto",
            Self::Link(name) => name.as_str(),
        })
    }
}

impl TryFrom<String> for Uplink {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse().map_err(|error: Error| error.to_string().replace("\n ", "."))
    }
}

impl From<Uplink> for String {
    fn from(uplink: Uplink) -> Self {
        uplink.to_string()
    }
}

/// `attach=`: how an uplink is attached to its bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attach {
    /// It is shared: the host keeps all that it has on it.
    Share,
    /// It becomes a port, and carries nothing of the host's.
    Port,
}

/// How a bridge has its uplink: a change that lasts longer than the process that makes it, and so has to be undone by
/// somebody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attachment {
    /// An interface that nobody uses is a port.
    Port(Port),
    /// An interface that the host uses is shared.
    Shared(Share),
    /// The interface is not there yet.
    Awaited(Awaited),
}

impl Attachment {
    /// The interface.
    pub fn uplink(&self) -> Option<&IfName> {
        match self {
            Self::Port(port) => Some(&port.uplink),
            Self::Shared(share) => Some(&share.uplink),
            Self::Awaited(_) => None,
        }
    }

    /// How it is shared, if it is.
    pub fn share(&self) -> Option<&Share> {
        match self {
            Self::Shared(share) => Some(share),
            _ => None,
        }
    }

    /// The interface as a port, if it is one.
    pub fn port(&self) -> Option<&Port> {
        match self {
            Self::Port(port) => Some(port),
            _ => None,
        }
    }

    /// What is waited for, if it is.
    pub fn awaited(&self) -> Option<&Awaited> {
        match self {
            Self::Awaited(awaited) => Some(awaited),
            _ => None,
        }
    }

    /// The commands that do the same: `ip`, `sysctl`, `tc`, and `nft` where frames can't be marked otherwise; each a line for a
    /// shell.
    pub fn commands(&self, bridge: &IfName) -> Vec<String> {
        match self {
            Self::Port(port) => port.commands(bridge),
            Self::Shared(share) => shared::commands(bridge, share),
            // There is nothing to be typed before it is there.
            Self::Awaited(_) => Vec::new(),
        }
    }
}
