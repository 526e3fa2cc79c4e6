//! The network of a command line whose user is not root.
//!
//! Such a user makes no bridge and takes no uplink; on a bridge that is there, a TAP is to be had in these ways, which are
//! tried in this order: one of the user's own, persistent, that `ifname=` names; by our helper; by QEMU's. What our helper
//! refuses, though it has its right, nobody else is asked for. If there is no way, the error names what is missing and the
//! command that fixes it.

pub use model::unprivileged::Way;

use crate::launch::inherited::{Inherited, assign_macs, mac_notices, open_vhosts};
use crate::netlink::Netlink;
use crate::network::helper;
use crate::network::links::unreadable;
use crate::network::observe::{Planned, planned};
use crate::network::up::user_name;
use crate::network::user_network;
use crate::network::user_network::Joined;
use crate::output::errno::reason;
use crate::sys::place;
use crate::sys::tap::Form;
use crate::sys::{process, tap};
use crate::vm::{VmId, id_of};
use kvm_bridge_helper::access;
use kvm_bridge_helper::acl::{Caller, Grant, OURS, Verdict};
use model::argv::Line;
use model::config::Config;
use model::error::{Error, Result, Voice};
use model::host::Host;
use model::ifname::{IfName, PREFIX};
use model::mac::Mac;
use model::plan::{BridgeSpec, bridge_specs, policy};
use model::request::Nic;
use model::step::Tap;
use model::text::shell::quote;
use model::unprivileged::{self, User};
use model::uplink::Uplink;
use nix::unistd::{AccessFlags, access as may_access, getegid, geteuid, getgroups};
use port::{Guard, Policy};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn open(way: &Way, nic: &Nic, new: impl FnOnce() -> Nic, mac: Mac, vm: &VmId) -> Result<Joined> {
    let queues = match way {
        Way::UserNetwork(..) => return user_network::join(nic, &new(), mac, vm),
        Way::Helper(path, bridge, _) => helper::ask(path, bridge, mac).map(|queue| vec![queue]),
        Way::OwnTap(tap, name, _) => own_tap(tap, name),
    };
    queues.map(|queues| Joined { queues, ports: Vec::new(), notice: None })
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
    let vm = id_of(&line.vm);
    let (assigned, is_kept) = assign_macs(&mut netlink, &vm, line, &host)?;
    let vhosts = line.nics.iter().map(open_vhosts).collect::<Result<Vec<_>>>()?;
    let mut notices: Vec<String> = mac_notices(line, &vm, &assigned, is_kept).into_iter().collect();
    let (mut taps, mut ports) = (Vec::new(), Vec::new());
    for ((way, nic), mac) in cards().zip(&assigned.macs) {
        let new = || configured(nic, &line.nics, config);
        let joined = open(way, nic, new, *mac, &vm).map_err(|error| of(&nic.bridge, error))?;
        taps.push(joined.queues);
        ports.extend(joined.ports);
        notices.extend(joined.notice);
    }
    Ok(Inherited { assigned, taps, vhosts, ports, notices })
}

/// The way for each network card, or why there is none. Changes nothing.
pub fn ways(netlink: &mut Netlink, nics: &[Nic], config: &Config) -> Result<(Host, Vec<Way>)> {
    let specs = bridge_specs(nics, config);
    let is_own = nics.iter().map(|nic| is_in_user_network(netlink, nic, &specs)).collect::<Result<Vec<bool>>>()?;
    let (all, mut nics) = (nics, Vec::new());
    for (nic, is_own) in all.iter().zip(&is_own) {
        match is_own {
            true => user_network::check(&nic.bridge)
                .and_then(|()| check_device())
                .map_err(|error| of(&nic.bridge, error))?,
            false => nics.push(nic.clone()),
        }
    }
    let nics = nics.as_slice();
    check_bridges(netlink, nics)?;
    let Planned { host, plan } = planned(netlink, nics, config).map_err(|error| error.in_voice(Voice::Sudo))?;
    unprivileged::check(&plan, nics)?;
    let mut taps = plan.taps.into_iter();
    let ways = all.iter().zip(is_own).filter_map(|(nic, is_own)| match is_own {
        true => Some(IfName::new(&format!("{PREFIX}0")).map(|first| Way::UserNetwork(nic.bridge.clone(), first))),
        false => taps.next().map(|tap| way(netlink, nic, tap).map_err(|error| of(&nic.bridge, error))),
    });
    let ways = ways.collect::<Result<_>>()?;
    Ok((host, ways))
}

/// A card with what the configuration says of a bridge that is to be made.
fn configured(nic: &Nic, nics: &[Nic], config: &Config) -> Nic {
    let spec = bridge_specs(nics, config).into_iter().find(|spec| *spec.uplink.bridge == nic.bridge);
    let Policy { guard, isolated, vlans, rate } = policy(nic, &config.bridge(&nic.bridge));
    let nic = Nic { guard: Some(guard), isolated: Some(isolated), vlan: vlans, rate, ..nic.clone() };
    match spec {
        Some(spec) => Nic { net: spec.uplink.net, mtu: spec.uplink.mtu, keep: spec.keep, ..nic },
        None => nic,
    }
}

/// Whether a card is to be in a network of the user's own: it says so, or the configuration, or there is such a network and no
/// such bridge on the host.
fn is_in_user_network(netlink: &mut Netlink, nic: &Nic, specs: &[BridgeSpec]) -> Result<bool> {
    if specs.iter().any(|spec| *spec.uplink.bridge == nic.bridge && spec.uplink.uplink == Uplink::User) {
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
    for nic in nics {
        if netlink.link(&nic.bridge).map_err(unreadable)?.is_none() {
            return Err(unprivileged::no_such_bridge(nic));
        }
    }
    Ok(())
}

fn way(netlink: &mut Netlink, nic: &Nic, tap: Tap) -> Result<Way> {
    if let Some(name) = tap.name.clone() {
        return way_by(netlink, tap, name);
    }
    check_device()?;
    unprivileged::check_queues(&tap)?;
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
        (Ok((path, _)), Ok(grant)) => {
            let is_ours = helper::is_ours(&path);
            let policy = if is_ours { grant.policy } else { check_qemus_rules(bridge, &caller, grant)? };
            unprivileged::check_policy(nic, &policy)?;
            Ok(Way::Helper(path, tap.bridge, policy))
        }
        (Err(problem), Ok(_)) => Err(problem.error("")),
        (Err(problem), Err(_)) if is_without_rule => {
            Err(problem.error(&format!(" --allow {}", quote(format!("{bridge}:{}", user())))))
        }
        // What denies, or is no rule, does so with every helper.
        (_, Err(failure)) => Err(Error::new(failure.what, failure.remedy)),
    }
}

/// The way through a TAP that is there, which may be somebody else's.
fn way_by(netlink: &mut Netlink, tap: Tap, name: IfName) -> Result<Way> {
    let user = person();
    let Some(found) = tap.found else { return Err(user.no_such_tap(&tap, &name)) };
    let details = netlink.details().map_err(unreadable)?;
    let detail = details.into_iter().find(|detail| detail.link.index == found.index);
    let (owner, group) = detail.map_or((None, None), |detail| (detail.owner, detail.group));
    let owner = user.owner(&tap, &name, owner, group)?;
    check_device()?;
    Ok(Way::OwnTap(tap, name, owner))
}

/// QEMU's helper reads its own file only, counts nothing, and holds ports to nothing.
fn check_qemus_rules(bridge: &str, caller: &Caller, Grant { max, policy, .. }: Grant) -> Result<Policy> {
    // Nobody has asked for the guard, which is there by default.
    let held = Policy { guard: Guard::Off, ..policy };
    let what = match (max, access::judge_by_qemus(bridge.as_bytes(), caller)) {
        (Some((max, place)), _) => format!("{place} allows {max} TAPs, and the helper of QEMU does not count them"),
        _ if !held.is_free() => format!("{OURS} has your port {held}, which the helper of QEMU does not do"),
        (None, Ok(Verdict::Allowed(_))) => return Ok(held),
        (None, _) => format!("only {OURS} allows {bridge}, which the helper of QEMU does not read"),
    };
    Err(Error::new(what, "Have our own helper installed, once: sudo kvm-bridge install"))
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
    let opened = tap::open(devices, Some(name), Form { is_multi_queue, ..Form::default() });
    opened.map(|(queues, _)| queues).map_err(|error| {
        if error.raw_os_error() == Some(libc::EPERM) {
            return person().somebody_elses(tap, name);
        }
        let remedy = format!("See what it is: ip -d link show {}", quote(name.as_str()));
        Error::new(format!("cannot open the TAP {name}: {}", reason(&error)), remedy)
    })
}

fn person() -> User {
    let Caller { uid, gids } = caller();
    User { name: user(), uid, gids }
}

/// Whose rights this process has, as the rules name them.
pub fn caller() -> Caller {
    let groups = getgroups().unwrap_or_default();
    Caller { uid: geteuid().as_raw(), gids: groups.into_iter().chain([getegid()]).map(|gid| gid.as_raw()).collect() }
}

/// The user's name, or number.
pub fn user() -> String {
    user_name(geteuid().as_raw())
}
