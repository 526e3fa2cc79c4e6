//! Slots: which of a VM's simultaneous runs this is, held by the lock of a file that QEMU inherits.

use crate::sys::lock::{self, Hold};
use crate::vm::{Record, Store, VmId, unusable};
use model::error::{Error, Result};
use model::mac::Mac;
use model::request::MAX_SLOTS;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

impl Store {
    /// The two locks of a slot: of a run, and of one that has moved in meanwhile.
    pub(super) fn locks(&self, vm: &VmId, slot: usize) -> [PathBuf; 2] {
        [self.file(vm, &slot.to_string()), self.file(vm, &format!("{slot}.in"))]
    }

    /// Takes a slot that nobody has; for who holds the lock of all.
    pub(super) fn try_slot(&self, vm: &VmId, slot: usize) -> Result<Option<File>> {
        let [path, moved_in] = self.locks(vm, slot);
        if is_locked(&moved_in) {
            return Ok(None);
        }
        lock::try_alone_read_only(&path).map_err(|error| unusable(&path, &error))
    }

    /// Takes the lock of a slot that the run which is to move in does not have.
    pub(super) fn move_in(&self, vm: &VmId, known: Option<&Record>, said: Option<usize>) -> Result<(File, usize)> {
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
    pub(super) fn slot_to_move_in(&self, vm: &VmId, known: Option<&Record>, said: Option<usize>) -> Result<usize> {
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

    pub(super) fn take_other_slot(&self, vm: &VmId) -> Result<(File, usize)> {
        for slot in 1..MAX_SLOTS {
            if let Some(lock) = self.try_slot(vm, slot)? {
                return Ok((lock, slot));
            }
        }
        let what = format!("{} runs {MAX_SLOTS} times already", vm.display());
        Err(Error::new(what, "Give the VMs names of their own: -name, or vm=."))
    }

    /// Checks that an address that is given for this run is not that of another run, which would answer to it as well.
    pub(super) fn check_not_running(&self, vm: &VmId, own_slot: usize, mac: Mac) -> Result<()> {
        let Ok(owner) = fs::read_to_string(self.claim(mac)).map(VmId::from) else { return Ok(()) };
        // What can't be read says nothing of who runs.
        let slot = self.read(&owner).ok().flatten().and_then(|record| record.slot_of(mac));
        let Some(slot) = slot else { return Ok(()) };
        if !self.is_held(&owner, slot) || (owner.text == vm.text && slot == own_slot) {
            return Ok(());
        }
        let what = format!("mac={mac} is the address of {}, which is running, in slot {slot}", owner.display());
        Err(Error::new(what, "Give another address, or end that VM first."))
    }

    /// Whether a slot is in use; one of which that can't be found out may be.
    pub(super) fn is_held(&self, vm: &VmId, slot: usize) -> bool {
        self.locks(vm, slot).iter().any(|path| is_locked(path))
    }
}

/// Whether somebody has a lock; one of which that can't be found out may be somebody's.
fn is_locked(path: &Path) -> bool {
    match File::open(path) {
        Ok(file) => !lock::try_lock(&file, Hold::Alone).unwrap_or_default(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}
