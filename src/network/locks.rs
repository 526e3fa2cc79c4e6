//! The locks of bridges that are missing or ours, held from looking at them to having joined them.

use crate::netlink::Netlink;
use crate::network::observe::{Planned, holders, named, observe};
use crate::network::undo;
use crate::state::journal::Files;
use crate::sys::lock;
use crate::sys::lock::{Hold, Passing};
use model::config::Config;
use model::error::{Error, Result};
use model::host::{Host, Kind, Link};
use model::ifname::IfName;
use model::journal::Journal;
use model::plan::plan;
use model::request::Nic;
use std::collections::BTreeMap;
use std::fs::File;
use std::rc::Rc;

/// A bridge that is missing or ours, and its lock.
pub(super) struct BridgeLock {
    pub(super) files: Files,
    pub(super) hold: Hold,
    lock: File,
    /// The lock of all makers, where it may have to be made.
    making: Option<Rc<Passing>>,
    /// The journal, where the bridge is there and ours.
    pub(super) journal: Option<Journal>,
}

impl Drop for BridgeLock {
    /// Who made nothing leaves nothing, if nobody else has the lock. One that was deleted is nobody's: the file of its
    /// name is another's by now.
    fn drop(&mut self) {
        let is_alone = || {
            lock::try_lock(&self.lock, Hold::Alone).is_ok_and(|is_ours| is_ours)
                && lock::is_current(&self.lock).unwrap_or_default()
        };
        if !self.files.exist() && is_alone() && !self.files.exist() {
            self.making = None;
            self.files.remove();
        }
    }
}

pub(super) type BridgeLocks = BTreeMap<IfName, BridgeLock>;

/// Looks at the host and plans for it; where a bridge is missing or ours, under its lock. Before there is a lock, `check` is asked
/// once whether those that are missing are to be made.
pub(super) fn planned_locked(
    netlink: &mut Netlink,
    nics: &[Nic],
    config: &Config,
    check: impl FnOnce(&[&IfName]) -> Result<()>,
) -> Result<(Planned, BridgeLocks)> {
    let (host, locks) = observe_locked(netlink, nics, config, check)?;
    let plan = plan(nics, config, &host)?;
    Ok((Planned { host, plan }, locks))
}

fn observe_locked(
    netlink: &mut Netlink,
    nics: &[Nic],
    config: &Config,
    check: impl FnOnce(&[&IfName]) -> Result<()>,
) -> Result<(Host, BridgeLocks)> {
    let mut check = Some(check);
    // What is seen before the lock is had may be over by then: another comes and makes it, the reaper takes it away.
    let mut unsettled = None;
    for _ in 0..100 {
        let mut before = named(netlink, nics)?;
        before.holders = holders(&before, nics);
        let missing: Vec<&IfName> =
            nics.iter().map(|nic| &nic.bridge).filter(|bridge| before.link(bridge).is_none()).collect();
        if let Some(check) = check.take_if(|_| !missing.is_empty()) {
            check(&missing)?;
        }
        let mut wanted = wanted_locks(&before, nics)?;
        wanted.extend(unsettled.take().map(|bridge| (bridge, Hold::Alone)));
        if wanted.is_empty() {
            return Ok((before, BridgeLocks::new()));
        }
        // In the order of their names, so that no two wait for each other.
        let is_maker = wanted.values().any(|hold| *hold == Hold::Alone);
        let making = if is_maker { Some(Rc::new(Files::lock_making()?)) } else { None };
        let mut locks = BridgeLocks::new();
        for (bridge, hold) in &wanted {
            let files = Files::of(bridge)?;
            let lock = files.lock(*hold)?;
            locks
                .insert(bridge.clone(), BridgeLock { files, hold: *hold, lock, making: making.clone(), journal: None });
        }
        let host = Host { holders: before.holders, ..observe(netlink, nics, config)? };
        let is_as_before = wanted_locks(&host, nics)?.iter().all(|(bridge, hold)| {
            locks.get(bridge).is_some_and(|lock| lock.hold == Hold::Alone || *hold == Hold::Shared)
        });
        if is_as_before {
            for (bridge, lock) in &mut locks {
                let link = host.link(bridge);
                // One that can't be read is an error for who would change the bridge; as it is it can be joined.
                let journal = lock.files.read().ok().flatten();
                lock.journal = journal.filter(|journal| link.is_some_and(|link| journal.owns(link)));
            }
            // Nobody is at it while we have the lock: a kill has left it half done.
            let is_unsettled = |lock: &BridgeLock| lock.journal.as_ref().is_some_and(|journal| !journal.is_finished);
            let Some((bridge, lock)) = locks.iter_mut().find(|(_, lock)| is_unsettled(lock)) else {
                return Ok((host, locks));
            };
            match (&mut lock.journal, lock.hold) {
                (Some(journal), Hold::Alone) => {
                    let settled = undo::settle(netlink, &lock.files, journal);
                    if settled.map_err(|error| error.of_request(bridge))? {
                        lock.files.remove();
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
