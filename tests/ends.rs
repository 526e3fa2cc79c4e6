//! However QEMU ends, the host is as it was.

use crate::support::{Lab, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn by_exit() {
    let Some(lab) = Lab::new() else { return };
    for code in [0, 1, 77] {
        lab.shim("--bridge br0,uplink=eth0").then(&format!("exit:{code}")).run().exits_with(code);
    }
    lab.becomes_as_before();
}

#[test]
fn by_a_shutdown_and_by_a_kill() {
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
fn in_the_background_long_after_the_first_process() {
    let Some(lab) = Lab::new() else { return };
    let ended = lab.shim("--bridge br0,uplink=eth0 -daemonize").then("daemonize,hold:4000").run().succeeds();
    let tap = ended.qemu().tap().name;
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert!(lab.link(&tap).is_some(), "the VM still runs");
    lab.waits_until_gone("br0");
}

/// `kill -9` of everything that is ours, the reaper first.
fn kill_everything(lab: &Lab) {
    for process in lab.reapers().iter().chain(&lab.processes()) {
        process.kill();
    }
    wait_for("their end", 5, || lab.reapers().is_empty().then_some(()));
}

#[test]
fn by_a_kill_of_everything_after_which_the_next_guest_cleans_up() {
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
fn a_bridge_with_a_port_of_somebody_else_stays_until_that_has_gone() {
    let Some(lab) = Lab::new() else { return };
    let guest = lab.shim("--bridge br0,uplink=none").boot();
    lab.ip("link add veth-c type veth peer name veth-d");
    lab.ip("link set veth-c master br0");
    guest.terminate();
    std::thread::sleep(std::time::Duration::from_secs(4));
    assert_eq!(lab.ports("br0"), ["veth-c"]);
    lab.ip("link del veth-c");
    lab.becomes_as_before();
}

#[test]
fn a_bridge_that_took_our_bridges_name_is_not_ours() {
    let Some(lab) = Lab::new() else { return };
    let guest = lab.shim("--bridge br0,uplink=none").boot();
    kill_everything(&lab);
    guest.end();
    lab.ip("link del br0");
    lab.add_bridge("br0");
    lab.baseline();
    lab.shim("--bridge br0").run().succeeds();
    std::thread::sleep(std::time::Duration::from_secs(4));
    assert!(lab.link("br0").is_some());
}

#[test]
fn a_bridge_that_the_admin_deletes_is_nobodys_any_more() {
    let Some(lab) = Lab::new() else { return };
    let guest = lab.shim("--bridge br0,uplink=eth0").boot();
    lab.ip("link del br0");
    guest.terminate();
    lab.becomes_as_before();
}

#[test]
fn a_guest_that_stops_is_still_a_guest() {
    let Some(lab) = Lab::new() else { return };
    let guest = lab.shim("--bridge br0,uplink=none").boot();
    guest.signal(Signal::SIGSTOP);
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(lab.ports("br0").len(), 1);
    kill(Pid::from_raw(guest.pid()), Signal::SIGCONT).expect("it is there");
    guest.terminate();
}
