//! What may happen to a manager while its uplink is taken, and to us while it is given back.

use crate::support::managers::{Managed, Manager, Mode};
use crate::support::{have, wait_for};
use std::process::Command;
use std::time::Duration;

/// After something happened to the manager the guest and the host go on, and in the end all is as it was.
fn outlives(manager: Manager, mode: Mode, event: impl FnOnce(&Managed)) {
    let Some(host) = Managed::new(manager, mode) else { return };
    host.wait_at_most(Duration::from_secs(30));
    let guest = host.shim("--bridge br0").boot();
    host.is_on("br0");
    event(&host);
    std::thread::sleep(Duration::from_secs(2));
    host.is_on("br0");
    assert_eq!(host.ports("br0"), ["eth0", "tap0"]);
    assert!(host.lan.reaches(&host.address));
    guest.terminate();
    host.waits_until_gone("br0");
    comes_back(&host, "its last guest");
}

#[track_caller]
fn comes_back(host: &Managed, what: &str) {
    wait_for(&format!("the manager to be content after {what}"), 30, || host.no_longer_runs().is_empty().then_some(()));
    host.is_content();
    wait_for(&format!("the host to be as before after {what}"), 30, || host.is_as_before().then_some(()));
    host.is_on("eth0");
}

#[test]
fn network_manager_reads_its_configuration_anew() {
    outlives(Manager::NetworkManager, Mode::Dhcp, |host| {
        host.sh("nmcli general reload && nmcli connection reload").run().succeeds();
    });
}

#[test]
fn networkd_reads_its_configuration_anew() {
    outlives(Manager::Networkd, Mode::Static, |host| {
        host.sh("networkctl reload && networkctl reconfigure br0").run().succeeds();
    });
}

#[test]
fn dhcpcd_reads_its_configuration_anew() {
    outlives(Manager::Dhcpcd, Mode::Dhcp, |host| {
        host.sh("dhcpcd -n").run().succeeds();
    });
}

/// `kill -9` of the manager, and its service starts it again.
fn is_killed_and_started_again(host: &Managed) {
    host.daemon().kill();
    // Its name on the bus is free when its last thread has ended.
    std::thread::sleep(Duration::from_millis(700));
    host.start();
    host.is_content();
}

#[test]
fn network_manager_is_killed_and_started_again() {
    outlives(Manager::NetworkManager, Mode::Static, is_killed_and_started_again);
}

#[test]
fn networkd_is_killed_and_started_again() {
    outlives(Manager::Networkd, Mode::Dhcp, is_killed_and_started_again);
}

/// `kvm-bridge down` is killed at one of its system calls after another, some at a time, and `recover` ends what it began.
fn a_killed_restore_is_ended(manager: Manager, mode: Mode, stride: usize) {
    if !have("strace") {
        return;
    }
    let Some(host) = Managed::new(manager, mode) else { return };
    host.baseline();
    let mut at = stride;
    loop {
        host.kvm_bridge("up br0").run().succeeds();
        host.is_on("br0");
        let is_killed = host.kvm_bridge("down br0").dies_at(CALLS, at);
        host.kvm_bridge("recover").run().succeeds();
        if is_killed && host.link("br0").is_some() {
            // It had not begun.
            host.kvm_bridge("down br0").run().succeeds();
        }
        comes_back(&host, &format!("the kill at call {at}"));
        if !is_killed {
            break;
        }
        at += stride;
        assert!(at < stride * 40, "it never ends");
    }
    assert!(at > stride * 2, "only {at} calls");
}

/// The system calls between which a kill finds something else.
const CALLS: &str = "sendto,write,openat,rename,unlink,flock,vfork,clone,clone3,wait4,kill,close";

#[test]
fn a_killed_restore_is_ended_with_network_manager() {
    a_killed_restore_is_ended(Manager::NetworkManager, Mode::Static, 29);
}

#[test]
fn a_killed_restore_is_ended_with_networkd() {
    a_killed_restore_is_ended(Manager::Networkd, Mode::Dhcp, 29);
}

#[test]
fn a_killed_restore_is_ended_with_dhclient() {
    a_killed_restore_is_ended(Manager::Ifupdown, Mode::Dhcp, 29);
}

#[test]
fn a_lasting_bridge_keeps_its_lease_when_its_guests_have_gone() {
    let Some(host) = Managed::new(Manager::NetworkManager, Mode::Dhcp) else { return };
    host.wait_at_most(Duration::from_secs(30));
    let guest = host.shim("--bridge br0,keep=on").boot();
    host.waits_for_renewals(1, 20);
    guest.terminate();
    // Longer than a bridge without guests is kept otherwise.
    std::thread::sleep(Duration::from_secs(3));
    host.waits_for_renewals(1, 20);
    host.is_on("br0");
    // Who renews may be killed; the next of our programs sees to it.
    host.reaper_of("br0").kill();
    host.kvm_bridge("recover").run().succeeds();
    host.waits_for_renewals(1, 20);
    host.kvm_bridge("down br0").run().succeeds();
    comes_back(&host, "down");
}

#[test]
fn up_and_down_are_lived_with() {
    let Some(host) = Managed::new(Manager::Networkd, Mode::Dhcp) else { return };
    host.baseline();
    host.kvm_bridge("up br0").run().succeeds();
    host.waits_for_renewals(1, 40);
    host.is_on("br0");
    assert_eq!(host.ports("br0"), ["eth0"]);
    host.kvm_bridge("down br0").run().succeeds();
    comes_back(&host, "down");
    let said = Command::new("networkctl").args(["--no-legend", "list", "eth0"]).output().expect("run networkctl");
    assert!(String::from_utf8_lossy(&said.stdout).contains("configured"), "{said:?}");
}
