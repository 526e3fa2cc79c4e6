//! A host whose uplink belongs to a network manager: it is told, the lease is renewed on the bridge, and afterwards all
//! is its own again.

use crate::support::managers::{Managed, Manager, Mode};
use crate::support::wait::patiently;
use crate::support::{have, wait_for};
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
    host.is_content();
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

/// Killed at one of its system calls after another, some at a time, it leaves nothing that `recover` can't take back.
fn a_kill_is_recovered_from(manager: Manager, stride: usize) {
    if !have("strace") {
        return;
    }
    let Some(host) = Managed::new(manager, Mode::Dhcp) else { return };
    host.baseline();
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let stride = number("KILLS_STRIDE").unwrap_or(stride);
    let mut at = number("KILLS_FROM").unwrap_or(stride);
    while host.shim("--bridge br0").dies_at(CALLS, at) {
        host.kvm_bridge("recover").run().succeeds();
        is_as_before(&host, &format!("call {at}"));
        at += stride;
        if number("KILLS_RENEW").is_some() {
            host.waits_for_renewals(1, 75);
        }
        eprintln!("call {at}");
        if number("KILLS_TO").is_some_and(|last| at > last) {
            return;
        }
        assert!(at < 2500, "it never ends");
    }
    assert!(at > 110, "only {at} calls");
    // And of everything, with guests.
    let guest = host.shim("--bridge br0").boot();
    host.reaper_of("br0").kill();
    guest.kill();
    host.kvm_bridge("recover").run().succeeds();
    is_as_before(&host, "everything");
}

/// The system calls between which a kill finds something else.
const CALLS: &str = "sendto,write,openat,rename,unlink,flock,fchmodat,vfork,clone,clone3,wait4,kill,ioctl,bind,close";

/// networkd takes an address over as it finds it. Where a kill came while it was configuring the bridge, that can be without
/// the metric of the route to its neighbours, until it configures the interface anew (docs/managers.md).
fn lacks_only_a_metric(remains: &str) -> bool {
    let without = |sign: char| {
        let lines = remains.lines().filter_map(move |line| line.strip_prefix(sign));
        let lines = lines.filter(|line| !line.contains(" addr_info ") || !line.contains(" metric: "));
        lines.map(|line| line.replace("\"metric\":1024,", "")).collect::<Vec<String>>()
    };
    let is_of_the_network = |line: &str| line.is_empty() || line.starts_with(['-', '+']) || line.starts_with("ip -j ");
    remains.lines().all(is_of_the_network) && without('-') == without('+')
}

#[track_caller]
fn is_as_before(host: &Managed, what: &str) {
    if patiently(Duration::from_secs(20), || host.no_longer_runs().is_empty().then_some(())).is_none() {
        panic!(
            "20 s after the kill at {what} the manager lacks {:?} of {:?}",
            host.no_longer_runs(),
            host.all_processes()
        );
    }
    host.is_content();
    let comes = || patiently(Duration::from_secs(20), || host.is_as_before().then_some(())).is_some();
    let lacks_a_metric = || host.is_networkds() && host.remains().is_some_and(|remains| lacks_only_a_metric(&remains));
    let mended = || {
        lacks_a_metric() && {
            let asked = std::process::Command::new("networkctl").args(["reconfigure", "eth0"]).status();
            asked.expect("run networkctl").success() && comes()
        }
    };
    if !comes() && !mended() {
        panic!("20 s after the kill at {what}: {}", host.remains().unwrap_or_default());
    }
    host.is_on("eth0");
}

#[test]
fn a_kill_is_recovered_from_with_dhclient() {
    a_kill_is_recovered_from(Manager::Ifupdown, 37);
}

#[test]
fn a_kill_is_recovered_from_with_dhcpcd() {
    a_kill_is_recovered_from(Manager::Dhcpcd, 37);
}

#[test]
fn a_kill_is_recovered_from_with_udhcpc() {
    a_kill_is_recovered_from(Manager::Udhcpc, 37);
}

#[test]
fn a_kill_is_recovered_from_with_networkd() {
    a_kill_is_recovered_from(Manager::Networkd, 37);
}

#[test]
fn a_kill_is_recovered_from_with_network_manager() {
    a_kill_is_recovered_from(Manager::NetworkManager, 37);
}

#[test]
fn the_dry_run_shows_what_would_be_told() {
    let Some(host) = Managed::new(Manager::Networkd, Mode::Dhcp) else { return };
    let said = host.shim("--bridge-dry-run --bridge br0").run().succeeds().out;
    assert!(said.contains("# eth0 is run by systemd-networkd, which is told"), "{said}");
    assert!(said.contains("networkctl reload"), "{said}");
    host.is_untouched();
}

#[test]
fn one_that_cannot_be_told_is_left_alone() {
    let Some(host) = Managed::new(Manager::NetworkManager, Mode::Dhcp) else { return };
    host.baseline();
    let manager = host.all_processes().into_iter().find(|one| one.command.starts_with("NetworkManager"));
    manager.expect("it runs").kill();
    let ended = host.shim("--bridge br0").run().exits_with(125);
    assert!(ended.err.contains("NetworkManager looks after it, and it does not answer"), "{}", ended.err);
    assert!(ended.err.contains("nmcli connection add type bridge ifname br0"), "{}", ended.err);
    host.is_untouched();
    host.ends_here();
}
