//! `kvm-bridge up`: a bridge that stays, and TAPs on it that belong to users.
//!
//! The bridge is made as for a guest: the same plan, the same journal. A TAP needs no
//! journal: it becomes persistent as the last thing that is done to it, and its alias says who made it for which bridge.

use crate::launch::refusal::check_name;
use crate::netlink::Netlink;
use crate::network::apply::{self, Identity};
use crate::network::links::unreadable;
use crate::network::locks::planned_locked;
use crate::network::made;
use crate::network::made::{Indices, Made};
use crate::network::reaper;
use crate::output::errno::again_as_root;
use crate::state::journal::Files;
use crate::sys::random;
use crate::sys::{process, tap};
use model::config::Config;
use model::error::{Error, Result};
use model::host::{Kind, Link};
use model::ifname::IfName;
use model::inventory::persistent_alias;
use model::journal::Journal;
use model::mac::Mac;
use model::plan::policy;
use model::report::up::{Became, Up};
use model::request::Nic;
use model::request::taps::PersistentTap;
use model::step::Tap;
use model::uplink::Attach;
use nix::unistd::{Uid, User};
use port::{Guard, Policy};
use std::time::{Duration, Instant};

/// Makes a bridge that stays, or has one that is ours stay, and makes the TAPs that are missing.
pub fn up(nic: &Nic, taps: &[PersistentTap], config: &Config) -> Result<Up> {
    let bridge = &nic.bridge;
    if !process::can_change_network() {
        let what = format!("up {bridge}: this needs the right to change the network, CAP_NET_ADMIN");
        return Err(Error::new(what, again_as_root()));
    }
    let users = taps.iter().map(|tap| user(&tap.user)).collect::<Result<Vec<Uid>>>()?;
    process::hold_standard_places()?;
    reaper::ensure_all()?;
    let mut netlink = Netlink::open().map_err(unreadable)?;
    reaper::mend(&mut netlink, bridge).map_err(|error| error.of(format_args!("up {bridge}")))?;
    let nics = std::slice::from_ref(nic);
    let check_names = |missing: &[&IfName]| missing.iter().try_for_each(|bridge| check_name(bridge));
    let (planned, locks) = planned_locked(&mut netlink, nics, config, check_names)?;
    let there = planned.host.link(bridge);
    let before = locks.get(bridge).and_then(|lock| lock.journal.clone());
    // Whose a TAP is can change it. One of the configuration is no reason for the bridge not to come up, nor for another's TAP.
    let known = configured(bridge, config);
    let (mut wanted, mut notices) = (Vec::new(), Vec::new());
    for (tap, user) in taps.iter().zip(users) {
        match check(&mut netlink, tap, user, bridge, there.map(|link| link.index)) {
            Ok(_) => wanted.push((tap, user)),
            Err(error) if known.contains(tap) => notices.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    let add_taps = |made: &mut Made, indices: &Indices| {
        if !wanted.is_empty() && before.is_none() {
            let pinned = keep_address(&mut made.netlink, there);
            let failed = |error| apply::failed(bridge, &format!("up {bridge}: cannot pin its address"), &error);
            notices.extend(pinned.map_err(failed)?);
        }
        add_all(&mut made.netlink, &wanted, (bridge, indices[bridge]), &policy(nic, &config.bridge(bridge)))
    };
    let (taps, _) = made::carry_out(netlink, &planned, &locks, Vec::new(), add_taps)?;
    let after = Files::of(bridge)?.read()?;
    let became = match (&before, &after, there) {
        (_, Some(_), None) => Became::Created,
        (Some(before), Some(_), _) if before.keep => Became::Unchanged,
        (Some(_), Some(_), _) => Became::MadePersistent,
        _ => Became::Foreign,
    };
    let ours = after.filter(|_| became != Became::Foreign);
    let uplink = ours.as_ref().and_then(Journal::uplink).cloned();
    let awaits = ours.as_ref().and_then(Journal::awaits).map(|awaited| awaited.uplink.to_string());
    let network = ours.as_ref().and_then(Journal::nat).cloned();
    let vtep = ours.as_ref().and_then(Journal::vtep).cloned();
    let how = |journal: &Journal| if journal.share().is_some() { Attach::Share } else { Attach::Port };
    let attach = ours.as_ref().filter(|_| uplink.is_some()).map(how);
    Ok(Up { bridge: became, uplink, attach, network, vtep, awaits, mtu: nic.mtu, taps, notices })
}

/// Waits until a bridge of ours has its uplink, for `time` at the most. Whether it has.
pub fn wait_for_uplink(bridge: &IfName, time: Duration) -> Result<bool> {
    let end = Instant::now() + time;
    let files = Files::of(bridge)?;
    loop {
        let has_it = files.read()?.is_none_or(|journal| journal.awaits().is_none());
        if has_it || Instant::now() >= end {
            return Ok(has_it);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A bridge without ports that somebody else made has the address of the first TAP, and with the last one loses any: the
/// kernel forgets the one that it had. So that one is pinned before there is a TAP, and stays.
fn keep_address(netlink: &mut Netlink, found: Option<&Link>) -> std::io::Result<Option<String>> {
    let Some((bridge, mac)) = found.and_then(|bridge| Some((bridge, bridge.mac?))) else { return Ok(None) };
    if mac == Mac([0; 6]) || !netlink.ports(bridge.index)?.is_empty() {
        return Ok(None);
    }
    apply::pin(netlink, bridge.index, mac)?;
    Ok(Some(format!("{} has no port, and keeps its address {mac}: else it would have that of its TAP", bridge.name)))
}

/// The TAPs that the configuration has for a bridge.
pub fn configured(bridge: &IfName, config: &Config) -> Vec<PersistentTap> {
    let taps = config.bridge(bridge).taps.into_iter();
    taps.map(|(name, user)| PersistentTap { name, user }).collect()
}

/// The same, and why some are left out: a user who is gone is no reason for a bridge not to come up at the next boot.
pub fn configured_with_users(bridge: &IfName, config: &Config) -> (Vec<PersistentTap>, Vec<Error>) {
    let (mut taps, mut faults) = (Vec::new(), Vec::new());
    for tap in configured(bridge, config) {
        match user(&tap.user) {
            Ok(_) => taps.push(tap),
            Err(error) => faults.push(error.of(format_args!("the TAP {} is not made", tap.name))),
        }
    }
    (taps, faults)
}

/// Makes the TAPs that the configuration has for a bridge that a guest's start made to stay. One that can't be made is no
/// reason for the guest not to start: what is wrong is told.
pub(super) fn add_configured(netlink: &mut Netlink, bridge: &IfName, index: u32, config: &Config) -> Vec<String> {
    let taps = configured(bridge, config).into_iter();
    let policy = config.bridge(bridge).policy();
    let mut add = |tap: PersistentTap| add(netlink, &tap, user(&tap.user)?, (bridge, index), &policy);
    taps.filter_map(|tap| add(tap).err()).map(|error| error.to_string()).collect()
}

/// A user, by name or number.
fn user(text: &str) -> Result<Uid> {
    if let Ok(number) = text.parse() {
        return Ok(Uid::from_raw(number));
    }
    match User::from_name(text) {
        Ok(Some(user)) => Ok(user.uid),
        _ => Err(Error::new(format!("there is no user {text}"), "'getent passwd' lists all. A number is taken too.")),
    }
}

/// Whether a TAP is there as it is to be; `Ok(false)` where there is none of that name.
fn check(netlink: &mut Netlink, tap: &PersistentTap, user: Uid, bridge: &IfName, index: Option<u32>) -> Result<bool> {
    let name = &tap.name;
    let Some(link) = netlink.link(name).map_err(unreadable)? else { return Ok(false) };
    let refuse = |why: String, remedy: String| Err(Error::new(format!("up {bridge}: {name} {why}"), remedy));
    if !matches!(link.kind, Kind::Tap { is_persistent: true, .. }) {
        return refuse("is there and is no persistent TAP".into(), "Give --tap another name.".into());
    }
    let owner = netlink.details().map_err(unreadable)?.into_iter().find(|found| found.link.index == link.index);
    if let Some(owner) = owner.map(|found| found.owner).filter(|owner| *owner != Some(user.as_raw())) {
        let whose = owner.map_or("is nobody's, so that anybody can attach to it".to_owned(), |owner| {
            format!("is there and belongs to {}", user_name(owner))
        });
        return refuse(whose, format!("Give --tap another name, or delete it: ip tuntap del dev {name} mode tap"));
    }
    if index.is_none() || link.controller != index {
        return refuse(
            format!("is there and is no port of {bridge}"),
            match index {
                Some(_) => format!("To make it one: ip link set dev {name} master {bridge}"),
                None => format!("To have it created again: ip tuntap del dev {name} mode tap"),
            },
        );
    }
    Ok(true)
}

/// What people call a user.
pub fn user_name(uid: u32) -> String {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

/// Makes the TAPs that are missing, and tells of each whether it did; all or none.
fn add_all(
    netlink: &mut Netlink,
    wanted: &[(&PersistentTap, Uid)],
    bridge: (&IfName, u32),
    policy: &Policy,
) -> Result<Vec<(PersistentTap, bool)>> {
    let mut added = Vec::new();
    for (tap, user) in wanted {
        match add(netlink, tap, *user, bridge, policy) {
            Ok(is_new) => added.push(((*tap).clone(), is_new)),
            Err(error) => {
                for (tap, _) in added.iter().filter(|(_, is_new)| *is_new) {
                    let _ = remove(netlink, &tap.name);
                }
                return Err(error);
            }
        }
    }
    Ok(added)
}

/// Makes a TAP that is missing, and tells whether it did.
fn add(
    netlink: &mut Netlink,
    tap: &PersistentTap,
    user: Uid,
    (bridge, index): (&IfName, u32),
    policy: &Policy,
) -> Result<bool> {
    let name = &tap.name;
    if check(netlink, tap, user, bridge, Some(index))? {
        return Ok(false);
    }
    if policy.guard == Guard::Ip {
        let what = format!("up {bridge}: guard=ip is for guests whose address is known, and {name} is for any");
        return Err(Error::new(what, "Give the bridge guard = true, or let the user in by the helper's rules."));
    }
    let failed =
        |what: &str, error: &std::io::Error| apply::failed(bridge, &format!("up {bridge}: {what} {name}"), error);
    let opened = tap::make_for(name, user)?.map_err(|error| failed("cannot make the TAP", &error))?;
    let mtu = netlink.link_at(index).map_err(unreadable)?.map_or(1500, |link| link.mtu);
    let wanted =
        Tap { name: Some(name.clone()), bridge: bridge.clone(), mtu, queues: 1, policy: policy.clone(), found: None };
    let own = tap::index_of(&opened, name).map_err(|error| failed("cannot attach", &error))?;
    let identity = Identity { mac: random::mac()?.of_tap(), alias: &persistent_alias(bridge), guest: None };
    apply::plug(netlink, &wanted, (name, own), &identity, index, None)
        .map_err(|error| error.of(format_args!("up {bridge}")))?;
    tap::stay(&opened).map_err(|error| failed("cannot make persistent", &error))?;
    Ok(true)
}

/// Deletes a TAP.
pub(super) fn remove(netlink: &mut Netlink, name: &IfName) -> std::io::Result<()> {
    match netlink.link(name)? {
        Some(link) => apply::delete_link(netlink, link.index),
        None => Ok(()),
    }
}
