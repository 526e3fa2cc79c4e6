//! What people do with addresses: list them, give them, forget them, take them along.

use crate::output;
use crate::sys::files::{self, if_there};
use crate::sys::lock;
use crate::vm::images::with_image;
use crate::vm::{Listed, MAX_SLOTS, Record, Store, VmId, check_different, id_of, read_record, unusable};
use model::argv::image;
use model::argv::scan::Identity;
use model::error::{Error, Result};
use model::mac::Mac;
use model::vm::path_of;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// A record and the file that it is in.
type Kept = (PathBuf, Record);

/// Why a folder can be closed to writers for long. Not a limit of the calling process, which is theirs to raise.
const NO_ROOM_OR_RIGHT: [i32; 5] = [libc::ENOSPC, libc::EDQUOT, libc::EACCES, libc::EPERM, libc::EROFS];
/// No command line has so many network cards.
const MAX_NICS: usize = 1024;

impl Store {
    /// All records, by VM, and an error for each file that can't be read.
    pub fn list(&self) -> Result<(Vec<Record>, Vec<Error>)> {
        let (files, faults) = self.list_files()?;
        Ok((files.into_iter().map(|(_, record)| record).collect(), faults))
    }

    /// The same, with the files.
    fn list_files(&self) -> Result<(Vec<Kept>, Vec<Error>)> {
        let folder = self.folder.join("vms");
        let entries = if_there(fs::read_dir(&folder)).map_err(|error| unusable(&folder, &error))?;
        let Some(entries) = entries else { return Ok((Vec::new(), Vec::new())) };
        let files = entries.flatten().map(|entry| entry.path());
        let files = files.filter(|path| path.extension().is_some_and(|end| end == "json"));
        let (mut records, mut faults) = (Vec::new(), Vec::new());
        for path in files {
            match read_record(&path) {
                Ok(record) => records.extend(record.map(|record| (path, record))),
                Err(error) => faults.push(error),
            }
        }
        output::step(|| format!("read the MAC addresses in {}: of {} VMs", folder.display(), records.len()));
        records.sort_by(|(_, a), (_, b)| a.vm.cmp(&b.vm));
        Ok((records, faults))
    }

    /// Whether a file that is written there now fails for want of room or of a right. For who has seen a write fail: it is tried.
    pub fn is_unwritable(&self) -> bool {
        let Some(there) = self.folder.ancestors().find(|folder| folder.exists()) else { return true };
        // A folder of ours may be full where the one above is not.
        let folders = ["vms", "macs"].map(|name| self.folder.join(name)).into_iter().filter(|folder| folder.exists());
        std::iter::once(there.to_owned()).chain(folders).any(|folder| {
            let path = folder.join(format!("try-{}", std::process::id()));
            let tried = files::prepare(&path, b"a line that needs room\n", true);
            let _ = fs::remove_file(&path);
            tried.is_err_and(|error| error.raw_os_error().is_some_and(|number| NO_ROOM_OR_RIGHT.contains(&number)))
        })
    }

    /// Forgets a VM, called by its key or by the text of it, and tells its key. One that runs is not forgotten. A file
    /// that can't be read is moved aside, not deleted.
    pub fn forget(&self, name: &str) -> Result<String> {
        let path = self.folder.join("lock");
        let _all = lock::wait_if_there(&path, |error| unusable(&path, error))?;
        if let Some(path) = self.broken_file_of(name) {
            let aside = aside(&path);
            fs::rename(&path, &aside).map_err(|error| unusable(&path, &error))?;
            return Ok(format!("name:{name} (its broken file is kept as {})", aside.display()));
        }
        let (records, _) = self.list_files()?;
        let is_called = |record: &Record| record.vm == name || VmId::from(record.vm.clone()).display() == name;
        let matching: Vec<&Kept> = records.iter().filter(|(_, record)| is_called(record)).collect();
        let (path, record) = match matching.as_slice() {
            [] => {
                let vm = VmId::said(name);
                let claims = self.claims_of(&vm);
                if !claims.is_empty() {
                    return claims.iter().try_for_each(|path| remove(path)).map(|()| vm.text);
                }
                let what = format!("no VM called {} has a MAC", model::text::one_line(name));
                return Err(Error::new(what, "To see those that have: kvm-bridge mac list"));
            }
            [record] => record,
            several => {
                let keys: Vec<&str> = several.iter().map(|(_, record)| record.vm.as_str()).collect();
                return Err(Error::new(format!("{name} can be {}", keys.join(" or ")), "Give one of these."));
            }
        };
        let vm = VmId::from(record.vm.clone());
        let _held: Vec<File> = (0..record.slots.len()).map(|slot| self.hold(&vm, slot)).collect::<Result<_>>()?;
        self.forget_image(&vm);
        let locks = (0..record.slots.len()).flat_map(|slot| self.locks(&vm, slot)).filter(|path| path.exists());
        for path in std::iter::once(path.clone()).chain(self.claims_of(&vm)).chain(locks) {
            remove(&path)?;
        }
        Ok(vm.text)
    }

    /// The claims in a VM's name, also those that a kill has left in no slot.
    fn claims_of(&self, vm: &VmId) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.join("macs")).into_iter().flatten().flatten();
        let is_its = |path: &PathBuf| fs::read(path).is_ok_and(|text| text == vm.text.as_bytes());
        entries.map(|entry| entry.path()).filter(is_its).collect()
    }

    /// The file of the VM of this name, if it is there and can't be read.
    fn broken_file_of(&self, name: &str) -> Option<PathBuf> {
        let keys = [VmId::from(format!("name:{name}")), VmId::from(name.to_owned())];
        keys.iter().map(|vm| self.file(vm, "json")).find(|path| read_record(path).is_err())
    }

    /// Holds a slot that no run has.
    fn hold(&self, vm: &VmId, slot: usize) -> Result<File> {
        self.try_slot(vm, slot)?.ok_or_else(|| {
            let what = format!("{} is running, in slot {slot}", vm.display());
            Error::new(what, "End it first.")
        })
    }

    /// Gives a network card of a VM an address to keep, and tells the VM's key. What it had is free again.
    pub fn set(&self, name: &str, slot: usize, nic: usize, mac: Mac) -> Result<String> {
        let _all = self.lock()?;
        let vm = self.called(name)?;
        check_place(slot, nic)?;
        let _held = self.hold(&vm, slot)?;
        let mut record = self.read(&vm)?.unwrap_or_else(|| Record::new(&vm, Vec::new()));
        let place = record.place(slot, nic);
        if *place == Some(mac) {
            return Ok(vm.text);
        }
        let before = place.replace(mac);
        check_different(&record.macs().collect::<Vec<Mac>>())?;
        self.claim_for(&vm, mac)?;
        let written = self.write(&vm, &record, true);
        let free = if written.is_ok() { before } else { Some(mac) };
        if let Some(free) = free {
            let _ = fs::remove_file(self.claim(free));
        }
        written?;
        self.note_image(&vm)?;
        Ok(vm.text)
    }

    /// The VM that a person means: one that is there, by its key or the text of it, or one that is not there yet.
    pub fn called(&self, name: &str) -> Result<VmId> {
        let said = VmId::said(name);
        if self.read(&said)?.is_some() {
            return Ok(with_image(said));
        }
        if said.text == name {
            // As a start resolves it, or no start would find it.
            let path = |kind| said.text.strip_prefix(kind).map(|path| path_of(path).into_os_string().into_vec());
            let disk = path("disk:").and_then(|name| image::of_name(&name)).map(Identity::from);
            let disk = disk.or_else(|| path("kernel:").map(Identity::Kernel));
            return Ok(disk.map_or_else(|| said.clone(), |image| id_of(&image)));
        }
        let (records, _) = self.list()?;
        let mut others = records.into_iter().map(|record| VmId::from(record.vm)).filter(|vm| vm.display() == name);
        Ok(others.next().unwrap_or(said))
    }

    /// BridgeLocks an address for a VM, if it is no other's, and tells whether that is new.
    fn claim_for(&self, vm: &VmId, mac: Mac) -> Result<bool> {
        let path = self.claim(mac);
        match files::create_folder_of(&path).and_then(|()| files::create(&path)) {
            Ok(mut file) => file.write_all(vm.text.as_bytes()).map(|()| true).map_err(|error| {
                let _ = fs::remove_file(&path);
                unusable(&path, &error)
            }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match self.owner_of(mac)? {
                Some(owner) if owner == vm.text => Ok(false),
                Some(owner) => Err(taken(mac, &owner)),
                // A kill has left it.
                None => self.write_key(&path, vm).map(|()| true),
            },
            Err(error) => Err(unusable(&path, &error)),
        }
    }

    /// Whose address one is. A claim that a kill or a power cut has left without a name is of that VM whose record has the address,
    /// and nobody's if none has.
    fn owner_of(&self, mac: Mac) -> Result<Option<String>> {
        let path = self.claim(mac);
        let owner = if_there(fs::read_to_string(&path)).map_err(|error| unusable(&path, &error))?;
        if owner.as_ref().is_none_or(|owner| !owner.is_empty()) {
            return Ok(owner);
        }
        let (records, faults) = self.list()?;
        let mut owners = records.into_iter().filter(|record| record.slot_of(mac).is_some());
        match (owners.next(), faults.into_iter().next()) {
            (None, Some(fault)) => Err(fault),
            (owner, _) => Ok(owner.map(|owner| owner.vm)),
        }
    }

    /// Takes over what another store has exported, all of it or nothing. Tells how many VMs are new here.
    pub fn import(&self, vms: Vec<Listed>) -> Result<usize> {
        let _all = self.lock()?;
        let (mut seen, mut named) = (HashMap::new(), HashSet::new());
        let mut faults = Vec::new();
        let mut new = Vec::new();
        for Listed { vm, slots } in vms {
            let key = VmId::said(&vm);
            if key.text != vm {
                faults.push(format!("{vm} is no key of a VM, such as name:alice"));
            }
            if !named.insert(vm.clone()) {
                faults.push(format!("{vm} is there twice"));
            }
            let record = Record::new(&key, slots);
            for mac in record.macs() {
                let known = self.owner_of(mac)?.filter(|owner| *owner != vm);
                let owner = seen.insert(mac, vm.clone()).or(known);
                faults.extend(owner.map(|owner| format!("{mac} of {vm} is that of {owner}")));
                faults.extend(mac.check_unicast().err().map(|_| format!("{mac} of {vm} is no address of a card")));
            }
            if record.slots.len() > MAX_SLOTS || record.slots.iter().any(|macs| macs.len() > MAX_NICS) {
                faults.push(format!("{vm} has more slots or network cards than a VM can have"));
            }
            match self.read(&key)? {
                Some(known) if known.slots == record.slots => {}
                Some(_) => faults.push(format!("{vm} has other addresses here")),
                None => new.push((key, record)),
            }
        }
        if !faults.is_empty() {
            let what = format!("nothing was imported: {}", faults.join("; "));
            return Err(Error::new(what, "Take them out of the file, or: kvm-bridge mac forget VM"));
        }
        // Written and not synced one by one: what a power cut takes, the file has still.
        let (mut made, count) = (Vec::new(), new.len());
        let written = new.iter().try_for_each(|(key, record)| {
            for mac in record.macs() {
                if self.claim_for(key, mac)? {
                    made.push(self.claim(mac));
                }
            }
            made.push(self.file(key, "json"));
            self.write(key, record, false)
        });
        if let Err(error) = written {
            for path in &made {
                let _ = fs::remove_file(path);
            }
            return Err(error.of("nothing was imported"));
        }
        new.into_iter().try_for_each(|(key, _)| self.note_image(&with_image(key)))?;
        let synced = File::open(&self.folder).and_then(|folder| Ok(nix::unistd::syncfs(&folder)?));
        synced.map_err(|error| unusable(&self.folder, &error))?;
        Ok(count)
    }
}

/// Whether a VM can have such a slot and card.
pub(super) fn check_place(slot: usize, nic: usize) -> Result<()> {
    if slot < MAX_SLOTS && nic < MAX_NICS {
        return Ok(());
    }
    let what = format!("no VM has a slot {slot} with a network card {nic}");
    Err(Error::new(what, "The first of each is 0; kvm-bridge mac list shows those that there are."))
}

/// Removes a file, if it is there.
fn remove(path: &Path) -> Result<()> {
    if_there(fs::remove_file(path)).map(|_| ()).map_err(|error| unusable(path, &error))
}

fn taken(mac: Mac, owner: &str) -> Error {
    Error::new(format!("{mac} is the address of {owner}"), format!("Give another, or: kvm-bridge mac forget {owner}"))
}

/// A name for a file that can't be read, which no earlier one has.
pub(super) fn aside(path: &Path) -> PathBuf {
    let names = (1..).map(|number| if number == 1 { "broken".to_owned() } else { format!("broken{number}") });
    let mut free = names.map(|end| path.with_extension(end)).filter(|path| !path.exists());
    free.next().unwrap_or_else(|| path.with_extension("broken"))
}
