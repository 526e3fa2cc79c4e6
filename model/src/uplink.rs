//! A bridge's way to the network: the kinds of it that can be asked for, and what becomes of each.
//! It may not know how that is carried out.
#![forbid(unsafe_code)]

mod auto;
mod awaited;
mod eligible;
mod named;
mod nat;
pub mod permanent;
mod port;
mod shared;
pub mod user;
pub mod vxlan;

pub use awaited::Awaited;
pub use eligible::why_no_uplink;
pub use nat::Masquerade;
pub use port::Port;
pub use shared::not_shareable;
pub use vxlan::{Vtep, Vxlan};

use crate::error::{Error, Result};
use crate::host::{Host, Link};
use crate::ifname::IfName;
use crate::nat::subnet::Ipv4Net;
use crate::share::Share;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Where a missing bridge gets its way to the network from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Uplink {
    /// Nowhere: the guests and the host reach each other only.
    Isolated,
    /// The interface of the default route.
    #[default]
    Auto,
    /// By the host's own ways, behind its address.
    Nat,
    /// The same without any right, in a network of the user's own: the bridge is in a namespace.
    User,
    /// A network between hosts.
    Vxlan(Vxlan),
    /// This interface of the host.
    Link(IfName),
}

impl Uplink {
    /// The interface that it names.
    pub fn interface(&self) -> Option<&IfName> {
        match self {
            Self::Link(name) => Some(name),
            Self::Isolated | Self::Auto | Self::Nat | Self::User | Self::Vxlan(_) => None,
        }
    }

    /// Whether it is an interface of the host, which is attached in one way or another.
    pub fn is_interface(&self) -> bool {
        match self {
            Self::Isolated | Self::Nat | Self::User | Self::Vxlan(_) => false,
            Self::Auto | Self::Link(_) => true,
        }
    }

    /// Whether the bridge can go with the default route to another one.
    pub fn can_follow(&self) -> bool {
        *self == Self::Auto
    }

    /// Whether its guests have a subnet of their own, behind the host's address.
    pub fn has_subnet(&self) -> bool {
        match self {
            Self::Nat | Self::User => true,
            Self::Isolated | Self::Auto | Self::Vxlan(_) | Self::Link(_) => false,
        }
    }

    /// What people call it.
    pub fn in_words(&self) -> String {
        match self {
            Self::Isolated => "without an uplink".to_owned(),
            Self::Auto => "with the interface of the default route".to_owned(),
            Self::Nat => "with a network of the host's own".to_owned(),
            Self::User => "in a network of the user's own".to_owned(),
            Self::Vxlan(vxlan) => format!("with VXLAN {}", vxlan.vni),
            Self::Link(name) => format!("with the uplink {name}"),
        }
    }

    /// Why a bridge that is there does not have it.
    pub fn why_not_that_of(&self, bridge: &Link, host: &Host) -> Option<String> {
        let shared = host.shared.get(&bridge.name).map(|share| &share.uplink);
        let has_network = host.networks.contains_key(&bridge.name);
        let is_port = |name| host.link(name).is_some_and(|port| port.controller == Some(bridge.index));
        match self {
            Self::Auto => None,
            // There the user has root's rights.
            Self::Nat | Self::User => (!has_network).then(|| "has no network of the host's own".to_owned()),
            _ if has_network => Some("has uplink=nat".to_owned()),
            Self::Vxlan(vxlan) => match host.vxlans.get(&bridge.name) {
                Some(its) => (*its != vxlan.to_string()).then(|| format!("has uplink={its}")),
                None => Some("has no VXLAN of kvm-bridge".to_owned()),
            },
            Self::Isolated => Some(format!("{} is its uplink", shared.or_else(|| host.ways_out.get(&bridge.name))?)),
            Self::Link(name) => (shared != Some(name) && !is_port(name)).then(|| format!("{name} is not its uplink")),
        }
    }
}

/// What is asked of the uplink of a bridge that is made, or waits for it.
#[derive(Debug, Clone)]
pub struct BridgeSpec<'a> {
    /// The bridge.
    pub bridge: &'a IfName,
    /// Which uplink.
    pub uplink: Uplink,
    /// How it is to be attached, where that is said.
    pub attach: Option<Attach>,
    /// The bridge's MTU, where that is said.
    pub mtu: Option<u32>,
    /// Whether it may come later.
    pub is_late: bool,
    /// Whether it was a port before that nobody used.
    pub was_port: bool,
    /// Whether the bridge goes with the default route to another uplink.
    pub follow: bool,
    /// Whether the configuration names it.
    pub is_configured: bool,
    /// The subnet of a network of the host's own, where that is said.
    pub net: Option<Ipv4Net>,
    /// Whether the bridge has such a network where no interface can be its uplink.
    pub falls_back: bool,
}

impl BridgeSpec<'_> {
    /// Whether the uplink is not there at all.
    fn lacks_uplink(&self, host: &Host) -> bool {
        match &self.uplink {
            Uplink::Isolated | Uplink::Nat | Uplink::User => false,
            Uplink::Vxlan(_) => host.for_vxlan.get(self.bridge).is_some_and(Result::is_err),
            Uplink::Auto => host.default_uplinks.is_empty(),
            Uplink::Link(name) => host.link(name).is_none(),
        }
    }
}

/// How a bridge is to have its uplink, or why it can't; `None` for one without.
pub fn plan(spec: &BridgeSpec, host: &Host) -> Result<Option<Attachment>> {
    let uplink = match &spec.uplink {
        Uplink::Isolated => return Ok(None),
        Uplink::User => return Err(user::refused()),
        _ if spec.is_late && spec.lacks_uplink(host) => return Ok(Some(Attachment::Awaited(Awaited::plan(spec)))),
        Uplink::Nat => return nat::plan(spec, host).map(Attachment::Nat).map(Some),
        Uplink::Vxlan(vxlan) => return vxlan::plan(vxlan, spec, host).map(Attachment::Vxlan).map(Some),
        // Without an interface that can be it the other way was looked for.
        Uplink::Auto if spec.falls_back && host.for_nat.contains_key(spec.bridge) => {
            return nat::plan(spec, host).map(Attachment::Nat).map(Some);
        }
        Uplink::Auto => auto::choose(spec, host)?,
        Uplink::Link(name) => named::find(name, spec, host)?,
    };
    // Whoever is going to use one that comes late may come later still, and could not get an address on a port by DHCP.
    let is_of_use = || uplink.is_used() || spec.is_late && !spec.was_port;
    Ok(Some(match spec.attach.map_or_else(is_of_use, |how| how == Attach::Share) {
        true => Attachment::Shared(shared::plan(uplink, spec, host)?),
        false => Attachment::Port(Port::plan(uplink, spec)?),
    }))
}

impl FromStr for Uplink {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "none" => Self::Isolated,
            "auto" => Self::Auto,
            "nat" => Self::Nat,
            "user" => Self::User,
            vxlan if vxlan == "vxlan" || vxlan.starts_with("vxlan:") => Self::Vxlan(vxlan.parse()?),
            name => Self::Link(IfName::new(name)?),
        })
    }
}

impl fmt::Display for Uplink {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Vxlan(vxlan) => return vxlan.fmt(out),
            Self::Isolated => "none",
            Self::Auto => "auto",
            Self::Nat => "nat",
            Self::User => "user",
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
    /// There is none: a network of the host's own is behind the bridge.
    Nat(Masquerade),
    /// A VXLAN device of ours is a port.
    Vxlan(Vtep),
}

impl Attachment {
    /// The interface.
    pub fn uplink(&self) -> Option<&IfName> {
        match self {
            Self::Port(port) => Some(&port.uplink),
            Self::Shared(share) => Some(&share.uplink),
            Self::Awaited(_) | Self::Nat(_) | Self::Vxlan(_) => None,
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

    /// The network of the host's own, if it has one.
    pub fn nat(&self) -> Option<&Masquerade> {
        match self {
            Self::Nat(masquerade) => Some(masquerade),
            _ => None,
        }
    }

    /// The end of a VXLAN, if it has one.
    pub fn vtep(&self) -> Option<&Vtep> {
        match self {
            Self::Vxlan(vtep) => Some(vtep),
            _ => None,
        }
    }

    /// Whether the host has no part of the network by the bridge: it has its own by the uplink.
    pub fn keeps_host_off(&self) -> bool {
        matches!(self, Self::Shared(_) | Self::Awaited(_))
    }

    /// The commands that do the same: each a line for a shell.
    pub fn commands(&self, bridge: &IfName) -> Vec<String> {
        match self {
            Self::Port(port) => port.commands(bridge),
            Self::Shared(share) => shared::commands(bridge, share),
            // There is nothing to be typed before it is there.
            Self::Awaited(_) => Vec::new(),
            Self::Nat(masquerade) => masquerade.commands(bridge),
            Self::Vxlan(vtep) => vtep.commands(bridge),
        }
    }
}
