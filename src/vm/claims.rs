//! New addresses, each claimed by a file of its name that only one VM can make.

use crate::sys::files::{self, if_there};
use crate::sys::random;
use crate::vm::admin::check_place;
use crate::vm::{Record, Store, VmId, read_record, unusable};
use model::error::{Error, Result};
use model::mac::Mac;
use model::text::shell::quote;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

impl Store {
    pub(super) fn claim(&self, mac: Mac) -> PathBuf {
        self.folder.join("macs").join(mac.to_string().replace(':', ""))
    }

    /// Makes the addresses that a slot lacks; for who holds the lock. What they are is written before they are claimed, so
    /// that of a claim that a kill leaves in no slot the VM's next start knows.
    pub(super) fn add(
        &self,
        vm: &VmId,
        known: Option<Record>,
        slot: usize,
        given: &[Option<Mac>],
        mut is_in_use: impl FnMut(Mac) -> bool,
    ) -> Result<Vec<Mac>> {
        self.forget_unfinished(vm, known.as_ref());
        let mut record = known.unwrap_or_else(|| Record::new(vm, Vec::new()));
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

    /// The address of a network card of a VM, called as for `set`, and made and claimed now if there is none; `nic` is the first card
    /// without one if it is not given. Tells the VM's key, the card, its address, and whether that is new. The VM may be running.
    pub fn get(&self, name: &str, slot: usize, nic: Option<usize>) -> Result<(String, usize, Mac, bool)> {
        let _all = self.lock()?;
        let (vm, known) = self.follow(&self.called(name)?)?;
        let own = known.as_ref().and_then(|known| known.slots.get(slot)).map(Vec::as_slice).unwrap_or_default();
        let nic = nic.unwrap_or_else(|| own.iter().position(Option::is_none).unwrap_or(own.len()));
        check_place(slot, nic)?;
        if let Some(mac) = own.get(nic).copied().flatten() {
            return self.claim_again(&vm, mac).map(|()| (vm.text, nic, mac, false));
        }
        // For the cards before it nothing is made: they may be there with an address of somebody's choice.
        let mut given = vec![Some(Mac([0; 6])); nic];
        given.push(None);
        let macs = self.add(&vm, known, slot, &given, |_| false)?;
        self.note_image(&vm)?;
        Ok((vm.text, nic, macs[nic], true))
    }

    /// Sees to it that an address that a VM keeps is claimed by it alone: the claim may be lost, and files may have been
    /// copied. For who holds the lock.
    pub(super) fn claim_again(&self, vm: &VmId, mac: Mac) -> Result<()> {
        let path = self.claim(mac);
        let owner = if_there(fs::read_to_string(&path)).map_err(|error| unusable(&path, &error))?;
        if owner.as_ref() == Some(&vm.text) {
            return Ok(());
        }
        if let Some(owner) = owner.map(VmId::from) {
            if self.read(&owner)?.is_some_and(|record| record.slot_of(mac).is_some()) {
                let (vm, owner) = (vm.display(), owner.display());
                let what = format!("{mac} is the address of {owner} and of {vm}");
                return Err(Error::new(what, format!("Have {vm} get another: kvm-bridge mac forget {}", quote(vm))));
            }
        }
        self.write_key(&path, vm)
    }

    /// An address that nobody has.
    pub(super) fn make(&self, is_in_use: &mut impl FnMut(Mac) -> bool) -> Result<Mac> {
        loop {
            let mac = random::mac()?;
            if !is_in_use(mac) && !self.claim(mac).exists() {
                return Ok(mac);
            }
        }
    }

    /// Forgets the claims that a kill has left between their record's writing and its taking effect.
    pub(super) fn forget_unfinished(&self, vm: &VmId, known: Option<&Record>) {
        let Ok(Some(unfinished)) = read_record(&self.file(vm, "new")) else { return };
        let is_kept = |mac: &Mac| known.is_some_and(|known| known.slot_of(*mac).is_some());
        for mac in unfinished.macs().filter(|mac| !is_kept(mac)) {
            let claim = self.claim(mac);
            // Whoever was killed may not have written its name yet.
            if fs::read_to_string(&claim).is_ok_and(|owner| owner.is_empty() || owner == vm.text) {
                let _ = fs::remove_file(claim);
            }
        }
    }
}
