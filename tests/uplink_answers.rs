//! Uplinks that can or can't be bridged, and how: each has its right answer, and where that is no, nothing is touched.

use crate::support::managers::{Managed, Manager, Mode};
use crate::support::namespaces::hide;
use crate::support::programs;
use crate::support::{Lab, wait_for};
use std::fs;

/// Refused by the shim, the dry run and doctor alike, in these words; nothing is touched. What the shim says.
#[track_caller]
fn is_refused(lab: &Lab, bridge: &str, words: &[&str]) -> String {
    let shim = lab.shim(&format!("--bridge {bridge}")).run().exits_with(125).err;
    let dry = lab.shim(&format!("--bridge-dry-run --bridge {bridge}")).run().exits_with(125).err;
    let doctor = lab.kvm_bridge(&format!("doctor --quick -- --bridge {bridge}")).run().exits_with(1).out;
    for said in [&shim, &dry, &doctor] {
        for word in words {
            assert!(said.contains(word), "'{word}' is not in:\n{said}");
        }
    }
    lab.is_untouched();
    shim
}

fn program(path: &str, script: &str) {
    programs::write(path, script);
}

/// It is shared, and the host's own that was on it is there afterwards.
#[track_caller]
fn is_shared(lab: &Lab, words: &str) {
    let mut guest = lab.shim(words).then("arp:10.77.0.1,hold").start();
    assert_eq!(guest.qemu().answer("bridge0"), Some(lab.lan.mac()), "{}", guest.err());
    assert_eq!(lab.ports("br0"), ["kvb0", "kvbp-br0"]);
    assert!(lab.a_link("eth0").get("master").is_none());
    guest.terminate();
    lab.becomes_as_before();
}

#[track_caller]
fn is_made_a_port(lab: &Lab, words: &str) {
    let mut guest = lab.shim(words).then("arp:10.77.0.1,hold").start();
    assert_eq!(guest.qemu().answer("bridge0"), Some(lab.lan.mac()), "{}", guest.err());
    assert_eq!(lab.ports("br0"), ["eth0", "kvb0"]);
    guest.terminate();
    lab.becomes_as_before();
}

#[test]
fn an_uplink_is_attached_as_it_is_asked_for() {
    let Some(lab) = Lab::new() else { return };
    is_made_a_port(&lab, "--bridge br0,uplink=eth0");
    is_made_a_port(&lab, "--bridge br0,uplink=eth0,attach=port");
    is_shared(&lab, "--bridge br0,uplink=eth0,attach=share");
    lab.configure("[bridge.br0]\nuplink = \"eth0\"\nattach = \"share\"\n");
    is_shared(&lab, "--bridge br0");
    is_made_a_port(&lab, "--bridge br0,attach=port");
    lab.ip("addr add 10.77.0.2/24 dev eth0");
    lab.settle();
    lab.baseline();
    is_shared(&lab, "--bridge br0");
    let said = is_refused(&lab, "br0,attach=port", &["eth0 cannot be a port: the host has 10.77.0.2/24"]);
    assert!(said.contains("Leave attach=port out, and it is shared."), "{said}");
}

/// Whoever has a packet socket there means that interface by its index: a DHCP client without an address yet, LLDP, 802.1X.
#[test]
fn a_client_that_waits_for_its_first_lease_keeps_its_interface() {
    let Some(host) = Managed::new(Manager::Udhcpc, Mode::Dhcp) else { return };
    host.sh("kill -KILL $(cat /run/udhcpc.eth0.pid)").run().succeeds();
    fs::create_dir_all("/run/bin").expect("make a folder");
    programs::copy("/usr/sbin/dhclient", "/run/bin/netd");
    host.lab.ip("addr flush dev eth0");
    host.lan.close();
    let client = host.program("/run/bin/netd").words("-d -pf /run/netd.pid -lf /run/netd.leases eth0").start();
    wait_for("its socket", 20, || {
        let sockets = fs::read_to_string("/proc/thread-self/net/packet").unwrap_or_default();
        let index = host.a_link("eth0")["ifindex"].to_string();
        sockets.lines().skip(1).any(|line| line.split_whitespace().nth(4) == Some(&index)).then_some(())
    });
    host.tolerates_what_runs();
    host.baseline();
    is_shared(&host, "--bridge br0,uplink=eth0");
    drop(client);
}

#[test]
fn an_address_with_an_end_is_the_hosts_like_any_other() {
    let Some(lab) = Lab::new() else { return };
    lab.ip("addr add 10.77.0.2/24 dev eth0 valid_lft 1000 preferred_lft 1000");
    lab.ip("route add default via 10.77.0.1");
    lab.settle();
    lab.baseline();
    is_shared(&lab, "--bridge br0");
}

/// What managers write for themselves is read; none of their programs is run, whatever it would say.
#[test]
fn no_program_of_a_manager_is_run() {
    let Some(host) = Managed::new(Manager::NetworkManager, Mode::Static) else { return };
    hide("/usr/local").expect("hide a folder");
    fs::create_dir_all("/usr/local/sbin").expect("make a folder");
    for name in ["nmcli", "networkctl", "dhcpcd", "ifquery", "connmanctl", "netplan", "resolvectl"] {
        program(&format!("/usr/local/sbin/{name}"), "#!/bin/sh\necho \"$0 $*\" >>/run/was-run\nexit 1\n");
    }
    is_shared(&host, "--bridge br0");
    host.kvm_bridge("status").run().succeeds();
    host.kvm_bridge("doctor br0 --quick").run().succeeds();
    host.shim("--bridge br0,uplink=eth0,attach=port").run().exits_with(125);
    assert_eq!(fs::read_to_string("/run/was-run").unwrap_or_default(), "");
}

#[test]
fn wifi_is_told_why_and_what_else_there_is() {
    let Some(lab) = Lab::with_address() else { return };
    hide("/sys/class/net").expect("an empty folder");
    fs::create_dir_all("/sys/class/net/eth0/phy80211").expect("make a folder");
    let why = "it is Wi-Fi: a station's 802.11 frames have three addresses";
    let nat = "For guests behind the host's address: --bridge br0,uplink=nat";
    is_refused(&lab, "br0,uplink=eth0", &[why, nat, "For guests on the LAN: give a wired interface."]);
    let said = is_refused(&lab, "br0", &[why, "uplink=none", "For guests on the LAN: give a wired interface."]);
    // Once is enough.
    assert_eq!((said.matches(why).count(), said.matches("uplink=nat").count()), (1, 1), "{said}");
    assert_eq!(said.lines().nth(1), Some("  For guests behind the host's address: --bridge br0,uplink=nat"), "{said}");
}

#[test]
fn a_macvlan_lets_nothing_in_for_guests() {
    let Some(lab) = Lab::with_address() else { return };
    lab.ip("link add mv0 link eth0 type macvlan mode bridge");
    lab.ip("link set mv0 up");
    lab.settle();
    lab.baseline();
    is_refused(&lab, "br0,uplink=mv0", &["it is a macvlan, which lets in no frame that is for another address"]);
    // That is so: the answer to a guest does not come in.
    lab.ip("link add name br7 type bridge");
    lab.ip("link set mv0 master br7");
    lab.ip("link set br7 up");
    lab.settle();
    lab.baseline();
    let ended = lab.shim("--bridge br7").then("arp:10.77.0.1").run().succeeds();
    assert_eq!(ended.qemu().answer("bridge0"), None);
    lab.ip("link del br7");
    lab.ip("link del mv0");
    // In this mode it does.
    lab.ip("link add mv0 link eth0 type macvlan mode passthru");
    lab.ip("link set mv0 up");
    lab.settle();
    lab.baseline();
    let mut guest = lab.shim("--bridge br0,uplink=mv0").then("arp:10.77.0.1,hold").start();
    assert_eq!(guest.qemu().answer("bridge0"), Some(lab.lan.mac()), "{}", guest.err());
    guest.terminate();
    lab.becomes_as_before();
    lab.ip("link del mv0");
    lab.ends_here();
}

#[test]
fn what_stands_on_an_uplink_keeps_it_from_becoming_a_port() {
    let Some(lab) = Lab::new() else { return };
    lab.ip("link add mv0 link eth0 type macvlan mode bridge");
    lab.settle();
    lab.baseline();
    is_refused(&lab, "br0,uplink=eth0,attach=port", &["mv0 is stacked on it and gets its frames", "ip link del mv0"]);
    is_shared(&lab, "--bridge br0,uplink=eth0");
    lab.ip("link del mv0");
    lab.ends_here();
}

#[test]
fn two_bridges_do_not_have_one_uplink() {
    let Some(lab) = Lab::with_address() else { return };
    let said = lab.shim("--bridge br0 --bridge br1").run().exits_with(125).err;
    assert!(said.contains("eth0 is already to be the uplink of br0"), "{said}");
    lab.is_untouched();
    let guest = lab.shim("--bridge br0").boot();
    for words in ["--bridge br1,uplink=eth0", "--bridge-dry-run --bridge br1,uplink=eth0", "--bridge br1"] {
        let said = lab.shim(words).run().exits_with(125).err;
        assert!(said.contains("eth0 cannot be shared: it is shared through kvbh-br0 already"), "{said}");
        assert!(said.contains("To join that bridge: --bridge br0"), "{said}");
    }
    guest.terminate();
}

#[test]
fn a_port_of_another_bridge_is_told_of_it() {
    let Some(lab) = Lab::with_bridge("br7") else { return };
    lab.ip("link set eth0 master br7");
    lab.settle();
    lab.baseline();
    let words = ["it is a port of the bridge br7 already", "--bridge br7", "ip link set dev eth0 nomaster"];
    is_refused(&lab, "br0,uplink=eth0", &words);
}

#[test]
fn a_tunnel_of_ip_packets_is_no_uplink() {
    let Some(lab) = Lab::with_address() else { return };
    lab.ip("tuntap add dev tun0 mode tun");
    lab.ip("link set tun0 up");
    lab.ip("route replace default dev tun0");
    lab.settle();
    lab.baseline();
    // As with a VPN that has the default route.
    let said = is_refused(&lab, "br0", &["tun0", "a tunnel of IP packets"]);
    assert!(said.contains("--bridge br0,uplink=eth0"), "{said}");
    lab.ip("link del tun0");
    lab.ends_here();
}

#[test]
fn without_a_default_route_the_error_names_the_choices() {
    let Some(lab) = Lab::with_bridge("br1") else { return };
    lab.ip("link add eth9 type veth peer name veth9");
    let ended = lab.shim("--bridge br0").run().exits_with(125);
    for part in ["no default route", "uplink=eth9", "uplink=none", "eth0 cannot be one: it is a port"] {
        assert!(ended.err.contains(part), "{part} is not in: {}", ended.err);
    }
    lab.is_untouched();
}

#[test]
fn a_default_route_by_something_else_is_named() {
    let Some(lab) = Lab::with_bridge("br1") else { return };
    lab.ip("addr add 10.77.0.2/24 dev br1");
    lab.ip("route add default via 10.77.0.1");
    let ended = lab.shim("--bridge br0,uplink=auto").run().exits_with(125);
    assert!(ended.err.contains("br1, where the default route leads, cannot be its uplink"), "{}", ended.err);
    lab.is_untouched();
}

#[test]
fn the_configuration_says_how_a_bridge_is_made() {
    let Some(lab) = Lab::new() else { return };
    lab.configure("[bridge.br0]\nuplink = \"eth0\"\nmtu = 1300\n[bridge.lab]\nuplink = \"none\"\nkeep = true\n");
    let guest = lab.shim("--bridge br0").boot();
    assert_eq!((&lab.a_link("br0")["mtu"], &lab.a_link("eth0")["master"]), (&1300.into(), &"br0".into()));
    guest.terminate();
    lab.shim("--bridge lab,keep=off").run().succeeds();
    lab.becomes_as_before();
    lab.configure("[bridge.br0]\ncolour = \"red\"\n");
    let ended = lab.shim("--bridge br0").run().exits_with(125);
    assert!(ended.err.contains("/etc/kvm-bridge/config.toml:2: there is no key 'colour'"), "{}", ended.err);
}

#[test]
fn the_preferred_default_route_counts_alone() {
    let Some(lab) = Lab::with_address() else { return };
    lab.ip("tuntap add dev wg0 mode tun");
    lab.ip("link set wg0 up");
    lab.ip("route del default");
    lab.ip("route add default via 10.77.0.1 metric 100");
    lab.ip("route add default dev wg0 metric 5");
    let ended = lab.shim("--bridge br0").run().exits_with(125);
    assert!(ended.err.contains("wg0, where the default route leads, cannot be its uplink"), "{}", ended.err);
    lab.is_untouched();
    lab.ip("route del default dev wg0");
    lab.ip("route del default");
    lab.ip("route add default nexthop via 10.77.0.1 dev eth0 nexthop via 10.77.0.9 dev eth0");
    lab.shim("--bridge br0").run().succeeds();
    lab.ends_here();
}
