//! A host whose uplink belongs to a network manager: it is told, the lease is renewed on the bridge, and afterwards all
//! is its own again.

use crate::support::managers::{Managed, Manager, Mode};
use crate::support::wait_for;
use std::time::Duration;

/// Taken, renewed, given back, renewed: with each the host has its address once, where it belongs.
fn is_lived_with(manager: Manager, mode: Mode) {
    let Some(host) = Managed::new(manager, mode) else { return };
    host.wait_at_most(Duration::from_secs(20));
    host.is_on("eth0");
    let mut guest = host.shim("--bridge br0").then("arp:10.77.0.1,hold").start();
    assert_eq!(guest.qemu().answer("bridge0"), Some(host.lan.mac()), "{}", guest.err());
    host.is_on("br0");
    assert!(host.lan.reaches(&host.address));
    if mode == Mode::Dhcp {
        // udhcpc does not hear from the server when to renew, and takes half of the time.
        host.waits_for_renewals(if manager == Manager::Udhcpc { 1 } else { 2 }, 75);
    }
    host.is_on("br0");
    host.restart();
    std::thread::sleep(Duration::from_secs(2));
    host.is_on("br0");
    let mut second = host.shim("--bridge br0 -name second").then("arp:10.77.0.1,hold").start();
    assert_eq!(second.qemu().answer("bridge0"), Some(host.lan.mac()), "{}", second.err());
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(host.ports("br0"), ["eth0", "tap0", "tap1"]);
    for tap in ["tap0", "tap1"] {
        assert_eq!(host.addresses(tap), [""; 0], "the manager has taken {tap}");
    }
    second.terminate();
    guest.terminate();
    host.waits_until_gone("br0");
    wait_for("the manager to be content", 20, || host.no_longer_runs().is_empty().then_some(()));
    host.becomes_as_before();
    host.is_on("eth0");
    if mode == Mode::Dhcp {
        host.waits_for_renewals(1, 75);
        host.is_on("eth0");
    }
    assert!(!host.lan.dhcp_log().contains("DHCPRELEASE"), "{}", host.lan.dhcp_log());
}

#[test]
fn ifupdown_with_dhclient() {
    is_lived_with(Manager::Ifupdown, Mode::Dhcp);
}

#[test]
fn ifupdown_with_a_static_address() {
    is_lived_with(Manager::Ifupdown, Mode::Static);
}

#[test]
fn udhcpc() {
    is_lived_with(Manager::Udhcpc, Mode::Dhcp);
}

#[test]
fn dhcpcd() {
    is_lived_with(Manager::Dhcpcd, Mode::Dhcp);
}

#[test]
fn dhcpcd_with_a_static_address() {
    is_lived_with(Manager::Dhcpcd, Mode::Static);
}

#[test]
fn networkd() {
    is_lived_with(Manager::Networkd, Mode::Dhcp);
}

#[test]
fn networkd_with_a_static_address() {
    is_lived_with(Manager::Networkd, Mode::Static);
}

#[test]
fn network_manager() {
    is_lived_with(Manager::NetworkManager, Mode::Dhcp);
}

#[test]
fn network_manager_with_a_static_address() {
    is_lived_with(Manager::NetworkManager, Mode::Static);
}
