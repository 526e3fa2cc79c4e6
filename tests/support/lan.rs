//! What is at the other end of the cable: a host with an address, and a DHCP server on demand.

use super::namespaces::within;
use super::wait::patiently;
use super::wait_for;
use std::cell::RefCell;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

/// Leases that are to be renewed every few seconds.
const SHORT: &[&str] = &["--dhcp-option=option:T1,5", "--dhcp-option=option:T2,60", "--dhcp-option=6,10.77.0.1"];

pub struct Lan {
    dir: PathBuf,
    server: RefCell<Option<Child>>,
}

impl Lan {
    /// Plugs eth0 of the calling thread's network namespace into a LAN.
    pub fn new(dir: &Path) -> Self {
        let lan = Self { dir: dir.to_owned(), server: RefCell::default() };
        ip("netns add lan");
        for which in ["all", "default"] {
            lan.run(&format!("sysctl -qw net.ipv6.conf.{which}.accept_dad=0"));
        }
        // With the same index at both ends the kernel takes it for a link of its own kind, and a second to see its carrier.
        ip("link add index 10 name eth0 type veth peer name lan0 netns lan");
        for command in ["link set lo up", "addr add 10.77.0.1/24 dev lan0", "addr add fd77::1/64 dev lan0"] {
            lan.run(&format!("ip {command}"));
        }
        lan.run("ip link set lan0 up");
        ip("link set eth0 up");
        lan
    }

    /// A thread in the LAN, as a program there would be.
    pub fn thread<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        within("lan", work)
    }

    pub fn command(&self, words: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", "lan"]).args(words.split_whitespace());
        command
    }

    /// Runs a program in the LAN that has to succeed.
    #[track_caller]
    pub fn run(&self, words: &str) -> String {
        let Output { status, stdout, stderr } = self.command(words).output().expect("run ip netns exec");
        assert!(status.success(), "{words}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8_lossy(&stdout).into_owned()
    }

    pub fn mac(&self) -> String {
        self.run("cat /sys/class/net/lan0/address").trim().to_owned()
    }

    /// Whether somebody at this address answers a ping within ten seconds. One ping gives up when an earlier question for
    /// a MAC address was in vain.
    pub fn reaches(&self, address: &str) -> bool {
        let ping = format!("ping -c 1 -w 3 {address}");
        let is_answered = || self.command(&ping).stdout(Stdio::null()).status().is_ok_and(|status| status.success());
        patiently(Duration::from_secs(10), || is_answered().then_some(())).is_some()
    }

    /// Starts a DHCP server with 10.77.0.100 to .199; false, loudly, where there is none to start.
    pub fn serve_dhcp(&self) -> bool {
        self.serve("10.77.0.100,10.77.0.199,1h", &[])
    }

    /// The same, with the shortest leases that it gives, which are to be renewed every few seconds.
    pub fn serve_short_leases(&self) -> bool {
        self.serve("10.77.0.100,10.77.0.199,120", SHORT)
    }

    /// In place of that server one that knows of no lease, and has 10.77.0.200 to .250.
    pub fn serve_others(&self) {
        // What it has logged it also sends, other than by `close`.
        if let Some(mut server) = self.server.borrow_mut().take() {
            let pid = nix::unistd::Pid::from_raw(server.id() as i32);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("end the server");
            server.wait().expect("wait for its end");
        }
        let _ = fs::remove_file(self.dir.join("dnsmasq.leases"));
        assert!(self.serve("10.77.0.200,10.77.0.250,120", SHORT));
    }

    fn serve(&self, range: &str, options: &[&str]) -> bool {
        if !super::have("dnsmasq") {
            return false;
        }
        self.close();
        let log = File::create(self.log()).expect("create the server's log");
        let file = |name: &str| self.dir.join(name).display().to_string();
        let child = self
            .command(
                "dnsmasq --keep-in-foreground --no-ping --conf-file=/dev/null --port=0 --user=root --interface=lan0 \
                 --bind-interfaces --dhcp-authoritative --log-dhcp --log-facility=-",
            )
            .arg(format!("--dhcp-range={range}"))
            .args(options)
            .arg(format!("--pid-file={}", file("dnsmasq.pid")))
            .arg(format!("--dhcp-leasefile={}", file("dnsmasq.leases")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("start dnsmasq");
        *self.server.borrow_mut() = Some(child);
        wait_for("the DHCP server to be ready", 5, || self.dhcp_log().contains("DHCP, IP range").then_some(()));
        true
    }

    /// The address that the server has acknowledged for this MAC, once it has.
    #[track_caller]
    pub fn lease_of(&self, mac: &str, seconds: u64) -> String {
        let acknowledged = || {
            let log = self.dhcp_log();
            let line = log.lines().rfind(|line| line.contains("DHCPACK(") && line.contains(mac))?;
            line.split_whitespace().find(|word| word.starts_with("10.77.0.")).map(str::to_owned)
        };
        patiently(Duration::from_secs(seconds), acknowledged).unwrap_or_else(|| {
            panic!("waited {seconds} s in vain for a DHCPACK for {mac}; the server:\n{}", self.dhcp_log())
        })
    }

    pub fn dhcp_log(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn log(&self) -> PathBuf {
        self.dir.join("dnsmasq.log")
    }

    pub fn close(&self) {
        if let Some(mut server) = self.server.borrow_mut().take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

#[track_caller]
fn ip(args: &str) {
    let status = Command::new("ip").args(args.split_whitespace()).status().expect("run ip");
    assert!(status.success(), "ip {args}");
}
