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
mod claims;
mod images;
mod slots;

use crate::output::errno::{reason, to_write_own};
use crate::sys::files::{self, if_there};
use crate::sys::{lock, place, random};
use model::argv::scan::Run;
use model::error::{Error, Result};
use model::mac::Mac;
use model::request::MAX_SLOTS;
use model::text::shell::quote;
use model::vm::{check_different, known_macs};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use images::Owner;
pub use images::id_of;
pub use model::vm::{Listed, Record, VmId};

/// Root's state.
pub const SYSTEM: &str = place::LASTING;
/// How long a run that was told to end may take to leave its slot to one that is started at once.
const LEAVING: Duration = Duration::from_millis(300);

/// What one run of a VM has.
#[derive(Debug)]
pub struct MacAssignment {
    /// The slot's lock; QEMU inherits it.
    pub lock: File,
    /// Its number.
    pub slot: usize,
    /// The addresses, one for each network card.
    pub macs: Vec<Mac>,
    /// Whether some of these were made for this run.
    pub is_new: bool,
}

/// The folder of VMs and their MAC addresses.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// The calling user's: root has the system's, others have their own.
    pub fn open() -> Result<Self> {
        if nix::unistd::geteuid().is_root() && place::user_network().is_none() {
            return Ok(Self { folder: SYSTEM.into() });
        }
        match place::users() {
            Some(folder) => Ok(Self { folder }),
            None => Err(Error::new("there is no home folder to keep MAC addresses in", "Set HOME.")),
        }
    }

    /// What is kept of root's VMs and of the calling user's, as far as it can be read.
    pub fn everybodys() -> Vec<Record> {
        let system = Self { folder: SYSTEM.into() };
        let own = Self::open().ok().filter(|own| own.folder != system.folder);
        let lists = std::iter::once(system).chain(own).filter_map(|store| store.list().ok());
        lists.flat_map(|(records, _)| records).collect()
    }

    /// Whether nothing can be kept there: the file system, or that of the nearest folder above, is read-only.
    pub fn is_read_only(&self) -> bool {
        let there = self.folder.ancestors().find(|folder| folder.exists());
        there.is_some_and(|folder| {
            rustix::fs::statvfs(folder).is_ok_and(|fs| fs.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
        })
    }

    /// What a run has where nothing can be kept: the addresses that are given or known, and others for this run alone.
    pub fn without_keeping(&self, vm: &VmId, run: Run, given: &[Option<Mac>]) -> Result<MacAssignment> {
        let known = self.peek(vm, run, given)?;
        let macs = known.iter().map(|mac| mac.map_or_else(random::mac, Ok)).collect::<Result<Vec<Mac>>>()?;
        check_different(&macs)?;
        let nobodys = Path::new("/dev/null");
        let lock = File::open(nobodys).map_err(|error| unusable(nobodys, &error))?;
        Ok(MacAssignment { lock, slot: 0, macs, is_new: known.contains(&None) })
    }

    fn file(&self, vm: &VmId, end: &str) -> PathBuf {
        self.folder.join("vms").join(format!("{}.{end}", vm.file_name()))
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
    ) -> Result<MacAssignment> {
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
            if vm.is_unnamed() || Instant::now() >= end {
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
        let kept: Option<Vec<Mac>> = known_macs(known.as_ref(), slot, given).into_iter().collect();
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
        Ok(MacAssignment { lock, slot, macs, is_new })
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
        Ok(known_macs(known.as_ref(), slot, given))
    }

    fn lock(&self) -> Result<File> {
        let path = self.folder.join("lock");
        lock::wait(&path, lock::Hold::Alone, |error| unusable(&path, error))
    }

    fn read(&self, vm: &VmId) -> Result<Option<Record>> {
        let path = self.file(vm, "json");
        let record = read_record(&path)?;
        match &record {
            Some(record) if record.vm != vm.text && !vm.can_have_moved_from(&record.vm) => {
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

    /// Writes a VM's key whole into a file that tells whose something is. A power cut may take it.
    fn write_key(&self, path: &Path, vm: &VmId) -> Result<()> {
        let written = files::create_folder_of(path)
            .and_then(|()| files::replace(path, &path.with_extension("new"), vm.text.as_bytes(), false));
        written.map_err(|error| unusable(path, &error))
    }

    /// The error of a file that could not be written, of which nothing stays.
    fn without(&self, new: &Path, error: &io::Error) -> Error {
        let _ = fs::remove_file(new);
        unusable(&new.with_extension("json"), error)
    }
}

fn read_record(path: &Path) -> Result<Option<Record>> {
    let text = if_there(fs::read(path)).map_err(|error| unusable(path, &error))?;
    text.map(|text| Record::parse(&text)).transpose().map_err(|why| broken(path, &why))
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
    let folder = path.ancestors().skip(1).find(|folder| folder.exists()).unwrap_or(path);
    let remedy = to_write_own(error, &quote(folder));
    Error::new(what, format!("MAC addresses are kept there. {remedy}"))
}

#[cfg(test)]
mod tests;
