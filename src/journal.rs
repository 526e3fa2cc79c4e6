//! What we made and will have to undo: written down before it is made.
//!
//! There is one journal for each bridge that we make, in a folder of its network namespace. It is written once, whole,
//! before the first change; whether a step was carried out is not noted but seen: everything that is undone must still
//! carry the identity that the journal gave it. `/run` is gone after a reboot, and so is all that it speaks of.

use crate::error::{Error, Result, reason};
use crate::host::{Kind, Link};
use crate::name::IfName;
use crate::share::{Share, ends};
use crate::step::Step;
use crate::sys::files;
use crate::sys::journald;
use crate::sys::lock::{self, Hold, Passing};
use crate::sys::netns;
use crate::sys::process;
use crate::sys::random;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Where journals are.
pub const RUN: &str = "/run/kvm-bridge";
/// The format that is written, and the only one that is read: nothing before it was released.
const VERSION: u32 = 6;

/// Our links' indices are random ones from here to the largest int: far above what the kernel hands out by itself.
const FIRST_INDEX: u32 = 0x4000_0000;

/// One bridge of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    version: u32,
    /// The bridge's name.
    pub bridge: IfName,
    /// The index that it is made with; those of a veth pair come next.
    pub index: u32,
    /// Random, and the end of the alias of all links of it: two of one name and index are told apart by it.
    token: String,
    /// Whether it stays when its last guest has gone.
    pub keep: bool,
    /// Whether all of it was made. A bridge whose journal says no, while nobody holds its lock, was left by a kill.
    pub is_finished: bool,
    /// The machine's life that it is of (random/boot_id of proc(5)).
    boot: String,
    /// The network namespace that it is of, where the kernel tells: its folder has the namespace's inode, which the next
    /// namespace may have again.
    namespace: Option<u64>,
    /// Of the whole text, with zeros in the place of this: an index that is damaged is another link's.
    checksum: String,
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
        // Room for three, within an int.
        let index = (u32::from_ne_bytes([a, b, c, d]) % FIRST_INDEX + FIRST_INDEX) & !3;
        let token = random.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self {
            version: VERSION,
            bridge,
            index,
            token,
            keep,
            is_finished: false,
            boot: boot_id()?,
            namespace: namespace()?,
            checksum: UNKNOWN.to_owned(),
            steps,
        })
    }

    /// The same journal of what is about to be removed.
    pub fn unfinished(&self) -> Self {
        Self { is_finished: false, ..self.clone() }
    }

    /// The index of the host's end of the veth pair.
    pub fn host_end(&self) -> u32 {
        self.index + 1
    }

    /// The index of the veth pair's other end, a port of the bridge.
    pub fn port_end(&self) -> u32 {
        self.index + 2
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

    /// Whether this link is an end of the veth pair that the journal speaks of.
    pub fn owns_end(&self, link: &Link) -> bool {
        let is_its = [self.host_end(), self.port_end()].contains(&link.index);
        let has_its_alias = link.alias.as_deref().is_none_or(|alias| alias == self.alias());
        is_its && self.index >= FIRST_INDEX && link.kind == Kind::Other("veth".to_owned()) && has_its_alias
    }

    /// Whether this link is the interface that was made a port, and not another that has its index now.
    pub fn is_port_of(&self, link: &Link) -> bool {
        self.steps.iter().any(|step| match step {
            Step::AttachPort { index, mac, .. } => {
                *index == link.index && (link.mac == Some(*mac) || link.controller == Some(self.index))
            }
            _ => false,
        })
    }

    /// Whether it is of this life of the machine, and of this network namespace. /run does not outlive the machine, where it
    /// is as it should be.
    pub fn is_current(&self) -> Result<bool> {
        Ok(self.boot == boot_id()? && (self.namespace.is_none() || self.namespace == namespace()?))
    }

    /// Whether a process of ours has to stay behind the bridge: to take it away, or to keep its uplink shared, or to share it
    /// when the host begins to use it.
    pub fn needs_reaper(&self) -> bool {
        !self.keep || self.share().is_some() || self.may_share() || self.awaits().is_some()
    }

    /// The uplink that it waits for: by its name, or as the default route's (`auto`).
    pub fn awaits(&self) -> Option<&str> {
        self.steps.iter().find_map(|step| match step {
            Step::AwaitUplink { uplink, .. } => Some(uplink.as_ref().map_or("auto", IfName::as_str)),
            _ => None,
        })
    }

    /// Whether its uplink is a port for as long as the host has no address on it.
    pub fn may_share(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::AttachPort { is_asked: false, .. }))
    }

    /// How its uplink is shared, if it is.
    pub fn share(&self) -> Option<&Share> {
        self.steps.iter().find_map(Step::share)
    }

    /// Takes in that the uplink is shared otherwise by now.
    pub fn set_share(&mut self, new: Share) {
        for step in &mut self.steps {
            if let Step::ShareUplink { share, .. } = step {
                *share = new.clone();
            }
        }
    }

    /// The interface that was made a port, and its index.
    pub fn port(&self) -> Option<(&IfName, u32)> {
        self.steps.iter().find_map(|step| match step {
            Step::AttachPort { uplink, index, .. } => Some((uplink, *index)),
            _ => None,
        })
    }

    /// The uplink's name when it was attached.
    pub fn uplink(&self) -> Option<&IfName> {
        self.steps.iter().find_map(Step::uplink)
    }

    /// Whether the port of this index leads to the uplink.
    pub fn attached(&self, index: u32) -> bool {
        self.port().is_some_and(|(_, port)| port == index) || self.share().is_some() && index == self.port_end()
    }
}

fn namespace() -> Result<Option<u64>> {
    netns::cookie()
        .map_err(|error| Error::new(format!("cannot tell the network namespace: {}", reason(&error)), "Try again."))
}

/// What stands before the checksum in the text of a journal.
const CHECKSUM: &str = "\"checksum\": \"";
/// Its sixteen digits where it is not known yet, and while it is computed.
const UNKNOWN: &str = "0000000000000000";

/// A journal as a file has it.
pub(crate) fn text_of(journal: &Journal) -> serde_json::Result<String> {
    serde_json::to_string_pretty(journal).map(sealed)
}

/// Reads that; else says why it can't be read.
pub(crate) fn parse(text: &str) -> std::result::Result<Journal, String> {
    /// Of any version.
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Versioned { version } = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if version != VERSION {
        return Err(format!("its version is {version}, and this program reads {VERSION}"));
    }
    if !is_whole(text) {
        return Err("it is damaged: its checksum does not fit it".to_owned());
    }
    let journal: Journal = serde_json::from_str(text).map_err(|error| error.to_string())?;
    Ok(Journal { checksum: UNKNOWN.to_owned(), ..journal })
}

/// The text with its checksum in its place.
fn sealed(text: String) -> String {
    let sum = format!("{:016x}", checksum(text.as_bytes()));
    text.replacen(&format!("{CHECKSUM}{UNKNOWN}"), &format!("{CHECKSUM}{sum}"), 1)
}

/// Whether the checksum in a text is that of the text.
fn is_whole(text: &str) -> bool {
    let Some((before, after)) = text.split_once(CHECKSUM) else { return false };
    let Some(rest) = after.get(UNKNOWN.len()..) else { return false };
    sealed([before, CHECKSUM, UNKNOWN, rest].concat()) == text
}

/// FNV-1a with 64 bits (draft-eastlake-fnv): it finds damage, not ill will, for which root alone can write the file.
fn checksum(text: &[u8]) -> u64 {
    text.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// Which life of the machine this is. One that can't be read is not another one.
fn boot_id() -> Result<String> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let id = fs::read_to_string(PATH).map_err(|error| {
        Error::new(format!("cannot read {PATH}: {}", reason(&error)), "A mounted /proc is needed. Try again.")
    })?;
    Ok(id.trim_end().to_owned())
}

/// Whether a bridge looks like one of ours, by its alias and index; only a journal knows.
pub fn looks_ours(link: &Link) -> bool {
    let has_alias = link.alias.as_deref().is_some_and(|alias| alias.starts_with("kvm-bridge "));
    link.kind == Kind::Bridge && link.index >= FIRST_INDEX && has_alias
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
    let (_, namespace) = process::own_network().map_err(|error| {
        let what = format!("cannot tell the network namespace: {}", reason(&error));
        Error::new(what, "A mounted /proc is needed.")
    })?;
    Ok(PathBuf::from(RUN).join(namespace.to_string()))
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

/// The same for all network namespaces: makers that were killed before they made anything have left their folders.
pub fn tidy_all() {
    for entry in fs::read_dir(RUN).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        tidy(&entry.path());
    }
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

    /// Where the bridge's reaper takes over the announcing for a guest.
    pub fn inbox(&self) -> PathBuf {
        self.path("inbox")
    }

    /// Where the DHCP leases of guests are kept.
    pub fn leases(&self) -> PathBuf {
        self.path("leases")
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

    /// Whether the bridge's reaper runs: by the lock that it holds, as anybody can call a process like it.
    pub fn has_reaper(&self) -> bool {
        lock::is_held(&self.path("reaper"))
    }

    /// The journal, if there is one. One that can't be read is an error, and stays.
    pub fn read(&self) -> Result<Option<Journal>> {
        let path = self.path("json");
        let text = match fs::read(&path) {
            Ok(text) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed("json", &error)),
        };
        let broken = |why: String| {
            let what = format!("cannot read the journal {}: {why}", path.display());
            let bridge = &self.bridge;
            let remedy = format!(
                "{bridge}, if it is there, works and is not removed by itself any more. To remove all of it: ip link del \
                 {bridge}; ip link del {}; rm {}",
                ends(bridge)[0],
                path.display()
            );
            Error::new(what, remedy)
        };
        parse(&text).map(Some).map_err(broken)
    }

    /// Writes the journal whole; for who holds the lock alone. Nothing is synced: /run does not outlive the machine.
    pub fn write(&self, journal: &Journal) -> Result<()> {
        let (path, new) = (self.path("json"), self.path("new"));
        let text = text_of(journal).map_err(io::Error::from);
        let written = text.and_then(|text| files::replace(&path, &new, text.as_bytes(), false));
        written.map_err(|error| self.failed("json", &error))
    }

    /// Leaves an error for people to find, once: the reaper has no terminal.
    pub fn complain(&self, error: &Error) {
        if self.complaint().is_none_or(|known| known.trim_end() != error.to_string()) {
            journald::warn("kvm-bridge-reaper", &format!("{}: {error}", self.bridge));
        }
        let _ = files::replace(&self.path("error"), &self.path("new"), format!("{error}\n").as_bytes(), false);
    }

    /// What was wrong is so no longer.
    pub fn forget_complaint(&self) {
        let _ = fs::remove_file(self.path("error"));
    }

    /// The error that was left.
    pub fn complaint(&self) -> Option<String> {
        fs::read_to_string(self.path("error")).ok()
    }

    /// Deletes them all; for who holds the lock alone.
    pub fn remove(&self) {
        for end in ["json", "new", "error", "inbox", "leases", "leases-new", "reaper", "lock"] {
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
    use crate::mac::Mac;
    use crate::share::{Changes, MarkBy};
    use crate::step::Ipv6;

    fn journal() -> Journal {
        let [br0, eth0] = ["br0", "eth0"].map(|name| IfName::new(name).unwrap());
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let share = Share {
            uplink: eth0,
            index: 2,
            mac,
            mtu: 1400,
            follow: false,
            mark: MarkBy::Skbedit,
            changes: Changes { adds_clsact: true, sets_promiscuous: true, ..Changes::default() },
        };
        let steps = vec![
            Step::AddBridge { bridge: br0.clone(), mac, mtu: Some(1400), ipv6: Ipv6::Off, no_arp: true },
            Step::SetUp { link: br0.clone() },
            Step::ShareUplink { bridge: br0.clone(), share },
        ];
        Journal::new(br0, false, steps).unwrap()
    }

    #[test]
    fn it_reads_what_it_writes() {
        let text = serde_json::to_string(&journal()).unwrap();
        let back: Journal = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&back).unwrap(), text);
        assert_eq!(back.share().map(|share| share.index), Some(2));
    }

    #[test]
    fn any_damage_to_it_is_seen() {
        let whole = sealed(serde_json::to_string_pretty(&journal()).unwrap());
        assert!(is_whole(&whole) && whole.is_ascii());
        for at in 0..whole.len() {
            let mut damaged = whole.clone().into_bytes();
            damaged[at] ^= 1;
            assert!(!is_whole(&String::from_utf8_lossy(&damaged)), "byte {at}");
            assert!(!is_whole(&whole[..at]), "cut at {at}");
        }
    }

    #[test]
    fn one_of_another_namespace_is_not_current() {
        let journal = journal();
        assert!(journal.is_current().unwrap());
        let other = Journal { namespace: Some(journal.namespace.unwrap_or_default() + 1), ..journal.clone() };
        assert!(!other.is_current().unwrap());
        assert!(!Journal { boot: "another".to_owned(), ..journal }.is_current().unwrap());
    }

    #[test]
    fn its_links_are_known_by_index_and_alias() {
        let journal = journal();
        assert!(journal.port_end() <= i32::MAX as u32 && journal.index >= FIRST_INDEX);
        let [host_end, _] = ends(&journal.bridge);
        let bare = Link { kind: Kind::Other("veth".to_owned()), ..Link::bare(journal.host_end(), host_end) };
        assert!(journal.owns_end(&bare), "it may be killed before it has its alias");
        assert!(journal.owns_end(&Link { alias: Some(journal.alias()), ..bare.clone() }));
        assert!(!journal.owns_end(&Link { alias: Some("kvm-bridge 00".to_owned()), ..bare.clone() }));
        assert!(!journal.owns_end(&Link { index: 7, ..bare.clone() }));
        assert!(!journal.owns_end(&Link { kind: Kind::Card, ..bare }));
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
