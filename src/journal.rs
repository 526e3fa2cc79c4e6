//! What we made and will have to undo: written down before it is made.
//!
//! There is one journal for each bridge that we make, in a folder of its network namespace. It is written once, whole,
//! before the first change; whether a step was carried out is not noted but seen: everything that is undone must still
//! carry the identity that the journal gave it. `/run` is gone after a reboot, and so is all that it speaks of.

use crate::error::{Error, Result, reason};
use crate::host::{Kind, Link};
use crate::name::IfName;
use crate::step::Step;
use crate::sys::lock::{self, Hold};
use rand::TryRng;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Where journals are.
pub const RUN: &str = "/run/kvm-bridge";
/// The format that is written.
const VERSION: u32 = 1;

/// One bridge of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    version: u32,
    /// The bridge's name.
    pub bridge: IfName,
    /// The index that it is made with.
    pub index: u32,
    /// Random, and the end of the bridge's alias: two bridges of one name and index are told apart by it.
    token: String,
    /// Whether it stays when its last guest has gone.
    pub keep: bool,
    /// What is done, in order; to be undone from the end.
    pub steps: Vec<Step>,
}

impl Journal {
    /// A new journal for a bridge that is about to be made.
    pub fn new(bridge: IfName, keep: bool, steps: Vec<Step>) -> Result<Self> {
        let mut random = [0; 8];
        rand::rngs::SysRng.try_fill_bytes(&mut random).map_err(|error| {
            Error::new(format!("the kernel gives no random bytes: {error}"), "A usual /dev/urandom is needed.")
        })?;
        let [a, b, c, d, ..] = random;
        // Far above what the kernel hands out by itself, and a positive int.
        let index = u32::from_ne_bytes([a, b, c, d]) & 0x3fff_ffff | 0x4000_0000;
        let token = random.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { version: VERSION, bridge, index, token, keep, steps })
    }

    /// The bridge's alias: for people, and for `owns`.
    pub fn alias(&self) -> String {
        format!("kvm-bridge {}", self.token)
    }

    /// Whether this link is the bridge that the journal speaks of.
    pub fn owns(&self, link: &Link) -> bool {
        link.kind == Kind::Bridge && link.index == self.index && link.alias.as_deref() == Some(&self.alias())
    }

    /// Whether this link is a port of that bridge.
    pub fn is_port(&self, link: &Link) -> bool {
        link.controller == Some(self.index)
    }

    /// The ports that it took itself.
    pub fn uplinks(&self) -> impl Iterator<Item = u32> {
        self.steps.iter().filter_map(|step| match step {
            Step::TakeUplink { index, .. } => Some(*index),
            _ => None,
        })
    }
}

/// The files of one bridge in this network namespace.
#[derive(Debug, Clone)]
pub struct Files {
    folder: PathBuf,
    bridge: IfName,
}

impl Files {
    /// Those of a bridge of the network namespace that the calling thread is in.
    pub fn of(bridge: &IfName) -> Result<Self> {
        let namespace = fs::metadata("/proc/thread-self/ns/net").map_err(|error| {
            let what = format!("cannot tell the network namespace: {}", reason(&error));
            Error::new(what, "A mounted /proc is needed.")
        })?;
        let folder = PathBuf::from(RUN).join(namespace.ino().to_string());
        Ok(Self { folder, bridge: bridge.clone() })
    }

    fn path(&self, end: &str) -> PathBuf {
        self.folder.join(format!("{}.{end}", self.bridge))
    }

    /// Whether there is a journal.
    pub fn exist(&self) -> bool {
        self.path("json").exists()
    }

    /// Waits for the bridge's lock: alone to make, keep or delete it, shared to join it.
    pub fn lock(&self, hold: Hold) -> Result<File> {
        lock::wait(&self.path("lock"), hold).map_err(|error| self.failed("lock", &error))
    }

    /// The lock that the bridge's reaper holds for all its life; `None` where one does already.
    pub fn try_reaper(&self) -> Result<Option<File>> {
        lock::try_alone(&self.path("reaper")).map_err(|error| self.failed("reaper", &error))
    }

    /// The journal, if there is one. One that can't be read is an error, and stays.
    pub fn read(&self) -> Result<Option<Journal>> {
        let path = self.path("json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed("json", &error)),
        };
        let broken = |why: String| {
            let what = format!("cannot read the journal {}: {why}", path.display());
            Error::new(what, format!("Look at 'ip link show {}', and delete or move the file.", self.bridge))
        };
        let journal: Journal = serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
        if journal.version != VERSION {
            return Err(broken(format!("its version {} is not ours, {VERSION}", journal.version)));
        }
        Ok(Some(journal))
    }

    /// Writes the journal whole; for who holds the lock alone. Nothing is synced: /run does not outlive the machine.
    pub fn write(&self, journal: &Journal) -> Result<()> {
        let (path, new) = (self.path("json"), self.path("new"));
        let text = serde_json::to_vec_pretty(journal).map_err(io::Error::from);
        let written = text.and_then(|text| fs::write(&new, text)).and_then(|()| fs::rename(&new, path));
        written.map_err(|error| self.failed("json", &error))
    }

    /// Leaves an error for people to find: the reaper has no terminal.
    pub fn complain(&self, error: &Error) {
        let _ = fs::write(self.path("error"), format!("{error}\n"));
    }

    /// Deletes them all; for who holds the lock alone.
    pub fn remove(&self) {
        for end in ["json", "new", "error", "reaper", "lock"] {
            let _ = fs::remove_file(self.path(end));
        }
        // The folders go with their last file.
        let _ = fs::remove_dir(&self.folder);
        let _ = fs::remove_dir(RUN);
    }

    fn failed(&self, end: &str, error: &io::Error) -> Error {
        let what = format!("cannot use {}: {}", self.path(end).display(), reason(error));
        Error::new(what, "Making and keeping bridges needs a writable /run: run it as root.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mac::Mac;

    fn journal() -> Journal {
        let [br0, eth0] = ["br0", "eth0"].map(|name| IfName::new(name).unwrap());
        let steps = vec![
            Step::AddBridge { bridge: br0.clone(), mac: Mac([2, 0, 0, 0, 0, 1]), mtu: Some(1400) },
            Step::SetUp { link: br0.clone() },
            Step::TakeUplink { bridge: br0.clone(), uplink: eth0.clone(), index: 2 },
            Step::SetUp { link: eth0 },
        ];
        Journal::new(br0, false, steps).unwrap()
    }

    #[test]
    fn it_reads_what_it_writes() {
        let text = serde_json::to_string(&journal()).unwrap();
        let back: Journal = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&back).unwrap(), text);
        assert_eq!(back.uplinks().collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn journals_of_version_1_are_read_for_ever() {
        let back: Journal = serde_json::from_str(include_str!("../tests/fixtures/journal-1.json")).unwrap();
        assert_eq!(back.bridge.as_str(), "br0");
        assert_eq!(back.steps, journal().steps);
    }

    #[test]
    fn another_bridge_of_the_same_name_is_not_ours() {
        let journal = journal();
        let ours = Link {
            index: journal.index,
            name: journal.bridge.clone(),
            kind: Kind::Bridge,
            is_ethernet: true,
            is_up: true,
            mac: None,
            mtu: 1500,
            controller: None,
            alias: Some(journal.alias()),
            addresses: Vec::new(),
            is_wifi: false,
            holder: None,
        };
        assert!(journal.owns(&ours));
        assert!(!journal.owns(&Link { index: 7, ..ours.clone() }));
        assert!(!journal.owns(&Link { alias: None, ..ours.clone() }));
        assert!(!journal.owns(&Link { kind: Kind::Card, ..ours }));
    }
}
