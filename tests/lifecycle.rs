//! A guest lives as its QEMU does, however that is started, stopped and moved: all with the real one.

use crate::support::real::{self, IPXE, QEMU, QUIET, Qmp, mac, shim};
use crate::support::{Lab, have, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::fs;
use std::io::{PipeWriter, Write, pipe};
use std::path::PathBuf;

/// A laboratory with a DHCP server, where the real QEMU is.
pub(crate) fn lab() -> Option<Lab> {
    let lab = Lab::new()?;
    (have("qemu-system-x86_64") && lab.lan.serve_dhcp()).then_some(lab)
}

pub(crate) fn monitor(lab: &Lab) -> (PathBuf, String) {
    let socket = lab.new_file("qmp");
    let words = format!("-qmp unix:{},server=on,wait=off", socket.display());
    (socket, words)
}

fn pid_in(file: &PathBuf) -> i32 {
    fs::read_to_string(file).ok().and_then(|pid| pid.trim().parse().ok()).expect("a file with a PID")
}

#[test]
fn a_daemon_takes_the_tap_the_lease_and_the_reaper_along() {
    let Some(lab) = lab() else { return };
    let pidfile = lab.new_file("pid");
    let line = format!("--bridge br0,uplink=eth0 {IPXE} {QUIET} -name alice -daemonize -pidfile {}", pidfile.display());
    let first = shim(&lab, &line).run().succeeds();
    let daemon = real::qemu_called(&lab, "alice");
    assert_eq!((daemon.pid, daemon.pid == first.pid), (pid_in(&pidfile), false));
    let mac = real::mac_of(&daemon);

    // Nothing went with the first process: the guest is on the LAN, its MAC is taken, its bridge is looked after.
    lab.lan.lease_of(&mac, 60);
    lab.reaper_of("br0");
    lab.kvm_bridge("mac forget alice").run().exits_with(125);
    let second = lab.shim("--bridge br0 -name alice").run().succeeds().qemu().mac();
    assert_ne!(second, mac);
    lab.waits_until_gone("kvb1");
    lab.reapers_rest();
    assert_eq!(lab.ports("br0").len(), 2, "the uplink and the daemon's TAP");

    kill(Pid::from_raw(daemon.pid), Signal::SIGKILL).expect("the daemon runs");
    lab.becomes_as_before();
    assert_eq!(lab.shim("--bridge br0,uplink=none -name alice").run().succeeds().qemu().mac(), mac);
}

#[test]
fn a_guest_that_starts_stopped_is_on_the_network_when_it_goes_on() {
    let Some(lab) = lab() else { return };
    let (socket, words) = monitor(&lab);
    let mut guest = shim(&lab, &format!("--bridge br0,uplink=eth0 {IPXE} {QUIET} -S {words}")).start();
    let mut qmp = Qmp::connect(&socket);
    assert_eq!(qmp.status(), "prelaunch");
    qmp.ask("cont", json!({}));
    lab.lan.lease_of(&mac(&mut guest), 60);
    guest.terminate().succeeds();
    lab.becomes_as_before();
}

#[test]
fn what_qemu_does_to_itself_leaves_the_guest_its_network() {
    let Some(lab) = lab() else { return };
    let (empty, image, config) = (lab.new_file("empty"), lab.new_file("disk"), lab.new_file("config"));
    let other = lab.new_file("disk");
    fs::create_dir(&empty).expect("make a folder");
    for image in [&image, &other] {
        fs::write(image, vec![0; 1 << 20]).expect("make an image");
    }
    let text = "[device \"own\"]\n  driver = \"e1000\"\n  netdev = \"lan\"\n  mac = \"02:00:5e:00:00:05\"\n";
    fs::write(&config, text).expect("write a file");
    let json = r#"{"driver":"e1000","netdev":"lan","id":"own","mac":"02:00:5e:00:00:06"}"#;
    let blockdev =
        format!(r#"{{"driver":"raw","node-name":"d","file":{{"driver":"file","filename":"{}"}}}}"#, image.display());
    let strict = "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
    let (image, empty) = (other.display(), empty.display());
    let lines = [
        (",id=lan", format!("-readconfig {}", config.display())),
        (",id=lan", format!("-device {json} -blockdev {blockdev} -device virtio-blk-pci,drive=d")),
        ("", format!("-runas nobody -chroot {empty} -drive file={image},format=raw -snapshot")),
        ("", strict.to_owned()),
    ];
    let start = |(keys, line): &(&str, String)| {
        shim(&lab, &format!("--bridge br0,uplink=eth0{keys} {IPXE} {QUIET} {line}")).start()
    };
    let mut guests: Vec<_> = lines.iter().map(start).collect();
    let macs: Vec<String> = guests
        .iter_mut()
        .enumerate()
        .map(|(at, guest)| match at {
            0 => "02:00:5e:00:00:05".to_owned(),
            1 => "02:00:5e:00:00:06".to_owned(),
            _ => mac(guest),
        })
        .collect();
    for (at, mac) in macs.iter().enumerate() {
        assert!(guests[at].is_running(), "{}: {}", lines[at].1, guests[at].err());
        lab.lan.lease_of(mac, 120);
        assert!(guests[at].is_running(), "{}: {}", lines[at].1, guests[at].err());
    }
    let status = fs::read_to_string(format!("/proc/{}/status", guests[2].pid())).expect("it runs");
    assert!(status.contains("Uid:\t65534\t65534"), "{status}");
    guests.into_iter().for_each(|guest| drop(guest.terminate()));
    lab.becomes_as_before();
}

#[test]
fn descriptors_of_the_caller_reach_qemu_beside_ours() {
    let Some(lab) = lab() else { return };
    let image = lab.new_file("disk");
    fs::write(&image, vec![0; 1 << 20]).expect("make an image");
    let (socket, words) = monitor(&lab);
    let line = format!(
        "--bridge br0,uplink=eth0 {IPXE} {QUIET} {words} -add-fd fd=7,set=2,opaque=disk -add-fd fd=8,set=2 \
         -drive file=/dev/fdset/2,format=raw,if=virtio"
    );
    let script =
        format!("exec \"$0\" \"$@\" 3</dev/null 4</dev/null 5</dev/null 7<>{0} 8<{0} 9</dev/null", image.display());
    let mut guest = shim(&lab, &line).through_sh(&script).start();
    let mut qmp = Qmp::connect(&socket);
    let sets = qmp.ask("query-fdsets", json!({}));
    assert_eq!(sets[0]["fds"][0]["opaque"], "disk", "{sets}");
    assert!(qmp.say("info block").contains("/dev/fdset/2"));
    for fd in [3, 4, 5, 9] {
        let link = fs::read_link(format!("/proc/{}/fd/{fd}", guest.pid())).expect("it is open");
        assert_eq!(link.to_string_lossy(), "/dev/null", "{fd}");
    }
    lab.lan.lease_of(&mac(&mut guest), 60);
    guest.terminate().succeeds();
    lab.becomes_as_before();
}

/// A Linux guest with a shell on its console, once it has an address.
fn shell_in_a_guest<'lab>(lab: &'lab Lab, more: &str) -> Option<(crate::support::command::Running<'lab>, PipeWriter)> {
    let (kernel, initramfs) = real::linux()?;
    let (reader, keyboard) = pipe().expect("make a pipe");
    let cmd = shim(lab, &format!("--bridge br0,uplink=eth0 -accel tcg -m 256 -nographic {more} -kernel")).arg(kernel);
    let cmd = cmd.words("-initrd").arg(initramfs).words("-append").arg("ip=dhcp console=ttyS0 quiet guest.then=shell");
    Some((cmd.stdin(reader).start(), keyboard))
}

#[test]
fn a_reboot_inside_the_guest_changes_nothing_outside() {
    let Some(lab) = lab() else { return };
    let Some((mut guest, mut keyboard)) = shell_in_a_guest(&lab, "") else { return };
    let mac = mac(&mut guest);
    let shells = |guest: &crate::support::command::Running| guest.out().matches("guest: shell").count();
    wait_for("the guest's shell", 90, || (shells(&guest) == 1).then_some(()));
    let (address, ports) = (lab.lan.lease_of(&mac, 1), lab.ports("br0"));
    keyboard.write_all(b"reboot -f\n").expect("the guest reads");
    wait_for("the guest's shell after the reboot", 90, || (shells(&guest) == 2).then_some(()));
    let acknowledged =
        lab.lan.dhcp_log().lines().filter(|line| line.contains("DHCPACK(") && line.contains(&mac)).count();
    assert_eq!((lab.lan.lease_of(&mac, 1), acknowledged), (address, 2));
    assert_eq!(lab.ports("br0"), ports);
    keyboard.write_all(b"poweroff -f\n").expect("the guest reads");
    guest.end().succeeds();
    lab.becomes_as_before();
}

/// A guest that moves to another QEMU on this host, is reset there, and moves back.
#[track_caller]
fn migrates(lab: &Lab, bridge: &str, model: &str) {
    let Some((kernel, initramfs)) = real::linux() else { return };
    let start = |more: &str| {
        let line = format!("--bridge {bridge},model={model} -accel tcg -m 128 {QUIET} -name alice {more} -kernel");
        let cmd = shim(lab, &line).arg(&kernel).words("-initrd").arg(&initramfs).words("-append");
        cmd.arg("ip=dhcp quiet guest.then=hold").start()
    };
    let (socket, words) = monitor(lab);
    let mut from = start(&words);
    let mac = mac(&mut from);
    let mut at_first = Qmp::connect(&socket);
    let address = lab.lan.lease_of(&mac, 90);
    assert!(lab.lan.reaches(&address));
    for turn in 1..=2 {
        let incoming = lab.new_file("incoming");
        let (socket, words) = monitor(lab);
        let mut to = start(&format!("{words} -incoming unix:{}", incoming.display()));
        assert_eq!(real::mac(&mut to), mac, "{}", to.err());
        let mut at_last = Qmp::connect(&socket);
        assert_eq!(at_last.status(), "inmigrate");
        at_first.ask("migrate", json!({ "uri": format!("unix:{}", incoming.display()) }));
        wait_for("the guest to run there", 60, || (at_last.status() == "running").then_some(()));
        // While the first is there too, and when it has ended.
        assert!(lab.lan.reaches(&address), "{model}, before the first has ended");
        from.terminate().succeeds();
        assert!(lab.lan.reaches(&address), "{model}, when the first has ended");
        let acknowledged =
            || lab.lan.dhcp_log().lines().filter(|line| line.contains("DHCPACK(") && line.contains(&mac)).count();
        let before = acknowledged();
        at_last.ask("system_reset", json!({}));
        wait_for("the guest to have asked again", 90, || (acknowledged() > before).then_some(()));
        assert_eq!(lab.lan.lease_of(&mac, 90), address, "{model}, turn {turn}");
        assert!(lab.lan.reaches(&address));
        (from, at_first) = (to, at_last);
    }
    // The slot is that of the guest that runs.
    let other = shim(lab, &format!("--bridge {bridge} --bridge-dry-run -name alice")).run().succeeds();
    assert!(!other.out.contains(&mac), "{}", other.out);
    from.terminate().succeeds();
}

#[test]
fn a_guest_that_migrates_is_on_the_network_at_its_new_place() {
    let Some(lab) = lab() else { return };
    migrates(&lab, "br0,uplink=eth0", "e1000");
    lab.becomes_as_before();
}

#[test]
fn a_guest_that_migrates_on_a_bridge_that_was_there_keeps_its_address() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    if !have("qemu-system-x86_64") || !lab.lan.serve_dhcp() {
        return;
    }
    migrates(&lab, "br0", "virtio-net-pci");
}

#[test]
fn a_guest_that_moves_in_and_is_not_known_here_is_told_of() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let unknown = lab.shim("--bridge br0 -name alice -incoming defer").run().succeeds();
    assert!(unknown.err.contains("MAC address of alice is not known here"), "{}", unknown.err);
    assert!(unknown.err.contains("kvm-bridge mac export alice | ssh HERE kvm-bridge mac import"), "{}", unknown.err);
    let known = lab.shim("--bridge br0 -name alice -incoming defer").run().succeeds();
    assert_eq!(known.err, "");
    let given = lab.shim("--bridge br0,mac=02:00:5e:10:20:30 -name bob -incoming defer").run().succeeds();
    assert_eq!(given.err, "");
}

#[test]
fn with_several_runs_the_slot_says_which_moves_in() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let guests: Vec<_> = (0..2).map(|_| lab.shim("--bridge br0 -name alice").boot()).collect();
    let said = lab.shim("--bridge br0 -name alice -incoming defer").run().exits_with(125).err;
    assert!(said.contains("alice runs in the slots 0, 1") && said.contains("slot=0"), "{said}");
    let macs: Vec<String> = (0..2)
        .map(|slot| {
            let line = format!("--bridge br0,slot={slot} -name alice -incoming defer");
            lab.shim(&line).run().succeeds().qemu().macs()[0].clone()
        })
        .collect();
    assert_ne!(macs[0], macs[1]);
    drop(guests);
}

#[test]
fn a_guest_stops_and_goes_on_with_its_terminals_job_control() {
    let Some(lab) = lab() else { return };
    if !have("script") {
        return;
    }
    let pidfile = lab.new_file("pid");
    let line = format!(
        "{} --bridge br0,uplink=eth0 {IPXE} {QUIET} -name alice -pidfile {}",
        env!("CARGO_BIN_EXE_qemu-kvm"),
        pidfile.display()
    );
    // A shell with job control: the guest in the foreground, then, when ^Z has stopped it, in the foreground again.
    let job = format!("set -m; {line}; echo stopped $?; fg >/dev/null; echo ended $?");
    let (reader, mut keyboard) = pipe().expect("make a pipe");
    let cmd = lab.program("script").words("-qec").arg(format!("sh -c '{job}'")).arg("/dev/null");
    let terminal = cmd.env("KVM_BRIDGE_QEMU", QEMU).stdin(reader).start();
    let qemu = real::qemu_called(&lab, "alice");
    let state = || fs::read_to_string(format!("/proc/{}/stat", qemu.pid)).unwrap_or_default();
    keyboard.write_all(b"\x1a").expect("the terminal reads");
    wait_for("it to be stopped, and then to go on", 20, || terminal.out().contains("stopped 148").then_some(()));
    wait_for("it to go on", 20, || (!state().contains(") T ")).then_some(()));
    lab.lan.lease_of(&real::mac_of(&qemu), 60);
    keyboard.write_all(b"\x03").expect("the terminal reads");
    let ended = terminal.end();
    assert!(ended.out.contains("ended"), "{}", ended.out);
    lab.becomes_as_before();
}

#[test]
fn timeout_nohup_and_setsid_find_what_they_expect() {
    let Some(lab) = Lab::new() else { return };
    if !have("qemu-system-x86_64") {
        return;
    }
    let (socket, words) = monitor(&lab);
    let line = format!("--bridge br0,uplink=none -accel tcg -S {QUIET} -name alice {words}");
    let ended = shim(&lab, &line).through("timeout 2").run();
    assert_eq!(ended.status.code(), Some(124), "{}", ended.err);
    lab.becomes_as_before();

    let guest = shim(&lab, &line).through("nohup").start();
    let qemu = real::qemu_called(&lab, "alice");
    assert_eq!(qemu.pid, guest.pid());
    assert_eq!(Qmp::connect(&socket).status(), "prelaunch");
    assert_eq!(qemu.stat().parent, std::process::id() as i32, "it is nohup's process still");
    // QEMU does not leave SIGHUP ignored, with or without us: it ends in order.
    guest.signal(Signal::SIGHUP);
    guest.end().succeeds();
    lab.becomes_as_before();

    let guest = shim(&lab, &line).through("setsid --fork --wait").start();
    let qemu = real::qemu_called(&lab, "alice");
    assert_eq!(Qmp::connect(&socket).status(), "prelaunch");
    assert_eq!(qemu.stat().session, qemu.pid);
    kill(Pid::from_raw(qemu.pid), Signal::SIGTERM).expect("it runs");
    guest.end().succeeds();
    lab.becomes_as_before();

    for closed in ["<&-", "<&- >&- 2>&-"] {
        let guest = shim(&lab, &line).through_sh(&format!("exec \"$0\" \"$@\" {closed}")).start();
        assert_eq!(Qmp::connect(&socket).status(), "prelaunch");
        assert!(lab.ports("br0").contains(&"kvb0".to_owned()), "{closed}");
        guest.terminate().succeeds();
        lab.becomes_as_before();
    }
}
