//! Makes the network that a command line asks for, and hands over what QEMU is to inherit.
//!
//! A bridge that was there before us is joined without a word to anybody. Where a bridge is missing or ours, its lock is
//! held from looking at it to having joined it: a maker holds it alone, those who join share it, and the reaper takes it
//! alone before it takes the bridge away.

pub mod down;
pub mod up;

use crate::announce::Announcer;
use crate::argv::{Backend, Line};
use crate::config::Config;
use crate::error::{Error, Result, reason};
use crate::host::{Host, Kind, Link};
use crate::journal::{Files, Journal};
use crate::keeper;
use crate::lease::{Lease, Store, VmKey};
use crate::mac::Mac;
use crate::name::IfName;
use crate::net::apply;
use crate::net::observe::{observe, unreadable};
use crate::net::{gateway, rtnl::Netlink};
use crate::plan::{BridgePlan, Plan, plan};
use crate::reaper;
use crate::request::{Nic, Queues, Vhost};
use crate::step::{Step, Tap};
use crate::sys::lock::{self, Hold};
use crate::sys::{process, tap};
use crate::unprivileged;
use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

/// What QEMU inherits. While this lives the TAPs do, and the addresses are nobody else's.
#[derive(Debug)]
pub struct Applied {
    pub(crate) lease: Lease,
    /// For each network card the queues of its TAP.
    pub(crate) taps: Vec<Vec<OwnedFd>>,
    /// For each /dev/vhost-net once for each queue, or never.
    pub(crate) vhosts: Vec<Vec<File>>,
    /// What people should know of: sentences.
    pub news: Vec<String>,
}

impl Applied {
    /// The descriptors, in the order of the network cards.
    pub fn backends(&self) -> Vec<Backend> {
        fn numbers(files: &[impl AsRawFd]) -> Vec<RawFd> {
            files.iter().map(AsRawFd::as_raw_fd).collect()
        }
        let cards = self.taps.iter().zip(&self.vhosts);
        cards.map(|(taps, vhosts)| Backend::Inherited { queues: numbers(taps), vhost: numbers(vhosts) }).collect()
    }

    /// The guest's addresses, in the same order.
    pub fn macs(&self) -> &[Mac] {
        &self.lease.macs
    }

    /// Moves all of it to numbers that no caller gives.
    pub fn out_of_the_way(self) -> Self {
        fn up<T: Into<OwnedFd> + From<OwnedFd>>(files: Vec<Vec<T>>) -> Vec<Vec<T>> {
            let up = |file: T| T::from(process::move_up(file.into()));
            files.into_iter().map(|files| files.into_iter().map(up).collect()).collect()
        }
        let lease = Lease { lock: process::move_up(self.lease.lock.into()).into(), ..self.lease };
        Self { lease, taps: up(self.taps), vhosts: up(self.vhosts), news: self.news }
    }

    /// Lets all of it live on through exec.
    pub fn pass_on(&self) -> Result<()> {
        process::inherit(&self.lease.lock)?;
        self.taps.iter().flatten().try_for_each(process::inherit)?;
        self.vhosts.iter().flatten().try_for_each(process::inherit)
    }
}

/// Brings the network of a line up. If anything fails, what this made is taken back first.
pub fn bring_up(line: &Line, config: &Config) -> Result<Applied> {
    if !process::can_change_network() {
        if !process::is_root() {
            return unprivileged::bring_up(line, config);
        }
        let what =
            format!("--bridge {}: this needs the right to change the network, CAP_NET_ADMIN", line.nics[0].bridge);
        return Err(Error::new(what, "Run it as root: sudo qemu-kvm --bridge ..."));
    }
    if let Some(nic) = line.nics.iter().find(|nic| nic.announce && !process::can_watch()) {
        let what = format!("--bridge {}: announce=on needs the right to watch interfaces, CAP_NET_RAW", nic.bridge);
        return Err(Error::new(what, "Run it as root, or leave announce= out."));
    }
    process::hold_standard_places()?;
    let mut netlink = Netlink::open().map_err(unreadable)?;
    unprivileged::check_making(&mut netlink, &line.nics)?;
    reaper::ensure_all()?;
    let (mut devices, mut vhosts) = (Vec::new(), Vec::new());
    for nic in &line.nics {
        let of = |error: Error| error.of(format_args!("--bridge {}", nic.bridge));
        let device = |_| tap::open_device().map_err(of);
        devices.push((0..queues_of(nic)).map(device).collect::<Result<Vec<File>>>()?);
        vhosts.push(open_vhosts(nic).map_err(of)?);
    }
    let (host, claims) = observe_locked(&mut netlink, &line.nics, config)?;
    let plan = plan(&line.nics, config, &host)?;
    let vm = VmKey::of(&line.vm);
    let lease = take_lease(&mut netlink, &vm, &line.nics, &host)?;
    let announced = line.nics.iter().zip(&lease.macs).filter(|(nic, _)| nic.announce);
    let announced = announced.map(|(nic, mac)| (nic.bridge.clone(), *mac)).collect();
    let mut made = Made { netlink, ours: Vec::new(), set_up: Vec::new(), news: Vec::new(), announced };
    match made.all(&plan, &host, &claims, devices, &vm, &lease) {
        Ok(taps) => {
            for (journal, _) in made.ours.iter().filter(|(journal, _)| journal.keep) {
                made.news.extend(up::add_configured(&mut made.netlink, &journal.bridge, journal.index, config));
            }
            Ok(Applied { lease, taps, vhosts, news: made.news })
        }
        Err(error) => {
            made.take_back();
            Err(error)
        }
    }
}

/// Opens /dev/vhost-net for each queue of a settled network card, or for none.
pub(crate) fn open_vhosts(nic: &Nic) -> Result<Vec<File>> {
    let opened: std::io::Result<Vec<File>> = match nic.vhost {
        Some(Vhost::On | Vhost::Auto) => (0..queues_of(nic)).map(|_| tap::open_vhost()).collect(),
        _ => return Ok(Vec::new()),
    };
    match opened {
        // The kernel has no vhost, or does not let us in: QEMU moves the frames.
        Err(error) if nic.vhost == Some(Vhost::Auto) && error.raw_os_error() != Some(libc::EMFILE) => Ok(Vec::new()),
        Err(error) => {
            let what = format!("cannot open {}: {}", tap::VHOST, reason(&error));
            let is_full = error.raw_os_error() == Some(libc::EMFILE);
            let load = "Load the kernel's module, modprobe vhost_net, or give vhost=off.";
            Err(Error::new(what, if is_full { tap::FILES } else { load }))
        }
        opened => Ok(opened.unwrap_or_default()),
    }
}

/// How many queues a settled network card has.
fn queues_of(nic: &Nic) -> u16 {
    match nic.queues {
        Some(Queues::Number(number)) => number,
        _ => 1,
    }
}

/// Takes the addresses of a VM on bridges that were looked at.
pub(crate) fn take_lease(netlink: &mut Netlink, vm: &VmKey, nics: &[Nic], host: &Host) -> Result<Lease> {
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
    /// Who made nothing leaves nothing, if nobody else has the lock. One that was deleted is nobody's: the file of its
    /// name is another's by now.
    fn drop(&mut self) {
        let is_alone = || self.lock.try_lock().is_ok() && lock::is_current(&self.lock).unwrap_or_default();
        if !self.files.exist() && is_alone() && !self.files.exist() {
            self.making = None;
            self.files.remove();
        }
    }
}

type Claims = BTreeMap<IfName, Claim>;

/// Looks at the host; where a bridge is missing or ours, under its lock.
fn observe_locked(netlink: &mut Netlink, nics: &[Nic], config: &Config) -> Result<(Host, Claims)> {
    // What is seen before the lock is had may be over by then: another comes and makes it, the reaper takes it away.
    let mut unsettled = None;
    for _ in 0..100 {
        let before = observe(netlink, nics, config)?;
        let mut wanted = wanted_locks(&before, nics)?;
        wanted.extend(unsettled.take().map(|bridge| (bridge, Hold::Alone)));
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
                // One that can't be read is an error for who would change the bridge; as it is it can be joined.
                let journal = claim.files.read().ok().flatten();
                claim.journal = journal.filter(|journal| link.is_some_and(|link| journal.owns(link)));
            }
            // Nobody is at it while we have the lock: a kill has left it half done.
            let is_unsettled = |claim: &Claim| claim.journal.as_ref().is_some_and(|journal| journal.moving);
            let Some((bridge, claim)) = claims.iter().find(|(_, claim)| is_unsettled(claim)) else {
                return Ok((host, claims));
            };
            match (&claim.journal, claim.hold) {
                (Some(journal), Hold::Alone) => {
                    let settled = apply::settle(netlink, &claim.files, journal);
                    if settled.map_err(|error| error.of(format_args!("--bridge {bridge}")))? {
                        claim.files.remove();
                    }
                }
                _ => unsettled = Some(bridge.clone()),
            }
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
            Some(link) if !is_ours(link) => match Files::of_journal(&nic.bridge)? {
                Some(_) => Hold::Alone,
                None => continue,
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
    let told = journal.told().map(|keeper| format!("; {} leaves {uplink} alone meanwhile", keeper.name()));
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
    /// The cards whose addresses are to be announced and that nobody listens for yet, each with its bridge.
    announced: Vec<(IfName, Mac)>,
}

impl Made {
    fn all(
        &mut self,
        plan: &Plan,
        host: &Host,
        claims: &Claims,
        devices: Vec<Vec<File>>,
        vm: &VmKey,
        lease: &Lease,
    ) -> Result<Vec<Vec<OwnedFd>>> {
        let mut indices = BTreeMap::new();
        for bridge in &plan.bridges {
            let index = self.bridge(bridge, host, claims.get(&bridge.bridge), plan);
            let index = index.map_err(|error| error.of(format_args!("--bridge {}", bridge.bridge)))?;
            indices.insert(&bridge.bridge, index);
        }
        let mut taps = Vec::new();
        for ((tap, devices), mac) in plan.taps.iter().zip(devices).zip(&lease.macs) {
            let index = indices.get(&tap.bridge).copied().unwrap_or_default();
            let opened = self.tap(tap, devices, *mac, vm, index);
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
                    self.ensure_reaper(&plan.bridge, files)?;
                }
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
            self.ensure_reaper(&plan.bridge, files)?;
        }
        let answered = self.gateways(&journal)?;
        self.look_again(&mut journal)?;
        files.write(&journal)?;
        self.silence(&mut journal, files)?;
        let made = apply::make(&mut self.netlink, &journal)
            .and_then(|()| self.check_nothing_left(&journal))
            .and_then(|()| keeper::renew(&mut self.netlink, &journal));
        let made = made.and_then(|()| {
            // From here on the bridge has all of it, and what comes.
            journal.moving = false;
            files.write(&journal)?;
            self.check_gateways(&journal, &answered)
        });
        let Err(error) = made else {
            self.news.extend(news(&journal));
            let index = journal.index;
            self.ours.push((journal, files.clone()));
            return Ok(index);
        };
        match apply::undo(&mut self.netlink, files, &journal) {
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
        if journal.told().is_none() {
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

    /// A reaper that is started announces, too.
    fn ensure_reaper(&mut self, bridge: &IfName, files: &Files) -> Result<()> {
        let cards = self.announced.iter().filter(|(on, _)| on == bridge).map(|(_, mac)| *mac);
        if reaper::ensure_announcing(bridge, files, &cards.collect::<Vec<Mac>>())? {
            self.announced.retain(|(on, _)| on != bridge);
        }
        Ok(())
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
                let gateways = layer3.default_gateways(*index);
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
            Some(stale) => apply::undo(&mut self.netlink, files, &stale),
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

    /// Opens a TAP, by one device for each queue, and makes it a port.
    fn tap(&mut self, tap: &Tap, devices: Vec<File>, mac: Mac, vm: &VmKey, bridge: u32) -> Result<Vec<OwnedFd>> {
        let is_multi_queue = tap.queues > 1 || tap.found.is_some_and(|found| found.is_multi_queue);
        let (queues, name) = tap::open(devices, tap.name.as_ref(), is_multi_queue).map_err(|error| {
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
        if self.announced.contains(&(tap.bridge.clone(), mac)) {
            let listen = Announcer::on_tap(&mut self.netlink, &name, &tap.bridge, mac, vm);
            let announcer =
                listen.map_err(|error| apply::failed(&tap.bridge, &format!("cannot listen on {name}"), &error))?;
            announcer.leave_behind()?;
        }
        Ok(queues)
    }

    /// Takes everything back; the TAPs go by themselves. The error that led here is the one that counts.
    fn take_back(&mut self) {
        for index in self.set_up.drain(..) {
            let _ = apply::set_up(&mut self.netlink, index, false);
        }
        for (journal, files) in self.ours.drain(..).rev() {
            // If not, the reaper tries again.
            if apply::undo(&mut self.netlink, &files, &journal).is_ok() {
                files.remove();
            }
        }
    }
}
