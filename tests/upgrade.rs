//! The programs are replaced by newer ones while guests run, as a package's upgrade does.

use crate::support::command::{Cmd, Running};
use crate::support::processes::Process;
use crate::support::{Lab, have};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Where they are installed.
const FOLDER: &str = "/run/bin";
/// What the newer ones call themselves; of the same length as the version that it takes the place of.
const NEWER: &str = "9.9.9";

/// Installs the programs, and starts a guest with them.
fn with_a_guest<'lab>(lab: &'lab Lab, bridge: &str) -> Running<'lab> {
    install(lab);
    let guest = shim(lab, &format!("--bridge {bridge} -name alice")).boot();
    lab.reapers_rest();
    guest
}

fn install(lab: &Lab) {
    fs::create_dir_all(FOLDER).expect("make a folder");
    put("install -s -m 755 \"$BUILT\" \"$NEW\"");
    assert_ne!(kvm_bridge(lab, "--version"), format!("kvm-bridge {NEWER}\n"));
}

/// Has the newer ones take the places of the older ones.
fn upgrade(lab: &Lab) {
    let version = env!("CARGO_PKG_VERSION").replace('.', "\\.");
    put(&format!("install -m 755 \"$PLACE\" \"$NEW\" && LC_ALL=C sed -i 's/{version}/{NEWER}/g' \"$NEW\""));
    assert_eq!(kvm_bridge(lab, "--version"), format!("kvm-bridge {NEWER}\n"));
}

/// Puts each program into its place, as dpkg and rpm do: a script makes a file beside it, which is renamed.
fn put(script: &str) {
    for built in [env!("CARGO_BIN_EXE_qemu-kvm"), env!("CARGO_BIN_EXE_kvm-bridge")] {
        let place = Path::new(FOLDER).join(Path::new(built).file_name().expect("a name"));
        let new = place.with_extension("new");
        let mut command = Command::new("sh");
        command.args(["-c", script]).env("BUILT", built).env("PLACE", &place).env("NEW", &new);
        assert!(command.status().expect("run it").success(), "{script}");
        fs::rename(&new, &place).expect("put it into its place");
    }
}

fn shim<'lab>(lab: &'lab Lab, words: &str) -> Cmd<'lab> {
    lab.program(format!("{FOLDER}/qemu-kvm")).words(words)
}

#[track_caller]
fn kvm_bridge(lab: &Lab, words: &str) -> String {
    lab.program(format!("{FOLDER}/kvm-bridge")).words(words).run().succeeds().out
}

/// Whether the reaper runs a program that is in its place, or one that was replaced.
fn is_newer(reaper: &Process) -> bool {
    let exe = fs::read_link(format!("/proc/{}/exe", reaper.pid)).expect("it runs");
    assert!(exe.starts_with(FOLDER), "{}", exe.display());
    !exe.to_string_lossy().ends_with(" (deleted)")
}

/// The newer one shows a bridge with these guests, and nothing that is wrong.
#[track_caller]
fn shows(lab: &Lab, vms: &[&str]) {
    let status: Value = serde_json::from_str(&kvm_bridge(lab, "status br0 --json")).expect("JSON");
    let bridge = &status["bridges"][0];
    assert!(bridge["error"].is_null() && bridge["faults"].as_array().is_some_and(Vec::is_empty), "{bridge}");
    let ports = bridge["ports"].as_array().expect("a list").iter();
    let mut shown: Vec<&str> = ports.filter_map(|port| port["vm"].as_str()).collect();
    shown.sort_unstable();
    assert_eq!(shown, vms, "{bridge}");
}

#[test]
fn the_older_reaper_goes_on_for_guests_of_both() {
    let Some(lab) = Lab::with_address() else { return };
    if !have("dnsmasq") || !have("nft") {
        return;
    }
    for uplink in ["none", "eth0", "nat"] {
        let alice = with_a_guest(&lab, &format!("br0,uplink={uplink}"));
        let reaper = lab.reaper_of("br0");
        upgrade(&lab);
        assert!(!is_newer(&reaper));
        shows(&lab, &["alice"]);
        let bob = shim(&lab, "--bridge br0 -name bob").boot();
        lab.reapers_rest();
        assert_eq!(lab.reaper_of("br0").pid, reaper.pid, "{uplink}");
        assert_eq!(lab.reapers().len(), 1);
        alice.terminate();
        lab.reapers_rest();
        kvm_bridge(&lab, "recover");
        shows(&lab, &["bob"]);
        bob.terminate();
        lab.becomes_as_before();
    }
}

#[test]
fn where_the_older_reaper_was_killed_a_newer_one_takes_its_place() {
    let Some(lab) = Lab::with_address() else { return };
    if !have("dnsmasq") || !have("nft") {
        return;
    }
    for uplink in ["none", "eth0", "nat"] {
        let alice = with_a_guest(&lab, &format!("br0,uplink={uplink}"));
        upgrade(&lab);
        lab.reaper_of("br0").kill();
        let bob = shim(&lab, "--bridge br0 -name bob").boot();
        lab.reapers_rest();
        assert!(is_newer(&lab.reaper_of("br0")), "{uplink}");
        shows(&lab, &["alice", "bob"]);
        bob.terminate();
        alice.terminate();
        lab.becomes_as_before();
    }
}

#[test]
fn the_newer_one_takes_back_what_the_older_one_has_left() {
    let Some(lab) = Lab::with_address() else { return };
    let alice = with_a_guest(&lab, "br0,uplink=eth0");
    upgrade(&lab);
    lab.reaper_of("br0").kill();
    alice.kill();
    kvm_bridge(&lab, "recover");
    lab.is_untouched();
    // And what the older one was told to keep, with a guest on it.
    install(&lab);
    kvm_bridge(&lab, "up br0 --uplink eth0");
    let bob = shim(&lab, "--bridge br0 -name bob").boot();
    upgrade(&lab);
    lab.program(format!("{FOLDER}/kvm-bridge")).words("down br0").run().exits_with(1);
    shows(&lab, &["bob"]);
    bob.terminate();
    kvm_bridge(&lab, "down br0");
    lab.becomes_as_before();
}
