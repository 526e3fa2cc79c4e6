//! Under every network manager: guests come and go on a shared uplink, leases are renewed, the manager is started again and
//! killed, and the host's addresses, routes, name servers and what its manager says are the same all the time.

use crate::sharing::host_reaches;
use crate::support::guest::Guest;
use crate::support::managers::{Managed, Manager, Mode};
use crate::support::processes::is_alive;
use crate::support::state::{comparable, ip_json};
use crate::support::wait_for;
use serde_json::Value;
use std::fs;
use std::process::Command;
use std::time::Duration;

/// What the host has by its manager, less the time that a lease still has; and, of what networkd finds of its own after it
/// was killed, the metric, which it does not give again to that, with or without guests.
fn belongings(host: &Managed) -> Vec<String> {
    let said = |program: &str, words: &str| {
        let output = Command::new(program).args(words.split_whitespace()).output().expect("ask the manager");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let without_metric = |mut json: Value| {
        let is_of_kernel = json["protocol"] == "kernel" || json["local"].is_string();
        if let Some(fields) = json.as_object_mut().filter(|_| host.is_networkds() && is_of_kernel) {
            fields.remove("metric");
        }
        json
    };
    let addresses = comparable(ip_json("addr show eth0"))[0]["addr_info"].as_array().cloned().unwrap_or_default();
    let mut all: Vec<String> =
        addresses.into_iter().map(|address| format!("address {}", without_metric(address))).collect();
    for family in ["-4", "-6"] {
        for route in comparable(ip_json(&format!("{family} route show table all"))).as_array().expect("a list") {
            if route["dev"] == "eth0" || route["nexthops"].is_array() {
                all.push(format!("route {}", without_metric(route.clone())));
            }
        }
    }
    all.push(format!("name servers {}", fs::read_to_string("/etc/resolv.conf").unwrap_or_default()));
    match host.manager {
        Manager::NetworkManager => {
            let devices = said("nmcli", "-t -f DEVICE,TYPE,STATE,CONNECTION device");
            all.extend(devices.lines().filter(|line| line.starts_with("eth0:")).map(str::to_owned));
            let connections = said("nmcli", "-t -f NAME,UUID,ACTIVE,DEVICE connection");
            all.extend(connections.lines().filter(|line| line.starts_with("wired:")).map(str::to_owned));
            let taken: Vec<&str> =
                devices.lines().filter(|line| line.starts_with("kvb") && !line.contains(":unmanaged:")).collect();
            assert!(taken.is_empty(), "NetworkManager has {taken:?}");
        }
        Manager::Networkd | Manager::Netplan => {
            let links = said("networkctl", "--no-legend --no-pager");
            let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<String>>();
            let mut its = links.lines().map(words).filter(|words| words.get(1).is_some_and(|name| name == "eth0"));
            all.push(its.next().unwrap_or_default().join(" "));
            let is_taken =
                |words: &Vec<String>| words[1].starts_with("kvb") && words.last() != Some(&"unmanaged".into());
            let taken: Vec<_> = links.lines().map(words).filter(is_taken).collect();
            assert!(taken.is_empty(), "networkd has {taken:?}");
        }
        _ => {}
    }
    all
}

/// What the host has when its manager has done all that it does: the hooks of a DHCP client write the name servers after
/// address and routes are there.
fn belongings_at_rest(host: &Managed) -> Vec<String> {
    let writes_name_servers = matches!(host.manager, Manager::Dhcpcd | Manager::Ifupdown | Manager::Udhcpc);
    let is_written = || fs::read_to_string("/etc/resolv.conf").is_ok_and(|text| text.contains("nameserver 10.77.0.1"));
    if host.mode == Mode::Dhcp && writes_name_servers {
        wait_for("the name server of the lease", 30, || is_written().then_some(()));
    }
    wait_for("the manager to be at rest", 30, || {
        let before = belongings(host);
        std::thread::sleep(Duration::from_millis(700));
        (belongings(host) == before).then_some(before)
    })
}

/// Waits until it is so: a manager that has just started takes a moment.
#[track_caller]
fn has_still(host: &Managed, before: &[String], when: &str) {
    let seen = crate::support::wait::patiently(Duration::from_secs(30), || (belongings(host) == before).then_some(()));
    if seen.is_none() {
        panic!("{when} the host has {:#?}\nand had {before:#?}\nthe manager's log:\n{}", belongings(host), host.log());
    }
}

/// Of bridges of ours networkd knows by a property of udev's, which does not run here: by a name in its place.
fn is_told_of_the_bridge() {
    let file = "[Match]\nName=br0\n\n[Link]\nUnmanaged=yes\n";
    fs::write("/run/systemd/network/00-1-kvm-bridge.network", file).expect("write a file");
}

fn is_daemon(host: &Managed) -> bool {
    matches!(host.manager, Manager::NetworkManager | Manager::Networkd | Manager::Netplan)
}

fn is_deaf(manager: Manager) -> bool {
    matches!(manager, Manager::Udhcpc | Manager::Connman)
}

fn is_killed_and_started(host: &Managed, meanwhile: impl FnOnce()) {
    let daemon = host.daemon();
    daemon.kill();
    wait_for("its end", 10, || (!is_alive(daemon.pid)).then_some(()));
    meanwhile();
    // Its name on the bus is free when its last thread has ended.
    std::thread::sleep(Duration::from_millis(700));
    host.start();
    host.is_content();
}

/// What every manager of the table goes through.
fn goes_unnoticed(manager: Manager, mode: Mode) {
    if let Some(host) = Managed::new(manager, mode) {
        goes_unnoticed_on(host);
    }
}

fn goes_unnoticed_on(host: Managed) {
    let (manager, mode) = (host.manager, host.mode);
    host.wait_at_most(Duration::from_secs(20));
    if is_daemon(&host) {
        is_told_of_the_bridge();
        host.restart();
        host.comes_to_rest();
    }
    host.baseline();
    let before = belongings_at_rest(&host);
    let guest = Guest::boot(&host.lab, 11);
    let all_is_well = |when: &str| {
        has_still(&host, &before, when);
        host.is_on("eth0");
        assert!(guest.reaches("10.77.0.1") && guest.reaches(&host.address), "{when}");
        host_reaches(&host.lab, "10.77.0.11");
        for link in ["br0", "kvbh-br0", "kvbp-br0", &guest.tap] {
            let own = host.addresses(link);
            assert!(own.iter().all(|address| address.starts_with("fe80:")), "{when} {link} has {own:?}");
        }
        assert_eq!(host.ports("br0"), [guest.tap.clone(), "kvbp-br0".to_owned()], "{when}");
    };
    all_is_well("with a guest");
    if mode == Mode::Dhcp {
        // What the server says of when, some do not hear: they wait for half of the lease.
        host.waits_for_renewals(if is_deaf(manager) { 1 } else { 2 }, 100);
        all_is_well("after renewals");
    }
    if is_daemon(&host) {
        host.restart();
        all_is_well("after the manager was started again");
        is_killed_and_started(&host, || assert!(guest.reaches("10.77.0.1"), "without a manager"));
        all_is_well("after the manager was killed");
        host.restart();
        all_is_well("after it was started again in peace");
    }
    guest.terminate();
    host.waits_until_gone("br0");
    host.becomes_as_before();
    has_still(&host, &before, "after the guest");
    if mode == Mode::Dhcp && !is_deaf(manager) {
        host.waits_for_renewals(1, 60);
    }
    let gone = host.no_longer_runs();
    assert!(gone.is_empty(), "what ran before does not any more: {gone:?}");
}

#[test]
fn network_manager_with_a_lease() {
    goes_unnoticed(Manager::NetworkManager, Mode::Dhcp);
}

#[test]
fn network_manager_with_a_static_address() {
    goes_unnoticed(Manager::NetworkManager, Mode::Static);
}

/// Its file matches all Ethernet: guests' TAPs too, if our own file did not keep it off.
#[test]
fn networkd_with_a_lease() {
    goes_unnoticed(Manager::Networkd, Mode::Dhcp);
}

#[test]
fn networkd_with_a_static_address() {
    goes_unnoticed(Manager::Networkd, Mode::Static);
}

#[test]
fn netplan_with_a_lease() {
    goes_unnoticed(Manager::Netplan, Mode::Dhcp);
}

#[test]
fn ifupdown_and_dhclient() {
    goes_unnoticed(Manager::Ifupdown, Mode::Dhcp);
}

#[test]
fn ifupdown_with_a_static_address() {
    goes_unnoticed(Manager::Ifupdown, Mode::Static);
}

/// It takes all interfaces that its configuration does not tell it to leave alone, ports of bridges too.
fn dhcpcd_that_is_told_of_our_links(mode: Mode) {
    let Some(host) = Managed::new(Manager::Dhcpcd, mode) else { return };
    host.baseline();
    let refused = host.shim("--bridge br0").run().exits_with(125).err;
    assert!(refused.contains("dhcpcd takes every new link, also those that this needs"), "{refused}");
    assert!(refused.contains("Add 'denyinterfaces kvb*' to /etc/dhcpcd.conf"), "{refused}");
    host.is_untouched();
    let configuration = fs::read_to_string("/etc/dhcpcd.conf").unwrap_or_default();
    fs::write("/etc/dhcpcd.conf", format!("denyinterfaces kvb*\n{configuration}")).expect("configure it");
    host.sh("dhcpcd -x").run().succeeds();
    wait_for("its end", 20, || {
        let runs = host.all_processes().iter().any(|process| process.command.contains("dhcpcd"));
        (!runs).then_some(())
    });
    host.start();
    wait_for("its address", 30, || host.addresses("eth0").iter().find(|it| it.starts_with(&host.address)).cloned());
    wait_for("its default route", 30, || (host.default_routes().len() == 1).then_some(()));
    host.comes_to_rest();
    host.tolerates_what_runs();
    goes_unnoticed_on(host);
}

#[test]
fn dhcpcd_with_a_lease() {
    dhcpcd_that_is_told_of_our_links(Mode::Dhcp);
}

#[test]
fn dhcpcd_with_a_static_address() {
    dhcpcd_that_is_told_of_our_links(Mode::Static);
}

#[test]
fn udhcpc() {
    goes_unnoticed(Manager::Udhcpc, Mode::Dhcp);
}

/// It takes all interfaces that its configuration does not tell it to leave alone.
#[test]
fn connman_that_is_told_of_our_links() {
    let Some(host) = Managed::new(Manager::Connman, Mode::Dhcp) else { return };
    host.baseline();
    let refused = host.shim("--bridge br0").run().exits_with(125).err;
    assert!(refused.contains("connman takes every new link, also those that this needs"), "{refused}");
    assert!(refused.contains("Add kvb to NetworkInterfaceBlacklist in /etc/connman/main.conf"), "{refused}");
    host.is_untouched();
    let list = "[General]\nNetworkInterfaceBlacklist=vmnet,vboxnet,virbr,ifb,ve-,vb-,kvb\n";
    fs::write("/etc/connman/main.conf", list).expect("configure it");
    is_killed_and_started(&host, || {});
    wait_for("its address", 30, || host.addresses("eth0").iter().find(|it| it.starts_with(&host.address)).cloned());
    wait_for("its default route", 30, || (host.default_routes().len() == 1).then_some(()));
    host.comes_to_rest();
    host.tolerates_what_runs();
    goes_unnoticed_on(host);
}

/// The manager comes up while a guest runs already, as when a guest is started by a unit of its own at boot.
#[test]
fn networkd_that_starts_after_the_guest() {
    let Some(host) = Managed::new(Manager::Networkd, Mode::Dhcp) else { return };
    host.wait_at_most(Duration::from_secs(20));
    is_told_of_the_bridge();
    host.restart();
    host.comes_to_rest();
    host.baseline();
    let before = belongings_at_rest(&host);
    let mut guest = None;
    is_killed_and_started(&host, || guest = Some(Guest::boot(&host.lab, 11)));
    let guest = guest.expect("it was booted");
    has_still(&host, &before, "with networkd after the guest");
    assert!(guest.reaches("10.77.0.1") && guest.reaches(&host.address));
    host.restart();
    has_still(&host, &before, "after it was started again in peace");
    guest.terminate();
    host.becomes_as_before();
}
