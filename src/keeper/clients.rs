//! DHCP clients that run in this network namespace, and which interface they are for.
#![forbid(unsafe_code)]

use super::{Keeper, connman, dhclient, dhcpcd, udhcpc};
use crate::host::Link;
use crate::name::IfName;
use crate::sys::process;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// DHCP clients, by the names of their programs; `busybox udhcpc` is one too.
const CLIENTS: [&str; 11] = [
    "dhclient",
    "dhcpcd",
    "dhcpcd-bin",
    "udhcpc",
    "udhcpc6",
    "dhcp6c",
    "odhcp6c",
    "connmand",
    "pump",
    "wickedd-dhcp4",
    "wickedd-dhcp6",
];

/// A process, so that another one that gets its number is not taken for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// When it was started, in the kernel's ticks since it was booted (field 22 of proc(5), stat).
    pub started: u64,
}

impl Process {
    /// The process of this number, if it runs in this network namespace.
    pub fn here(pid: i32) -> Option<Self> {
        let own = process::own_network()?;
        let started = started(pid)?;
        (process::network_of(Path::new(&format!("/proc/{pid}"))) == Some(own)).then_some(Self { pid, started })
    }

    /// The one that a pid file names.
    pub fn of_file(path: &Path) -> Option<Self> {
        Self::here(fs::read_to_string(path).ok()?.trim().parse().ok()?)
    }

    /// Whether it still runs.
    pub fn runs(&self) -> bool {
        started(self.pid) == Some(self.started)
    }

    /// Sends it a signal, if it still runs.
    pub fn signal(&self, signal: Signal) {
        if self.runs() {
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Its session (setsid(2)), which the helpers of a daemon share; `None` for one that has none here.
    pub fn session(&self) -> Option<i32> {
        fields(self.pid)?.get(3)?.parse().ok().filter(|session| *session > 0)
    }

    /// Kills it. Whether it has ended within a few seconds.
    pub fn kill(&self) -> bool {
        self.signal(Signal::SIGKILL);
        self.ends_within(Duration::from_secs(5))
    }

    /// Waits for its end, for a time. Whether it has ended.
    pub fn ends_within(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while self.runs() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
        !self.runs()
    }

    /// The words of its command line.
    pub fn words(&self) -> Vec<String> {
        let line = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.split('\0').filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    /// The program that it runs.
    pub fn program(&self) -> Option<PathBuf> {
        let path = fs::read_link(format!("/proc/{}/exe", self.pid)).ok()?;
        // Replaced by an upgrade: what is there now is as good.
        Some(PathBuf::from(path.to_string_lossy().trim_end_matches(" (deleted)")))
    }

    /// Its control group (version 2), if that is another one than ours.
    pub fn group(&self) -> Option<String> {
        let group = |of: &str| {
            let text = fs::read_to_string(format!("/proc/{of}/cgroup")).ok()?;
            text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
        };
        let its = group(&self.pid.to_string())?;
        (Some(&its) != group("self").as_ref()).then_some(its)
    }
}

/// When a process was started; `None` for one that does not run, or only waits for its parent to notice.
fn started(pid: i32) -> Option<u64> {
    let fields = fields(pid)?;
    if fields.first().is_some_and(|state| state == "Z") { None } else { fields.get(19)?.parse().ok() }
}

/// What proc(5) tells of a process in `stat`, from its state on.
fn fields(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.get(stat.rfind(')')? + 1..)?.split_whitespace().map(str::to_owned).collect())
}

/// A DHCP client that runs.
#[derive(Debug)]
pub struct Running {
    /// Its name: one of `CLIENTS`.
    pub name: String,
    /// Its process.
    pub process: Process,
    /// Its command line.
    pub words: Vec<String>,
}

/// The clients that run in this network namespace.
pub fn running() -> Vec<Running> {
    process::all().filter_map(|(_, pid)| client(pid)).collect()
}

/// The processes of the clients of this name that have this word on their command lines.
pub fn with_word(name: &str, word: &str) -> Vec<Process> {
    let is_one = |client: &Running| client.name == name && client.words.iter().any(|other| other == word);
    running().into_iter().filter(is_one).map(|client| client.process).collect()
}

fn client(pid: i32) -> Option<Running> {
    // Of each process on the host: one read, of as much as tells.
    let mut line = [0; 4096];
    let length = File::open(format!("/proc/{pid}/cmdline")).and_then(|mut file| file.read(&mut line)).ok()?;
    let line = &line[..length];
    let first = line.split(|byte| matches!(byte, 0 | b' ')).next().unwrap_or_default();
    let is_busybox = first.rsplit(|byte| *byte == b'/').next() == Some(b"busybox");
    let line = String::from_utf8_lossy(line).into_owned();
    let words: Vec<String> = line.split('\0').filter(|word| !word.is_empty()).map(str::to_owned).collect();
    // Some write another title over it: "dhcpcd: [manager]".
    let title = words.get(usize::from(is_busybox))?.split(' ').next()?;
    let name = title.rsplit('/').next().unwrap_or_default().trim_end_matches(':').to_owned();
    if !CLIENTS.contains(&name.as_str()) {
        return None;
    }
    Some(Running { name, process: Process::here(pid)?, words })
}

/// The one client that renews what is on this interface.
pub fn recognise(link: &Link) -> Option<Keeper> {
    let mut found: Vec<Keeper> = dhcpcd::recognise(link).into_iter().collect();
    for client in running() {
        let keeper = match client.name.as_str() {
            // Found by its files: its processes rewrite their command lines.
            "dhcpcd" | "dhcpcd-bin" => None,
            "dhclient" => dhclient::recognise(link, &client),
            "udhcpc" => udhcpc::recognise(link, &client),
            "connmand" => connman::recognise(link, &client),
            name if is_for(&client.words, &link.name) => {
                let why = "how it could be told to leave an interface alone is not known";
                Some(Keeper::stranger(format!("{name} ({})", client.process.pid), why))
            }
            _ => None,
        };
        found.extend(keeper);
    }
    match found.len() {
        0 | 1 => found.pop(),
        _ => {
            let names: Vec<&str> = found.iter().map(Keeper::name).collect();
            Some(Keeper::stranger(names.join(" and "), "they are several"))
        }
    }
}

/// Whether a command line names this interface, or none: then it is for all of them.
pub fn is_for(words: &[String], name: &IfName) -> bool {
    let interfaces = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    let names = |interface: &str| words.iter().skip(1).any(|word| word.trim_start_matches("-i") == interface);
    let mut others = interfaces.lines().filter_map(|line| Some(line.split_once(':')?.0.trim()));
    names(name.as_str()) || !others.any(names)
}
