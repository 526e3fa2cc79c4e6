//! Where journals are: the files of each bridge of ours, in a folder of its network namespace, and their locks.

use crate::output::errno::{reason, to_write};
use crate::state::events::{self, Event};
use crate::sys::files::{self, if_there};
use crate::sys::lock;
use crate::sys::lock::{Hold, Passing};
use crate::sys::netns;
use crate::sys::place::run;
use crate::sys::random;
use model::error::{Error, Result};
use model::ifname::IfName;
use model::journal::{Journal, Life, parse, text_of};
use model::share::ends;
use model::step::Create;
use model::uplink::Attachment;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A new journal for a bridge that is about to be made here.
pub fn begin(bridge: IfName, keep: bool, create: Create, attachment: Option<Attachment>) -> Result<Journal> {
    let random = random::bytes().map_err(|error| {
        Error::new(format!("the kernel gives no random bytes: {error}"), "A usual /dev/urandom is needed.")
    })?;
    Ok(Journal::new(bridge, keep, create, attachment, life()?, random))
}

/// The machine's life and the network namespace that the calling thread is in. What can't be read is not another one.
pub fn life() -> Result<Life> {
    let namespace = netns::cookie()
        .map_err(|error| Error::new(format!("cannot tell the network namespace: {}", reason(&error)), "Try again."))?;
    Ok(Life { boot: boot_id()?, namespace })
}

fn boot_id() -> Result<String> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let id = fs::read_to_string(PATH).map_err(|error| {
        Error::new(format!("cannot read {PATH}: {}", reason(&error)), "A mounted /proc is needed. Try again.")
    })?;
    Ok(id.trim_end().to_owned())
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
    run().exists()
}

/// The folder of the network namespace that the calling thread is in.
fn folder() -> Result<PathBuf> {
    let namespace = fs::metadata("/proc/thread-self/ns/net").map_err(|error| {
        let what = format!("cannot tell the network namespace: {}", reason(&error));
        Error::new(what, "A mounted /proc is needed.")
    })?;
    Ok(run().join(namespace.ino().to_string()))
}

/// Where run-time files of this network namespace appear: the folder of all, and its own in that.
pub fn folders() -> Result<[PathBuf; 2]> {
    Ok([run().to_owned(), folder()?])
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
    for entry in fs::read_dir(run()).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
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

    /// The folder of a network of the host's own.
    pub fn nat(&self) -> PathBuf {
        self.path("nat")
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
        lock::try_for_life(&self.path("reaper")).map_err(|error| self.failed("reaper", &error))
    }

    /// Whether the bridge's reaper runs: by the lock that it holds, as anybody can call a process like it.
    pub fn has_reaper(&self) -> bool {
        lock::is_held(&self.path("reaper"))
    }

    /// The journal, if there is one. One that can't be read is an error, and stays.
    pub fn read(&self) -> Result<Option<Journal>> {
        let path = self.path("json");
        let Some(text) = if_there(fs::read(&path)).map_err(|error| self.failed("json", &error))? else {
            return Ok(None);
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
        parse(&String::from_utf8_lossy(&text)).map(Some).map_err(broken)
    }

    /// Writes the journal whole; for who holds the lock alone. Nothing is synced: /run does not outlive the machine.
    pub fn write(&self, journal: &Journal) -> Result<()> {
        let (path, new) = (self.path("json"), self.path("new"));
        let text = text_of(journal).map_err(io::Error::from);
        let written = text.and_then(|text| files::replace(&path, &new, text.as_bytes(), false));
        written.map_err(|error| self.failed("json", &error))
    }

    /// Leaves an error for people to find, once: the reaper has no terminal.
    pub fn report_failure(&self, error: &Error) {
        if self.last_failure().is_none_or(|known| known.trim_end() != error.to_string()) {
            events::tell(Event::Fault, &self.bridge, &format!("{}: {error}", self.bridge));
        }
        let _ = files::replace(&self.path("error"), &self.path("new"), format!("{error}\n").as_bytes(), false);
    }

    /// What was wrong is so no longer.
    pub fn forget_failure(&self) {
        if fs::remove_file(self.path("error")).is_ok() {
            events::tell(Event::FaultOver, &self.bridge, &format!("{}: what was wrong is so no longer", self.bridge));
        }
    }

    /// The error that was left.
    pub fn last_failure(&self) -> Option<String> {
        fs::read_to_string(self.path("error")).ok()
    }

    /// Deletes them all; for who holds the lock alone.
    pub fn remove(&self) {
        for end in ["json", "new", "error", "inbox", "leases", "leases-new", "reaper", "lock"] {
            let _ = fs::remove_file(self.path(end));
        }
        // A server whose end nobody has waited for may write into it once more.
        (0..3).any(|_| fs::remove_dir_all(self.nat()).is_err_and(|error| error.kind() == io::ErrorKind::NotFound));
        tidy(&self.folder);
    }

    fn failed(&self, end: &str, error: &io::Error) -> Error {
        unusable(&self.path(end), error)
    }
}

fn unusable(path: &Path, error: &io::Error) -> Error {
    let (what, run) = (format!("cannot use {}: {}", path.display(), reason(error)), run().display().to_string());
    Error::new(what, format!("Making and keeping bridges needs a writable {run}. {}", to_write(error, &run)))
}
