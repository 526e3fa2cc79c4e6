//! One host and one LAN, both made of namespaces, and the proof that nothing of the test stays on the host.
//!
//!     host: eth0 ======== lan0 :lan
//!     10.77.0.2 (if asked for)  10.77.0.1, fd77::1

use super::command::{Cmd, Running};
use super::lan::Lan;
use super::namespaces::Namespaces;
use super::processes::{self, Process};
use super::state::{self, State, ip_json};
use super::wait::{patiently, spin_for};
use super::{skip, wait_for};
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// How long the host may take to be as it was: the reaper's grace time and some work.
const CLEAN_WITHIN: Duration = Duration::from_secs(10);

pub struct Lab {
    pub lan: Lan,
    baseline: RefCell<Option<State>>,
    patience: Cell<Duration>,
    /// Command lines that run before and after, and are none of our programs'.
    tolerated: RefCell<Vec<String>>,
    files: Cell<u32>,
    pub dir: TempDir,
    namespaces: Namespaces,
}

impl Lab {
    /// A host whose eth0 is up and has no address; None, loudly, where that can't be built.
    pub fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            skip("the laboratory needs root");
            return None;
        }
        if !Path::new("/dev/net/tun").exists() {
            skip("there is no /dev/net/tun");
            return None;
        }
        if !super::have("ip") {
            return None;
        }
        let namespaces = match Namespaces::enter() {
            Ok(namespaces) => namespaces,
            Err(error) => {
                skip(&format!("cannot make namespaces: {error}"));
                return None;
            }
        };
        fs::create_dir_all("/run/home").expect("make a home");
        // Duplicate address detection only costs time here: a second for each new link.
        for which in ["all", "default"] {
            fs::write(format!("/proc/sys/net/ipv6/conf/{which}/accept_dad"), "0").expect("switch DAD off");
        }
        let dir = tempfile::Builder::new().prefix("kvm-bridge-lab.").tempdir().expect("make a folder");
        ip("link set lo up");
        let lan = Lan::new(dir.path());
        let (baseline, patience, files) = (RefCell::default(), Cell::new(CLEAN_WITHIN), Cell::default());
        let lab = Self { lan, baseline, patience, tolerated: RefCell::default(), files, dir, namespaces };
        lab.settle();
        Some(lab)
    }

    /// A host on the network by eth0, as most are.
    pub fn with_address() -> Option<Self> {
        let lab = Self::new()?;
        lab.ip("addr add 10.77.0.2/24 dev eth0");
        lab.ip("route add default via 10.77.0.1");
        Some(lab)
    }

    /// A host with all that one can have on an interface.
    pub fn with_everything() -> Option<Self> {
        let lab = Self::new()?;
        for command in [
            "addr add 10.77.0.2/24 brd + dev eth0",
            "addr add 10.77.0.3/24 dev eth0 label eth0:1",
            "addr add 192.168.9.1 peer 192.168.9.2/32 dev eth0 metric 50",
            "addr add 169.254.7.7/16 dev eth0 scope link",
            "addr add fd77::2/64 dev eth0",
            "addr add fd77::3/64 dev eth0 valid_lft 5000 preferred_lft 4000 noprefixroute",
            "addr add fd77::4/64 dev eth0 nodad",
            "addr add fd78::5 peer fd78::6/128 dev eth0 metric 77",
            "addr add fe80::abcd/64 dev eth0",
            "route add default via 10.77.0.1 proto static metric 100",
            "route add default via 10.77.0.9 dev eth0 metric 200",
            "route add 10.9.0.0/16 via 10.77.0.1 src 10.77.0.3 mtu 1400 table 77",
            "route add 10.8.0.0/16 dev eth0 scope link tos 0x10",
            "route add 10.7.0.0/16 nexthop via 10.77.0.1 dev eth0 weight 1 nexthop via 10.77.0.9 dev eth0 weight 3",
            "route add 10.6.0.0/16 via 172.16.0.1 dev eth0 onlink",
            "route add local 10.5.0.0/24 dev eth0 proto static",
            "route add 10.4.0.0/16 via inet6 fe80::1 dev eth0",
            "-6 route add default via fd77::1 dev eth0 metric 1024 pref high",
            "-6 route add fd99::/64 via fd77::1 dev eth0 expires 6000",
            "-6 route add fd98::/64 dev eth0 metric 5 advmss 1200",
            "-6 route add fd97::/64 nexthop via fd77::1 dev eth0 nexthop via fd77::9 dev eth0 weight 2",
            "-6 route add fd96::/64 via fe80::1 dev eth0 table 77",
            "neigh add 10.77.0.77 lladdr 02:00:00:00:00:77 dev eth0",
            "neigh add proxy 10.77.0.78 dev eth0",
        ] {
            lab.ip(command);
        }
        for (setting, value) in
            [("ipv4/conf/eth0/rp_filter", "2"), ("ipv4/conf/eth0/forwarding", "1"), ("ipv6/conf/eth0/accept_ra", "2")]
        {
            fs::write(format!("/proc/sys/net/{setting}"), value).expect("change a setting");
        }
        lab.settle();
        Some(lab)
    }

    /// A host that already has a bridge of this name, up and with eth0 as a port.
    pub fn with_bridge(name: &str) -> Option<Self> {
        let lab = Self::new()?;
        lab.ip(&format!("link add {name} type bridge"));
        lab.ip(&format!("link set eth0 master {name}"));
        lab.ip(&format!("link set {name} up"));
        lab.settle();
        Some(lab)
    }

    // What a person does on the host.

    /// A bridge that is up and has a port, as bridges have that somebody made for use.
    ///
    /// One that never had a port would change with its first one, whoever adds that: MAC, carrier, IPv6 address.
    pub fn add_bridge(&self, name: &str) {
        self.files.set(self.files.get() + 1);
        let port = format!("port{}", self.files.get());
        // Below those of TAPs: a bridge has the lowest address of its ports.
        self.ip(&format!("link add {port} address 02:77:00:00:00:{:02x} type ifb", self.files.get()));
        self.ip(&format!("link add name {name} type bridge"));
        self.ip(&format!("link set dev {port} master {name} up"));
        self.ip(&format!("link set dev {name} up"));
        self.settle();
    }

    #[track_caller]
    pub fn ip(&self, args: &str) {
        ip(args);
    }

    /// What `ip -j ARGS` says.
    #[track_caller]
    pub fn ip_json(&self, args: &str) -> Value {
        ip_json(args)
    }

    /// The shim with these words, the fake QEMU behind it.
    pub fn shim(&self, words: &str) -> Cmd<'_> {
        Cmd::new(self, env!("CARGO_BIN_EXE_qemu-kvm")).words(words)
    }

    pub fn kvm_bridge(&self, words: &str) -> Cmd<'_> {
        Cmd::new(self, env!("CARGO_BIN_EXE_kvm-bridge")).words(words)
    }

    /// Any other program, with the same environment and the same care.
    pub fn program(&self, path: impl AsRef<Path>) -> Cmd<'_> {
        Cmd::new(self, path.as_ref())
    }

    /// A line as typed into `sh`.
    pub fn sh(&self, line: &str) -> Cmd<'_> {
        Cmd::new(self, "sh").arg("-c").arg(line)
    }

    pub fn configure(&self, toml: &str) {
        fs::create_dir_all("/etc/kvm-bridge").expect("make /etc/kvm-bridge");
        fs::write("/etc/kvm-bridge/config.toml", toml).expect("write the configuration");
    }

    /// A path in the test's folder that nothing has used yet.
    pub fn new_file(&self, name: &str) -> PathBuf {
        self.files.set(self.files.get() + 1);
        self.dir.path().join(format!("{name}{}", self.files.get()))
    }

    // What can be seen of it, by iproute2 and never by our own code.

    /// `ip -j -d link show NAME`, if there is such a link.
    pub fn link(&self, name: &str) -> Option<Value> {
        let links = ip_json("-d link");
        links.as_array().expect("a list").iter().find(|link| link["ifname"] == name).cloned()
    }

    #[track_caller]
    pub fn a_link(&self, name: &str) -> Value {
        self.link(name).unwrap_or_else(|| panic!("there is no link {name}"))
    }

    /// The names of its ports, sorted.
    pub fn ports(&self, bridge: &str) -> Vec<String> {
        let links = ip_json("link");
        let links = links.as_array().expect("a list").iter().filter(|link| link["master"] == bridge);
        let mut names: Vec<String> = links.map(|link| link["ifname"].as_str().expect("a name").to_owned()).collect();
        names.sort();
        names
    }

    /// The addresses of a link with their prefix lengths; IPv6 ones that the kernel makes by itself included.
    pub fn addresses(&self, link: &str) -> Vec<String> {
        let shown = ip_json(&format!("addr show {link}"));
        let addresses = shown[0]["addr_info"].as_array().cloned().unwrap_or_default();
        let text = |a: &Value| format!("{}/{}", a["local"].as_str().expect("an address"), a["prefixlen"]);
        addresses.iter().map(text).collect()
    }

    pub fn reapers(&self) -> Vec<Process> {
        self.processes().into_iter().filter(|p| p.command.starts_with("kvm-bridge-reaper")).collect()
    }

    #[track_caller]
    pub fn reaper_of(&self, bridge: &str) -> Process {
        let wanted = format!("kvm-bridge-reaper {bridge}");
        wait_for(&wanted, 3, || self.reapers().into_iter().find(|reaper| reaper.command == wanted))
    }

    /// Waits until each reaper has seen all that there is to be seen, and is not going to take anything back: what is there
    /// now stays until somebody does something.
    #[track_caller]
    pub fn reapers_rest(&self) {
        let rest = || self.reapers().iter().all(Process::is_at_rest).then_some(());
        wait_for("the reapers to have nothing left to do", 10, rest);
    }

    /// Waits until the reaper takes a bridge back that nobody uses any more, and returns in the midst of that: when it has
    /// begun, when the bridge is gone, or when nothing is left.
    #[track_caller]
    pub fn is_taken_back(&self, bridge: &str, round: usize) {
        let journal = self.run_dir().join(format!("{bridge}.json"));
        let has_come = || match round % 3 {
            0 => fs::read_to_string(&journal).map_or(true, |text| text.contains("\"is_finished\": false")),
            1 => !Path::new("/sys/class/net").join(bridge).exists(),
            _ => !journal.exists(),
        };
        spin_for("the bridge to be taken back", 10, || has_come().then_some(()));
    }

    /// Everything that runs on the host side but for what is tolerated.
    pub fn processes(&self) -> Vec<Process> {
        // Each as often as it ran then.
        let mut tolerated = self.tolerated.borrow().clone();
        let mut is_new = |process: &Process| match tolerated.iter().position(|command| *command == process.command) {
            Some(at) => {
                tolerated.swap_remove(at);
                false
            }
            None => true,
        };
        // dhcpcd has one of these for as long as it announces an address.
        let passes = |process: &Process| process.command.contains("[BPF ARP]");
        self.all_processes().into_iter().filter(|process| is_new(process) && !passes(process)).collect()
    }

    /// Everything that runs on the host side.
    pub fn all_processes(&self) -> Vec<Process> {
        processes::in_namespace(self.namespaces.net_inode)
    }

    /// What runs by now is the host's own, and may go on.
    pub fn tolerates_what_runs(&self) {
        *self.tolerated.borrow_mut() = self.all_processes().into_iter().map(|process| process.command).collect();
    }

    /// The command lines that ran then and do not any more.
    pub fn no_longer_runs(&self) -> Vec<String> {
        let now: Vec<String> = self.all_processes().into_iter().map(|process| process.command).collect();
        let is_passing =
            |command: &&String| command.is_empty() || command.contains("[BPF ") || command.ends_with("nm-dispatcher");
        self.tolerated
            .borrow()
            .iter()
            .filter(|command| !is_passing(command) && !now.contains(command))
            .cloned()
            .collect()
    }

    /// The folder of run-time state that belongs to this network namespace.
    pub fn run_dir(&self) -> PathBuf {
        Path::new("/run/kvm-bridge").join(self.namespaces.net_inode.to_string())
    }

    pub fn waits_until_gone(&self, link: &str) {
        wait_for(&format!("{link} to go"), CLEAN_WITHIN.as_secs(), || self.link(link).is_none().then_some(()));
    }

    // Before and after.

    /// From here on this is how the host has to look at the end.
    pub fn baseline(&self) {
        self.settle();
        *self.baseline.borrow_mut() = Some(State::now());
    }

    /// The baseline is what the first of our programs found, unless the test says otherwise.
    pub fn mark_before_first_run(&self) {
        if self.baseline.borrow().is_none() {
            self.baseline();
        }
    }

    /// How long the host may take at the end to be as it was.
    pub fn wait_at_most(&self, patience: Duration) {
        self.patience.set(patience);
    }

    pub fn settle(&self) {
        patiently(Duration::from_secs(4), || state::is_settled().then_some(()));
    }

    /// Fails at once if the host is not as it was; for tests in which nothing may have been done.
    #[track_caller]
    pub fn is_untouched(&self) {
        if let Some(remains) = self.remains() {
            panic!("the host is not as it was:\n{remains}");
        }
    }

    /// Waits until the host is as it was, as it has to be after the last guest.
    #[track_caller]
    pub fn becomes_as_before(&self) {
        if let Some(remains) = self.remains_in_the_end() {
            panic!("the host is not as it was:\n{remains}");
        }
    }

    pub fn is_as_before(&self) -> bool {
        self.remains().is_none()
    }

    /// What differs of the network alone: a process that has nothing left to do takes a moment to end.
    pub fn network_difference(&self) -> Option<String> {
        self.baseline.borrow().as_ref().and_then(|before| before.difference(&State::now()))
    }

    /// Waits until all but a guest that still runs is as it was.
    #[track_caller]
    pub fn becomes_as_before_but_for(&self, guest: &Running) {
        let differs = || {
            let mut remains = self.remains_of(&[guest.pid()]);
            remains.extend(
                self.baseline.borrow().as_ref().and_then(|before| before.difference(&State::now_without_taps())),
            );
            remains
        };
        if patiently(self.patience.get(), || differs().is_empty().then_some(())).is_none() {
            panic!("the host is not as it was:\n{}", differs().concat());
        }
    }

    /// For a test that leaves the host changed on purpose, by hand: from here on nothing is compared.
    pub fn ends_here(&self) {
        *self.baseline.borrow_mut() = None;
    }

    fn remains_in_the_end(&self) -> Option<String> {
        match patiently(self.patience.get(), || self.remains().is_none().then_some(())) {
            Some(()) => None,
            None => self.remains(),
        }
    }

    /// What differs from the baseline: the network, processes, run-time files.
    pub fn remains(&self) -> Option<String> {
        let mut remains = self.remains_of(&[]);
        if remains.is_empty() {
            remains.extend(self.network_difference());
        }
        (!remains.is_empty()).then(|| remains.concat())
    }

    /// Processes but for some, and run-time files.
    fn remains_of(&self, but: &[i32]) -> Vec<String> {
        let processes = self.processes().into_iter().filter(|process| !but.contains(&process.pid));
        let mut remains: Vec<String> =
            processes.map(|p| format!("process {} still runs: {}\n", p.pid, p.command)).collect();
        files_under(Path::new("/run/kvm-bridge"), &mut remains);
        remains
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.lan.close();
        let remains = if std::thread::panicking() { self.remains() } else { self.remains_in_the_end() };
        for process in self.all_processes() {
            process.kill();
        }
        let Some(remains) = remains else { return };
        if std::thread::panicking() {
            eprintln!("when the test failed the host was not as before:\n{remains}");
        } else {
            panic!("the test left the host changed:\n{remains}");
        }
    }
}

#[track_caller]
fn ip(args: &str) {
    let output = Command::new("ip").args(args.split_whitespace()).output().expect("run ip");
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
}

fn files_under(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files_under(&entry.path(), found);
        } else {
            found.push(format!("file {} is still there\n", entry.path().display()));
            if entry.path().extension().is_some_and(|end| end == "error") {
                found.extend(fs::read_to_string(entry.path()).ok());
            }
        }
    }
}
