//! What a user does with a TAP that they may have, to get what is for others or to keep others from the network.

use crate::sharing::{becomes, host, mac_of};
use crate::support::guest::Guest;
use crate::support::{Lab, wait_for};
use nix::sys::signal::Signal;
use std::fs;
use std::process::Command;

/// What `bridge` says of the bridge's forwarding database.
fn fdb(mac: &str) -> String {
    let output = Command::new("bridge").args(["fdb", "show", "br", "br0"]).output().expect("run bridge");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter(|line| line.starts_with(mac)).map(|line| format!("{line}\n")).collect()
}

fn is_held(mac: &str) -> bool {
    let entry = fdb(mac);
    entry.contains("dev kvbp-br0") && entry.contains("static") && entry.contains("sticky")
}

#[track_caller]
fn is_taken_off(lab: &Lab, guest: &Guest, others: &str) {
    lab.ip(&format!("link set dev {} address {others}", guest.tap));
    becomes("the TAP to be taken off", || !lab.ports("br0").contains(&guest.tap));
    let told = wait_for("status to tell", 10, || {
        let shown = lab.kvm_bridge("status br0").run();
        shown.out.contains("is off the bridge").then_some(shown)
    });
    assert!(told.out.contains(others) && !told.status.success(), "{}", told.out);
}

#[test]
fn a_tap_that_takes_the_hosts_address_is_taken_off_the_bridge() {
    let Some(lab) = host() else { return };
    let mac = mac_of(&lab, "eth0");
    let (alice, bob) = (Guest::boot(&lab, 11), Guest::boot(&lab, 12));
    assert!(is_held(&mac), "{}", fdb(&mac));
    is_taken_off(&lab, &alice, &mac);
    becomes("the host's address to be held again", || is_held(&mac));
    assert!(bob.reaches("10.77.0.2"));
    lab.kvm_bridge("doctor br0 --quick").run().exits_with(1);
    alice.terminate();
    becomes("nothing to be told any more", || !lab.kvm_bridge("status br0").run().out.contains("is off the bridge"));
    bob.terminate();
    lab.becomes_as_before();
}

#[test]
fn a_tap_that_takes_another_guests_address_is_taken_off_the_bridge() {
    let Some(lab) = Lab::new() else { return };
    let boot = |number| Guest::boot_with(&lab, number, "--bridge br0,uplink=none");
    let (alice, bob) = (boot(11), boot(12));
    is_taken_off(&lab, &alice, &bob.mac.clone());
    alice.terminate();
    bob.terminate();
    lab.becomes_as_before();
}

/// With the host's address for a moment, a TAP ends that the bridge holds it.
#[test]
fn the_hosts_address_is_held_again_when_a_tap_has_had_it() {
    let Some(lab) = host() else { return };
    let mac = mac_of(&lab, "eth0");
    let guest = Guest::boot(&lab, 11);
    let own = mac_of(&lab, &guest.tap);
    let batch = lab.new_file("batch");
    let words = [&mac, &own].map(|mac| format!("link set dev {} address {mac}\n", guest.tap)).concat();
    fs::write(&batch, words).expect("write the batch");
    lab.ip(&format!("-batch {}", batch.display()));
    becomes("the host's address to be held again", || is_held(&mac));
    guest.terminate();
    lab.becomes_as_before();
}

#[test]
fn recover_has_the_bridge_hold_the_hosts_address_again() {
    let Some(lab) = host() else { return };
    let mac = mac_of(&lab, "eth0");
    let guest = Guest::boot(&lab, 11);
    let reaper = wait_for("the reaper", 5, || lab.reapers().pop());
    reaper.send(Signal::SIGSTOP);
    lab.sh(&format!("bridge fdb del {mac} dev kvbp-br0 master")).run().succeeds();
    assert!(!is_held(&mac));
    lab.kvm_bridge("recover").run().succeeds();
    assert!(is_held(&mac), "{}", fdb(&mac));
    reaper.send(Signal::SIGCONT);
    guest.terminate();
    lab.becomes_as_before();
}

#[test]
fn a_port_of_a_thousand_addresses_leaves_room_for_others() {
    let Some(lab) = host() else { return };
    let guest = Guest::boot(&lab, 11);
    let batch = lab.new_file("batch");
    let entry = |number: u16| {
        let [high, low] = number.to_be_bytes();
        format!("fdb add 02:00:00:00:{high:02x}:{low:02x} dev {} master dynamic\n", guest.tap)
    };
    fs::write(&batch, (0..1100).map(entry).collect::<String>()).expect("write the batch");
    lab.sh(&format!("bridge -batch {}", batch.display())).run().succeeds();
    becomes("nothing to be learnt on the port", || {
        lab.sh(&format!("bridge -d link show dev {}", guest.tap)).run().succeeds().out.contains("learning off")
    });
    becomes("what was learnt to be forgotten", || !fdb("02:00:00:00:").contains(&guest.tap));
    assert!(guest.reaches("10.77.0.1"));
    guest.terminate();
    lab.becomes_as_before();
}

/// Any guest can say that an address is at another's MAC; a program goes where `--first` says.
#[test]
fn an_address_that_only_neighbours_tell_of_is_not_the_first() {
    let Some(lab) = host() else { return };
    let guest = Guest::boot_silent(&lab, "alice", "--bridge br0");
    lab.ip(&format!("neigh add 10.77.0.66 lladdr {} dev eth0 nud reachable", guest.mac));
    assert!(lab.kvm_bridge("ip alice").run().succeeds().out.contains("10.77.0.66"));
    assert_eq!(lab.kvm_bridge("ip alice --first").run().exits_with(1).out, "");
    // When it says so itself, it is known.
    guest.run("ip addr add 10.77.0.66/24 dev eth0");
    guest.run("ip link set eth0 up");
    assert_eq!(lab.kvm_bridge("ip alice --first").run().succeeds().out, "10.77.0.66\n");
    guest.terminate();
    lab.becomes_as_before();
}
