//! However QEMU ends, the host is as it was.

use crate::support::{Lab, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn after_qemu_exits_the_host_is_as_before() {
    let Some(lab) = Lab::new() else { return };
    for code in [0, 1, 77] {
        lab.shim("--bridge br0,uplink=eth0").then(&format!("exit:{code}")).run().exits_with(code);
    }
    lab.becomes_as_before();
}

#[test]
fn after_a_shutdown_or_kill_of_qemu_the_host_is_as_before() {
    let Some(lab) = Lab::new() else { return };
    for signal in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGINT, Signal::SIGHUP] {
        let mut guest = lab.shim("--bridge br0,uplink=eth0").boot();
        let tap = guest.qemu().tap().name;
        guest.signal(signal);
        assert_eq!(guest.end().signal(), Some(signal as i32));
        lab.waits_until_gone(&tap);
    }
    lab.becomes_as_before();
}

#[test]
fn a_guest_in_the_background_keeps_its_bridge_until_it_ends() {
    let Some(lab) = Lab::new() else { return };
    let ended = lab.shim("--bridge br0,uplink=eth0 -daemonize").then("daemonize,hold").run().succeeds();
    let tap = ended.qemu().tap().name;
    lab.reapers_rest();
    assert!(lab.link(&tap).is_some(), "the VM still runs");
    kill(Pid::from_raw(ended.daemon.expect("its PID")), Signal::SIGKILL).expect("it runs");
    lab.waits_until_gone("br0");
}

/// `kill -9` of everything that is ours, the reaper first.
pub(crate) fn kill_everything(lab: &Lab) {
    for process in lab.reapers().iter().chain(&lab.processes()) {
        process.kill();
    }
    wait_for("their end", 5, || lab.reapers().is_empty().then_some(()));
}

#[test]
fn after_a_kill_of_everything_the_next_guest_cleans_up() {
    let Some(lab) = Lab::new() else { return };
    let guest = lab.shim("--bridge br0,uplink=eth0").boot();
    lab.reaper_of("br0");
    kill_everything(&lab);
    guest.end();
    assert!(lab.link("br0").is_some(), "nobody was left to remove it");

    let mut next = lab.shim("--bridge br0,uplink=eth0").then("arp:10.77.0.1,hold").start();
    assert!(next.qemu().answer("bridge0").is_some());
    lab.reaper_of("br0");
    next.terminate();
    lab.becomes_as_before();
}

#[test]
fn the_next_guest_finds_our_bridge_without_being_told_of_its_uplink() {
    let Some(lab) = Lab::new() else { return };
    let guest = lab.shim("--bridge br0,uplink=eth0").boot();
    kill_everything(&lab);
    guest.end();
    lab.shim("--bridge br0").run().succeeds();
    lab.becomes_as_before();
}

#[test]
fn a_guest_on_another_bridge_sees_to_what_was_left() {
    let Some(lab) = Lab::new() else { return };
    let guest = lab.shim("--bridge br0,uplink=eth0").boot();
    kill_everything(&lab);
    guest.end();
    let _other = lab.shim("--bridge br1,uplink=none").boot();
    lab.waits_until_gone("br0");
}

#[test]
fn a_reaper_that_was_killed_is_replaced_by_the_next_guest() {
    let Some(lab) = Lab::new() else { return };
    let _one = lab.shim("--bridge br0,uplink=none -name one").boot();
    lab.reaper_of("br0").kill();
    wait_for("its end", 5, || lab.reapers().is_empty().then_some(()));
    let _two = lab.shim("--bridge br0 -name two").boot();
    lab.reaper_of("br0");
    assert_eq!(lab.reapers().len(), 1);
}

#[test]
fn a_guest_that_stops_is_still_a_guest() {
    let Some(lab) = Lab::new() else { return };
    let guest = lab.shim("--bridge br0,uplink=none").boot();
    guest.signal(Signal::SIGSTOP);
    lab.reapers_rest();
    assert_eq!(lab.ports("br0").len(), 1);
    kill(Pid::from_raw(guest.pid()), Signal::SIGCONT).expect("it is there");
    guest.terminate();
}

#[test]
fn a_request_to_end_that_reaches_all_is_not_meant_for_the_reaper() {
    let Some(lab) = Lab::new() else { return };
    let guest = lab.shim("--bridge br0,uplink=eth0").boot();
    let reaper = Pid::from_raw(lab.reaper_of("br0").pid);
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        kill(reaper, signal).expect("it is there");
    }
    guest.terminate();
    lab.becomes_as_before();
}

#[test]
fn a_bridge_that_is_kept_now_and_then_always_has_its_reaper_when_it_needs_one() {
    let Some(lab) = Lab::new() else { return };
    for keep in ["off", "on", "off", "on", "off", "off", "on", "off"] {
        lab.shim(&format!("--bridge br0,uplink=none,keep={keep}")).run().succeeds();
    }
    lab.becomes_as_before();
}
