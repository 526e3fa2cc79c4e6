//! What we made and will have to undo: written down before it is made.
//!
//! There is one journal for each bridge that we make, in a folder of its network namespace. It is written once, whole,
//! before the first change; whether a step was carried out is not noted but seen: everything that is undone must still
//! carry the identity that the journal gave it. `/run` is gone after a reboot, and so is all that it speaks of.

use crate::error::{Error, Result, reason};
use crate::host::{Kind, Link};
use crate::keeper::Keeper;
use crate::keeper::renewal::Lease;
use crate::layer3::{End, Layer3};
use crate::mac::Mac;
use crate::name::IfName;
use crate::step::Step;
use crate::sys::files;
use crate::sys::lock::{self, Hold, Passing};
use crate::sys::random;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where journals are.
pub const RUN: &str = "/run/kvm-bridge";
/// The format that is written; earlier ones are read for ever. 2 has `layer3` and `configure`, 3 has `moving` and `tell`, 4
/// `spare`.
const VERSION: u32 = 4;

/// Our bridges' indices are random ones from here to the largest int: far above what the kernel hands out by itself.
const FIRST_INDEX: u32 = 0x4000_0000;

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
    /// Whether what the host has is on its way, to the bridge or back: then the journal alone has all of it. A bridge
    /// whose journal says so, while nobody holds its lock, was left by a kill.
    #[serde(default)]
    pub moving: bool,
    /// When it was written, in seconds since the machine was booted.
    #[serde(default)]
    since: u64,
    /// The machine's life that it is of (random/boot_id of proc(5)).
    #[serde(default)]
    boot: Option<String>,
    /// What is done, in order; to be undone from the end.
    pub steps: Vec<Step>,
}

impl Journal {
    /// A new journal for a bridge that is about to be made.
    pub fn new(bridge: IfName, keep: bool, steps: Vec<Step>) -> Result<Self> {
        let random: [u8; 8] = random::bytes().map_err(|error| {
            Error::new(format!("the kernel gives no random bytes: {error}"), "A usual /dev/urandom is needed.")
        })?;
        let [a, b, c, d, ..] = random;
        let index = u32::from_ne_bytes([a, b, c, d]) % FIRST_INDEX + FIRST_INDEX;
        let token = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let (since, boot) = (uptime(), boot_id());
        Ok(Self { version: VERSION, bridge, index, token, keep, moving: true, since, boot, steps })
    }

    /// The same journal when all has arrived on the bridge.
    pub fn settled(&self) -> Self {
        Self { moving: false, ..self.clone() }
    }

    /// The same journal on the way back, whose steps are going to have what the host has by now.
    pub fn returning(&self) -> Self {
        Self { version: VERSION, moving: true, since: uptime(), ..self.clone() }
    }

    /// How long ago it was written, in seconds.
    pub fn age(&self) -> u32 {
        uptime().saturating_sub(self.since).try_into().unwrap_or(u32::MAX)
    }

    /// The bridge's alias: for people, and for `owns`.
    pub fn alias(&self) -> String {
        format!("kvm-bridge {}", self.token)
    }

    /// Whether this link is the bridge that the journal speaks of: a bridge of that index, which no other has by chance,
    /// with its alias or, if somebody gave it another one, with its address.
    pub fn owns(&self, link: &Link) -> bool {
        let has_its_index = link.index == self.index && self.index >= FIRST_INDEX;
        let has_its_alias = link.alias.as_deref() == Some(&self.alias());
        let has_its_mac = link.mac.is_some()
            && self.steps.iter().any(|step| matches!(step, Step::AddBridge { mac, .. } if link.mac == Some(*mac)));
        link.kind == Kind::Bridge && has_its_index && (has_its_alias || has_its_mac)
    }

    /// Whether this link is a port of that bridge.
    pub fn is_port(&self, link: &Link) -> bool {
        link.controller == Some(self.index)
    }

    /// Whether it is of this life of the machine. /run does not outlive the machine, where it is as it should be.
    pub fn is_current(&self) -> bool {
        self.boot.as_ref().is_none_or(|boot| Some(boot) == boot_id().as_ref())
    }

    /// Whether a process of ours has to stay behind the bridge: to take it away, or to renew a lease on it.
    pub fn needs_reaper(&self) -> bool {
        !self.keep || self.lease().is_some()
    }

    /// Who looks after the uplink and is told to leave it alone.
    pub fn told(&self) -> Option<&Keeper> {
        self.steps.iter().find_map(|step| match step {
            Step::Tell { keeper, .. } => Some(keeper),
            _ => None,
        })
    }

    /// Whether anybody is told anything.
    pub fn tells(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Tell { .. } | Step::Spare { .. }))
    }

    /// The lease on the bridge that is renewed by the reaper: that of a keeper which has no client for a bridge.
    pub fn lease(&self) -> Option<&Lease> {
        match self.told()? {
            Keeper::NetworkManager(device) => device.lease.as_ref(),
            _ => None,
        }
    }

    /// Takes in that the lease is another one by now. Whether it was news.
    pub fn has_another_lease(&mut self, lease: &Lease) -> bool {
        let known = self.steps.iter_mut().find_map(|step| match step {
            Step::Tell { keeper: Keeper::NetworkManager(device), .. } => device.lease.as_mut(),
            _ => None,
        });
        match known {
            Some(known) if known.address != lease.address || known.server != lease.server => {
                *known = lease.clone();
                true
            }
            _ => false,
        }
    }

    /// The interfaces that it took as ports.
    pub fn taken(&self) -> impl Iterator<Item = Taken<'_>> {
        self.steps.iter().filter_map(|step| match step {
            Step::TakeUplink { uplink, index, mac, layer3, .. } => {
                Some(Taken { uplink, index: *index, mac: *mac, layer3 })
            }
            _ => None,
        })
    }

    /// Whether it took the interface of this index.
    pub fn took(&self, index: u32) -> bool {
        self.taken().any(|taken| taken.index == index)
    }

    /// The bridge, as one end of a move.
    pub fn end(&self) -> End<'_> {
        End { index: self.index, name: &self.bridge }
    }
}

/// An interface that was taken.
#[derive(Debug, Clone, Copy)]
pub struct Taken<'a> {
    /// Its name then.
    pub uplink: &'a IfName,
    /// Its index.
    pub index: u32,
    /// Its address, if the journal knows it.
    pub mac: Option<Mac>,
    /// What the host had on it; while `moving`, what it is going to have on it.
    pub layer3: &'a Layer3,
}

fn boot_id() -> Option<String> {
    Some(fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim_end().to_owned())
}

/// Seconds since the machine was booted, sleep included, as lifetimes of addresses count.
fn uptime() -> u64 {
    rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec.try_into().unwrap_or_default()
}

/// The files of one bridge in this network namespace.
#[derive(Debug, Clone)]
pub struct Files {
    folder: PathBuf,
    bridge: IfName,
}

/// Whether there is any journal on this machine. Where nobody ever makes a bridge this is all that a launch asks: the name
/// of the network namespace, by way of /proc, costs five times as much.
fn any() -> bool {
    Path::new(RUN).exists()
}

/// The folder of the network namespace that the calling thread is in.
fn folder() -> Result<PathBuf> {
    let namespace = fs::metadata("/proc/thread-self/ns/net").map_err(|error| {
        let what = format!("cannot tell the network namespace: {}", reason(&error));
        Error::new(what, "A mounted /proc is needed.")
    })?;
    Ok(PathBuf::from(RUN).join(namespace.ino().to_string()))
}

/// The lock of all who make bridges in a network namespace.
fn making_in(folder: &Path) -> PathBuf {
    folder.join("making")
}

/// Takes a folder away that has nothing in it, or nothing but the lock of a maker who was killed.
fn tidy(folder: &Path) {
    // Whoever has the lock does it later.
    drop(Passing::try_alone(making_in(folder), 2));
}

impl Files {
    /// Those of a bridge of the network namespace that the calling thread is in.
    pub fn of(bridge: &IfName) -> Result<Self> {
        Ok(Self { folder: folder()?, bridge: bridge.clone() })
    }

    /// Those of all bridges that have any there.
    pub fn all() -> Result<Vec<Self>> {
        if !any() {
            return Ok(Vec::new());
        }
        let folder = folder()?;
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        let bridge = |entry: fs::DirEntry| IfName::new(entry.file_name().to_str()?.rsplit_once('.')?.0).ok();
        let bridges: BTreeSet<IfName> = entries.filter_map(bridge).collect();
        Ok(bridges.into_iter().map(|bridge| Self { folder: folder.clone(), bridge }).collect())
    }

    /// Those of a bridge, if it has a journal.
    pub fn of_journal(bridge: &IfName) -> Result<Option<Self>> {
        match any() {
            true => Ok(Some(Self::of(bridge)?).filter(Self::exist)),
            false => Ok(None),
        }
    }

    /// The bridge's name.
    pub fn bridge(&self) -> &IfName {
        &self.bridge
    }

    fn path(&self, end: &str) -> PathBuf {
        self.folder.join(format!("{}.{end}", self.bridge))
    }

    /// A file of the DHCP client that renews on the bridge: "script", ...
    pub fn of_client(&self, end: &str) -> PathBuf {
        self.path(end)
    }

    /// Where the bridge's reaper takes over the announcing for a guest.
    pub fn inbox(&self) -> PathBuf {
        self.path("inbox")
    }

    /// Whether there is a journal.
    pub fn exist(&self) -> bool {
        self.path("json").exists()
    }

    /// Waits for the lock of all who make bridges in this network namespace: an uplink can be only one's.
    pub fn lock_making() -> Result<Passing> {
        let path = making_in(&folder()?);
        Passing::wait(path.clone(), 2, |error| unusable(&path, error))
    }

    /// Waits for the bridge's lock: alone to make, keep or delete it, shared to join it.
    pub fn lock(&self, hold: Hold) -> Result<File> {
        lock::wait(&self.path("lock"), hold, |error| self.failed("lock", error))
    }

    /// The same alone, however long it takes: for the reaper.
    pub fn lock_for_ever(&self) -> Result<File> {
        lock::wait_for_ever(&self.path("lock")).map_err(|error| self.failed("lock", &error))
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
            let bridge = &self.bridge;
            let remedy = format!(
                "{bridge} can be used as it is, but is not taken back by itself any more. Mend the file, or move it away \
                 and take {bridge} back by hand: give what 'ip addr show dev {bridge}' and 'ip route show dev {bridge}' \
                 tell to its uplink ('ip link show master {bridge}') before you delete it"
            );
            Error::new(what, remedy)
        };
        /// Of any version.
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
        if !(1..=VERSION).contains(&version) {
            return Err(broken(format!("its version {version} is not one of ours, 1 to {VERSION}")));
        }
        serde_json::from_slice(&text).map(Some).map_err(|error| broken(error.to_string()))
    }

    /// Writes the journal whole; for who holds the lock alone. Nothing is synced: /run does not outlive the machine.
    pub fn write(&self, journal: &Journal) -> Result<()> {
        let (path, new) = (self.path("json"), self.path("new"));
        let text = serde_json::to_vec_pretty(journal).map_err(io::Error::from);
        let written = text.and_then(|text| files::replace(&path, &new, &text, false));
        written.map_err(|error| self.failed("json", &error))
    }

    /// Leaves an error for people to find: the reaper has no terminal.
    pub fn complain(&self, error: &Error) {
        let _ = files::replace(&self.path("error"), &self.path("new"), format!("{error}\n").as_bytes(), false);
    }

    /// The error that was left.
    pub fn complaint(&self) -> Option<String> {
        fs::read_to_string(self.path("error")).ok()
    }

    /// Deletes them all; for who holds the lock alone.
    pub fn remove(&self) {
        for end in ["json", "new", "error", "pid", "script", "first", "conf", "inbox", "reaper", "lock"] {
            let _ = fs::remove_file(self.path(end));
        }
        tidy(&self.folder);
    }

    fn failed(&self, end: &str, error: &io::Error) -> Error {
        unusable(&self.path(end), error)
    }
}

fn unusable(path: &Path, error: &io::Error) -> Error {
    let what = format!("cannot use {}: {}", path.display(), reason(error));
    Error::new(what, "Making and keeping bridges needs a writable /run: run it as root.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal() -> Journal {
        let [br0, eth0] = ["br0", "eth0"].map(|name| IfName::new(name).unwrap());
        let steps = vec![
            Step::AddBridge { bridge: br0.clone(), mac: Mac([2, 0, 0, 0, 0, 1]), mtu: Some(1400) },
            Step::SetUp { link: br0.clone() },
            Step::TakeUplink {
                bridge: br0.clone(),
                uplink: eth0.clone(),
                index: 2,
                mac: None,
                layer3: Layer3::default(),
            },
            Step::SetUp { link: eth0 },
        ];
        Journal::new(br0, false, steps).unwrap()
    }

    #[test]
    fn it_reads_what_it_writes() {
        let text = serde_json::to_string(&journal()).unwrap();
        let back: Journal = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&back).unwrap(), text);
        assert_eq!(back.taken().map(|taken| taken.index).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn journals_of_version_1_are_read_for_ever() {
        let back: Journal = serde_json::from_str(include_str!("../tests/fixtures/journal-1.json")).unwrap();
        assert_eq!(back.bridge.as_str(), "br0");
        assert_eq!(back.steps, journal().steps);
    }

    // The kernel's messages are in the byte order of the machine that wrote them.
    #[cfg(target_endian = "little")]
    #[test]
    fn journals_of_version_2_are_read_for_ever() {
        let text = include_str!("../tests/fixtures/journal-2.json");
        let back: Journal = serde_json::from_str(text).unwrap();
        let Step::TakeUplink { uplink, mac, layer3, .. } = &back.steps[2] else { panic!("{back:?}") };
        assert_eq!((uplink.as_str(), *mac), ("eth0", Some(Mac([2, 0, 0, 0, 0, 1]))));
        assert_eq!(layer3.address_texts(), ["10.77.0.2/24", "fd77::2/64"]);
        assert_eq!(layer3.default_gateways(10), [std::net::IpAddr::from([10, 77, 0, 1])]);
        assert_eq!(layer3.neighbours.len(), 1);
        assert!(!back.moving);
        let mut same: serde_json::Value = serde_json::from_str(text).unwrap();
        same["moving"] = false.into();
        assert_eq!(serde_json::to_value(&back).unwrap(), same, "it is written as it was read");
    }

    #[test]
    fn journals_of_version_4_are_read_for_ever() {
        let text = include_str!("../tests/fixtures/journal-4.json");
        let back: Journal = serde_json::from_str(text).unwrap();
        assert!(back.tells() && back.told().is_none());
        let same: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_value(&back).unwrap(), same, "it is written as it was read");
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn journals_of_version_3_are_read_for_ever() {
        let text = include_str!("../tests/fixtures/journal-3.json");
        let back: Journal = serde_json::from_str(text).unwrap();
        let keepers = back.steps.iter().filter_map(|step| match step {
            Step::Tell { keeper, .. } => Some(keeper.name()),
            _ => None,
        });
        let wanted = ["NetworkManager", "systemd-networkd", "ifupdown with dhclient", "dhcpcd", "udhcpc"];
        assert_eq!(keepers.collect::<Vec<_>>(), wanted);
        assert_eq!(back.lease().map(|lease| lease.seconds), Some(3600));
        assert!(back.moving);
        let same: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_value(&back).unwrap(), same, "it is written as it was read");
    }

    #[test]
    fn another_bridge_of_the_same_name_is_not_ours() {
        let journal = journal();
        let ours = Link {
            kind: Kind::Bridge,
            alias: Some(journal.alias()),
            ..Link::bare(journal.index, journal.bridge.clone())
        };
        assert!(journal.owns(&ours));
        assert!(!journal.owns(&Link { index: 7, ..ours.clone() }));
        assert!(!journal.owns(&Link { alias: Some("kvm-bridge 00".to_owned()), ..ours.clone() }));
        assert!(!journal.owns(&Link { kind: Kind::Card, ..ours }));
    }
}
