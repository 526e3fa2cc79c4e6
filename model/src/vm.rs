//! Who a VM is, and its MAC addresses, as they are kept.
//! It may not know where that is.
#![forbid(unsafe_code)]

mod key;

pub use key::{VmId, path_of};

use crate::error::{Error, Result};
use crate::mac::Mac;
use serde::{Deserialize, Serialize};

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
    /// That of a VM with these addresses.
    pub fn new(vm: &VmId, slots: Vec<Vec<Option<Mac>>>) -> Self {
        Self { version: VERSION, vm: vm.text.clone(), slots }
    }

    /// Reads a VM's file; else says why it can't be read.
    pub fn parse(text: &[u8]) -> std::result::Result<Self, String> {
        let record: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if record.version != VERSION {
            return Err(format!("its version is {}, and this program reads {VERSION}", record.version));
        }
        let macs: Vec<Mac> = record.macs().collect();
        let checked = macs.iter().try_for_each(|mac| mac.check_unicast().map(|_| ()));
        checked.and_then(|()| check_different(&macs)).map_err(|error| error.what().to_owned())?;
        Ok(record)
    }

    /// What people call the VM: its key without the word for what it is known by.
    pub fn name(&self) -> &str {
        self.vm.split_once(':').map_or(&self.vm, |(_, name)| name)
    }

    /// All of its addresses.
    pub fn macs(&self) -> impl Iterator<Item = Mac> {
        self.slots.iter().flatten().flatten().copied()
    }

    /// The slot that has an address.
    pub fn slot_of(&self, mac: Mac) -> Option<usize> {
        self.slots.iter().position(|macs| macs.contains(&Some(mac)))
    }

    /// The place of an address, made if it is not there.
    pub fn place(&mut self, slot: usize, nic: usize) -> &mut Option<Mac> {
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

/// The addresses of a run in a slot: those that are given, and of each other card the slot's own, if it has one.
pub fn known_macs(known: Option<&Record>, slot: usize, given: &[Option<Mac>]) -> Vec<Option<Mac>> {
    let own = known.and_then(|known| known.slots.get(slot)).map(Vec::as_slice).unwrap_or_default();
    let macs = given.iter().enumerate();
    macs.map(|(nic, given)| given.or_else(|| own.get(nic).copied().flatten())).collect()
}

/// An address that is given for one card may be the one that the VM keeps for another.
pub fn check_different(macs: &[Mac]) -> Result<()> {
    for (at, mac) in macs.iter().enumerate() {
        if macs[..at].contains(mac) {
            let what = format!("mac={mac} is the address of another network card of this VM");
            return Err(Error::new(what, "Each network card has an address of its own."));
        }
    }
    Ok(())
}

/// A VM and its addresses, as they are listed, exported and imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    /// The VM's key.
    pub vm: String,
    /// For each slot the addresses of its network cards.
    pub slots: Vec<Vec<Option<Mac>>>,
}

impl From<Record> for Listed {
    fn from(Record { vm, slots, .. }: Record) -> Self {
        Self { vm, slots }
    }
}
