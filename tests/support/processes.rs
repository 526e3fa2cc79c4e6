//! Who runs in the laboratory, read from /proc.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::MetadataExt;

#[derive(Clone, Debug)]
pub struct Process {
    pub pid: i32,
    /// The words of its command line, joined by blanks.
    pub command: String,
}

impl Process {
    /// Kills it; its locks are free when this returns.
    pub fn kill(&self) {
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        super::wait::patiently(std::time::Duration::from_secs(2), || (!is_alive(self.pid)).then_some(()));
    }

    pub fn send(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid), signal).expect("the process runs");
    }

    pub fn stat(&self) -> Stat {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).expect("the process runs");
        let fields: Vec<&str> = stat[stat.rfind(')').expect("a name") + 1..].split_whitespace().collect();
        let number = |i: usize| fields[i].parse().expect("a number");
        Stat { parent: number(1), session: number(3), terminal: number(4) }
    }

    /// Whether it waits in poll(2) for something to happen: what happened before has been worked off.
    pub fn is_waiting(&self) -> bool {
        self.poll_limit().is_some()
    }

    /// Whether it does so without an end: there is nothing that it is going to do by itself.
    pub fn is_at_rest(&self) -> bool {
        self.poll_limit() == Some(None)
    }

    /// Whether it waits for a message to come by a socket.
    pub fn is_receiving(&self) -> bool {
        self.call().is_some_and(|(call, _)| call == libc::SYS_recvmsg)
    }

    /// The system call that it sleeps in, and its third argument (/proc/PID/syscall of proc(5)).
    fn call(&self) -> Option<(libc::c_long, u64)> {
        let text = fs::read_to_string(format!("/proc/{}/syscall", self.pid)).ok()?;
        let mut fields = text.split_whitespace();
        let call = fields.next()?.parse().ok()?;
        Some((call, u64::from_str_radix(fields.nth(2)?.trim_start_matches("0x"), 16).ok()?))
    }

    /// The time that it has given poll(2), if it is there now; `Some(None)`: none.
    fn poll_limit(&self) -> Option<Option<u64>> {
        let (call, limit) = self.call()?;
        match call {
            // A pointer to the time, or none.
            libc::SYS_ppoll => Some((limit != 0).then_some(limit)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_poll => Some(u64::try_from(limit as i32).ok()),
            _ => None,
        }
    }

    /// The CPU time that it has used, in clock ticks (utime and stime of proc(5)).
    pub fn ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).expect("the process runs");
        let fields = stat.rsplit_once(')').expect("a name").1.split_whitespace().skip(11).take(2);
        fields.map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
    }

    /// What its open descriptors are, as /proc says: "pipe:[123]", "/dev/null".
    pub fn open_files(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(format!("/proc/{}/fd", self.pid)) else { return Vec::new() };
        entries
            .filter_map(|entry| Some(fs::read_link(entry.ok()?.path()).ok()?.to_string_lossy().into_owned()))
            .collect()
    }
}

pub struct Stat {
    pub parent: i32,
    pub session: i32,
    /// 0 for a process that has no controlling terminal.
    pub terminal: i32,
}

/// All processes of a network namespace, the test itself apart.
pub fn in_namespace(net_inode: u64) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&pid: &i32| pid != std::process::id() as i32)
        .filter(|pid| fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|ns| ns.ino() == net_inode))
        .filter_map(|pid| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let words: Vec<_> = command.split(|&b| b == 0).map(String::from_utf8_lossy).collect();
            Some(Process { pid, command: words.join(" ").trim_end().to_owned() })
        })
        .collect()
}

pub fn is_alive(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    !stat[stat.rfind(')').unwrap_or(0)..].starts_with(") Z")
}
