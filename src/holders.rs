//! The processes that have TAPs open, as /proc tells: `iff:` in the fdinfo of a descriptor of /dev/net/tun. Those of other
//! users are seen by root only.
#![forbid(unsafe_code)]

use crate::name::IfName;
use crate::out;
use crate::sys::patience::within;
use crate::sys::{process, tap};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A process that has TAPs open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Its program's name (/proc/PID/comm).
    pub program: String,
    /// Whose it is.
    pub uid: u32,
    /// When it was started, in seconds since 1970.
    pub since: Option<u64>,
    /// Its command line, with argv\[0\].
    pub words: Vec<OsString>,
    /// Its descriptors, by the TAP that they are of.
    pub taps: BTreeMap<IfName, Vec<i32>>,
}

impl Process {
    /// Whether it is a QEMU, by the name of its program.
    pub fn is_qemu(&self) -> bool {
        self.program.contains("qemu") || self.program == "kvm"
    }

    /// For how long it has been running.
    pub fn age(&self) -> Option<Duration> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        Some(now.saturating_sub(Duration::from_secs(self.since?)))
    }
}

/// The processes of this network namespace that have TAPs open, or say so on their command lines.
pub fn of_taps() -> Vec<Process> {
    let mut found: Vec<Process> = process::here().filter_map(read).collect();
    found.sort_by_key(|process| process.pid);
    found
}

/// Who holds a TAP open, as `NAME (PID)`, for people. It is looked for only where somebody wants a TAP by a name that is taken.
pub fn of(tap: &IfName) -> Option<String> {
    let (path, pid) = process::here().find(|(path, _)| tap::held_by(path).contains_key(tap))?;
    Some(format!("{} ({pid})", out::one_line(&process::program(&path).unwrap_or_default())))
}

/// The QEMUs of this network namespace, by the name of their program; and those of other users, of which a user can't tell
/// where they are.
pub fn qemus() -> Vec<Process> {
    let own = process::own_network().ok();
    let is_here = |path: &Path| process::network_of(path).is_none_or(|network| Some(network) == own);
    let is_qemu =
        |path: &Path| process::program(path).is_ok_and(|program| program.starts_with("qemu-") || program == "kvm");
    process::all()
        .filter(|(path, _)| is_qemu(path) && is_here(path))
        .filter_map(|(path, pid)| describe(&path, pid))
        .collect()
}

fn read((path, pid): (PathBuf, i32)) -> Option<Process> {
    let taps = tap::held_by(&path);
    if taps.is_empty() {
        return None;
    }
    Some(Process { taps, ..describe(&path, pid)? })
}

fn describe(path: &Path, pid: i32) -> Option<Process> {
    let uid = fs::metadata(path).ok()?.uid();
    let line = command_line(path, uid)?;
    let words = line.strip_suffix(b"\0").unwrap_or(&line).split(|byte| *byte == 0);
    Some(Process {
        pid,
        program: process::program(path).unwrap_or_default(),
        uid,
        since: since(path),
        words: words.map(|word| OsString::from_vec(word.to_vec())).collect(),
        taps: BTreeMap::new(),
    })
}

/// The longest command line that is read: a few thousand words of QEMU's.
const LONGEST: u64 = 128 << 10;
/// How long one may take, so that one process does not hide all others.
const FOR_ONE: Duration = Duration::from_millis(100);
/// How long all command lines of other users may take together.
const PATIENCE: Duration = Duration::from_secs(1);

/// A process's command line, or its beginning. It is in that process's own memory, so that its owner can keep whoever reads it
/// for as long as they like: another user's is read in a thread that nobody waits for in the end, and is empty then.
fn command_line(process: &Path, uid: u32) -> Option<Vec<u8>> {
    static SPENT: AtomicU64 = AtomicU64::new(0);
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
    let line = within(left.min(FOR_ONE), read);
    SPENT.fetch_add(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    line.unwrap_or_else(|| Some(Vec::new()))
}

/// The 22nd field of /proc/PID/stat counts clock ticks since the machine was booted (proc(5)).
fn since(path: &Path) -> Option<u64> {
    let stat = fs::read_to_string(path.join("stat")).ok()?;
    let ticks: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let a_second: u64 = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??.try_into().ok()?;
    let booted = fs::read_to_string("/proc/stat").ok()?;
    let booted: u64 = booted.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(booted + ticks / a_second.max(1))
}
