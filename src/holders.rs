//! The processes that have TAPs open, as /proc tells: `iff:` in the fdinfo of a descriptor of /dev/net/tun. Those of other
//! users are seen by root only.
#![forbid(unsafe_code)]

use crate::name::IfName;
use crate::sys::process;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
    let own = process::own_network();
    let mut found: Vec<Process> =
        process::all().filter(|(path, _)| process::network_of(path) == own).filter_map(read).collect();
    found.sort_by_key(|process| process.pid);
    found
}

/// The QEMUs of this network namespace, by the name of their program; and those of other users, of which a user can't tell
/// where they are.
pub fn qemus() -> Vec<Process> {
    let own = process::own_network();
    let is_here = |path: &Path| process::network_of(path).is_none_or(|network| Some(network) == own);
    let is_qemu = |path: &Path| {
        let program = fs::read_to_string(path.join("comm")).unwrap_or_default();
        program.starts_with("qemu-") || program.trim_end() == "kvm"
    };
    process::all()
        .filter(|(path, _)| is_qemu(path) && is_here(path))
        .filter_map(|(path, pid)| describe(&path, pid))
        .collect()
}

/// Whether a process runs in this network namespace whose command line begins with these words. Where another user's is, a
/// user can't tell: it may be here.
pub fn runs(words: &[&str]) -> bool {
    let own = process::own_network();
    let start: String = words.iter().map(|word| format!("{word}\0")).collect();
    let is_it = |path: &Path| fs::read(path.join("cmdline")).is_ok_and(|line| line.starts_with(start.as_bytes()));
    let is_here = |path: &Path| process::network_of(path).is_none_or(|network| Some(network) == own);
    process::all().any(|(path, _)| is_it(&path) && is_here(&path))
}

fn read((path, pid): (std::path::PathBuf, i32)) -> Option<Process> {
    let files = fs::read_dir(path.join("fd")).into_iter().flatten().flatten();
    let mut taps: BTreeMap<IfName, Vec<i32>> = BTreeMap::new();
    for file in files.filter(|file| fs::read_link(file.path()).is_ok_and(|link| link.ends_with("tun"))) {
        let info = fs::read_to_string(path.join("fdinfo").join(file.file_name())).unwrap_or_default();
        let name = info.lines().find_map(|line| line.strip_prefix("iff:\t"));
        if let (Some(name), Some(fd)) = (name, file.file_name().to_str().and_then(|fd| fd.parse().ok())) {
            taps.entry(IfName::seen(name.to_owned())).or_default().push(fd);
        }
    }
    if taps.is_empty() {
        return None;
    }
    Some(Process { taps, ..describe(&path, pid)? })
}

fn describe(path: &Path, pid: i32) -> Option<Process> {
    let line = fs::read(path.join("cmdline")).ok()?;
    let words = line.strip_suffix(b"\0").unwrap_or(&line).split(|byte| *byte == 0);
    Some(Process {
        pid,
        program: fs::read_to_string(path.join("comm")).unwrap_or_default().trim_end().to_owned(),
        uid: fs::metadata(path).ok()?.uid(),
        since: since(path),
        words: words.map(|word| OsString::from_vec(word.to_vec())).collect(),
        taps: BTreeMap::new(),
    })
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
