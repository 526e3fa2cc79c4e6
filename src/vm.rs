//! Who a VM is, and its MAC addresses, which are its own for ever.
//! It may not know bridges.
//!
//! A VM's file holds its addresses: for each slot one list, an address for each network card. The first run of a VM has
//! slot 0; one that is started while another runs has the next free slot. A slot is held by a lock (flock) on a file
//! that QEMU inherits, so that it is free again when QEMU is gone, however it went. A guest that moves from one QEMU to another
//! (`-incoming`) is one run of two: each has a lock of the slot. A new address is claimed by a file of its name that only one
//! can make. Nothing on the launch path depends on how many VMs there are.
//!
//! What a power cut leaves: a VM's file is synced with its name before the VM runs, and it alone decides which addresses the VM
//! has. The rest is not: a claim that is gone is made again by the VM's next start, as the mark of an image is. So a
//! start syncs nothing unless it makes an address.
//!
//! A VM that is known by its image is found again when the image has moved (`images`).
//!
//! ```text
//! /var/lib/kvm-bridge, or a user's $XDG_STATE_HOME/kvm-bridge
//!     vms/ALICE-0123456789abcdef.json     slots and addresses
//!     vms/ALICE-0123456789abcdef.0        the lock of slot 0
//!     vms/ALICE-0123456789abcdef.0.in     another, of a guest that moved in
//!     macs/92f00b2a4c11                   whose address it is
//!     images/5e2a1-18a9c3e2f0b7d1c4       which VM an image is the disk of
//!     lock                                held while a file changes
//! ```

mod admin;
mod images;
mod key;

use crate::output::errno::reason;
use crate::sys::random;
use crate::sys::{files, lock};
use model::argv::scan::Run;
use model::error::{Error, Result};
use model::mac::Mac;
use model::request::MAX_SLOTS;
use model::text::shell::quote;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use admin::Listed;
use images::Owner;
pub use key::VmId;

/// Root's state.
pub const SYSTEM: &str = "/var/lib/kvm-bridge";
/// The key of VMs that nothing tells apart.
const UNNAMED: &str = "unnamed:";
/// How long a run that was told to end may take to leave its slot to one that is started at once.
const LEAVING: Duration = Duration::from_millis(300);
const VERSION: u32 = 1;

/// One VM's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    version: u32,
    /// The VM's key.
    pub vm: String,
    /// For each slot the addresses of its network cards; `None` for a card that was only ever run with `mac=`.
    pub slots: Vec<Vec<Option<Mac>>>,
}

impl Record {
    fn new(vm: &VmId) -> Self {
        Self { version: VERSION, vm: vm.text.clone(), slots: Vec::new() }
    }

    /// The place of an address, made if it is not there.
    fn place(&mut self, slot: usize, nic: usize) -> &mut Option<Mac> {
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, Vec::new());
        }
        let macs = &mut self.slots[slot];
        if macs.len() <= nic {
            macs.resize(nic + 1, None);
        }
        &mut macs[nic]
    }
}

/// What one run of a VM has.
#[derive(Debug)]
pub struct Lease {
    /// The slot's lock; QEMU inherits it.
    pub lock: File,
    /// Its number.
    pub slot: usize,
    /// The addresses, one for each network card.
    pub macs: Vec<Mac>,
    /// Whether some of these were made for this run.
    pub is_new: bool,
}

/// The folder of leases.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// The calling user's: root has the system's, others have their own.
    pub fn open() -> Result<Self> {
        if nix::unistd::geteuid().is_root() {
            return Ok(Self { folder: SYSTEM.into() });
        }
        let folders = directories::ProjectDirs::from("", "", "kvm-bridge");
        match folders.as_ref().and_then(|folders| folders.state_dir()) {
            Some(folder) => Ok(Self { folder: folder.to_owned() }),
            None => Err(Error::new("there is no home folder to keep MAC addresses in", "Set HOME.")),
        }
    }

    /// Those of root's VMs and of the calling user's.
    pub fn everybodys() -> Vec<Self> {
        let system = Self { folder: SYSTEM.into() };
        let own = Self::open().ok().filter(|own| own.folder != system.folder);
        std::iter::once(system).chain(own).collect()
    }

    /// Whether nothing can be kept there: the file system, or that of the nearest folder above, is read-only.
    pub fn is_read_only(&self) -> bool {
        let there = self.folder.ancestors().find(|folder| folder.exists());
        there.is_some_and(|folder| {
            rustix::fs::statvfs(folder).is_ok_and(|fs| fs.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
        })
    }

    /// What a run has where nothing can be kept: the addresses that are given or known, and others for this run alone.
    pub fn without_keeping(&self, vm: &VmId, run: Run, given: &[Option<Mac>]) -> Result<Lease> {
        let known = self.peek(vm, run, given)?;
        let macs = known.iter().map(|mac| mac.map_or_else(random::mac, Ok)).collect::<Result<Vec<Mac>>>()?;
        check_different(&macs)?;
        let nobodys = Path::new("/dev/null");
        let lock = File::open(nobodys).map_err(|error| unusable(nobodys, &error))?;
        Ok(Lease { lock, slot: 0, macs, is_new: known.contains(&None) })
    }

    fn file(&self, vm: &VmId, end: &str) -> PathBuf {
        self.folder.join("vms").join(format!("{}.{end}", vm.file_name()))
    }

    fn claim(&self, mac: Mac) -> PathBuf {
        self.folder.join("macs").join(mac.to_string().replace(':', ""))
    }

    /// Takes the VM's first free slot; for the very first it waits a moment, that a restart may have it. `given` are the
    /// addresses that the user gave for this run, one entry for each network card; each other card has the slot's own, which
    /// is made now if it is the first time. `is_in_use` is asked about an address that is about to be made.
    pub fn take(
        &self,
        vm: &VmId,
        run: Run,
        given: &[Option<Mac>],
        is_in_use: impl FnMut(Mac) -> bool,
    ) -> Result<Lease> {
        let end = Instant::now() + LEAVING;
        let (_all, vm, known, (lock, slot)) = loop {
            let all = self.lock()?;
            let (vm, known) = self.follow(vm)?;
            if run.is_incoming {
                let moved = self.move_in(&vm, known.as_ref(), run.slot)?;
                break (all, vm, known, moved);
            }
            let slot = run.slot.unwrap_or_default();
            if let Some(lock) = self.try_slot(&vm, slot)? {
                break (all, vm, known, (lock, slot));
            }
            // VMs that nothing tells apart are many at once.
            if vm.text == UNNAMED || Instant::now() >= end {
                let other = match run.slot {
                    Some(slot) => {
                        let what = format!("{} is running, in slot {slot}", vm.display());
                        return Err(Error::new(what, "End it first, or leave slot= out for the first that is free."));
                    }
                    None => self.take_other_slot(&vm)?,
                };
                break (all, vm, known, other);
            }
            drop(all);
            std::thread::sleep(Duration::from_millis(10));
        };
        let vm = &vm;
        let kept = complete(known.as_ref(), slot, given);
        let is_new = kept.is_none();
        let macs = match kept {
            Some(macs) => {
                let own = macs.iter().zip(given).filter(|(_, given)| given.is_none());
                own.map(|(mac, _)| *mac).try_for_each(|mac| self.claim_again(vm, mac))?;
                macs
            }
            None => self.add(vm, known, slot, given, is_in_use)?,
        };
        check_different(&macs)?;
        given.iter().flatten().try_for_each(|mac| self.check_not_running(vm, slot, *mac))?;
        if given.contains(&None) {
            self.note_image(vm)?;
        }
        Ok(Lease { lock, slot, macs, is_new })
    }

    /// The addresses that `take` would give now, `None` for one that it would make. Changes nothing.
    pub fn peek(&self, vm: &VmId, run: Run, given: &[Option<Mac>]) -> Result<Vec<Option<Mac>>> {
        // Else a start at this moment would take a slot for taken that is only looked at.
        let path = self.folder.join("lock");
        let _all = lock::wait_if_there(&path, |error| unusable(&path, error))?;
        let followed = match self.owner(vm)? {
            Owner::Itself => None,
            Owner::Moved(other) | Owner::Linked(other) => Some(other),
        };
        let vm = followed.as_ref().unwrap_or(vm);
        let known = self.read(vm)?;
        let slot = match run {
            Run { is_incoming: true, slot } => self.slot_to_move_in(vm, known.as_ref(), slot)?,
            Run { slot: Some(slot), .. } => slot,
            _ => (0..MAX_SLOTS).find(|slot| !self.is_held(vm, *slot)).unwrap_or_default(),
        };
        let own = known.and_then(|known| known.slots.into_iter().nth(slot)).unwrap_or_default();
        let macs = given.iter().enumerate();
        Ok(macs.map(|(nic, given)| given.or_else(|| own.get(nic).copied().flatten())).collect())
    }

    /// The two locks of a slot: of a run, and of one that has moved in meanwhile.
    fn locks(&self, vm: &VmId, slot: usize) -> [PathBuf; 2] {
        [self.file(vm, &slot.to_string()), self.file(vm, &format!("{slot}.in"))]
    }

    /// Takes a slot that nobody has; for who holds the lock of all.
    fn try_slot(&self, vm: &VmId, slot: usize) -> Result<Option<File>> {
        let [path, moved_in] = self.locks(vm, slot);
        if is_locked(&moved_in) {
            return Ok(None);
        }
        lock::try_alone_read_only(&path).map_err(|error| unusable(&path, &error))
    }

    /// Takes the lock of a slot that the run which is to move in does not have.
    fn move_in(&self, vm: &VmId, known: Option<&Record>, said: Option<usize>) -> Result<(File, usize)> {
        let slot = self.slot_to_move_in(vm, known, said)?;
        for path in self.locks(vm, slot) {
            if let Some(lock) = lock::try_alone_read_only(&path).map_err(|error| unusable(&path, &error))? {
                return Ok((lock, slot));
            }
        }
        let what = format!("{} is moving already, from slot {slot}", vm.display());
        Err(Error::new(what, "End the QEMU that waits for it, or the one that it has left."))
    }

    /// The slot of the run that is to move in: that which is said, else the only one that is in use, else the first.
    fn slot_to_move_in(&self, vm: &VmId, known: Option<&Record>, said: Option<usize>) -> Result<usize> {
        if let Some(slot) = said {
            return Ok(slot);
        }
        let slots = known.map_or(1, |known| known.slots.len());
        let running: Vec<usize> = (0..slots).filter(|slot| self.is_held(vm, *slot)).collect();
        match running.as_slice() {
            [] => Ok(0),
            [slot] => Ok(*slot),
            several => {
                let slots: Vec<String> = several.iter().map(usize::to_string).collect();
                let what =
                    format!("{} runs in the slots {}, and one of them is to move in", vm.display(), slots.join(", "));
                Err(Error::new(what, format!("Say which: slot={}. 'kvm-bridge status' tells them apart.", slots[0])))
            }
        }
    }

    fn take_other_slot(&self, vm: &VmId) -> Result<(File, usize)> {
        for slot in 1..MAX_SLOTS {
            if let Some(lock) = self.try_slot(vm, slot)? {
                return Ok((lock, slot));
            }
        }
        let what = format!("{} runs {MAX_SLOTS} times already", vm.display());
        Err(Error::new(what, "Give the VMs names of their own: -name, or vm=."))
    }

    /// Checks that an address that is given for this run is not that of another run, which would answer to it as well.
    fn check_not_running(&self, vm: &VmId, own_slot: usize, mac: Mac) -> Result<()> {
        let Ok(owner) = fs::read_to_string(self.claim(mac)).map(VmId::from) else { return Ok(()) };
        // What can't be read says nothing of who runs.
        let slots = self.read(&owner).ok().flatten().map(|record| record.slots).unwrap_or_default();
        let Some(slot) = slots.iter().position(|macs| macs.contains(&Some(mac))) else { return Ok(()) };
        if !self.is_held(&owner, slot) || (owner.text == vm.text && slot == own_slot) {
            return Ok(());
        }
        let what = format!("mac={mac} is the address of {}, which is running, in slot {slot}", owner.display());
        Err(Error::new(what, "Give another address, or end that VM first."))
    }

    /// Whether a slot is in use; one of which that can't be found out may be.
    fn is_held(&self, vm: &VmId, slot: usize) -> bool {
        self.locks(vm, slot).iter().any(|path| is_locked(path))
    }

    /// Makes the addresses that a slot lacks; for who holds the lock. What they are is written before they are claimed, so
    /// that of a claim that a kill leaves in no slot the VM's next start knows.
    fn add(
        &self,
        vm: &VmId,
        known: Option<Record>,
        slot: usize,
        given: &[Option<Mac>],
        mut is_in_use: impl FnMut(Mac) -> bool,
    ) -> Result<Vec<Mac>> {
        self.forget_unfinished(vm, known.as_ref());
        let mut record = known.unwrap_or(Record::new(vm));
        if let Some(last) = given.len().checked_sub(1) {
            record.place(slot, last);
        }
        let own = &mut record.slots[slot];
        let (mut macs, mut made) = (Vec::new(), Vec::new());
        for (own, given) in own.iter_mut().zip(given) {
            let mac = match given.or(*own) {
                Some(mac) => mac,
                None => {
                    let mac = self.make(&mut |mac| made.contains(&mac) || is_in_use(mac))?;
                    made.push(mac);
                    *own.insert(mac)
                }
            };
            macs.push(mac);
        }
        let (path, new) = (self.file(vm, "json"), self.file(vm, "new"));
        let text = serde_json::to_vec_pretty(&record).map_err(io::Error::from);
        text.and_then(|text| files::create_folder_of(&new).and_then(|()| files::prepare(&new, &text, true)))
            .map_err(|error| self.without(&new, &error))?;
        let mut claimed = Vec::new();
        let mut claim = |mac: &Mac| {
            let claim = self.claim(*mac);
            let mut file = files::create_folder_of(&claim).and_then(|()| files::create(&claim));
            claimed.extend(file.is_ok().then_some(*mac));
            let written = file.as_mut().map_err(|error| unusable(&claim, error));
            written?.write_all(vm.text.as_bytes()).map_err(|error| unusable(&claim, &error))
        };
        let done = made.iter().try_for_each(&mut claim);
        let done = done.and_then(|()| files::rename_to_last(&new, &path).map_err(|error| unusable(&path, &error)));
        if done.is_err() {
            for mac in claimed {
                let _ = fs::remove_file(self.claim(mac));
            }
            let _ = fs::remove_file(&new);
        }
        done.map(|()| macs)
    }

    /// Sees to it that an address that a VM keeps is claimed by it alone: the claim may be lost, and files may have been
    /// copied. For who holds the lock.
    fn claim_again(&self, vm: &VmId, mac: Mac) -> Result<()> {
        let path = self.claim(mac);
        let owner = match fs::read_to_string(&path) {
            Ok(owner) if owner == vm.text => return Ok(()),
            Ok(owner) => Some(VmId::from(owner)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(unusable(&path, &error)),
        };
        let has_it = |record: Record| record.slots.iter().any(|macs| macs.contains(&Some(mac)));
        if let Some(owner) = owner
            && self.read(&owner)?.is_some_and(has_it)
        {
            let (vm, owner) = (vm.display(), owner.display());
            let what = format!("{mac} is the address of {owner} and of {vm}");
            return Err(Error::new(what, format!("Have {vm} get another: kvm-bridge mac forget {}", quote(vm))));
        }
        let written = files::create_folder_of(&path)
            .and_then(|()| files::replace(&path, &path.with_extension("new"), vm.text.as_bytes(), false));
        written.map_err(|error| unusable(&path, &error))
    }

    /// An address that nobody has.
    fn make(&self, is_in_use: &mut impl FnMut(Mac) -> bool) -> Result<Mac> {
        loop {
            let mac = random::mac()?;
            if !is_in_use(mac) && !self.claim(mac).exists() {
                return Ok(mac);
            }
        }
    }

    /// Forgets the claims that a kill has left between their record's writing and its taking effect.
    fn forget_unfinished(&self, vm: &VmId, known: Option<&Record>) {
        let Ok(Some(unfinished)) = read_record(&self.file(vm, "new")) else { return };
        let is_kept = |mac: &Mac| known.is_some_and(|known| known.slots.iter().any(|macs| macs.contains(&Some(*mac))));
        for mac in unfinished.slots.iter().flatten().flatten().filter(|mac| !is_kept(mac)) {
            let claim = self.claim(*mac);
            // Whoever was killed may not have written its name yet.
            if fs::read_to_string(&claim).is_ok_and(|owner| owner.is_empty() || owner == vm.text) {
                let _ = fs::remove_file(claim);
            }
        }
    }

    fn lock(&self) -> Result<File> {
        let path = self.folder.join("lock");
        lock::wait(&path, lock::Hold::Alone, |error| unusable(&path, error))
    }

    fn read(&self, vm: &VmId) -> Result<Option<Record>> {
        let path = self.file(vm, "json");
        let record = read_record(&path)?;
        match &record {
            Some(record) if record.vm != vm.text && !images::can_have_moved(&record.vm, &vm.text) => {
                Err(broken(&path, &format!("it is that of {}", record.vm)))
            }
            _ => Ok(record),
        }
    }

    /// Writes a VM's file whole: a new one, synced if it is to last, then renamed over the old one.
    fn write(&self, vm: &VmId, record: &Record, is_to_last: bool) -> Result<()> {
        let (path, new) = (self.file(vm, "json"), self.file(vm, "new"));
        let text = serde_json::to_vec_pretty(record).map_err(io::Error::from);
        let written = text.and_then(|text| {
            files::create_folder_of(&path).and_then(|()| files::replace(&path, &new, &text, is_to_last))
        });
        written.map_err(|error| self.without(&new, &error))
    }

    /// The error of a file that could not be written, of which nothing stays.
    fn without(&self, new: &Path, error: &io::Error) -> Error {
        let _ = fs::remove_file(new);
        unusable(&new.with_extension("json"), error)
    }
}

/// The slot's addresses, if it has one for each card that was given none.
fn complete(known: Option<&Record>, slot: usize, given: &[Option<Mac>]) -> Option<Vec<Mac>> {
    let own = known.and_then(|known| known.slots.get(slot)).map(Vec::as_slice).unwrap_or_default();
    let macs = given.iter().enumerate();
    macs.map(|(nic, given)| given.or_else(|| own.get(nic).copied().flatten())).collect()
}

/// Whether somebody has a lock; one of which that can't be found out may be somebody's.
fn is_locked(path: &Path) -> bool {
    match File::open(path) {
        Ok(file) => file.try_lock().is_err(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

fn read_record(path: &Path) -> Result<Option<Record>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(path, &error)),
    };
    parse_record(&text).map(Some).map_err(|why| broken(path, &why))
}

/// Reads a VM's file; else says why it can't be read.
pub(crate) fn parse_record(text: &[u8]) -> std::result::Result<Record, String> {
    let record: Record = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if record.version != VERSION {
        return Err(format!("its version {} is not ours, {VERSION}", record.version));
    }
    let macs: Vec<Mac> = record.slots.iter().flatten().flatten().copied().collect();
    let checked = macs.iter().try_for_each(|mac| mac.check_unicast().map(|_| ()));
    checked.and_then(|()| check_different(&macs)).map_err(|error| error.what().to_owned())?;
    Ok(record)
}

/// An address that is given for one card may be the one that the VM keeps for another.
fn check_different(macs: &[Mac]) -> Result<()> {
    for (at, mac) in macs.iter().enumerate() {
        if macs[..at].contains(mac) {
            let what = format!("mac={mac} is the address of another network card of this VM");
            return Err(Error::new(what, "Each network card has an address of its own."));
        }
    }
    Ok(())
}

fn broken(path: &Path, why: &str) -> Error {
    let (path, aside) = (path.display(), admin::aside(path));
    Error::new(
        format!("the MAC addresses in {path} cannot be read: {why}"),
        format!("Mend the file, or move it aside for new ones: mv {path} {}", aside.display()),
    )
}

fn unusable(path: &Path, error: &io::Error) -> Error {
    let what = format!("cannot use {}: {}", path.display(), reason(error));
    Error::new(what, "MAC addresses are kept there: see that it can be written.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::argv::scan::Identity;

    pub(super) fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store { folder: folder.path().join("state") };
        (folder, store)
    }

    const ONE: Run = Run { is_incoming: false, slot: None };

    fn key(name: &str) -> VmId {
        VmId::of(&Identity::Name(name.into()))
    }

    #[test]
    fn an_address_is_kept_and_a_second_run_at_once_has_its_own() {
        let (_folder, store) = store();
        let first = store.take(&key("a"), ONE, &[None, None], |_| false).unwrap();
        let second = store.take(&key("a"), ONE, &[None], |_| false).unwrap();
        assert_eq!((first.slot, second.slot), (0, 1));
        assert!(!first.macs.contains(&second.macs[0]));
        assert_eq!(store.peek(&key("a"), ONE, &[None]).unwrap(), [None]);
        let macs = [first.macs.clone(), second.macs.clone()];
        drop((first, second));
        let again =
            [store.take(&key("a"), ONE, &[None, None], |_| false), store.take(&key("a"), ONE, &[None], |_| false)];
        assert_eq!(again.map(|lease| lease.unwrap().macs), macs);
    }

    #[test]
    fn a_guest_that_moves_keeps_its_slot_until_the_last_of_both_has_gone() {
        let (_folder, store) = store();
        let a = key("a");
        let incoming = Run { is_incoming: true, slot: None };
        // A child that another test starts has our descriptors for a moment, and with them a lock that was let go.
        let soon = |run: Run| {
            let end = Instant::now() + Duration::from_secs(10);
            loop {
                match store.take(&a, run, &[None], |_| false) {
                    Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
                    taken => return taken.unwrap(),
                }
            }
        };
        let source = store.take(&a, ONE, &[None], |_| false).unwrap();
        let mac = source.macs[0];
        assert_eq!(store.peek(&a, incoming, &[None]).unwrap(), [Some(mac)]);
        let target = store.take(&a, incoming, &[None], |_| false).unwrap();
        assert_eq!((target.slot, target.macs[0], target.is_new), (0, mac, false));
        let error = store.take(&a, incoming, &[None], |_| false).unwrap_err().to_string();
        assert!(error.contains("is moving already"), "{error}");
        // Beside both another run has another address.
        assert_eq!(store.take(&a, ONE, &[None], |_| false).unwrap().slot, 1);
        drop(source);
        assert_ne!(store.take(&a, ONE, &[None], |_| false).unwrap().macs[0], mac, "it runs at its new place");
        assert!(store.forget("a").is_err() && store.set("a", 0, 0, Mac([2, 0, 0, 0, 0, 9])).is_err());
        // And back.
        let back = soon(incoming);
        drop(target);
        assert_eq!((back.slot, back.macs[0]), (0, mac));
        let second = store.take(&a, ONE, &[None], |_| false).unwrap();
        let error = store.take(&a, incoming, &[None], |_| false).unwrap_err().to_string();
        assert!(error.contains("slots 0, 1") && error.contains("slot=0"), "{error}");
        let said = Run { slot: Some(1), ..incoming };
        assert_eq!(store.take(&a, said, &[None], |_| false).unwrap().macs, second.macs);
        assert!(store.take(&a, Run { slot: Some(1), ..ONE }, &[None], |_| false).is_err());
        drop((second, back));
        // Nobody runs: it comes from elsewhere.
        let moved = loop {
            let moved = soon(incoming);
            // The other slot's lock may be the one that is still held.
            if moved.slot == 0 {
                break moved;
            }
        };
        assert_eq!(moved.macs, [mac]);
        drop(moved);
        assert_eq!(soon(Run { slot: Some(1), ..ONE }).slot, 1);
        assert!(store.take(&key("b"), incoming, &[None], |_| false).unwrap().is_new);
    }

    #[test]
    fn the_next_start_forgets_what_a_kill_left_unfinished() {
        let (_folder, store) = store();
        let (a, kept) = (key("a"), store.take(&key("a"), ONE, &[None], |_| false).unwrap().macs[0]);
        // Killed before the record took effect: one claim has its name, one has none yet, one is another VM's.
        let other = store.take(&key("b"), ONE, &[None], |_| false).unwrap().macs[0];
        let left: [Mac; 2] = ["92:00:00:00:00:01".parse().unwrap(), "92:00:00:00:00:02".parse().unwrap()];
        fs::write(store.claim(left[0]), &a.text).unwrap();
        fs::write(store.claim(left[1]), "").unwrap();
        let slots = vec![vec![Some(kept), Some(left[0]), Some(left[1]), Some(other)]];
        let unfinished = Record { version: VERSION, vm: a.text.clone(), slots };
        fs::write(store.file(&a, "new"), serde_json::to_vec(&unfinished).unwrap()).unwrap();
        assert_eq!(store.take(&a, ONE, &[None, None], |_| false).unwrap().macs[0], kept);
        assert_eq!(fs::read_dir(store.folder.join("macs")).unwrap().count(), 3);
        assert!(store.claim(kept).exists() && store.claim(other).exists() && !store.file(&a, "new").exists());
    }

    #[test]
    fn a_claim_that_was_left_without_a_name_is_whose_record_has_the_address() {
        let (_folder, store) = store();
        let (left, bs) = (Mac([0x92, 0, 0, 0, 0, 1]), store.take(&key("b"), ONE, &[None], |_| false).unwrap().macs[0]);
        for mac in [left, bs] {
            fs::write(store.claim(mac), "").unwrap();
        }
        store.set("a", 0, 0, left).unwrap();
        assert_eq!(fs::read_to_string(store.claim(left)).unwrap(), "name:a");
        assert_eq!(store.take(&key("a"), ONE, &[None], |_| false).unwrap().macs, [left]);
        let refused = store.set("a", 0, 0, bs).unwrap_err().to_string();
        assert!(refused.contains("is the address of name:b"), "{refused}");
        fs::write(store.file(&key("b"), "json"), "broken").unwrap();
        assert!(store.set("a", 0, 0, bs).is_err(), "what can't be read may have it");
    }

    #[test]
    fn a_run_that_is_just_ending_leaves_its_address_to_the_next() {
        let (_folder, store) = store();
        let first = store.take(&key("a"), ONE, &[None], |_| false).unwrap();
        let mac = first.macs[0];
        let end = std::thread::spawn(move || {
            std::thread::sleep(LEAVING / 3);
            drop(first);
        });
        let second = store.take(&key("a"), ONE, &[None], |_| false).unwrap();
        end.join().unwrap();
        assert_eq!((second.slot, second.macs[0]), (0, mac));
    }

    #[test]
    fn an_address_that_the_bridge_knows_is_not_given() {
        let (_folder, store) = store();
        let mut asked = Vec::new();
        let lease = store.take(&key("a"), ONE, &[None], |mac| {
            asked.push(mac);
            asked.len() < 3
        });
        assert_eq!(lease.unwrap().macs, [asked[2]]);
    }

    #[test]
    fn a_given_address_is_not_kept() {
        let (_folder, store) = store();
        let given = Mac([2, 0, 0, 0, 0, 1]);
        assert_eq!(store.take(&key("a"), ONE, &[Some(given)], |_| false).unwrap().macs, [given]);
        assert!(store.list().unwrap().0.is_empty());
    }

    #[test]
    fn an_address_of_a_vm_that_runs_is_given_to_no_other() {
        let (_folder, store) = store();
        let running = store.take(&key("a"), ONE, &[None], |_| false).unwrap();
        let given = [Some(running.macs[0])];
        let refused = store.take(&key("b"), ONE, &given, |_| false).unwrap_err().to_string();
        assert!(refused.contains("is the address of a, which is running"), "{refused}");
        assert!(store.take(&key("a"), ONE, &given, |_| false).is_err(), "a second run of the same VM");
        drop(running);
        drop(store.take(&key("b"), ONE, &given, |_| false).unwrap());
        assert_eq!(store.take(&key("a"), ONE, &given, |_| false).unwrap().macs, [given[0].unwrap()]);
    }

    #[test]
    fn a_broken_file_is_never_reset() {
        let (_folder, store) = store();
        drop(store.take(&key("a"), ONE, &[None], |_| false).unwrap());
        let path = store.file(&key("a"), "json");
        for broken in
            ["", "{", "{}", r#"{"version":2,"vm":"name:a","slots":[]}"#, r#"{"version":1,"vm":"x","slots":[]}"#]
        {
            fs::write(&path, broken).unwrap();
            assert!(store.take(&key("a"), ONE, &[None], |_| false).is_err(), "{broken}");
            assert_eq!(fs::read_to_string(&path).unwrap(), broken);
        }
        fs::write(&path, "{").unwrap();
        store.forget("a").unwrap();
        assert_eq!(fs::read_to_string(path.with_extension("broken")).unwrap(), "{");
        store.take(&key("a"), ONE, &[None], |_| false).unwrap();
    }

    fn rewrite(store: &Store, name: &str, from: Mac, to: Mac) {
        let path = store.file(&key(name), "json");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace(&from.to_string(), &to.to_string())).unwrap();
    }

    #[test]
    fn an_address_that_no_card_can_have_is_not_given_to_one() {
        let (_folder, store) = store();
        let macs = store.take(&key("a"), ONE, &[None, None], |_| false).unwrap().macs;
        for (wrong, why) in [(Mac([3, 0, 0, 0, 0, 1]), "group address"), (macs[1], "another network card")] {
            rewrite(&store, "a", macs[0], wrong);
            let error = store.take(&key("a"), ONE, &[None, None], |_| false).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("mv "), "{error}");
            rewrite(&store, "a", wrong, macs[0]);
        }
    }

    #[test]
    fn an_address_that_two_vms_keep_is_refused_to_the_second() {
        let (_folder, store) = store();
        let [a, b] = ["a", "b"].map(|name| store.take(&key(name), ONE, &[None], |_| false).unwrap().macs[0]);
        rewrite(&store, "b", b, a);
        let error = store.take(&key("b"), ONE, &[None], |_| false).unwrap_err().to_string();
        assert!(
            error.contains("is the address of a and of b\n  Have b get another: kvm-bridge mac forget b"),
            "{error}"
        );
        store.forget("b").unwrap();
        assert_ne!(store.take(&key("b"), ONE, &[None], |_| false).unwrap().macs[0], a);
        assert_eq!(fs::read_to_string(store.claim(a)).unwrap(), key("a").text);
    }

    #[test]
    fn a_claim_that_a_power_cut_took_is_made_again() {
        let (_folder, store) = store();
        let mac = store.take(&key("a"), ONE, &[None], |_| false).unwrap().macs[0];
        let claim = store.claim(mac);
        fs::remove_file(&claim).unwrap();
        for left in [None, Some(""), Some("name:forgotten")] {
            left.iter().for_each(|text| fs::write(&claim, text).unwrap());
            assert_eq!(store.take(&key("a"), ONE, &[None], |_| false).unwrap().macs, [mac]);
            assert_eq!(fs::read_to_string(&claim).unwrap(), key("a").text);
        }
    }

    #[test]
    fn files_of_version_1_are_read_for_ever() {
        let record: Record = serde_json::from_str(include_str!("../tests/fixtures/lease-1.json")).unwrap();
        assert_eq!((record.vm.as_str(), record.slots.len()), ("name:alice", 2));
        assert_eq!(record.slots[0][1], Some(Mac([0x92, 0xf0, 0x0b, 0x2a, 0x4c, 0x12])));
    }

    #[test]
    fn keys_are_told_apart() {
        let text = |name: &[u8]| VmId::of(&Identity::Name(name.to_vec())).text;
        assert_ne!(text(b"a\\x"), text(b"a\\\\x"));
        assert_ne!(text(b"a\xff"), text(b"a\\xff"));
        assert_eq!(key("../../etc/passwd").file_name().matches('/').count(), 0);
        assert_eq!(key("").display(), "unnamed");
    }
}
