//! Makes bridges and TAPs by a plan, and knows what it made until all of it stands.

use crate::netlink::Netlink;
use crate::network::announce::{Announcer, inbox};
use crate::network::apply::{self, Identity};
use crate::network::create;
use crate::network::locks::{BridgeLock, BridgeLocks};
use crate::network::observe::Planned;
use crate::network::reaper;
use crate::network::undo::undo;
use crate::network::uplink::{nat, share};
use crate::output;
use crate::state::events::{self, Event};
use crate::state::journal;
use crate::state::journal::Files;
use crate::sys::lock::Hold;
use crate::sys::tap;
use crate::sys::tap::Form;
use crate::vm::VmId;
use model::error::{Error, Result};
use model::host::Host;
use model::ifname::IfName;
use model::journal::Journal;
use model::mac::Mac;
use model::nat::forward::Forward;
use model::plan::{BridgePlan, Plan};
use model::step::{Create, Tap};
use port::Guard;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;

/// What is to be said of a bridge that was made for a guest and has an uplink.
pub(super) fn notices(journal: &Journal, host: &Host) -> Option<String> {
    let bridge = &journal.bridge;
    let until = if journal.keep { "" } else { ", until its last guest has gone" };
    if let Some(masquerade) = journal.nat() {
        // Nobody has asked for it where it was fallen back on.
        let why =
            host.default_uplinks.first().map(|first| format!(", as {first} cannot be its uplink")).unwrap_or_default();
        return Some(format!("made {bridge} with {}{why}{until}", masquerade.in_words()));
    }
    if let Some(vtep) = journal.vtep() {
        return Some(format!("made {bridge} with {}, MTU {}{until}", vtep.in_words(), vtep.mtu));
    }
    let (how, uplink) = match (journal.share(), journal.port()) {
        (Some(share), _) => ("on the shared uplink", &share.uplink),
        (None, Some(port)) => ("with the port", &port.uplink),
        (None, None) => return None,
    };
    // A port is set up; what is the host's is not touched.
    let is_down = journal.share().is_some() && host.link(uplink).is_some_and(|link| !link.is_up);
    let down =
        if is_down { "\n  It is down, and carries nothing until somebody sets it up: ip link set dev " } else { "" };
    let which = if is_down { uplink.as_str() } else { "" };
    Some(format!("made {bridge} {how} {uplink}{until}{down}{which}"))
}

/// A network card of a guest.
#[derive(Clone, Copy)]
pub(super) struct Card<'a> {
    pub(super) vm: &'a VmId,
    pub(super) mac: Mac,
    pub(super) forwards: &'a [Forward],
}

/// What was made so far.
pub(super) struct Made {
    pub(super) netlink: Netlink,
    pub(super) ours: Vec<(Journal, Files)>,
    set_up: Vec<u32>,
    pub(super) notices: Vec<String>,
    /// The cards whose addresses are to be announced and that nobody listens for yet, each with its bridge.
    announced: Vec<(IfName, Mac)>,
    /// The host's ports that lead to guests.
    pub(super) reserved: Vec<OwnedFd>,
}

/// The indices of bridges that stand.
pub(super) type Indices = BTreeMap<IfName, u32>;

/// Makes the bridges of a plan, or what they lack, and what `then` adds to them. If anything fails, all of it is taken back.
pub(super) fn carry_out<T>(
    netlink: Netlink,
    Planned { host, plan }: &Planned,
    locks: &BridgeLocks,
    announced: Vec<(IfName, Mac)>,
    then: impl FnOnce(&mut Made, &Indices) -> Result<T>,
) -> Result<(T, Made)> {
    let mut made =
        Made { netlink, ours: Vec::new(), set_up: Vec::new(), notices: Vec::new(), announced, reserved: Vec::new() };
    let mut indices = Indices::new();
    let bridges = plan.bridges.iter().try_for_each(|bridge| {
        let index = made.bridge(bridge, host, locks.get(&bridge.bridge), plan);
        let index = index.map_err(|error| error.of_request(&bridge.bridge))?;
        indices.insert(bridge.bridge.clone(), index);
        Ok(())
    });
    match bridges.and_then(|()| then(&mut made, &indices)) {
        Ok(done) => Ok((done, made)),
        Err(error) => {
            made.take_back();
            Err(error)
        }
    }
}

impl Made {
    /// Opens the TAPs of a plan.
    pub(super) fn taps(
        &mut self,
        plan: &Plan,
        indices: &Indices,
        locks: &BridgeLocks,
        devices: Vec<Vec<File>>,
        cards: &[Card],
    ) -> Result<Vec<Vec<OwnedFd>>> {
        let mut taps = Vec::new();
        for ((tap, devices), card) in plan.taps.iter().zip(devices).zip(cards) {
            let index = indices.get(&tap.bridge).copied().unwrap_or_default();
            let made = self.ours.iter().map(|(journal, _)| journal).find(|journal| journal.bridge == tap.bridge);
            let joined = || locks.get(&tap.bridge).and_then(|lock| lock.journal.as_ref());
            let journal = made.or_else(joined).cloned();
            let opened = self.tap(tap, devices, *card, index, journal.as_ref());
            taps.push(opened.map_err(|error| error.of_request(&tap.bridge))?);
        }
        Ok(taps)
    }

    /// Makes a bridge, or what it lacks, and tells its index.
    fn bridge(&mut self, plan: &BridgePlan, host: &Host, lock: Option<&BridgeLock>, whole: &Plan) -> Result<u32> {
        let keep = whole.keep.get(&plan.bridge).copied();
        let Some(link) = host.link(&plan.bridge) else {
            let (Some(lock), Some(create)) = (lock, &plan.create) else {
                return Err(Error::new("it went away in this moment", "Try again."));
            };
            return self.make(plan, create, &lock.files, keep.unwrap_or_default(), host);
        };
        match lock {
            Some(BridgeLock { files, journal: Some(journal), .. }) => {
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
            Some(BridgeLock { files, hold: Hold::Alone, .. }) => {
                self.forget_stale(files)?;
                files.remove();
                self.set_up(plan, link.index)
            }
            _ => self.set_up(plan, link.index),
        }
    }

    fn make(&mut self, plan: &BridgePlan, create: &Create, files: &Files, keep: bool, host: &Host) -> Result<u32> {
        self.forget_stale(files)?;
        let mut journal = journal::begin(plan.bridge.clone(), keep, create.clone(), plan.attachment.clone())?;
        if journal.needs_reaper() {
            self.ensure_reaper(&plan.bridge, files)?;
        }
        files.write(&journal)?;
        output::step(|| format!("the journal of {} is written, its reaper runs", plan.bridge));
        let made = create::make(&mut self.netlink, &journal).and_then(|()| {
            journal.is_finished = true;
            files.write(&journal)
        });
        let Err(error) = made else {
            let index = journal.index;
            let said = notices(&journal, host).unwrap_or_else(|| format!("made {}", plan.bridge));
            events::tell(Event::BridgeCreated, &plan.bridge, &said);
            for command in plan.commands() {
                output::step(|| format!("done: {command}"));
            }
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

    /// A reaper that is started announces, too.
    fn ensure_reaper(&mut self, bridge: &IfName, files: &Files) -> Result<()> {
        let cards = self.announced.iter().filter(|(on, _)| on == bridge).map(|(_, mac)| *mac);
        if reaper::ensure_announcing(bridge, files, &cards.collect::<Vec<Mac>>())? {
            self.announced.retain(|(on, _)| on != bridge);
        }
        Ok(())
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
        if plan.is_down {
            apply::set_up(&mut self.netlink, index, true)
                .map_err(|error| apply::failed(&plan.bridge, &format!("cannot set {} up", plan.bridge), &error))?;
            self.set_up.push(index);
        }
        Ok(index)
    }

    /// Opens a TAP, by one device for each queue, and makes it a port.
    fn tap(
        &mut self,
        tap: &Tap,
        devices: Vec<File>,
        Card { vm, mac, forwards }: Card,
        bridge: u32,
        journal: Option<&Journal>,
    ) -> Result<Vec<OwnedFd>> {
        if tap.policy.guard == Guard::Ip && !journal.is_some_and(Journal::needs_reaper) {
            let what = format!("guard=ip needs a reaper, which hears what DHCP gives, and {} has none", tap.bridge);
            return Err(Error::new(what, "Give guard=on, or let kvm-bridge make another bridge."));
        }
        let is_multi_queue = tap.queues > 1 || tap.found.is_some_and(|found| found.is_multi_queue);
        let form = Form { is_multi_queue, lacks_vnet_headers: !tap.policy.has_vnet_headers() };
        let (queues, name) = tap::open(devices, tap.name.as_ref(), form).map_err(|error| {
            let name = tap.name.as_ref().map_or("a TAP".to_owned(), |name| format!("the TAP {name}"));
            apply::failed(&tap.bridge, &format!("cannot open {name}"), &error)
        })?;
        let own_index = || {
            let first = queues.first().ok_or(std::io::ErrorKind::InvalidInput.into());
            let index = first.and_then(|tap| tap::index_of(tap, &name));
            index.map_err(|error| apply::failed(&tap.bridge, &format!("cannot attach {name}"), &error))
        };
        let index = tap.found.map_or_else(own_index, |found| Ok(found.index))?;
        if let Some(journal) = journal.filter(|journal| journal.nat().is_some()) {
            let files = Files::of(&tap.bridge)?;
            self.reserved.extend(nat::guests::admit(&files, journal, mac, vm.display(), index, forwards)?);
        }
        match tap.found {
            None => {
                let entry = journal.and_then(|journal| share::entry(journal, mac, index));
                let identity = Identity { mac: mac.of_tap(), alias: &vm.alias(), guest: Some(mac) };
                apply::plug(&mut self.netlink, tap, (&name, index), &identity, bridge, entry)?
            }
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
        output::step(|| format!("{name} is a port of {}", tap.bridge));
        Ok(queues)
    }

    /// Takes everything back; the TAPs go by themselves. The error that led here is the one that counts.
    fn take_back(&mut self) {
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
