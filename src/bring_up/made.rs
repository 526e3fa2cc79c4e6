//! Makes bridges and TAPs by a plan, and knows what it made until all of it stands.

use super::claims::{Claim, Claims};
use crate::announce::{Announcer, inbox};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::journal::{Files, Journal};
use crate::keeper;
use crate::lease::{Lease, VmKey};
use crate::mac::Mac;
use crate::name::IfName;
use crate::net::observe::unreadable;
use crate::net::{apply, gateway, rtnl::Netlink, undo::undo};
use crate::plan::{BridgePlan, Plan};
use crate::reaper;
use crate::step::{Step, Tap};
use crate::sys::lock::Hold;
use crate::sys::tap;
use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

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
pub(super) struct Made {
    pub(super) netlink: Netlink,
    pub(super) ours: Vec<(Journal, Files)>,
    pub(super) set_up: Vec<u32>,
    pub(super) news: Vec<String>,
    /// The cards whose addresses are to be announced and that nobody listens for yet, each with its bridge.
    pub(super) announced: Vec<(IfName, Mac)>,
}

impl Made {
    pub(super) fn all(
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
    pub(super) fn bridge(
        &mut self,
        plan: &BridgePlan,
        host: &Host,
        claim: Option<&Claim>,
        whole: &Plan,
    ) -> Result<u32> {
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
        match undo(&mut self.netlink, files, &journal) {
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
        if !journal.tells() {
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
            Some(stale) => undo(&mut self.netlink, files, &stale),
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
            let is_taken = Files::of_journal(&tap.bridge)?
                .is_some_and(|files| inbox::hand_over(&files.inbox(), &announcer).is_ok());
            if !is_taken {
                announcer.leave_behind()?;
            }
        }
        Ok(queues)
    }

    /// Takes everything back; the TAPs go by themselves. The error that led here is the one that counts.
    pub(super) fn take_back(&mut self) {
        for index in self.set_up.drain(..) {
            let _ = apply::set_up(&mut self.netlink, index, false);
        }
        for (journal, files) in self.ours.drain(..).rev() {
            // If not, the reaper tries again.
            if undo(&mut self.netlink, &files, &journal).is_ok() {
                files.remove();
            }
        }
    }
}
