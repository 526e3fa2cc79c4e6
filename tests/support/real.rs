//! The real QEMU behind the shim, and talk with it.

use super::command::{Cmd, Running};
use super::processes::Process;
use super::{Lab, wait_for};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, PipeWriter, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub const QEMU: &str = "/usr/bin/qemu-system-x86_64";

/// A guest without any disk: the firmware of its network card asks for an address, about five seconds after the start.
/// It asks again until it is given one: dnsmasq offers one address to two that ask at the same time, and refuses the
/// second, which iPXE does not understand.
pub const IPXE: &str = "-accel tcg -machine pc,graphics=off -m 64 -boot order=n,reboot-timeout=5000";
/// Nobody sees or hears it.
pub const QUIET: &str = "-display none -serial null -monitor none";

/// The shim with the real QEMU behind it.
pub fn shim<'lab>(lab: &'lab Lab, words: &str) -> Cmd<'lab> {
    lab.shim(words).env("KVM_BRIDGE_QEMU", QEMU)
}

/// The one QEMU that runs in the laboratory under this name of a VM, whoever started it.
#[track_caller]
pub fn qemu_called(lab: &Lab, name: &str) -> Process {
    // JSON, a list of keys, or the name alone.
    let names = [format!("-name {name} "), format!("-name {name},"), format!("guest={name},")];
    let runs_it = |process: &Process| {
        let line = format!("{} ", process.command);
        let is_qemu =
            |exe: PathBuf| exe.file_name().is_some_and(|exe| exe.to_string_lossy().starts_with("qemu-system"));
        names.iter().any(|name| line.contains(name))
            && std::fs::read_link(format!("/proc/{}/exe", process.pid)).is_ok_and(is_qemu)
    };
    wait_for(&format!("a QEMU called {name}"), 60, || {
        let pid = lab.processes().into_iter().find(runs_it)?.pid;
        // Its words may have been read before it was executed in the shim's place.
        lab.processes().into_iter().find(|process| process.pid == pid)
    })
}

/// The first MAC on the line of a QEMU that we gave a network card.
#[track_caller]
pub fn mac_of(qemu: &Process) -> String {
    let words = qemu.command.split([' ', ',']);
    let macs: Vec<&str> = words.filter_map(|word| word.strip_prefix("mac=")).collect();
    macs.first().unwrap_or_else(|| panic!("no MAC in: {}", qemu.command)).to_string()
}

/// The MAC of a guest that was started by itself.
#[track_caller]
pub fn mac(guest: &mut Running) -> String {
    wait_for("a MAC on QEMU's command line", 10, || {
        assert!(guest.is_running(), "it ended: {}{}", guest.out(), guest.err());
        let line = std::fs::read_to_string(format!("/proc/{}/cmdline", guest.pid())).unwrap_or_default();
        line.split(['\0', ',']).find_map(|word| word.strip_prefix("mac=")).map(str::to_owned)
    })
}

/// A kernel and an initramfs that asks for an address.
pub fn linux() -> Option<(PathBuf, PathBuf)> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/target/guest");
    let folder = PathBuf::from(std::env::var_os("KVM_BRIDGE_GUEST").unwrap_or_else(|| default.into()));
    let kernel = ["vmlinux", "vmlinuz"].map(|name| folder.join(name)).into_iter().find(|kernel| kernel.exists());
    let found = kernel.zip(Some(folder.join("initramfs")).filter(|initramfs| initramfs.exists()));
    if found.is_none() {
        super::skip(&format!("there is no guest in {} (tests/guest/build makes one)", folder.display()));
    }
    found
}

/// The shell of a guest that was started with `guest.then=shell`, at its serial line.
pub struct GuestShell {
    keyboard: PipeWriter,
    asked: u32,
}

impl GuestShell {
    pub fn new(keyboard: PipeWriter) -> Self {
        Self { keyboard, asked: 0 }
    }

    /// Runs a command in the guest: its exit status, and what it said.
    #[track_caller]
    pub fn run(&mut self, qemu: &Running, command: &str) -> (i32, String) {
        self.asked += 1;
        let (begin, end) = (format!("begin-{}", self.asked), format!("end-{}", self.asked));
        // The console shows the line itself too, in which neither mark is whole.
        let line = format!("echo be''gin-{0}; {command}; echo en''d-{0} $?\n", self.asked);
        self.keyboard.write_all(line.as_bytes()).expect("its keyboard");
        wait_for(&format!("the end of '{command}'"), 60, || {
            let out = qemu.out();
            let said = out.split(&begin).nth(1)?;
            let (said, rest) = said.split_once(&format!("{end} "))?;
            let status = rest.lines().next()?.trim().parse().ok()?;
            rest.contains('\n').then(|| (status, said.trim().to_owned()))
        })
    }
}

/// QEMU's monitor for programs, on a socket.
pub struct Qmp(BufReader<UnixStream>);

impl Qmp {
    #[track_caller]
    pub fn connect(socket: &Path) -> Self {
        let stream = wait_for("QEMU's monitor", 20, || UnixStream::connect(socket).ok());
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set a timeout");
        let mut qmp = Self(BufReader::new(stream));
        qmp.read();
        qmp.ask("qmp_capabilities", json!({}));
        qmp
    }

    /// Runs a command that has to succeed; events are not of interest.
    #[track_caller]
    pub fn ask(&mut self, command: &str, arguments: Value) -> Value {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.0.get_mut(), "{request}").expect("QEMU listens");
        loop {
            let answer = self.read();
            assert!(answer["error"].is_null(), "{request}: {answer}");
            if !answer["return"].is_null() {
                return answer["return"].clone();
            }
        }
    }

    /// What the monitor for people says.
    #[track_caller]
    pub fn say(&mut self, line: &str) -> String {
        let answer = self.ask("human-monitor-command", json!({ "command-line": line }));
        answer.as_str().expect("text").to_owned()
    }

    #[track_caller]
    pub fn status(&mut self) -> String {
        self.ask("query-status", json!({}))["status"].as_str().expect("a status").to_owned()
    }

    #[track_caller]
    fn read(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("QEMU answers");
        serde_json::from_str(&line).expect("QEMU answers in JSON")
    }
}
