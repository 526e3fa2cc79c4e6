//! The network of a command line whose user is not root.
//!
//! Such a user makes no bridge and takes no uplink; on a bridge that is there, a TAP is to be had in these ways, which are
//! tried in this order: one of the user's own, persistent, that `ifname=` names; by our helper; by QEMU's. What our helper
//! refuses, though it has its right, nobody else is asked for. If there is no way, the error names what is missing and the
//! command that fixes it.

use crate::launch::inherited::{Inherited, assign_macs, mac_notices, open_vhosts};
use crate::netlink::Netlink;
use crate::network::helper;
use crate::network::helper::HelperProblem;
use crate::network::links::unreadable;
use crate::network::observe::{Planned, planned};
use crate::network::user_network;
use crate::network::user_network::Joined;
use crate::output::errno::reason;
use crate::sys::place;
use crate::sys::{process, tap};
use crate::vm::VmId;
use kvm_bridge_helper::access;
use kvm_bridge_helper::acl::{Caller, OURS, Place, Verdict};
use model::argv::{Backend, Line};
use model::config::Config;
use model::error::{Error, Result, Voice};
use model::host::Host;
use model::ifname::{IfName, PREFIX};
use model::mac::Mac;
use model::plan::bridge_specs;
use model::request::Nic;
use model::step::Tap;
use model::text::shell::quote;
use model::uplink::Uplink;
use nix::unistd::{AccessFlags, access as may_access, getegid, geteuid, getgroups};
use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// How a user without rights comes to a TAP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// A persistent one that they may open, and whose it is.
    OwnTap(Tap, IfName, Owner),
    /// By a helper, on this bridge.
    Helper(PathBuf, IfName),
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
            Self::Helper(path, bridge) => write!(out, "{bridge}: by {}", path.display()),
            Self::UserNetwork(bridge, _) => {
                write!(out, "{bridge}: in a network of your own, behind this host's address, by pasta")
            }
        }
    }
}

impl Way {
    /// What QEMU would be given by a person who goes this way without us.
    pub fn backend(&self, vhost: bool) -> Backend {
        match self {
            Self::OwnTap(tap, name, _) => Backend::Named { name: name.clone(), queues: tap.queues, vhost },
            Self::Helper(path, bridge) => Backend::Helper(path.clone(), bridge.clone()),
            Self::UserNetwork(_, first) => Backend::Named { name: first.clone(), queues: 1, vhost },
        }
    }

    fn open(&self, nic: &Nic, mac: Mac, vm: &VmId) -> Result<Joined> {
        let queues = match self {
            Self::UserNetwork(..) => return user_network::join(nic, mac, vm),
            Self::Helper(path, bridge) => helper::ask(path, bridge).map(|queue| vec![queue]),
            Self::OwnTap(tap, name, _) => own_tap(tap, name),
        };
        queues.map(|queues| Joined { queues, ports: Vec::new(), notice: None })
    }
}

fn of(bridge: &IfName, error: Error) -> Error {
    error.of_request(bridge)
}

/// Brings the network of a line up, as far as that is anybody's right.
pub fn bring_up(line: &Line, config: &Config) -> Result<Inherited> {
    process::hold_standard_places()?;
    let mut netlink = Netlink::open().map_err(unreadable)?;
    let (host, ways) = ways(&mut netlink, &line.nics, config)?;
    let cards = || ways.iter().zip(&line.nics);
    if let Some((_, nic)) = cards().find(|(way, nic)| nic.announce && !matches!(way, Way::UserNetwork(..))) {
        let what = format!("--bridge {}: announce=on needs the right to watch interfaces, CAP_NET_RAW", nic.bridge);
        return Err(Error::new(what, "Run it as root, or leave announce= out."));
    }
    let vm = VmId::of(&line.vm);
    let (assigned, is_kept) = assign_macs(&mut netlink, &vm, line, &host)?;
    let vhosts = line.nics.iter().map(open_vhosts).collect::<Result<Vec<_>>>()?;
    let mut notices: Vec<String> = mac_notices(line, &vm, &assigned, is_kept).into_iter().collect();
    let (mut taps, mut ports) = (Vec::new(), Vec::new());
    for ((way, nic), mac) in cards().zip(&assigned.macs) {
        let joined = way.open(nic, *mac, &vm).map_err(|error| of(&nic.bridge, error))?;
        taps.push(joined.queues);
        ports.extend(joined.ports);
        notices.extend(joined.notice);
    }
    Ok(Inherited { assigned, taps, vhosts, ports, notices })
}

/// The way for each network card, or why there is none. Changes nothing.
pub fn ways(netlink: &mut Netlink, nics: &[Nic], config: &Config) -> Result<(Host, Vec<Way>)> {
    let is_own =
        nics.iter().map(|nic| is_in_user_network(netlink, nic, nics, config)).collect::<Result<Vec<bool>>>()?;
    for nic in nics.iter().zip(&is_own).filter(|(_, is_own)| **is_own).map(|(nic, _)| nic) {
        user_network::check(&nic.bridge).and_then(|()| check_device()).map_err(|error| of(&nic.bridge, error))?;
    }
    let (all, nics): (_, Vec<Nic>) =
        (nics, nics.iter().zip(&is_own).filter(|(_, is_own)| !**is_own).map(|(nic, _)| nic.clone()).collect());
    let nics = nics.as_slice();
    check_bridges(netlink, nics)?;
    let Planned { host, plan } = planned(netlink, nics, config).map_err(|error| error.in_voice(Voice::Sudo))?;
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
    let mut taps = plan.taps.into_iter();
    let ways = all.iter().zip(is_own).filter_map(|(nic, is_own)| match is_own {
        true => Some(IfName::new(&format!("{PREFIX}0")).map(|first| Way::UserNetwork(nic.bridge.clone(), first))),
        false => taps.next().map(|tap| way(netlink, tap).map_err(|error| of(&nic.bridge, error))),
    });
    let ways = ways.collect::<Result<_>>()?;
    Ok((host, ways))
}

/// Whether a card is to be in a network of the user's own: it says so, or the configuration, or there is such a network and no
/// such bridge on the host.
fn is_in_user_network(netlink: &mut Netlink, nic: &Nic, nics: &[Nic], config: &Config) -> Result<bool> {
    let specs = bridge_specs(nics, config);
    let uplink = specs.into_iter().map(|spec| spec.uplink).find(|spec| *spec.bridge == nic.bridge);
    if uplink.is_some_and(|spec| spec.uplink == Uplink::User) {
        return Ok(true);
    }
    Ok(nic.uplink.is_none()
        && user_network::is_there(&nic.bridge)
        && netlink.link(&nic.bridge).map_err(unreadable)?.is_none())
}

/// Refuses what only root can do: to make a bridge. It needs more than CAP_NET_ADMIN: to write down what was made.
pub fn check_making(netlink: &mut Netlink, nics: &[Nic]) -> Result<()> {
    let folder = place::run().ancestors().find(|folder| folder.exists());
    let may_write = folder.is_some_and(|folder| may_access(folder, AccessFlags::W_OK).is_ok());
    if process::is_root() || may_write { Ok(()) } else { check_bridges(netlink, nics) }
}

fn check_bridges(netlink: &mut Netlink, nics: &[Nic]) -> Result<()> {
    for Nic { bridge, uplink, .. } in nics {
        if netlink.link(bridge).map_err(unreadable)?.is_none() {
            let what = format!("--bridge {bridge}: there is no such bridge, and only root can make one");
            let uplink = uplink.as_ref().map(|uplink| format!(" --uplink {}", quote(uplink.to_string())));
            let uplink = uplink.unwrap_or_default();
            let bridge = quote(bridge.as_str());
            let own = "Have a network of your own, with uplink=user";
            return Err(Error::new(what, format!("{own}; or have it made: sudo kvm-bridge up {bridge}{uplink}")));
        }
    }
    Ok(())
}

fn way(netlink: &mut Netlink, tap: Tap) -> Result<Way> {
    if let Some(name) = tap.name.clone() {
        return way_by(netlink, tap, name);
    }
    check_device()?;
    if tap.queues > 1 {
        let what = format!("a helper hands over one queue, not {}", tap.queues);
        let remedy = "Leave queues= out, or have a persistent TAP with multi_queue made, and name it: ifname=";
        return Err(Error::new(what, remedy));
    }
    let (working, caller, bridge) = (helper::working(), caller(), tap.bridge.as_str());
    if process::has_no_new_privs() && working.is_ok() {
        let what = "no program can get more rights from here: no_new_privs is set";
        return Err(Error::new(
            what,
            "Start it outside of that sandbox, or with NoNewPrivileges=no in its systemd unit.",
        ));
    }
    let verdict = access::judge(bridge.as_bytes(), &caller);
    let is_without_rule = matches!(verdict, Ok((Verdict::NoRule, _)));
    let allowed = access::explain(bridge.as_bytes(), &caller, verdict);
    match (working, allowed) {
        (Ok((path, _)), Ok(max)) if !helper::is_ours(&path) => {
            check_qemus_rules(bridge, &caller, max).map(|()| Way::Helper(path, tap.bridge))
        }
        (Ok((path, _)), Ok(_)) => Ok(Way::Helper(path, tap.bridge)),
        (Err(problem), Ok(_)) => Err(without_right(problem, "")),
        (Err(problem), Err(_)) if is_without_rule => {
            Err(without_right(problem, &format!(" --allow {}", quote(format!("{bridge}:{}", user())))))
        }
        // What denies, or is no rule, does so with every helper.
        (_, Err(failure)) => Err(Error::new(failure.what, failure.remedy)),
    }
}

/// The way through a TAP that is there, which may be somebody else's.
fn way_by(netlink: &mut Netlink, tap: Tap, name: IfName) -> Result<Way> {
    let (bridge, user, shown) = (quote(tap.bridge.as_str()), quote(user()), quote(name.as_str()));
    let Some(found) = tap.found else {
        let remedy = format!(
            "Leave ifname= out, or have it made: sudo ip tuntap add dev {shown} mode tap user {user} && sudo ip link set dev \
             {shown} master {bridge} up"
        );
        return Err(Error::new(format!("only root can give a TAP the name {name}"), remedy));
    };
    let details = netlink.details().map_err(unreadable)?;
    let detail = details.into_iter().find(|detail| detail.link.index == found.index);
    let (owner, group) = detail.map_or((None, None), |detail| (detail.owner, detail.group));
    // As the kernel has it (tun_not_capable in drivers/net/tun.c).
    let caller = caller();
    let is_kept =
        owner.is_some_and(|owner| owner != caller.uid) || group.is_some_and(|gid| !caller.gids.contains(&gid));
    if is_kept {
        return Err(somebody_elses(&tap, &name));
    }
    if !found.is_up {
        let what = format!("the TAP {name} is down, and only root can set it up");
        return Err(Error::new(what, format!("Have it set up: sudo ip link set dev {shown} up")));
    }
    check_device()?;
    let owner = match (owner, group) {
        (Some(_), _) => Owner::User,
        (None, Some(_)) => Owner::Group,
        (None, None) => Owner::Nobody,
    };
    Ok(Way::OwnTap(tap, name, owner))
}

fn somebody_elses(tap: &Tap, name: &IfName) -> Error {
    let (bridge, user) = (quote(tap.bridge.as_str()), user());
    let own: String = format!("{user}0").chars().rev().take(15).collect::<Vec<_>>().into_iter().rev().collect();
    let remedy = format!(
        "Leave ifname= out, or have one made for you: sudo kvm-bridge up {bridge} --tap {} --user {}",
        quote(own),
        quote(user)
    );
    Error::new(format!("the TAP {name} is somebody else's"), remedy)
}

/// QEMU's helper reads its own file only, and counts nothing.
fn check_qemus_rules(bridge: &str, caller: &Caller, max: Option<(u32, Place)>) -> Result<()> {
    let what = match (max, access::judge_by_qemus(bridge.as_bytes(), caller)) {
        (Some((max, place)), _) => format!("{place} allows {max} TAPs, and the helper of QEMU does not count them"),
        (None, Ok(Verdict::Allowed(_))) => return Ok(()),
        (None, _) => format!("only {OURS} allows {bridge}, which the helper of QEMU does not read"),
    };
    Err(Error::new(what, "Have our own helper installed, once: sudo kvm-bridge install"))
}

fn without_right(problem: HelperProblem, allow: &str) -> Error {
    let remedy = match problem.fix {
        Some((how, command)) => format!("Have it {how}: {command}"),
        None => format!("Have it installed, once: sudo kvm-bridge install{allow}"),
    };
    Error::new(format!("only root can make TAPs, and {}", problem.what), remedy)
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
            let mode = Path::new(tap::DEVICE).metadata().map(|device| device.permissions().mode() & 0o777);
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
        if error.raw_os_error() == Some(libc::EPERM) {
            return somebody_elses(tap, name);
        }
        let remedy = format!("See what it is: ip -d link show {}", quote(name.as_str()));
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
