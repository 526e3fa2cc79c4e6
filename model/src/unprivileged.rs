//! The ways of a user who is not root to a TAP, and why there is none: in words, with what fixes that.
//! It may not know which of them is there.
#![forbid(unsafe_code)]

pub mod helper;

use crate::argv::Backend;
use crate::error::{Error, Result};
use crate::ifname::IfName;
use crate::plan::Plan;
use crate::request::Nic;
use crate::step::Tap;
use crate::text::shell::quote;
use port::Policy;
use std::fmt;
use std::path::PathBuf;

/// How a user without rights comes to a TAP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// A persistent one that they may open, and whose it is.
    OwnTap(Tap, IfName, Owner),
    /// By a helper, on this bridge, with a port that is held to this.
    Helper(PathBuf, IfName, Policy),
    /// In a network of their own, where the first TAP has this name.
    UserNetwork(IfName, IfName),
}

/// Whose a persistent TAP is that a user may open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The user's.
    User,
    /// A group's that they are in.
    Group,
    /// Nobody's: the kernel lets everybody open it.
    Nobody,
}

impl fmt::Display for Way {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnTap(tap, name, owner) => {
                let whose = match owner {
                    Owner::User => "your own TAP",
                    Owner::Group => "your group's TAP",
                    Owner::Nobody => "a TAP without an owner,",
                };
                write!(out, "{}: by {whose} {name}", tap.bridge)
            }
            Self::Helper(path, bridge, policy) if policy.is_free() => write!(out, "{bridge}: by {}", path.display()),
            Self::Helper(path, bridge, policy) => write!(out, "{bridge}: by {} ({policy})", path.display()),
            Self::UserNetwork(bridge, _) => {
                write!(
                    out,
                    "{bridge}: in a network of your own, behind this host's address, by pasta or else slirp4netns"
                )
            }
        }
    }
}

impl Way {
    /// What QEMU would be given by a person who goes this way without us.
    pub fn backend(&self, vhost: bool) -> Backend {
        match self {
            Self::OwnTap(tap, name, _) => Backend::Named { name: name.clone(), queues: tap.queues, vhost },
            Self::Helper(path, bridge, _) => Backend::Helper {
                path: path.clone(),
                bridge: bridge.clone(),
                wants_mac: path.file_name().is_some_and(|name| name == helper::NAME),
            },
            Self::UserNetwork(_, first) => Backend::Named { name: first.clone(), queues: 1, vhost },
        }
    }
}

/// Refuses a bridge that is not there: only root can make one.
pub fn no_such_bridge(Nic { bridge, uplink, .. }: &Nic) -> Error {
    let what = format!("--bridge {bridge}: there is no such bridge, and only root can make one");
    let uplink = uplink.as_ref().map(|uplink| format!(" --uplink {}", quote(uplink.to_string())));
    let uplink = uplink.unwrap_or_default();
    let bridge = quote(bridge.as_str());
    let own = "Have a network of your own, with uplink=user";
    Error::new(what, format!("{own}; or have it made: sudo kvm-bridge up {bridge}{uplink}"))
}

/// Refuses what only root can do on a bridge that is there.
pub fn check(plan: &Plan, nics: &[Nic]) -> Result<()> {
    if let Some(down) = plan.bridges.iter().find(|bridge| bridge.is_down) {
        let what = format!("--bridge {0}: {0} is down, and only root can set it up", down.bridge);
        let bridge = quote(down.bridge.as_str());
        return Err(Error::new(what, format!("Have it set up: sudo ip link set dev {bridge} up")));
    }
    if let Some(nic) = nics.iter().find(|nic| nic.keep.is_some()) {
        let what = format!("--bridge {}: only root decides whether a bridge stays", nic.bridge);
        return Err(Error::new(what, "Leave keep= out."));
    }
    if let Some(nic) = nics.iter().find(|nic| !nic.forwards.is_empty()) {
        let what = format!("--bridge {}: only root leads ports of the host to guests", nic.bridge);
        return Err(Error::new(what, "Leave forward= out."));
    }
    Ok(())
}

/// Refuses what a card asks its port to be held to, if the rules have it otherwise, and an address that our helper would refuse.
pub fn check_policy(nic: &Nic, granted: &Policy) -> Result<()> {
    if let Some(mac) = nic.mac.filter(|mac| granted.is_guarded() && mac.0[0] & 2 == 0) {
        let what = format!("mac={mac} is one of the factory's, and may be another's");
        let remedy =
            "Give a locally administered one, as 52:54:00:..., or ask your admin for a rule that has: guard off";
        return Err(Error::new(what, remedy));
    }
    fn differs<T: PartialEq>(said: Option<T>, granted: T) -> bool {
        said.is_some_and(|said| said != granted)
    }
    let (key, rule) = match () {
        () if differs(nic.guard, granted.guard) => {
            ("guard", nic.guard.map(|guard| format!("guard {guard}")).unwrap_or_default())
        }
        () if differs(nic.isolated, granted.isolated) => ("isolated", "isolated".to_owned()),
        () if differs(nic.vlan.clone().map(Some), granted.vlans.clone()) => {
            ("vlan", nic.vlan.as_ref().map(|vlan| format!("vlan {vlan}")).unwrap_or_default())
        }
        () if differs(nic.rate.map(Some), granted.rate) => {
            ("rate", nic.rate.map(|rate| format!("rate {rate}")).unwrap_or_default())
        }
        () => return Ok(()),
    };
    let has = if granted.is_free() { "held to nothing".to_owned() } else { granted.to_string() };
    let what = format!("{key}= is root's to decide for users, and your port there is {has}");
    Err(Error::new(what, format!("Leave {key}= out, or ask your admin for a rule that has: {rule}")))
}

/// Refuses several queues where a helper is to make the TAP.
pub fn check_queues(tap: &Tap) -> Result<()> {
    if tap.queues <= 1 {
        return Ok(());
    }
    let what = format!("a helper hands over one queue, not {}", tap.queues);
    let remedy = "Leave queues= out, or have a persistent TAP with multi_queue made, and name it: ifname=";
    Err(Error::new(what, remedy))
}

/// A user, as the kernel compares them with the owner of a TAP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// What they are called.
    pub name: String,
    /// Their number.
    pub uid: u32,
    /// Those of their groups.
    pub gids: Vec<u32>,
}

impl User {
    /// Whose a TAP is that they name and may open, by its owner and its group (tun_not_capable in drivers/net/tun.c).
    pub fn owner(&self, tap: &Tap, name: &IfName, owner: Option<u32>, group: Option<u32>) -> Result<Owner> {
        let is_kept =
            owner.is_some_and(|owner| owner != self.uid) || group.is_some_and(|gid| !self.gids.contains(&gid));
        if is_kept {
            return Err(self.somebody_elses(tap, name));
        }
        if tap.found.is_some_and(|found| !found.is_up) {
            let what = format!("the TAP {name} is down, and only root can set it up");
            let remedy = format!("Have it set up: sudo ip link set dev {} up", quote(name.as_str()));
            return Err(Error::new(what, remedy));
        }
        Ok(match (owner, group) {
            (Some(_), _) => Owner::User,
            (None, Some(_)) => Owner::Group,
            (None, None) => Owner::Nobody,
        })
    }

    /// There is no TAP of the name that they give.
    pub fn no_such_tap(&self, tap: &Tap, name: &IfName) -> Error {
        let (bridge, user, shown) = (quote(tap.bridge.as_str()), quote(&self.name), quote(name.as_str()));
        let remedy = format!(
            "Leave ifname= out, or have it made: sudo ip tuntap add dev {shown} mode tap user {user} && sudo ip link set dev \
             {shown} master {bridge} up"
        );
        Error::new(format!("only root can give a TAP the name {name}"), remedy)
    }

    /// It is one that they may not open.
    pub fn somebody_elses(&self, tap: &Tap, name: &IfName) -> Error {
        let own: String =
            format!("{}0", self.name).chars().rev().take(15).collect::<Vec<_>>().into_iter().rev().collect();
        let remedy = format!(
            "Leave ifname= out, or have one made for you: sudo kvm-bridge up {} --tap {} --user {}",
            quote(tap.bridge.as_str()),
            quote(own),
            quote(&self.name)
        );
        Error::new(format!("the TAP {name} is somebody else's"), remedy)
    }
}
