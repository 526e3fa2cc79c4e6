//! A guest that moves to another host of the LAN while it runs, as docs/migrating-guests.md has it. The real QEMU, a real guest.

use crate::lifecycle::monitor;
use crate::support::command::Cmd;
use crate::support::guest::Stack;
use crate::support::real::{self, QEMU, QUIET, Qmp};
use crate::support::wire::Wire;
use crate::support::{Lab, have, wait_for};
use serde_json::json;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

/// The EtherType of RARP, by which QEMU announces a guest.
const RARP: u16 = 0x8035;
const BY_HAND: &str = "52:54:00:12:34:56";

/// Two hosts and the LAN, which is a switch.
struct Hosts {
    lab: Lab,
    other: Stack,
    launcher: PathBuf,
}

impl Hosts {
    fn new() -> Option<Self> {
        let lab = Lab::new()?;
        let other = Stack::new("other");
        for command in [
            "ip link set lan0 down",
            "ip link set lan0 name cable0",
            "ip addr flush dev cable0",
            "ip link add lan0 type bridge",
            "ip addr add 10.77.0.1/24 dev lan0",
            "ip link add cable1 type veth peer name eth0 netns other",
            "ip link set cable0 master lan0 up",
            "ip link set cable1 master lan0 up",
            "ip link set lan0 up",
        ] {
            lab.lan.run(command);
        }
        other.run("ip link set eth0 up");
        // The other host has files of its own where ours are.
        let launcher = lab.dir.path().join("on-other");
        let mut script = "#!/bin/sh -e\n".to_owned();
        for folder in ["/run/kvm-bridge", "/var/lib/kvm-bridge"] {
            let own = lab.dir.path().join(folder.trim_start_matches('/').replace('/', "-"));
            fs::create_dir_all(&own).expect("make a folder");
            script += &format!("mkdir -p {folder}; mount --bind {} {folder}\n", own.display());
        }
        fs::write(&launcher, script + "exec \"$@\"\n").expect("write a script");
        fs::set_permissions(&launcher, fs::Permissions::from_mode(0o755)).expect("make it executable");
        let hosts = Self { lab, other, launcher };
        hosts.both(&["addr add 10.77.0.HOST/24 dev eth0", "route add default via 10.77.0.1"]);
        Some(hosts)
    }

    /// What a person types on both hosts; the address of each ends in HOST.
    fn both(&self, commands: &[&str]) {
        for command in commands {
            self.lab.ip(&command.replace("HOST", "2"));
            self.other.run(&format!("ip {}", command.replace("HOST", "3")));
        }
    }

    fn on_other<'lab>(&self, cmd: Cmd<'lab>) -> Cmd<'lab> {
        cmd.through(&format!("ip netns exec {} {}", self.other.name, self.launcher.display()))
    }
}

/// What the LAN saw of a guest that moved.
#[derive(Debug)]
struct Seen {
    /// The longest time between two answers to pings, of which one is sent each 10 ms.
    gap: Duration,
    /// How many pings had no answer.
    lost: usize,
}

/// Pings from the LAN, all the time.
struct Pings {
    child: std::process::Child,
    out: PathBuf,
}

impl Pings {
    fn begin(lab: &Lab, address: &str) -> Self {
        let out = lab.new_file("pings");
        let file = File::create(&out).expect("create a file");
        let child =
            lab.lan.command(&format!("ping -n -D -i 0.01 {address}")).stdout(file).stderr(Stdio::null()).spawn();
        let pings = Self { child: child.expect("run ping"), out };
        pings.go_on(100);
        pings
    }

    fn answers(&self) -> Vec<(f64, usize)> {
        let text = fs::read_to_string(&self.out).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let answers = whole.lines().filter_map(|line| {
            let time = line.strip_prefix('[')?.split_once(']')?.0.parse().ok()?;
            Some((time, line.split("icmp_seq=").nth(1)?.split(' ').next()?.parse().ok()?))
        });
        answers.collect()
    }

    /// Waits for so many more answers.
    fn go_on(&self, more: usize) {
        let before = self.answers().len();
        wait_for("pings to be answered", 60, || (self.answers().len() >= before + more).then_some(()));
    }

    fn end(mut self) -> (Duration, usize) {
        let answers = self.answers();
        let _ = self.child.kill();
        let _ = self.child.wait();
        let gap = answers.windows(2).map(|two| two[1].0 - two[0].0).fold(0.0, f64::max);
        let missing = |two: &[(f64, usize)]| (two[1].1).saturating_sub(two[0].1 + 1);
        (Duration::from_secs_f64(gap), answers.windows(2).map(missing).sum())
    }
}

/// The kernel of a guest that answers pings.
fn guest_words<'lab>(cmd: Cmd<'lab>) -> Option<Cmd<'lab>> {
    let (kernel, initramfs) = real::linux()?;
    let cmd = cmd.words(&format!("-accel tcg -m 128 {QUIET} -name alice -kernel")).arg(kernel).words("-initrd");
    Some(cmd.arg(initramfs).words("-append").arg("ip=dhcp quiet guest.then=hold"))
}

/// How a guest is on the network.
#[derive(Debug, Clone, Copy)]
enum Way {
    Ours,
    ByHand,
}

impl Way {
    /// What starts a guest of this card's model; on the other host too, where `mac` is what the first has.
    fn start<'lab>(self, lab: &'lab Lab, model: &str) -> Cmd<'lab> {
        match self {
            Self::Ours => real::shim(lab, &format!("--bridge br0,uplink=eth0,model={model}")),
            Self::ByHand => lab.program(QEMU).words(&format!(
                "-netdev tap,id=net0,ifname=tap0,script=no,downscript=no -device {model},netdev=net0,mac={BY_HAND}"
            )),
        }
    }
}

/// Moves a guest to the other host, and back to nobody: what the LAN sees of it.
#[track_caller]
fn migrate(way: Way, model: &str) -> Option<Seen> {
    let hosts = Hosts::new()?;
    let lab = &hosts.lab;
    if !have("qemu-system-x86_64") || !have("ping") || !lab.lan.serve_dhcp() {
        return None;
    }
    if let Way::ByHand = way {
        hosts.both(&[
            "link add br0 type bridge",
            "link set eth0 master br0",
            "addr flush dev eth0",
            "addr add 10.77.0.HOST/24 dev br0",
            "link set br0 up",
            "tuntap add tap0 mode tap",
            "link set tap0 master br0 up",
        ]);
    }
    let (socket, words) = monitor(lab);
    let mut from = guest_words(way.start(lab, model).words(&words))?.start();
    let mac = real::mac(&mut from);
    let mut at_first = Qmp::connect(&socket);
    let address = lab.lan.lease_of(&mac, 90);
    assert!(lab.lan.reaches(&address));
    if let Way::Ours = way {
        let doctor = |mac: &str, words: &str| {
            let words =
                format!("doctor br0 --quick --incoming alice --mac {mac} -- --bridge br0,uplink=eth0 -name {words}");
            hosts.on_other(lab.kvm_bridge(&words).env("KVM_BRIDGE_QEMU", QEMU)).run()
        };
        let of = |said: &str| said.split("\n").filter(|line| line.contains("incoming")).collect::<Vec<_>>().join("\n");
        let said = of(&doctor(&mac, "alice -machine pc").exits_with(1).out);
        assert!(said.contains("no MAC address of alice is known here") && said.contains("pc is pc-i440fx-"), "{said}");
        let exported = lab.new_file("export");
        fs::write(&exported, lab.kvm_bridge("mac export alice").run().succeeds().out).expect("write a file");
        hosts.on_other(lab.kvm_bridge("mac import").arg(&exported)).run().succeeds();
        let machine = at_first.ask("qom-get", json!({ "path": "/machine", "property": "type" }));
        let machine = machine.as_str().and_then(|name| name.strip_suffix("-machine")).expect("a machine");
        let said = of(&doctor(&mac, &format!("alice -machine {machine}")).out);
        // What cannot be seen from there, and no more.
        assert!(said.lines().count() == 1 && said.contains("cannot be seen from here"), "{said}");
        for (mac, words, what) in [
            (
                "02:00:5e:00:00:01",
                format!("alice -machine {machine}"),
                "the guest has the MAC address 02:00:5e:00:00:01",
            ),
            (mac.as_str(), "alice -machine pc-i440fx-99".to_owned(), "no machine pc-i440fx-99"),
            (mac.as_str(), format!("bob -machine {machine}"), "by its arguments it is name:bob"),
        ] {
            let said = of(&doctor(mac, &words).exits_with(1).out);
            assert!(said.contains(what), "{said}");
        }
    }
    let (socket, words) = monitor(lab);
    let to = way.start(lab, model).words(&format!("{words} -incoming tcp:10.77.0.3:4444"));
    let mut to = hosts.on_other(guest_words(to)?).start();
    let mut at_last = Qmp::connect(&socket);
    assert_eq!(at_last.status(), "inmigrate");
    let its = wait_for("its command line", 20, || {
        let line = fs::read_to_string(format!("/proc/{}/cmdline", to.pid())).ok()?;
        line.split(['\0', ',']).find_map(|word| word.strip_prefix("mac=")).map(str::to_owned)
    });
    assert_eq!(its, mac, "at the new place it has its address");
    let wire = Wire::in_namespace("lan", "lan0");
    let pings = Pings::begin(lab, &address);
    at_first.ask("migrate", json!({ "uri": "tcp:10.77.0.3:4444" }));
    wait_for("the guest to run there", 120, || {
        wire.of_type(RARP);
        (at_last.status() == "running").then_some(())
    });
    pings.go_on(100);
    let announced = wait_for("an announcement", 10, || Some(wire.of_type(RARP)).filter(|frames| !frames.is_empty()));
    from.terminate();
    pings.go_on(100);
    let (gap, lost) = pings.end();
    let announced: Vec<String> = announced.into_iter().collect();
    assert!(to.is_running(), "{}", to.err());
    to.terminate();
    if let Way::Ours = way {
        wait_for("the other host to be as it was", 20, || {
            (!hosts.other.run("ip -o link").contains("br0")).then_some(())
        });
        lab.becomes_as_before();
    }
    assert_eq!(announced, [mac], "{way:?}: what was announced");
    lab.ends_here();
    Some(Seen { gap, lost })
}

#[test]
fn a_guest_that_moves_to_another_host_has_its_address_there_and_is_announced_with_it() {
    let Some(seen) = migrate(Way::Ours, "e1000") else { return };
    assert!(seen.gap < Duration::from_secs(5), "{seen:?}");
}

#[test]
fn a_users_guest_that_moves_in_needs_a_rule_without_the_guard() {
    let Some(lab) = Lab::with_bridge("br0").and_then(Lab::with_users) else { return };
    lab.allow_more("allow br0 user alice\nallow br0 user bob guard off\n");
    let doctor = |user: &str| {
        let words = format!("doctor br0 --quick --verbose --incoming web --mac 02:00:5e:00:00:01 --user {user}");
        lab.kvm_bridge(&words).run().exits_with(1).out
    };
    let said = doctor("alice");
    assert!(said.contains("the helper refuses an address that br0 knows elsewhere"), "{said}");
    assert!(said.contains("# allow br0 user alice guard off"), "{said}");
    let said = doctor("bob");
    assert!(said.contains("the port of bob's guest on br0 has no guard"), "{said}");
    let err = lab.kvm_bridge("doctor --incoming web").run().exits_with(125).err;
    assert!(err.contains("which bridge"), "{err}");
}

/// For docs/migrating-guests.md: KVM_BRIDGE_MIGRATIONS=5 cargo test ... --ignored --nocapture
#[test]
#[ignore = "a measurement"]
fn the_gap_of_a_migration_is_that_of_one_by_hand() {
    let runs = std::env::var("KVM_BRIDGE_MIGRATIONS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(1);
    for model in ["e1000", "virtio-net-pci"] {
        let mut all = [const { Vec::new() }; 2];
        // In turn, as the machine may have other work.
        for _ in 0..runs {
            for (seen, way) in all.iter_mut().zip([Way::Ours, Way::ByHand]) {
                let Some(Seen { gap, lost }) = migrate(way, model) else { return };
                seen.push((gap, lost));
            }
        }
        for (mut seen, way) in all.into_iter().zip([Way::Ours, Way::ByHand]) {
            seen.sort_unstable();
            println!("{model} {way:?}: median {} ms; all: {seen:?}", seen[seen.len() / 2].0.as_millis());
        }
    }
}
