//! A guest with a network stack of its own: one that can be pinged, and ping, open connections, have VLANs.

use super::command::{Ended, Running};
use super::namespaces::within;
use super::wait::patiently;
use super::{Lab, wait_for};
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

/// A network namespace with a name, to run programs in.
pub struct Stack {
    pub name: String,
}

impl Stack {
    /// One that is new, with `lo` up and no wait for duplicate addresses.
    pub fn new(name: &str) -> Self {
        let added = Command::new("ip").args(["netns", "add", name]).status().expect("run ip");
        assert!(added.success(), "ip netns add {name}");
        let stack = Self { name: name.to_owned() };
        for which in ["all", "default"] {
            stack.run(&format!("sysctl -qw net.ipv6.conf.{which}.accept_dad=0"));
        }
        stack.run("ip link set lo up");
        stack
    }

    pub fn command(&self, words: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).args(words.split_whitespace());
        command
    }

    /// Runs a program there that has to succeed.
    #[track_caller]
    pub fn run(&self, words: &str) -> String {
        let Output { status, stdout, stderr } = self.command(words).output().expect("run ip netns exec");
        assert!(status.success(), "{words}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8_lossy(&stdout).into_owned()
    }

    /// Whether somebody at this address answers a ping within ten seconds. One ping gives up when an earlier question for
    /// a MAC address was in vain.
    pub fn reaches(&self, address: &str) -> bool {
        patiently(Duration::from_secs(10), || self.pings(&format!("-w 3 {address}")).then_some(())).is_some()
    }

    /// The same, with more said.
    pub fn pings(&self, words: &str) -> bool {
        let ping = format!("ping -c 1 {words}");
        self.command(&ping).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    /// A thread there, as a program would be.
    pub fn thread<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        within(&self.name, work)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).stderr(Stdio::null()).status();
    }
}

/// A guest of the laboratory whose QEMU is the fake one, with a network stack of its own.
pub struct Guest<'lab> {
    pub running: Running<'lab>,
    pub stack: Stack,
    pub mac: String,
    pub tap: String,
}

impl<'lab> Guest<'lab> {
    /// Boots one on br0, with the addresses 10.77.0.N and fd77::N.
    #[track_caller]
    pub fn boot(lab: &'lab Lab, number: u8) -> Self {
        Self::boot_with(lab, number, "--bridge br0")
    }

    /// The same, with these words for the shim.
    #[track_caller]
    pub fn boot_with(lab: &'lab Lab, number: u8, words: &str) -> Self {
        let guest = Self::boot_silent(lab, &format!("guest{number}"), words);
        guest.stack.run(&format!("ip addr add 10.77.0.{number}/24 dev eth0"));
        guest.stack.run(&format!("ip addr add fd77::{number}/64 dev eth0"));
        guest.stack.run("ip link set eth0 up");
        guest
    }

    /// One whose card is down: not a frame comes from it.
    #[track_caller]
    pub fn boot_silent(lab: &'lab Lab, name: &str, words: &str) -> Self {
        lab.mark_before_first_run();
        let stack = Stack::new(name);
        let words = format!("{words} -name {name}");
        let mut running = lab.shim(&words).then(&format!("stack:{name}")).start();
        let (mac, tap) = (running.qemu().macs()[0].clone(), running.qemu().taps()[0].name.clone());
        wait_for("the guest's card to have its MAC", 10, || {
            let shown = stack.command("cat /sys/class/net/eth0/address").output().expect("run cat").stdout;
            (String::from_utf8_lossy(&shown).trim() == mac).then_some(())
        });
        Self { running, stack, mac, tap }
    }

    pub fn run(&self, words: &str) -> String {
        self.stack.run(words)
    }

    pub fn reaches(&self, address: &str) -> bool {
        self.stack.reaches(address)
    }

    #[track_caller]
    pub fn terminate(self) -> Ended {
        self.running.signal(nix::sys::signal::Signal::SIGTERM);
        self.running.end()
    }
}
