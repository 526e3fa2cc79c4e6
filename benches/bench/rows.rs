//! The rows of the table: one work each, done in several ways.

use super::host::{Host, QEMU, QEMU_HELPER};
use super::report::Report;
use super::timing::{Times, Way, start, start_all, take_turns};
use nix::cmsg_space;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recvmsg, socketpair};
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The commands that people know, for a TAP on a bridge that is there.
const JOIN: [&str; 3] = ["tunctl -u $(whoami)", "brctl addif br0 tap0", "ip link set dev tap0 up"];
/// And for all of it.
const MAKE: [&str; 7] = [
    "brctl addbr made0",
    "ip addr flush dev eth0",
    "brctl addif made0 eth0",
    "tunctl -u $(whoami)",
    "brctl addif made0 tap0",
    "ip link set dev made0 up",
    "ip link set dev tap0 up",
];
/// The same in iproute2's words, which one process can carry out.
const JOIN_IN_ONE: [&str; 2] = ["tuntap add dev tap0 mode tap", "link set tap0 master br0 up"];
const MAKE_IN_ONE: [&str; 6] = [
    "link add made0 type bridge",
    "addr flush dev eth0",
    "link set eth0 master made0",
    "tuntap add dev tap0 mode tap",
    "link set dev made0 up",
    "link set tap0 master made0 up",
];

/// One line for a shell; in iproute2's words where the old tools are not installed, which is not asked for: Debian's package
/// of tunctl starts a daemon.
fn by_hand(commands: &[&str]) -> String {
    let is_there =
        |program: &str| ["/usr/sbin", "/usr/bin"].iter().any(|folder| Path::new(folder).join(program).exists());
    let old = is_there("tunctl") && is_there("brctl");
    let words = |command: &&str| match command.split(' ').collect::<Vec<&str>>()[..] {
        ["tunctl", ..] if !old => "ip tuntap add dev tap0 mode tap".to_owned(),
        ["brctl", "addbr", bridge] if !old => format!("ip link add {bridge} type bridge"),
        ["brctl", "addif", bridge, port] if !old => format!("ip link set {port} master {bridge}"),
        _ => (*command).to_owned(),
    };
    commands.iter().map(words).collect::<Vec<String>>().join("; ")
}

/// As one file for `ip -batch`.
fn batch(host: &Host, name: &str, commands: &[&str]) -> String {
    let file = host.folder.join(name);
    std::fs::write(&file, commands.join("\n")).expect("write a batch");
    format!("ip -batch {}", file.display())
}

pub fn pass_through(host: &Host, report: &mut Report, runs: usize) {
    let searched = |mut command: Command| {
        let path = format!(
            "/usr/local/sbin:/usr/local/bin:{}:/usr/sbin:/usr/bin:/sbin:/bin",
            host.folder.join("path").display()
        );
        command.env_remove("KVM_BRIDGE_QEMU").env("PATH", path);
        command
    };
    let mut ways = [
        Way::new("shim", || searched(host.shim("-nographic"))),
        Way::new("called directly", || host.command(&host.floor, "-nographic")),
        Way::new("the floor (exec and nothing else)", || {
            host.command(&host.floor, &format!("exec {}", host.floor.display()))
        }),
    ];
    take_turns(&mut ways, runs);
    report.ways("no bridge, a program that does nothing", &ways);
    let mut ways = [
        Way::new("shim", || {
            let mut command = host.shim("--version");
            command.env("KVM_BRIDGE_QEMU", QEMU);
            command
        }),
        Way::new("called directly", || host.command(QEMU, "--version")),
    ];
    take_turns(&mut ways, runs);
    report.ways("no bridge, `qemu-kvm --version`", &ways);
}

/// A port that is held to something.
pub const GUARDED: &str = "shim, guard=on,isolated=on";

pub fn join(host: &Host, report: &mut Report, runs: usize) {
    let by_hand = by_hand(&JOIN);
    let in_one = batch(host, "join", &JOIN_IN_ONE);
    let clean = || host.run(host.command("/bin/ip", "link del tap0"));
    let mut ways = [
        Way::new("shim", || host.shim("--bridge br0 -name bench")),
        Way::new(GUARDED, || host.shim("--bridge br0,guard=on,isolated=on -name bench")),
        Way::new("the floor", || host.command(&host.floor, &format!("join br0 {}", host.floor.display()))),
        Way::new("the commands by hand", || host.sh(&by_hand)).after(clean),
        Way::new("`ip -batch`", || host.sh(&in_one)).after(clean),
        Way::new("QEMU's helper, as `-netdev bridge` calls it", || {
            host.command(&host.floor, &format!("ask {QEMU_HELPER} br0 {}", host.floor.display()))
        }),
    ];
    take_turns(&mut ways, runs);
    report.ways("join a bridge, exec", &ways);
}

pub fn make(host: &Host, report: &mut Report, runs: usize) {
    let by_hand = by_hand(&MAKE);
    let in_one = batch(host, "make", &MAKE_IN_ONE);
    let recover = || host.run(host.command(&host.kvm_bridge, "recover"));
    let no_bridge = || host.run(host.command("/bin/ip", "link del made0"));
    let clean = || {
        no_bridge();
        host.run(host.command("/bin/ip", "link del tap0"));
    };
    let mut ways = [
        Way::new("shim", || host.shim("--bridge made0,uplink=eth0 -name bench")).after(recover),
        Way::new("the floor", || host.command(&host.floor, &format!("make made0 eth0 {}", host.floor.display())))
            .after(no_bridge),
        Way::new("the commands by hand", || host.sh(&by_hand)).after(clean),
        Way::new("`ip -batch`", || host.sh(&in_one)).after(clean),
    ];
    take_turns(&mut ways, runs);
    report.ways("make a bridge with an uplink, join, exec", &ways);
}

/// A QEMU that greets on QMP as soon as its machine is there.
const MACHINE: &str = "-machine pc,accel=tcg -m 64 -display none -nodefaults -S -qmp stdio";

/// What QEMU needs without a network.
pub const ALONE: &str = "QEMU, its card on a hub of its own";
/// QEMU calls its helper.
pub const BRIDGE: &str = "QEMU's `-netdev bridge`";

pub fn qemu(host: &Host, report: &mut Report, runs: usize) {
    let qemu = |net: &str| host.command(QEMU, &format!("{MACHINE} {net} -device e1000,netdev=n"));
    let ifup = host.folder.join("ifup");
    let mut ways = [
        Way::new("shim", || {
            let mut command = host.shim(&format!("--bridge br0 -name bench {MACHINE}"));
            command.env("KVM_BRIDGE_QEMU", QEMU);
            command
        }),
        Way::new(ALONE, || qemu("-netdev hubport,id=n,hubid=0")),
        Way::new(BRIDGE, || qemu("-netdev bridge,id=n,br=br0")),
        Way::new("`script=`", || qemu(&format!("-netdev tap,id=n,script={},downscript=no", ifup.display()))),
    ];
    take_turns(&mut ways, runs);
    report.ways("QEMU to its QMP greeting", &ways);
    report.added("of which added to QEMU alone", &ways, ALONE);
}

pub fn without_root(host: &Host, report: &mut Report, runs: usize) {
    let work = "without root, QEMU to its QMP greeting";
    let theirs = BRIDGE;
    let shim_in = |folder: &str| {
        let words = format!("--bridge br0 -name bench {MACHINE}");
        let mut command = host.command(host.folder.join(folder).join("qemu-kvm"), &words);
        command.env("KVM_BRIDGE_QEMU", QEMU);
        host.as_user(command)
    };
    let works = |folder: &str| {
        let mut command = shim_in(folder);
        command.env("KVM_BRIDGE_QEMU", "/bin/true").stdin(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let bridge =
        || host.as_user(host.command(QEMU, &format!("{MACHINE} -netdev bridge,id=n,br=br0 -device e1000,netdev=n")));
    let mut ways = Vec::new();
    for (name, folder) in [("shim with our helper", "user"), ("shim with QEMU's helper", "other")] {
        if folder == "user" && host.helper.is_none() {
            report.missing(work, name, theirs, "not built");
        } else if works(folder) {
            ways.push(Way::new(name, move || shim_in(folder)));
        } else {
            report.missing(work, name, theirs, "it fails");
        }
    }
    if ways.is_empty() {
        return;
    }
    ways.push(Way::new(theirs, bridge));
    take_turns(&mut ways, runs);
    report.ways(work, &ways);
    if ways.len() > 2 {
        let (ours, other) = (&ways[1], &ways[2]);
        report.compare(work, (ours.name, &ours.times), (other.name, &other.times));
    }
}

/// A helper hands over the TAP's descriptor.
pub fn helper(host: &Host, report: &mut Report, runs: usize) {
    let (work, theirs) = ("a helper until its descriptor is there", "QEMU's qemu-bridge-helper");
    let Some(own) = &host.helper else {
        report.missing(work, "our helper", theirs, "not built");
        return;
    };
    let mut times = [Times::default(), Times::default()];
    for run in 0..=runs {
        for turn in 0..2 {
            let at = (turn + run) % 2;
            let took = time_of_helper(host, [own.as_path(), Path::new(QEMU_HELPER)][at]);
            std::thread::sleep(Duration::from_millis(4));
            if run > 0 {
                times[at].add(took);
            }
        }
    }
    report.figure(work, "our helper", &times[0]);
    report.figure(work, theirs, &times[1]);
    report.compare(work, ("our helper", &times[0]), (theirs, &times[1]));
}

fn time_of_helper(host: &Host, helper: &Path) -> Duration {
    let (own, given) =
        socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC).expect("a pair of sockets");
    fcntl(&given, FcntlArg::F_SETFD(FdFlag::empty())).expect("let it be inherited");
    let words = format!("--use-vnet --fd={} --br=br0", given.as_raw_fd());
    let mut command = host.as_user(host.command(helper, &words));
    let begun = Instant::now();
    let mut child = command.spawn().expect("start a helper");
    drop(given);
    let mut byte = [0];
    let mut space = cmsg_space!([RawFd; 1]);
    let mut parts = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(own.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC);
    let message = message.expect("a message");
    let took = begun.elapsed();
    let descriptors = message.cmsgs().expect("what came with it").find_map(|one| match one {
        nix::sys::socket::ControlMessageOwned::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    nix::unistd::close(descriptors.expect("a descriptor")[0]).expect("close the TAP");
    let _ = child.wait();
    took
}

/// From the start to the DHCP server's answer to a real guest.
pub fn dhcp(host: &Host, report: &mut Report, runs: usize, guest: &Path) {
    let work = "start to DHCP ACK, Linux guest under TCG";
    let kernel = ["vmlinux", "vmlinuz"].map(|name| guest.join(name)).into_iter().find(|kernel| kernel.exists());
    let Some(kernel) = kernel.filter(|_| host.lab.lan.serve_dhcp()) else {
        report.missing(work, "shim", "the commands by hand", "no guest is built");
        return;
    };
    host.lab.ip("link set eth0 master br0");
    let machine = format!(
        "-accel tcg -m 256 -nographic -no-reboot -kernel {} -initrd {}",
        kernel.display(),
        guest.join("initramfs").display()
    );
    let guest = |mut command: Command| {
        command.env("KVM_BRIDGE_QEMU", QEMU).args(["-append", "ip=dhcp console=ttyS0 panic=-1 guest.then=hold quiet"]);
        command
    };
    let commands = by_hand(&JOIN);
    let by_hand = |mac: &str| {
        let line = format!(
            "{commands}; exec {QEMU} {machine} -netdev tap,id=n,ifname=tap0,script=no,downscript=no -device e1000,netdev=n,mac={mac} \"$@\""
        );
        let mut command = host.command("/bin/sh", "-ec");
        command.arg(line).arg("sh");
        command
    };
    let shim =
        |model: &str, mac: &str| host.shim(&format!("--bridge br0,mac={mac},model={model} -name bench {machine}"));
    let names = ["shim, e1000", "shim, virtio", "the commands by hand, e1000"];
    let mut times = [Times::default(), Times::default(), Times::default()];
    for run in 0..runs {
        for turn in 0..3 {
            let at = (turn + run) % 3;
            let mac = format!("52:55:00:d1:{at:02x}:{run:02x}");
            let command = guest(match at {
                0 => shim("e1000", &mac),
                1 => shim("virtio-net-pci", &mac),
                _ => by_hand(&mac),
            });
            let begun = Instant::now();
            let ready = start(command);
            let acknowledged = |log: &str| log.lines().any(|line| line.contains("DHCPACK(") && line.contains(&mac));
            while !acknowledged(&host.lab.lan.dhcp_log()) {
                assert!(begun.elapsed() < Duration::from_secs(60), "no DHCPACK: {}", host.lab.lan.dhcp_log());
                std::thread::sleep(Duration::from_millis(5));
            }
            times[at].add(begun.elapsed());
            ready.end();
            if at == 2 {
                host.lab.ip("link del tap0");
            }
        }
    }
    for (name, times) in names.iter().zip(&times) {
        report.figure(work, name, times);
    }
    for at in [0, 1] {
        report.compare(work, (names[at], &times[at]), (names[2], &times[2]));
    }
    host.lab.ip("link set eth0 nomaster");
    host.lab.lan.close();
}

/// Many at once, until the last one is there.
pub fn at_once(host: &Host, report: &mut Report, runs: usize) {
    // Warm, and 64 VMs that nobody has started before: each writes a lease that lasts.
    for (many, is_first) in [(16, false), (64, false), (64, true)] {
        let mut times = [Times::default(), Times::default()];
        for run in 0..=runs {
            for turn in 0..2 {
                let at = (turn + run) % 2;
                let command = |number: usize| match at {
                    0 if is_first => host.shim(&format!("--bridge br0 -name first{run}x{number}")),
                    0 => host.shim(&format!("--bridge br0 -name many{number}")),
                    _ => host.command(&host.floor, &format!("join br0 {}", host.floor.display())),
                };
                let (ready, took) = start_all((0..many).map(command).collect());
                super::timing::end_all(ready);
                std::thread::sleep(Duration::from_millis(50));
                if run > 0 {
                    times[at].add(took);
                }
            }
        }
        let first = if is_first { ", each for the first time" } else { "" };
        let work = format!("{many} guests at once{first}, until the last one is there");
        report.figure(&work, "shim", &times[0]);
        report.figure(&work, "the floor", &times[1]);
        report.compare(&work, ("shim", &times[0]), ("the floor", &times[1]));
    }
}
