//! Makes the network that a command line asks for, and hands over what QEMU is to inherit.
//!
//! A bridge that was there before us is joined without a word to anybody. Where a bridge is missing or ours, its lock is
//! held from looking at it to having joined it: a maker holds it alone, those who join share it, and the reaper takes it
//! alone before it takes the bridge away.

use crate::argv::Line;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::host::{Host, Kind, Link};
use crate::journal::{Files, Journal};
use crate::keeper;
use crate::lease::{Lease, Store, VmKey};
use crate::mac::Mac;
use crate::name::IfName;
use crate::net::apply::{self, Source};
use crate::net::observe::{observe, unreadable};
use crate::net::{gateway, rtnl::Netlink};
use crate::plan::{BridgePlan, Plan, plan};
use crate::reaper;
use crate::request::Nic;
use crate::step::{Step, Tap};
use crate::sys::lock::Hold;
use crate::sys::{process, tap};
use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

/// What QEMU inherits. While this lives the TAPs do, and the addresses are nobody else's.
#[derive(Debug)]
pub struct Applied {
    lease: Lease,
    taps: Vec<OwnedFd>,
    /// What people should know of: sentences.
    pub news: Vec<String>,
}

impl Applied {
    /// The TAPs' descriptors, in the order of the network cards.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.taps.iter().map(AsRawFd::as_raw_fd)
    }

    /// The guest's addresses, in the same order.
    pub fn macs(&self) -> &[Mac] {
        &self.lease.macs
    }

    /// Lets all of it live on through exec.
    pub fn pass_on(&self) -> Result<()> {
        process::inherit(&self.lease.lock)?;
        self.taps.iter().try_for_each(process::inherit)
    }
}

/// Brings the network of a line up. If anything fails, what this made is taken back first.
pub fn bring_up(line: &Line, config: &Config) -> Result<Applied> {
    if !process::can_change_network() {
        let what =
            format!("--bridge {}: this needs the right to change the network, CAP_NET_ADMIN", line.nics[0].bridge);
        return Err(Error::new(what, "Run it as root: sudo qemu-kvm --bridge ..."));
    }
    process::hold_standard_places()?;
    reaper::ensure_all()?;
    let mut devices = Vec::new();
    for nic in &line.nics {
        devices.push(tap::open_device().map_err(|error| error.of(format_args!("--bridge {}", nic.bridge)))?);
    }
    let mut netlink = Netlink::open().map_err(unreadable)?;
    let (host, claims) = observe_locked(&mut netlink, &line.nics, config)?;
    let plan = plan(&line.nics, config, &host)?;
    let vm = VmKey::of(&line.vm);
    let lease = take_lease(&mut netlink, &vm, &line.nics, &host)?;
    let mut made = Made { netlink, ours: Vec::new(), set_up: Vec::new(), news: Vec::new() };
    match made.all(&plan, &host, &claims, devices, &vm, &lease) {
        Ok(taps) => Ok(Applied { lease, taps, news: made.news }),
        Err(error) => {
            made.take_back();
            Err(error)
        }
    }
}

fn take_lease(netlink: &mut Netlink, vm: &VmKey, nics: &[Nic], host: &Host) -> Result<Lease> {
    let given: Vec<Option<Mac>> = nics.iter().map(|nic| nic.mac).collect();
    let bridges: Vec<u32> = nics.iter().filter_map(|nic| Some(host.link(&nic.bridge)?.index)).collect();
    // A bridge that does not answer is no reason to have no address.
    let is_in_use = |mac| bridges.iter().any(|bridge| netlink.fdb_has(*bridge, mac).unwrap_or_default());
    Store::open()?.take(vm, &given, is_in_use)
}

/// A bridge that is missing or ours, and its lock.
struct Claim {
    files: Files,
    hold: Hold,
    lock: File,
    /// The lock of all makers, where it may have to be made.
    making: Option<Rc<File>>,
    /// The journal, where the bridge is there and ours.
    journal: Option<Journal>,
}

impl Drop for Claim {
    /// Who made nothing leaves nothing, if nobody else has the lock.
    fn drop(&mut self) {
        if !self.files.exist() && self.lock.try_lock().is_ok() && !self.files.exist() {
            self.making = None;
            self.files.remove();
        }
    }
}

type Claims = BTreeMap<IfName, Claim>;

/// Looks at the host; where a bridge is missing or ours, under its lock.
fn observe_locked(netlink: &mut Netlink, nics: &[Nic], config: &Config) -> Result<(Host, Claims)> {
    // What is seen before the lock is had may be over by then: another comes and makes it, the reaper takes it away.
    for _ in 0..100 {
        let before = observe(netlink, nics, config)?;
        let wanted = wanted_locks(&before, nics)?;
        if wanted.is_empty() {
            return Ok((before, Claims::new()));
        }
        // In the order of their names, so that no two wait for each other.
        let is_maker = wanted.values().any(|hold| *hold == Hold::Alone);
        let making = if is_maker { Some(Rc::new(Files::lock_making()?)) } else { None };
        let mut claims = Claims::new();
        for (bridge, hold) in &wanted {
            let files = Files::of(bridge)?;
            let lock = files.lock(*hold)?;
            claims.insert(bridge.clone(), Claim { files, hold: *hold, lock, making: making.clone(), journal: None });
        }
        let host = observe(netlink, nics, config)?;
        let is_as_before = wanted_locks(&host, nics)?.iter().all(|(bridge, hold)| {
            claims.get(bridge).is_some_and(|claim| claim.hold == Hold::Alone || *hold == Hold::Shared)
        });
        if is_as_before {
            for (bridge, claim) in &mut claims {
                let link = host.link(bridge);
                claim.journal = claim.files.read()?.filter(|journal| link.is_some_and(|link| journal.owns(link)));
            }
            return Ok((host, claims));
        }
    }
    let what = format!("--bridge {}: it comes and goes all the time", nics[0].bridge);
    Err(Error::new(what, "See who makes and deletes it: ip monitor link"))
}

/// Which locks are needed: alone for a bridge that is missing, or whose `keep` is said, or that has a journal and is not
/// ours; shared for one of ours.
fn wanted_locks(host: &Host, nics: &[Nic]) -> Result<BTreeMap<IfName, Hold>> {
    let mut wanted = BTreeMap::new();
    for nic in nics {
        let is_ours = |link: &Link| link.alias.as_deref().is_some_and(is_tag);
        let hold = match host.link(&nic.bridge) {
            None => Hold::Alone,
            Some(link) if link.kind != Kind::Bridge => continue,
            Some(link) if !is_ours(link) => match Files::of(&nic.bridge)?.exist() {
                true => Hold::Alone,
                false => continue,
            },
            Some(_) if nic.keep.is_some() => Hold::Alone,
            Some(_) => Hold::Shared,
        };
        let known = wanted.entry(nic.bridge.clone()).or_insert(hold);
        if hold == Hold::Alone {
            *known = hold;
        }
    }
    Ok(wanted)
}

/// Whether an alias looks like that of a bridge of ours; the journal has the last word.
fn is_tag(alias: &str) -> bool {
    alias.starts_with("kvm-bridge ")
}

/// How long a gateway may take to show that it is there.
const BEFORE: Duration = Duration::from_secs(1);
/// And to show that it still is.
const AFTER: Duration = Duration::from_secs(4);

/// What is to be said of a bridge that was made, if it is more than was asked for by name.
fn news(journal: &Journal) -> Option<String> {
    let (uplink, layer3) = journal.steps.iter().find_map(|step| match step {
        Step::TakeUplink { uplink, layer3, .. } => Some((uplink, layer3)),
        _ => None,
    })?;
    let bridge = &journal.bridge;
    let until = if journal.keep { "" } else { ", until its last guest has gone" };
    let told = journal.steps.iter().find_map(|step| match step {
        Step::Tell { keeper, .. } => Some(format!("; {} leaves {uplink} alone meanwhile", keeper.name())),
        _ => None,
    });
    let told = told.unwrap_or_default();
    (!layer3.is_empty()).then(|| {
        format!("made {bridge} with the uplink {uplink}, and moved {uplink}'s addresses and routes to it{until}{told}")
    })
}

/// What was made so far.
struct Made {
    netlink: Netlink,
    ours: Vec<(Journal, Files)>,
    set_up: Vec<u32>,
    news: Vec<String>,
}

impl Made {
    fn all(
        &mut self,
        plan: &Plan,
        host: &Host,
        claims: &Claims,
        devices: Vec<File>,
        vm: &VmKey,
        lease: &Lease,
    ) -> Result<Vec<OwnedFd>> {
        let mut indices = BTreeMap::new();
        for bridge in &plan.bridges {
            let index = self.bridge(bridge, host, claims.get(&bridge.bridge), plan);
            let index = index.map_err(|error| error.of(format_args!("--bridge {}", bridge.bridge)))?;
            indices.insert(&bridge.bridge, index);
        }
        let mut taps = Vec::new();
        for ((tap, device), mac) in plan.taps.iter().zip(devices).zip(&lease.macs) {
            let index = indices.get(&tap.bridge).copied().unwrap_or_default();
            let opened = self.tap(tap, device, *mac, vm, index);
            taps.push(opened.map_err(|error| error.of(format_args!("--bridge {}", tap.bridge)))?);
        }
        Ok(taps)
    }

    /// Makes a bridge, or what it lacks, and tells its index.
    fn bridge(&mut self, plan: &BridgePlan, host: &Host, claim: Option<&Claim>, whole: &Plan) -> Result<u32> {
        let keep = whole.keep.get(&plan.bridge).copied();
        match (claim, host.link(&plan.bridge)) {
            (Some(claim), None) => self.make(plan, &claim.files, keep.unwrap_or_default()),
            (Some(Claim { files, journal: Some(journal), .. }), Some(link)) => {
                let mut journal = journal.clone();
                journal.keep = keep.unwrap_or(journal.keep);
                if keep.is_some() {
                    files.write(&journal)?;
                }
                if journal.needs_reaper() {
                    reaper::ensure(&plan.bridge, files)?;
                }
                // Who made it may have been killed before this.
                apply::configure(&journal)?;
                self.set_up(plan, link.index)
            }
            (Some(Claim { files, hold: Hold::Alone, .. }), Some(link)) => {
                self.forget_stale(files)?;
                files.remove();
                self.set_up(plan, link.index)
            }
            (_, Some(link)) => self.set_up(plan, link.index),
            (None, None) => Err(Error::new("it went away in this moment", "Try again.")),
        }
    }

    fn make(&mut self, plan: &BridgePlan, files: &Files, keep: bool) -> Result<u32> {
        self.forget_stale(files)?;
        let mut journal = Journal::new(plan.bridge.clone(), keep, plan.steps.clone())?;
        if journal.needs_reaper() {
            reaper::ensure(&plan.bridge, files)?;
        }
        let answered = self.gateways(&journal)?;
        self.look_again(&mut journal)?;
        files.write(&journal)?;
        self.silence(&mut journal, files)?;
        // Until all of it has arrived the journal alone has all of it.
        let made = match apply::make(&mut self.netlink, &journal) {
            Ok(()) => {
                let checked = (self.check_nothing_left(&journal))
                    .and_then(|()| keeper::renew(&mut self.netlink, &journal))
                    .and_then(|()| self.check_gateways(&journal, &answered));
                checked.map_err(|error| (error, Source::Bridge))
            }
            Err(error) => Err((error, Source::Journal)),
        };
        let Err((error, source)) = made else {
            self.news.extend(news(&journal));
            let index = journal.index;
            self.ours.push((journal, files.clone()));
            return Ok(index);
        };
        match apply::undo(&mut self.netlink, &journal, source) {
            Ok(()) => {
                files.remove();
                Err(error)
            }
            // The reaper tries again.
            Err(rest) => Err(Error::new(format!("{error}\n{rest}"), "Or wait: it is tried again.")),
        }
    }

    /// Tells who looks after the uplink. Nothing is moved yet: if it can't be told it is as if nothing was.
    fn silence(&mut self, journal: &mut Journal, files: &Files) -> Result<()> {
        if !journal.steps.iter().any(|step| matches!(step, Step::Tell { .. })) {
            return Ok(());
        }
        if let Err(error) = keeper::silence(&mut self.netlink, journal) {
            return match keeper::wake(&mut self.netlink, journal) {
                Ok(()) => {
                    files.remove();
                    Err(error)
                }
                Err(rest) => Err(Error::new(format!("{error}\n{rest}"), "Or wait: it is tried again.")),
            };
        }
        // It may have changed something as its last word.
        self.look_again(journal)?;
        files.write(journal)
    }

    /// What the host has on the uplinks may have changed while gateways were waited for, and with the bridges before this
    /// one: what it has now is moved.
    fn look_again(&mut self, journal: &mut Journal) -> Result<()> {
        for step in &mut journal.steps {
            if let Step::TakeUplink { index, layer3, .. } = step
                && !layer3.is_empty()
            {
                *layer3 = self.netlink.layer3(*index).map_err(unreadable)?;
            }
        }
        Ok(())
    }

    fn check_nothing_left(&mut self, journal: &Journal) -> Result<()> {
        let left = apply::left_behind(&mut self.netlink, journal).map_err(unreadable)?;
        if left.is_empty() {
            return Ok(());
        }
        let what = format!("{} came to the uplink while it was taken", left.join(" and "));
        Err(Error::new(what, "Something else changes the network at the same time. Try again."))
    }

    /// The default gateways on the uplink that answer.
    fn gateways(&mut self, journal: &Journal) -> Result<Vec<IpAddr>> {
        let mut answered = Vec::new();
        for step in &journal.steps {
            if let Step::TakeUplink { index, layer3, .. } = step {
                let gateways = layer3.default_gateways();
                if !gateways.is_empty() {
                    let found = gateway::answering(&mut self.netlink, &gateways, *index, false, BEFORE);
                    answered.extend(found.map_err(unreadable)?);
                }
            }
        }
        Ok(answered)
    }

    /// A gateway that answered has to answer still.
    fn check_gateways(&mut self, journal: &Journal, answered: &[IpAddr]) -> Result<()> {
        if answered.is_empty() {
            return Ok(());
        }
        let found = gateway::answering(&mut self.netlink, answered, journal.index, true, AFTER).map_err(unreadable)?;
        if found.len() == answered.len() {
            return Ok(());
        }
        let silent = answered.iter().filter(|gateway| !found.contains(gateway));
        let silent: Vec<String> = silent.map(IpAddr::to_string).collect();
        let what = format!("the gateway {} answered before and does not by the bridge", silent.join(" and "));
        let remedy = "See whether the switch lets only one MAC in (port security), or take another uplink.";
        Err(Error::new(what, remedy))
    }

    /// A journal of a bridge that is gone is what a kill of us, or a hand, left; of what it speaks of, what is still ours
    /// is undone.
    fn forget_stale(&mut self, files: &Files) -> Result<()> {
        match files.read()? {
            Some(stale) => apply::undo(&mut self.netlink, &stale, Source::Bridge),
            None => Ok(()),
        }
    }

    fn set_up(&mut self, plan: &BridgePlan, index: u32) -> Result<u32> {
        if plan.steps.iter().any(|step| matches!(step, Step::SetUp { .. })) {
            apply::set_up(&mut self.netlink, index, true)
                .map_err(|error| apply::failed(&plan.bridge, &format!("cannot set {} up", plan.bridge), &error))?;
            self.set_up.push(index);
        }
        Ok(index)
    }

    fn tap(&mut self, tap: &Tap, device: File, mac: Mac, vm: &VmKey, bridge: u32) -> Result<OwnedFd> {
        let is_multi_queue = tap.found.is_some_and(|found| found.is_multi_queue);
        let (descriptor, name) = tap::open(device, tap.name.as_ref(), is_multi_queue).map_err(|error| {
            let name = tap.name.as_ref().map_or("a TAP".to_owned(), |name| format!("the TAP {name}"));
            let holder = tap.name.as_ref().and_then(tap::holder).map(|holder| format!(" (in use by {holder})"));
            apply::failed(&tap.bridge, &format!("cannot open {name}{}", holder.unwrap_or_default()), &error)
        })?;
        match tap.found {
            None => apply::plug(&mut self.netlink, tap, &name, mac.of_tap(), &vm.alias(), bridge)?,
            Some(found) if !found.is_up => {
                apply::set_up(&mut self.netlink, found.index, true)
                    .map_err(|error| apply::failed(&tap.bridge, &format!("cannot set {name} up"), &error))?;
                self.set_up.push(found.index);
            }
            Some(_) => {}
        }
        Ok(descriptor)
    }

    /// Takes everything back; the TAPs go by themselves. The error that led here is the one that counts.
    fn take_back(&mut self) {
        for index in self.set_up.drain(..) {
            let _ = apply::set_up(&mut self.netlink, index, false);
        }
        for (journal, files) in self.ours.drain(..).rev() {
            // If not, the reaper tries again.
            if apply::undo(&mut self.netlink, &journal, Source::Bridge).is_ok() {
                files.remove();
            }
        }
    }
}
