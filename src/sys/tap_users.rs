//! The processes that have TAPs open, as /proc tells: `iff:` in the fdinfo of a descriptor of /dev/net/tun. Those of other
//! users are seen by root only.
#![forbid(unsafe_code)]

pub use model::inventory::Process;

use crate::sys::patience::within;
use crate::sys::{process, tap};
use model::ifname::IfName;
use model::proc;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// For how long a process has been running.
pub fn age(process: &Process) -> Option<Duration> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(now.saturating_sub(Duration::from_secs(process.since?)))
}

/// How long looking at all processes may take: users decide how many there are, and how many descriptors each has.
const LIMIT: Duration = Duration::from_secs(2);
/// For people, where that was not long enough.
pub const NOT_FOUND_OUT: &str = "not found out: looking at processes took too long";

/// The processes that have TAPs of this network namespace open, by their numbers.
#[derive(Debug, Clone, Default)]
pub struct TapUsers {
    /// Those that were found.
    pub processes: Vec<Process>,
    /// Whether these are all: whoever is missing otherwise was not found out.
    pub is_whole: bool,
}

impl TapUsers {
    /// Looks at all processes, within `LIMIT`. Not to be called under a lock.
    pub fn look() -> Self {
        SPENT.store(0, Ordering::Relaxed);
        let found = Arc::new(Mutex::new(Vec::new()));
        let (end, finds) = (Instant::now() + LIMIT, Arc::clone(&found));
        let is_whole = within(LIMIT, move || walk(end, &finds)).unwrap_or_default();
        let mut processes = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
        processes.sort_by_key(|process| process.pid);
        Self { processes, is_whole }
    }

    /// Who has a TAP open.
    pub fn of(&self, tap: &IfName) -> Option<&Process> {
        self.processes.iter().find(|process| process.taps.contains_key(tap))
    }
}

/// The calling user's own processes of all network namespaces, without the TAPs that they have open.
pub fn own_processes() -> impl Iterator<Item = Process> {
    let uid = nix::unistd::geteuid().as_raw();
    let is_own = move |path: &Path| fs::metadata(path).is_ok_and(|folder| folder.uid() == uid);
    let own = process::all().filter(move |(path, _)| is_own(path));
    // The folder of a program that another user runs with this one's rights (setuid) is this user's too.
    let own = own.filter_map(|(path, pid)| describe(&path, pid, BTreeMap::new()));
    own.filter(move |process| process.uid == uid)
}

/// Whether it came to its end before the time was over. The processes with the fewest descriptors come first (the size of the
/// folder, since Linux 6.2), so that one with very many hides no other.
fn walk(end: Instant, found: &Mutex<Vec<Process>>) -> bool {
    let own = process::own_network();
    let mut all: Vec<_> = process::all().filter(|(path, _)| process::network_of(path) == own).collect();
    all.sort_by_cached_key(|(path, _)| fs::metadata(path.join("fd")).map_or(0, |folder| folder.len()));
    all.into_iter().all(|(path, pid)| {
        let Some(taps) = tap::held_by(&path, end) else { return false };
        let process = if taps.is_empty() { None } else { describe(&path, pid, taps) };
        found.lock().unwrap_or_else(PoisonError::into_inner).extend(process);
        true
    })
}

fn describe(path: &Path, pid: i32, taps: BTreeMap<IfName, Vec<i32>>) -> Option<Process> {
    let uid = proc::owner(&fs::read_to_string(path.join("status")).ok()?)?;
    let line = command_line(path, uid)?;
    let words = line.strip_suffix(b"\0").unwrap_or(&line).split(|byte| *byte == 0);
    Some(Process {
        pid,
        program: fs::read_to_string(path.join("comm")).unwrap_or_default().trim_end().to_owned(),
        uid,
        since: since(path),
        words: words.map(|word| OsString::from_vec(word[..word.len().min(LONGEST_WORD)].to_vec())).collect(),
        taps,
    })
}

/// The longest command line that is read: a few thousand words of QEMU's.
const LONGEST: u64 = 128 << 10;
/// The longest word of it: nobody reads a name that is longer.
const LONGEST_WORD: usize = 4096;
/// How long one may take, so that one process does not hide all others.
const FOR_ONE: Duration = Duration::from_millis(100);
/// How long all command lines of other users may take together in one look.
const PATIENCE: Duration = Duration::from_secs(1);
/// So many of them may be waited for by threads that nobody waits for.
const MOST_THREADS: usize = 16;
/// What was spent of that.
static SPENT: AtomicU64 = AtomicU64::new(0);

/// A process's command line, or its beginning. It is in that process's own memory, so that its owner can keep whoever reads it
/// for as long as they like: another user's is read in a thread that nobody waits for in the end, and is empty then.
pub fn command_line(process: &Path, uid: u32) -> Option<Vec<u8>> {
    /// Those of all looks: who looks again and again is not to have more and more of them.
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    let path = process.join("cmdline");
    let read = move || {
        let mut line = Vec::new();
        fs::File::open(path).and_then(|file| file.take(LONGEST).read_to_end(&mut line)).ok().map(|_| line)
    };
    if uid == nix::unistd::geteuid().as_raw() {
        return read();
    }
    let left = PATIENCE.saturating_sub(Duration::from_micros(SPENT.load(Ordering::Relaxed)));
    let start = Instant::now();
    if THREADS.load(Ordering::Relaxed) >= MOST_THREADS {
        return Some(Vec::new());
    }
    THREADS.fetch_add(1, Ordering::Relaxed);
    let read_in_thread = move || {
        let line = read();
        THREADS.fetch_sub(1, Ordering::Relaxed);
        line
    };
    let line = within(left.min(FOR_ONE), read_in_thread);
    SPENT.fetch_add(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    line.unwrap_or_else(|| Some(Vec::new()))
}

/// When a process was started, in seconds since 1970.
fn since(path: &Path) -> Option<u64> {
    let ticks = proc::started(&fs::read_to_string(path.join("stat")).ok()?)?;
    let a_second: u64 = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??.try_into().ok()?;
    let booted = proc::booted(&fs::read_to_string("/proc/stat").ok()?)?;
    Some(booted + ticks / a_second.max(1))
}
