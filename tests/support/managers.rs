//! A host whose eth0 is run by a network manager: the laboratory with what these want to find, and the managers of
//! Debian's packages, which are unpacked and not installed (`tests/managers/build`).

use super::namespaces::{mount_fs, read_only};
use super::state::ip_json;
use super::wait::patiently;
use super::{Lab, skip, wait_for};
use nix::mount::{MsFlags, mount};
use serde_json::Value;
use std::fs;
use std::ops::Deref;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Who runs eth0.
#[allow(clippy::enum_variant_names)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    NetworkManager,
    Networkd,
    Ifupdown,
    Dhcpcd,
    Udhcpc,
    /// networkd, by the files that netplan's generator writes.
    Netplan,
    /// One that can't be worked with.
    Connman,
}

/// Where the host has its address from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Static,
    Dhcp,
}

pub const ALL: [(Manager, Mode); 9] = [
    (Manager::NetworkManager, Mode::Dhcp),
    (Manager::NetworkManager, Mode::Static),
    (Manager::Networkd, Mode::Dhcp),
    (Manager::Networkd, Mode::Static),
    (Manager::Ifupdown, Mode::Dhcp),
    (Manager::Ifupdown, Mode::Static),
    (Manager::Dhcpcd, Mode::Dhcp),
    (Manager::Dhcpcd, Mode::Static),
    (Manager::Udhcpc, Mode::Dhcp),
];

pub struct Managed {
    pub lab: Lab,
    pub manager: Manager,
    pub mode: Mode,
    /// The host's address, as 10.77.0.100.
    pub address: String,
    log: std::path::PathBuf,
}

impl Deref for Managed {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl Managed {
    /// A host on the network by a manager that has come to rest; None, loudly, where that can't be built.
    pub fn new(manager: Manager, mode: Mode) -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/managers/root");
        if !root.join("usr/sbin/NetworkManager").exists() {
            skip("there are no network managers: tests/managers/build target/managers");
            return None;
        }
        let lab = Lab::new()?;
        if mode == Mode::Dhcp && !lab.lan.serve_short_leases() {
            return None;
        }
        own_system(&root);
        if manager == Manager::Connman {
            // It does not know of checksums that a veth leaves to the card.
            lab.lan.run("ethtool -K lan0 tx off");
        }
        let log = lab.dir.path().join("manager.log");
        let mut managed = Self { lab, manager, mode, address: String::new(), log };
        managed.configure_manager();
        managed.start();
        managed.address = wait_for("the host to have an address", 20, || managed.host_address("eth0"));
        wait_for("its default route", 10, || (managed.default_routes().len() == 1).then_some(()));
        managed.comes_to_rest();
        managed.lab.tolerates_what_runs();
        Some(managed)
    }

    fn host_address(&self, device: &str) -> Option<String> {
        let found = addresses(device).into_iter().next()?;
        Some(found.split('/').next()?.to_owned())
    }

    fn configure_manager(&self) {
        let is_static = self.mode == Mode::Static;
        let (path, text) = match self.manager {
            Manager::NetworkManager => (
                "/etc/NetworkManager/system-connections/wired.nmconnection",
                format!(
                    "[connection]\nid=wired\nuuid=11111111-2222-4333-8444-555555555555\ntype=ethernet\n\
                     interface-name=eth0\n[ipv4]\n{}\n[ipv6]\nmethod=auto\nra-timeout=2\n",
                    if is_static { "method=manual\naddress1=10.77.0.2/24,10.77.0.1" } else { "method=auto" }
                ),
            ),
            Manager::Networkd => (
                "/etc/systemd/network/20-wired.network",
                format!(
                    // As broad as they come: it would take TAPs too.
                    "[Match]\nType=ether\n\n[Network]\nIPv6AcceptRA=no\n{}\n",
                    if is_static { "Address=10.77.0.2/24\nGateway=10.77.0.1" } else { "DHCP=ipv4" }
                ),
            ),
            Manager::Ifupdown => (
                "/etc/network/interfaces",
                format!(
                    "auto eth0\niface eth0 inet {}\n",
                    if is_static { "static\n address 10.77.0.2/24\n gateway 10.77.0.1" } else { "dhcp" }
                ),
            ),
            Manager::Dhcpcd => (
                "/etc/dhcpcd.conf",
                format!(
                    // Without udev it would wait for that.
                    "nodev\nduid\npersistent\nnoipv6rs\n{}\n",
                    if is_static {
                        "interface eth0\nstatic ip_address=10.77.0.2/24\nstatic routers=10.77.0.1"
                    } else {
                        "option routers, domain_name_servers"
                    }
                ),
            ),
            Manager::Netplan => (
                "/etc/netplan/01-wired.yaml",
                format!(
                    "network:\n  version: 2\n  ethernets:\n    eth0: {{{}}}\n",
                    if is_static {
                        "addresses: [10.77.0.2/24], routes: [{to: 0.0.0.0/0, via: 10.77.0.1}]"
                    } else {
                        "dhcp4: true"
                    }
                ),
            ),
            Manager::Connman => return fs::create_dir_all("/run/connman").expect("make a folder"),
            Manager::Udhcpc => return,
        };
        fs::write(path, text).expect("configure the manager");
        self.install_our_files();
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("set its mode");
        if self.manager == Manager::Networkd {
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("set its mode");
        }
    }

    /// What a package of ours brings for managers, as far as it is read without udev.
    fn install_our_files(&self) {
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/network");
        for (file, to) in
            [("00-0-kvm-bridge.network", "/run/systemd/network"), ("00-kvm-bridge.conf", "/run/NetworkManager/conf.d")]
        {
            fs::create_dir_all(to).expect("make a folder");
            fs::copy(ours.join(file), Path::new(to).join(file)).expect("copy a file");
        }
    }

    /// Starts the manager as its service would. A daemon in the foreground ends with the laboratory.
    #[allow(clippy::zombie_processes)]
    pub fn start(&self) {
        let words: &[&str] = match self.manager {
            Manager::NetworkManager => &["NetworkManager", "--debug"],
            Manager::Networkd | Manager::Netplan => &["/lib/systemd/systemd-networkd"],
            Manager::Connman => &["connmand", "-n"],
            Manager::Ifupdown => &["ifup", "eth0"],
            Manager::Dhcpcd => &["dhcpcd", "-b", "-q"],
            Manager::Udhcpc => &["udhcpc", "-i", "eth0", "-b", "-p", "/run/udhcpc.eth0.pid"],
        };
        if self.manager == Manager::Netplan {
            // Its Python looks for its library in the cache of all.
            let _ = fs::remove_file("/etc/ld.so.cache");
            assert!(Command::new("ldconfig").status().expect("run ldconfig").success());
            let generated = Command::new("/usr/lib/netplan/generate").status().expect("run netplan's generator");
            assert!(generated.success());
        }
        let log = fs::File::options().append(true).create(true).open(&self.log).expect("open the log");
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(log.try_clone().expect("clone")).stderr(log);
        let mut child = command.spawn().expect("start the manager");
        if !self.is_daemon() {
            let status = wait_for("the manager to be in the background", 20, || child.try_wait().expect("wait"));
            assert!(status.success(), "{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
    }

    pub fn is_networkds(&self) -> bool {
        matches!(self.manager, Manager::Networkd | Manager::Netplan)
    }

    fn is_daemon(&self) -> bool {
        matches!(self.manager, Manager::NetworkManager | Manager::Networkd | Manager::Netplan | Manager::Connman)
    }

    /// The manager's process, of one that is a daemon.
    pub fn daemon(&self) -> super::processes::Process {
        let name = match self.manager {
            Manager::NetworkManager => "NetworkManager --debug",
            Manager::Networkd | Manager::Netplan => "/lib/systemd/systemd-networkd",
            Manager::Connman => "connmand -n",
            other => panic!("{other:?} is no daemon that can be restarted here"),
        };
        self.lab.all_processes().into_iter().find(|process| process.command == name).expect("the manager runs")
    }

    /// Ends and starts the manager, as an upgrade does.
    pub fn restart(&self) {
        if !self.is_daemon() {
            return;
        }
        let process = self.daemon();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(process.pid), nix::sys::signal::Signal::SIGTERM)
            .expect("end");
        // Its name on the bus is free when its last thread has ended.
        wait_for("its end", 10, || super::processes::has_ended(process.pid).then_some(()));
        self.start();
        self.is_content();
    }

    /// Waits until the manager that runs answers, and has nothing more to do.
    pub fn is_content(&self) {
        let said = |words: &str| {
            let mut words = words.split(' ');
            let output = Command::new(words.next().expect("a program")).args(words).output().expect("ask the manager");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        match self.manager {
            Manager::NetworkManager => wait_for("NetworkManager", 60, || {
                let said = said("nmcli -t -f RUNNING,STARTUP general");
                (said.trim() == "running:started").then_some(())
            }),
            Manager::Networkd | Manager::Netplan => {
                let is_at_rest = || {
                    let said = said("networkctl --no-legend --no-pager");
                    let is_busy = said.lines().any(|line| line.contains("configuring") || line.contains("pending"));
                    (!said.is_empty() && !is_busy).then_some(())
                };
                if patiently(Duration::from_secs(20), is_at_rest).is_none() {
                    panic!("networkd is not at rest: {}", said("networkctl --no-pager status -a"));
                }
            }
            _ => {}
        }
    }

    pub fn comes_to_rest(&self) {
        self.is_content();
        patiently(Duration::from_secs(3), || {
            let before = super::state::State::now();
            // None of them says when it has nothing more to do.
            std::thread::sleep(Duration::from_millis(700));
            (before == super::state::State::now()).then_some(())
        });
        self.lab.settle();
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The host has its address once, on this link, and one default route, by it.
    #[track_caller]
    pub fn is_on(&self, device: &str) {
        self.is_on_as(device, &self.address);
    }

    /// The same, where it got another address.
    #[track_caller]
    pub fn is_on_as(&self, device: &str, address: &str) {
        let seen = || {
            let links = ip_json("-4 addr show scope global");
            let all: Vec<String> = links
                .as_array()
                .expect("a list")
                .iter()
                .flat_map(|link| {
                    let name = link["ifname"].as_str().unwrap_or_default().to_owned();
                    let infos = link["addr_info"].as_array().cloned().unwrap_or_default();
                    infos.into_iter().map(move |info| format!("{name} {}", info["local"].as_str().unwrap_or_default()))
                })
                .collect();
            let routes: Vec<String> = self.default_routes().iter().map(|route| route["dev"].to_string()).collect();
            (all, routes)
        };
        let wanted = (vec![format!("{device} {address}")], vec![format!("\"{device}\"")]);
        assert_eq!(seen(), wanted, "the manager's log:\n{}\nlinks: {:#?}", self.log(), ip_json("-br addr"));
    }

    pub fn default_routes(&self) -> Vec<Value> {
        let routes = ip_json("-4 route show default");
        routes.as_array().cloned().unwrap_or_default()
    }

    /// How often the server has given the host its lease.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged_as(&self.address)
    }

    pub fn acknowledged_as(&self, address: &str) -> usize {
        self.lab.lan.dhcp_log().matches(&format!("DHCPACK(lan0) {address} ")).count()
    }

    #[track_caller]
    pub fn waits_for_renewals(&self, count: usize, seconds: u64) {
        let wanted = self.acknowledged() + count;
        let what =
            format!("{count} renewals; the manager's log:\n{}\nthe server's:\n{}", self.log(), self.lab.lan.dhcp_log());
        wait_for(&what, seconds, || (self.acknowledged() >= wanted).then_some(()));
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the manager's log:\n{}\nthe server's:\n{}", self.log(), self.lab.lan.dhcp_log());
        }
    }
}

fn addresses(device: &str) -> Vec<String> {
    let shown = ip_json(&format!("-4 addr show {device}"));
    let infos = shown[0]["addr_info"].as_array().cloned().unwrap_or_default();
    infos.iter().map(|info| format!("{}/{}", info["local"].as_str().unwrap_or_default(), info["prefixlen"])).collect()
}

/// The managers' programs over /usr, configuration of their own, a system bus, and no way to the real /etc.
fn own_system(root: &Path) {
    read_only("/run/etc").expect("protect the real /etc");
    read_only("/sys").expect("make /sys read-only: then they do not wait for udev");
    let layers = format!("lowerdir={}:/usr", root.join("usr").display());
    mount(Some("overlay"), "/usr", Some("overlay"), MsFlags::empty(), Some(layers.as_str())).expect("lay over /usr");
    mount_fs("tmpfs", Path::new("/var/log")).expect("a /var/log");
    for folder in ["connman", "dhcp", "netplan", "network", "NetworkManager", "systemd", "udhcpc"] {
        let own = Path::new("/etc").join(folder);
        let _ = fs::remove_file(&own);
        let copied = Command::new("cp").arg("-a").arg(root.join("etc").join(folder)).arg(&own).status();
        assert!(copied.expect("run cp").success());
    }
    for file in ["resolv.conf", "hostname", "machine-id", "dhcpcd.conf"] {
        let _ = fs::remove_file(Path::new("/etc").join(file));
    }
    fs::write("/etc/resolv.conf", "").expect("write");
    fs::write("/etc/hostname", "lab\n").expect("write");
    fs::write("/etc/machine-id", format!("{:032x}\n", std::process::id() as u128 + 7)).expect("write");
    for (file, line) in [
        ("passwd", "dhcpcd:x:987:987::/run/dhcpcd:/bin/false\nsystemd-network:x:986:986::/:/bin/false"),
        ("group", "dhcpcd:x:987:\nsystemd-network:x:986:"),
    ] {
        let own = Path::new("/etc").join(file);
        let text = fs::read_to_string(&own).expect("read");
        let text: Vec<&str> = text.lines().filter(|line| !line.starts_with("systemd-network:")).collect();
        fs::remove_file(&own).expect("remove a link");
        fs::write(&own, format!("{}\n{line}\n", text.join("\n"))).expect("write");
    }
    for folder in [
        "/run/dbus",
        "/run/network",
        "/run/systemd/netif/links",
        "/run/systemd/netif/leases",
        "/run/systemd/netif/lldp",
        "/etc/systemd/network",
        "/etc/NetworkManager/system-connections",
        "/var/lib/NetworkManager",
        "/var/lib/connman",
        "/var/lib/dhcp",
        "/var/lib/dhcpcd",
        "/run/dhcpcd",
    ] {
        fs::create_dir_all(folder).expect("make a folder");
    }
    for folder in ["", "/links", "/leases", "/lldp"] {
        chown(format!("/run/systemd/netif{folder}"), Some(986), Some(986)).expect("give it to networkd");
    }
    let bus = Command::new("dbus-daemon").args(["--system", "--fork", "--nopidfile"]).status();
    assert!(bus.expect("run dbus-daemon").success());
}
