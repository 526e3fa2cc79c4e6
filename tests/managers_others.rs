//! Bridges of whose uplink a manager is told nothing: it leaves them and their TAPs alone all the same.

use crate::support::managers::{Managed, Manager, Mode};
use crate::support::wait_for;
use std::fs;
use std::process::Command;
use std::time::Duration;

/// What networkd says of a link: "unmanaged", "configured" ...
fn set_up_of(link: &str) -> String {
    let said = Command::new("networkctl").args(["--no-legend", "--no-pager", "list", link]).output();
    let said = String::from_utf8_lossy(&said.expect("run networkctl").stdout).into_owned();
    said.split_whitespace().last().unwrap_or_default().to_owned()
}

fn files_of_networkd() -> Vec<String> {
    let files = fs::read_dir("/run/systemd/network").into_iter().flatten().flatten();
    files.map(|file| file.file_name().to_string_lossy().into_owned()).collect()
}

#[track_caller]
fn are_left_alone(host: &Managed, bridge: &str, taps: &[&str]) {
    std::thread::sleep(Duration::from_secs(1));
    for link in taps.iter().chain([&bridge]) {
        assert_eq!(set_up_of(link), "unmanaged", "{link}; the manager's log:\n{}", host.log());
    }
}

#[test]
fn networkd_leaves_isolated_bridges_alone() {
    let Some(host) = Managed::new(Manager::Networkd, Mode::Dhcp) else { return };
    host.wait_at_most(Duration::from_secs(20));
    host.baseline();
    let said = host.shim("--bridge-dry-run --bridge br7,uplink=none").run().succeeds().out;
    assert!(said.contains("systemd-networkd would take br7 and its TAPs by /etc/systemd/network/20-wired"), "{said}");
    host.is_untouched();
    let guest = host.shim("--bridge br7,uplink=none").boot();
    are_left_alone(&host, "br7", &["tap0"]);
    assert_eq!(guest.err(), "", "there is nothing to be warned of");
    // Another bridge, of whose uplink it is told, comes and goes.
    let other = host.shim("--bridge br0 -name other").boot();
    host.is_on("br0");
    are_left_alone(&host, "br7", &["tap0", "tap1"]);
    other.terminate();
    host.waits_until_gone("br0");
    wait_for("networkd to have eth0 again", 20, || (set_up_of("eth0") == "configured").then_some(()));
    let named = host.shim("--bridge br7,ifname=vm1 -name named").boot();
    assert!(named.err().contains("systemd-networkd takes TAPs too"), "{}", named.err());
    named.terminate();
    let second = host.shim("--bridge br7 -name second").boot();
    are_left_alone(&host, "br7", &["tap0", "tap1"]);
    second.terminate();
    // Nobody is left to take it back but the next.
    host.reaper_of("br7").kill();
    guest.kill();
    host.kvm_bridge("recover").run().succeeds();
    host.waits_until_gone("br7");
    assert_eq!(files_of_networkd(), [""; 0]);
    host.becomes_as_before();
}

#[test]
fn networkd_leaves_a_bridge_alone_whose_uplink_is_taken_by_force() {
    let Some(host) = Managed::new(Manager::Networkd, Mode::Static) else { return };
    host.wait_at_most(Duration::from_secs(20));
    host.sh("ip link add dummy9 type veth peer name dummy8; ip link set dummy9 up").run().succeeds();
    let guest = host.shim("--bridge br7,uplink=dummy9,force=on").boot();
    host.restart();
    are_left_alone(&host, "br7", &["tap0"]);
    guest.terminate();
    host.waits_until_gone("br7");
    wait_for("its file to be gone", 5, || files_of_networkd().is_empty().then_some(()));
    host.sh("ip link del dummy9").run().succeeds();
    host.ends_here();
}

#[test]
fn a_networkd_that_cannot_be_told_is_no_reason_not_to_start() {
    let Some(host) = Managed::new(Manager::Networkd, Mode::Static) else { return };
    host.wait_at_most(Duration::from_secs(30));
    host.baseline();
    fs::create_dir_all("/run/systemd/network").expect("make a folder");
    let program = "#!/bin/sh\n[ \"$1\" = --version ] && exec /usr/bin/networkctl \"$@\"\necho no >&2; exit 1\n";
    host.sh("mount -t tmpfs none /usr/local/sbin").run().succeeds();
    fs::write("/usr/local/sbin/networkctl", program).expect("write");
    host.sh("chmod 755 /usr/local/sbin/networkctl").run().succeeds();
    let guest = host.shim("--bridge br7,uplink=none").boot();
    assert!(guest.err().contains("systemd-networkd takes TAPs too"), "{}", guest.err());
    assert_eq!(files_of_networkd(), [""; 0]);
    fs::remove_file("/usr/local/sbin/networkctl").expect("remove");
    guest.terminate();
    host.waits_until_gone("br7");
    host.ends_here();
}

#[test]
fn dhcpcd_with_two_uplinks_is_told_of_one() {
    let Some(host) = Managed::new(Manager::Dhcpcd, Mode::Static) else { return };
    host.wait_at_most(Duration::from_secs(40));
    // Of two interfaces with addresses it does not tell what it did.
    let second = "ip link add eth1 type veth peer name far1; ip link set eth1 up; ip link set far1 up; \
                  printf 'denyinterfaces far1\\n' | cat - /etc/dhcpcd.conf >/etc/new; cat /etc/new >/etc/dhcpcd.conf; \
                  printf 'interface eth1\\nstatic ip_address=10.99.0.1/24\\n' >>/etc/dhcpcd.conf; \
                  dhcpcd -p -x; sleep 1; dhcpcd -b -q; sleep 3";
    host.sh(second).run().succeeds();
    let guest = host.shim("--bridge br0").boot();
    let ended = host.shim("--bridge br1,uplink=eth1 -name other").run().exits_with(125);
    assert!(ended.err.contains("it renews on br0 already"), "{}", ended.err);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(host.addresses("eth0"), [""; 0]);
    assert_eq!(host.addresses("br0").len(), 2, "{:?}", host.addresses("br0"));
    assert!(host.addresses("eth1").contains(&"10.99.0.1/24".to_owned()), "{:?}", host.addresses("eth1"));
    guest.terminate();
    host.waits_until_gone("br0");
    wait_for("eth0 to have its address", 20, || {
        host.addresses("eth0").contains(&"10.77.0.2/24".to_owned()).then_some(())
    });
    // Its helper for eth1 is none that was there at the beginning.
    host.sh("dhcpcd -p -x; ip link del eth1; sleep 1").run().succeeds();
    host.ends_here();
}

#[test]
fn networkd_has_a_file_of_the_user_that_comes_early() {
    let Some(host) = Managed::new(Manager::Networkd, Mode::Static) else { return };
    host.wait_at_most(Duration::from_secs(20));
    fs::rename("/etc/systemd/network/20-wired.network", "/etc/systemd/network/00-all.network").expect("rename");
    host.sh("networkctl reload").run().succeeds();
    host.is_content();
    host.is_on("eth0");
    let guest = host.shim("--bridge br0").boot();
    std::thread::sleep(Duration::from_secs(1));
    host.is_on("br0");
    assert_eq!(["eth0", "tap0"].map(set_up_of), ["unmanaged"; 2]);
    guest.terminate();
    host.waits_until_gone("br0");
    // Its stand-in goes when networkd has done its work.
    let is_back = || host.no_longer_runs().is_empty() && host.reapers().is_empty() && set_up_of("eth0") == "configured";
    wait_for("networkd to have eth0 again", 20, || is_back().then_some(()));
    host.is_on("eth0");
}

#[test]
fn dhclient_keeps_its_identity_on_the_bridge() {
    let Some(mut host) = Managed::new(Manager::Ifupdown, Mode::Dhcp) else { return };
    host.wait_at_most(Duration::from_secs(20));
    let own = "printf 'interface \"eth0\" { send dhcp-client-identifier \"a host\"; }\\n' >/etc/dhcp/dhclient.conf; \
               ifdown eth0; ifup eth0";
    host.sh(own).run().succeeds();
    let shown = host.addresses("eth0").into_iter().find(|address| address.starts_with("10.77.0."));
    host.address = shown.expect("an address").trim_end_matches("/24").to_owned();
    let guest = host.shim("--bridge br0").boot();
    host.waits_for_renewals(2, 40);
    host.is_on("br0");
    assert!(host.all_processes().iter().any(|one| one.command.contains("-cf /run/dhclient-kvm-bridge-")));
    guest.terminate();
    host.waits_until_gone("br0");
    wait_for("dhclient on eth0", 20, || {
        host.all_processes().iter().any(|one| one.command.ends_with(" eth0")).then_some(())
    });
    host.waits_for_renewals(1, 40);
    host.is_on("eth0");
    host.ends_here();
}

/// A program in the place of networkctl whose `reload` never ends.
#[test]
fn a_networkd_that_hangs_is_waited_for_only_so_long() {
    let Some(host) = Managed::new(Manager::Networkd, Mode::Static) else { return };
    host.wait_at_most(Duration::from_secs(60));
    host.baseline();
    host.sh("mkdir -p /run/systemd/network; mount -t tmpfs none /usr/local/sbin").run().succeeds();
    let program = "#!/bin/sh\n[ \"$1\" = reload ] && exec sleep 60\nexec /usr/bin/networkctl \"$@\"\n";
    fs::write("/usr/local/sbin/networkctl", program).expect("write");
    host.sh("chmod 755 /usr/local/sbin/networkctl").run().succeeds();
    let ended = host.shim("--bridge br0").start().end_within(55).exits_with(125);
    assert!(ended.err.contains("networkctl did not end within 20 seconds"), "{}", ended.err);
    fs::remove_file("/usr/local/sbin/networkctl").expect("remove");
    host.kvm_bridge("recover").run().succeeds();
    assert_eq!(files_of_networkd(), [""; 0]);
    host.is_on("eth0");
}

/// Such a list in /etc takes the place of what a file in /run adds to it: NetworkManager looks on at bridge and TAPs then,
/// and does no more.
#[test]
fn network_manager_has_a_list_of_the_users() {
    let Some(host) = Managed::new(Manager::NetworkManager, Mode::Dhcp) else { return };
    host.wait_at_most(Duration::from_secs(30));
    fs::create_dir_all("/etc/NetworkManager/conf.d").expect("make a folder");
    let list = "[keyfile]\nunmanaged-devices=interface-name:docker0\n";
    fs::write("/etc/NetworkManager/conf.d/99-own.conf", list).expect("write");
    host.sh("nmcli general reload conf").run().succeeds();
    let guest = host.shim("--bridge br0").boot();
    host.waits_for_renewals(1, 20);
    host.restart();
    host.waits_for_renewals(1, 20);
    host.is_on("br0");
    assert_eq!(host.ports("br0"), ["eth0", "tap0"]);
    guest.terminate();
    host.waits_until_gone("br0");
    wait_for("eth0 to be given back", 25, || host.reapers().is_empty().then_some(()));
    host.is_content();
    host.is_on("eth0");
}
