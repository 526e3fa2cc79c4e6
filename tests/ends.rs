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

#[test]
fn a_foreign_port_keeps_the_bridge_whatever_its_name() {
    let Some(lab) = Lab::new() else { return };
    let guest = lab.shim("--bridge br0,uplink=none").boot();
    lab.ip("link add veth-c type veth peer name veth-d");
    lab.ip("link set veth-c master br0");
    // The kernel takes it, and it is no text.
    let name = crate::support::record::bytes(b"\xff\xfe\xff\xfe\xff\xfe");
    let mut rename = std::process::Command::new("ip");
    assert!(rename.args(["link", "set", "veth-c", "name"]).arg(name).status().expect("run ip").success());
    guest.terminate();
    std::thread::sleep(std::time::Duration::from_secs(4));
    // What iproute2 prints of that name is no JSON.
    assert!(std::fs::exists("/sys/class/net/br0").expect("look"));
    lab.ip("link del veth-d");
    lab.becomes_as_before();
}

#[test]
fn a_bridge_of_ours_that_was_renamed_keeps_its_guests() {
    let Some(lab) = Lab::new() else { return };
    let guest = lab.shim("--bridge br0,uplink=eth0").boot();
    for command in ["link set br0 down", "link set br0 name mine", "link set mine up"] {
        lab.ip(command);
    }
    let ended = lab.shim("--bridge br0,uplink=none").run().exits_with(125);
    assert!(ended.err.contains("mine is used by kvb0"), "{}", ended.err);
    assert_eq!(lab.ports("mine"), ["eth0", "kvb0"]);
    guest.terminate();
    lab.becomes_as_before();
}

#[test]
fn a_bridge_of_ours_with_another_alias_is_still_ours() {
    let Some(lab) = Lab::new() else { return };
    let guest = lab.shim("--bridge br0,uplink=eth0").boot();
    lab.ip("link set br0 alias my-lab");
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(lab.ports("br0"), ["eth0", "kvb0"]);
    guest.terminate();
    lab.becomes_as_before();
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
