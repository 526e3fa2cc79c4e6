//! The network of a command line whose user is not root.
//!
//! Such a user makes no bridge and takes no uplink; on a bridge that is there, a TAP is to be had in these ways, which are
//! tried in this order: one of the user's own, persistent, that `ifname=` names; by our helper; by QEMU's. What our helper
//! refuses, though it has its right, nobody else is asked for. If there is no way, the error names what is missing and the
//! command that mends it.

use crate::argv::{Backend, Line};
use crate::bring_up::{Applied, open_vhosts, take_lease};
use crate::config::Config;
use crate::error::{Error, Result, reason};
use crate::helper::{self, Useless};
use crate::host::Host;
use crate::lease::VmKey;
use crate::name::IfName;
use crate::net::observe::{observe, unreadable};
use crate::net::rtnl::Netlink;
use crate::plan::plan;
use crate::request::Nic;
use crate::step::Tap;
use crate::sys::{process, tap};
use kvm_bridge_helper::access;
use kvm_bridge_helper::acl::Caller;
use nix::unistd::{AccessFlags, access as may_access, getegid, geteuid, getgroups};
use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// How a user without rights comes to a TAP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// A persistent one of their own.
    OwnTap(Tap, IfName),
    /// By a helper, on this bridge.
    Helper(PathBuf, IfName),
}

impl fmt::Display for Way {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnTap(tap, name) => write!(out, "{}: by your own TAP {name}", tap.bridge),
            Self::Helper(path, bridge) => write!(out, "{bridge}: by {}", path.display()),
        }
    }
}

impl Way {
    /// What QEMU would be given by a person who goes this way without us.
    pub fn backend(&self, vhost: bool) -> Backend {
        match self {
            Self::OwnTap(tap, name) => Backend::Named { name: name.clone(), queues: tap.queues, vhost },
            Self::Helper(path, bridge) => Backend::Helper(path.clone(), bridge.clone()),
        }
    }

    fn open(&self) -> Result<Vec<OwnedFd>> {
        match self {
            Self::Helper(path, bridge) => {
                helper::ask(path, bridge).map(|queue| vec![queue]).map_err(|error| of(bridge, error))
            }
            Self::OwnTap(tap, name) => own_tap(tap, name).map_err(|error| of(&tap.bridge, error)),
        }
    }
}

fn of(bridge: &IfName, error: Error) -> Error {
    error.of(format_args!("--bridge {bridge}"))
}

/// Brings the network of a line up, as far as that is anybody's right.
pub fn bring_up(line: &Line, config: &Config) -> Result<Applied> {
    process::hold_standard_places()?;
    let mut netlink = Netlink::open().map_err(unreadable)?;
    let (host, ways) = ways(&mut netlink, &line.nics, config)?;
    let lease = take_lease(&mut netlink, &VmKey::of(&line.vm), &line.nics, &host)?;
    let taps = ways.iter().map(Way::open).collect::<Result<Vec<_>>>()?;
    let vhosts = line.nics.iter().map(open_vhosts).collect::<Result<Vec<_>>>()?;
    Ok(Applied { lease, taps, vhosts, news: Vec::new() })
}

/// The way for each network card, or why there is none. Changes nothing.
pub fn ways(netlink: &mut Netlink, nics: &[Nic], config: &Config) -> Result<(Host, Vec<Way>)> {
    for Nic { bridge, .. } in nics {
        if netlink.link(bridge).map_err(unreadable)?.is_none() {
            let what = format!("--bridge {bridge}: there is no such bridge, and only root can make one");
            return Err(Error::new(what, format!("Have it made: sudo kvm-bridge up {bridge}")));
        }
    }
    let host = observe(netlink, nics, config)?;
    let plan = plan(nics, config, &host)?;
    if let Some(down) = plan.bridges.iter().find(|bridge| !bridge.steps.is_empty()) {
        let what = format!("--bridge {0}: {0} is down, and only root can set it up", down.bridge);
        return Err(Error::new(what, format!("Have it set up: sudo ip link set dev {} up", down.bridge)));
    }
    if let Some(nic) = nics.iter().find(|nic| nic.keep.is_some()) {
        let what = format!("--bridge {}: only root decides whether a bridge stays", nic.bridge);
        return Err(Error::new(what, "Leave keep= out."));
    }
    let ways = plan.taps.into_iter().map(|tap| {
        let bridge = tap.bridge.clone();
        way(tap).map_err(|error| of(&bridge, error))
    });
    Ok((host, ways.collect::<Result<_>>()?))
}

fn way(tap: Tap) -> Result<Way> {
    if let Some(name) = tap.name.clone() {
        let (bridge, user) = (&tap.bridge, user());
        let up = format!("sudo ip link set dev {name} master {bridge} up");
        return match tap.found {
            Some(found) if found.is_up => Ok(Way::OwnTap(tap, name)),
            Some(_) => Err(Error::new(format!("the TAP {name} is down, and only root can set it up"), {
                format!("Have it set up: sudo ip link set dev {name} up")
            })),
            None => Err(Error::new(format!("only root can give a TAP the name {name}"), {
                format!(
                    "Leave ifname= out, or have it made: sudo ip tuntap add dev {name} mode tap user {user} && {up}"
                )
            })),
        };
    }
    check_device()?;
    if tap.queues > 1 {
        let what = format!("a helper hands over one queue, not {}", tap.queues);
        let remedy = "Leave queues= out, or have a persistent TAP with multi_queue made, and name it: ifname=";
        return Err(Error::new(what, remedy));
    }
    let working = helper::working();
    let allowed = access::check(tap.bridge.as_str().as_bytes(), &caller());
    if process::has_no_new_privs() && working.is_ok() {
        let what = "no program can get more rights from here: no_new_privs is set";
        return Err(Error::new(
            what,
            "Start it outside of that sandbox, or with NoNewPrivileges=no in its systemd unit.",
        ));
    }
    match (working, allowed) {
        // The rules of QEMU's are a part of ours; whether it keeps to the rest is not for us to promise.
        (Ok((path, _)), Ok(_)) => Ok(Way::Helper(path, tap.bridge)),
        (Ok(_), Err(failure)) => Err(Error::new(failure.what, failure.remedy)),
        (Err(useless), allowed) => Err(without_right(&tap.bridge, useless, allowed.is_ok())),
    }
}

fn without_right(bridge: &IfName, useless: Useless, is_allowed: bool) -> Error {
    let remedy = match useless.remount {
        Some(remount) => format!("Have it mounted with suid: {remount}"),
        None if is_allowed => "Have it installed, once: sudo kvm-bridge install".to_owned(),
        None => format!("Have it installed, once: sudo kvm-bridge install --allow {bridge}:{}", user()),
    };
    Error::new(format!("only root can make TAPs, and {}", useless.what), remedy)
}

/// Whether this user may open /dev/net/tun, which the helpers do as the user.
fn check_device() -> Result<()> {
    match may_access(tap::DEVICE, AccessFlags::R_OK | AccessFlags::W_OK) {
        Ok(()) => Ok(()),
        Err(error) => {
            let error = std::io::Error::from(error);
            let remedy = match error.kind() {
                std::io::ErrorKind::NotFound => "Have the kernel's module loaded: sudo modprobe tun".to_owned(),
                _ => format!("Let users in, as distributions do: sudo chmod 666 {}", tap::DEVICE),
            };
            let mode = std::path::Path::new(tap::DEVICE).metadata().map(|device| device.permissions().mode() & 0o777);
            let mode = mode.map(|mode| format!(" (its mode is {mode:04o})")).unwrap_or_default();
            Err(Error::new(format!("you cannot open {}: {}{mode}", tap::DEVICE, reason(&error)), remedy))
        }
    }
}

fn own_tap(tap: &Tap, name: &IfName) -> Result<Vec<OwnedFd>> {
    check_device()?;
    let is_multi_queue = tap.found.is_some_and(|found| found.is_multi_queue);
    let devices = (0..tap.queues).map(|_| tap::open_device()).collect::<Result<Vec<_>>>()?;
    let opened = tap::open(devices, Some(name), is_multi_queue);
    opened.map(|(queues, _)| queues).map_err(|error| {
        let remedy = match error.raw_os_error() {
            Some(libc::EPERM) => format!(
                "It is somebody else's. Have it made yours: sudo sh -c 'ip tuntap del dev {name} mode tap && ip tuntap add dev \
                 {name} mode tap user {} && ip link set dev {name} master {} up'",
                user(),
                tap.bridge
            ),
            _ => format!("See what it is: ip -d link show {name}"),
        };
        Error::new(format!("cannot open the TAP {name}: {}", reason(&error)), remedy)
    })
}

/// Whose rights this process has, as the rules name them.
pub fn caller() -> Caller {
    let groups = getgroups().unwrap_or_default();
    Caller { uid: geteuid().as_raw(), gids: groups.into_iter().chain([getegid()]).map(|gid| gid.as_raw()).collect() }
}

/// The user's name, or number.
pub fn user() -> String {
    let uid = geteuid();
    nix::unistd::User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}
