//! A bridge that is missing is made, and gone after its last guest.

use crate::support::state::comparable;
use crate::support::{Lab, wait_for};
use std::fs;

#[test]
fn an_isolated_bridge_joins_two_guests_to_each_other() {
    let Some(lab) = Lab::new() else { return };
    let mut one = lab.shim("--bridge br0,uplink=none -name one").then("answer:192.168.7.1").start();
    let mac = one.qemu().mac();
    let mut two = lab.shim("--bridge br0,uplink=none -name two").then("arp:192.168.7.1,hold").start();
    assert_eq!(two.qemu().answer("bridge0"), Some(mac));
    let ports = lab.ports("br0");
    assert_eq!(ports.len(), 2, "{ports:?}");
    assert!(!ports.contains(&"eth0".to_owned()));
}

#[test]
fn a_new_bridge_forwards_at_once() {
    let Some(lab) = Lab::new() else { return };
    let _guest = lab.shim("--bridge br0,uplink=none").boot();
    let bridge = lab.a_link("br0")["linkinfo"]["info_data"].clone();
    assert_eq!((&bridge["stp_state"], &bridge["forward_delay"]), (&0.into(), &0.into()));
}

#[test]
fn a_new_bridge_says_whose_it_is() {
    let Some(lab) = Lab::new() else { return };
    let _guest = lab.shim("--bridge br0,uplink=none").boot();
    let alias = lab.a_link("br0")["ifalias"].clone();
    assert!(alias.as_str().is_some_and(|alias| alias.starts_with("kvm-bridge")), "{alias}");
}

#[test]
fn the_mac_of_a_new_bridge_is_pinned_and_no_guest_moves_it() {
    let Some(lab) = Lab::new() else { return };
    let one = lab.shim("--bridge br0,uplink=none -name one").boot();
    let mac = lab.a_link("br0")["address"].clone();
    assert_eq!(fs::read_to_string("/sys/class/net/br0/addr_assign_type").expect("sysfs").trim(), "3");
    let two = lab.shim("--bridge br0,uplink=none -name two").boot();
    assert_eq!(lab.a_link("br0")["address"], mac);
    drop(one);
    assert_eq!(lab.a_link("br0")["address"], mac);
    drop(two);
}

#[test]
fn an_uplink_that_nobody_uses_becomes_a_port() {
    let Some(lab) = Lab::new() else { return };
    let mut guest = lab.shim("--bridge br0,uplink=eth0").then("arp:10.77.0.1,hold").start();
    assert_eq!(guest.qemu().answer("bridge0"), Some(lab.lan.mac()));
    assert_eq!(lab.a_link("eth0")["master"], "br0");
    // It has an address of its own, which no port moves.
    assert_ne!(lab.a_link("br0")["address"], lab.a_link("eth0")["address"]);
    assert_eq!(fs::read_to_string("/sys/class/net/br0/addr_assign_type").expect("sysfs").trim(), "3");
}

#[test]
fn the_uplink_is_free_again_after_the_last_guest() {
    let Some(lab) = Lab::new() else { return };
    let before = comparable(lab.a_link("eth0"));
    lab.shim("--bridge br0,uplink=eth0").boot().terminate();
    lab.waits_until_gone("br0");
    assert_eq!(comparable(lab.a_link("eth0")), before);
    assert!(lab.a_link("eth0").get("master").is_none());
}

#[test]
fn an_uplink_that_was_down_is_down_again_after_the_last_guest() {
    let Some(lab) = Lab::new() else { return };
    lab.ip("link set eth0 down");
    let mut guest = lab.shim("--bridge br0,uplink=eth0").then("arp:10.77.0.1,hold").start();
    assert!(guest.qemu().answer("bridge0").is_some(), "the uplink is up while it is used");
}

#[test]
fn a_new_bridge_has_the_mtu_of_its_uplink_and_so_has_the_guest() {
    let Some(lab) = Lab::new() else { return };
    lab.ip("link set eth0 mtu 1400");
    let mut guest = lab.shim("--bridge br0,uplink=eth0").boot();
    let tap = guest.qemu().tap().name;
    assert_eq!((&lab.a_link("br0")["mtu"], &lab.a_link(&tap)["mtu"]), (&1400.into(), &1400.into()));
}

#[test]
fn the_mtu_of_a_new_bridge_can_be_asked_for() {
    let Some(lab) = Lab::new() else { return };
    let mut guest = lab.shim("--bridge br0,uplink=none,mtu=1300").boot();
    let tap = guest.qemu().tap().name;
    assert_eq!((&lab.a_link("br0")["mtu"], &lab.a_link(&tap)["mtu"]), (&1300.into(), &1300.into()));
}

#[test]
fn the_second_guest_joins_what_the_first_one_made() {
    let Some(lab) = Lab::new() else { return };
    let one = lab.shim("--bridge br0,uplink=none -name one").boot();
    let index = lab.a_link("br0")["ifindex"].clone();
    let two = lab.shim("--bridge br0,uplink=none -name two").boot();
    assert_eq!(lab.a_link("br0")["ifindex"], index);
    drop(one);
    lab.waits_until_gone("kvb0");
    lab.reapers_rest();
    assert!(lab.link("br0").is_some(), "the bridge stays as long as the second guest");
    drop(two);
    lab.waits_until_gone("br0");
}

#[test]
fn a_guest_that_starts_within_the_grace_time_finds_the_same_bridge() {
    let Some(lab) = Lab::new() else { return };
    lab.shim("--bridge br0,uplink=none").boot().terminate();
    let index = lab.a_link("br0")["ifindex"].clone();
    let _again = lab.shim("--bridge br0,uplink=none").boot();
    lab.reapers_rest();
    assert_eq!(lab.a_link("br0")["ifindex"], index);
}

#[test]
fn a_restart_loop_does_no_harm() {
    let Some(lab) = Lab::new() else { return };
    for _ in 0..8 {
        lab.shim("--bridge br0,uplink=eth0").run().succeeds();
    }
    wait_for("one reaper", 2, || (lab.reapers().len() == 1).then_some(()));
    lab.becomes_as_before();
}

#[test]
fn a_bridge_that_is_to_be_kept_stays() {
    let Some(lab) = Lab::new() else { return };
    lab.shim("--bridge br0,uplink=none,keep=on").boot().terminate();
    wait_for("the reaper to go", 10, || lab.reapers().is_empty().then_some(()));
    assert!(lab.link("br0").is_some());
    assert!(lab.reapers().is_empty());
    // Deleted by hand, it is nobody's any more.
    lab.ip("link del br0");
    lab.shim("--bridge br0,uplink=none").run().succeeds();
    lab.becomes_as_before();
}

#[test]
fn two_bridges_at_once_are_two() {
    let Some(lab) = Lab::new() else { return };
    let mut guest = lab.shim("--bridge br0,uplink=none --bridge br1,uplink=eth0").boot();
    assert_eq!(guest.qemu().taps().len(), 2);
    assert_eq!((lab.ports("br0").len(), lab.ports("br1").len()), (1, 2));
    assert_eq!(lab.reapers().len(), 2);
}

#[test]
fn without_a_word_on_the_uplink_the_error_names_the_choices() {
    let Some(lab) = Lab::new() else { return };
    let ended = lab.shim("--bridge br0").run().exits_with(125);
    assert!(ended.err.contains("uplink=none") && ended.err.contains("eth0"), "{}", ended.err);
    lab.is_untouched();
}

#[test]
fn a_caller_that_ignores_its_children_is_no_hindrance() {
    let Some(lab) = Lab::new() else { return };
    let script = r#"exec env --ignore-signal=CHLD "$0" "$@""#;
    lab.shim("--bridge br0,uplink=none").through_sh(script).run().succeeds();
    lab.becomes_as_before();
}

#[test]
fn without_room_for_the_reaper_there_is_no_bridge() {
    let Some(lab) = Lab::new() else { return };
    for limit in 5..16 {
        let script = format!(r#"ulimit -n {limit}; exec "$0" "$@""#);
        let ended = lab.shim("--bridge br0,uplink=none").through_sh(&script).run();
        assert!(ended.qemu_ran() || ended.status.code() == Some(125), "{limit}: {:?} {}", ended.status, ended.err);
        lab.becomes_as_before();
    }
}

#[test]
fn an_mtu_that_was_asked_for_is_there_the_second_time_too() {
    let Some(lab) = Lab::new() else { return };
    lab.lan.run("ip link set lan0 mtu 9000");
    lab.ip("link set eth0 mtu 9000");
    let line = "--bridge br0,uplink=eth0,mtu=1500";
    let _one = lab.shim(line).boot();
    let _two = lab.shim(line).boot();
    assert_eq!(lab.a_link("br0")["mtu"], 1500);
}

#[test]
fn by_an_uplink_without_address_the_host_does_not_join_the_network() {
    let Some(lab) = Lab::new() else { return };
    let _guest = lab.shim("--bridge br0,uplink=eth0").boot();
    let setting = |name: &str| fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}")).expect("read a setting");
    assert_eq!(setting("br0/accept_ra").trim(), "0");
    assert_eq!(setting("eth0/disable_ipv6").trim(), "1");
    assert_eq!(lab.addresses("eth0"), [""; 0]);
}

#[test]
fn the_state_of_a_bridge_only_its_owner_may_write() {
    let Some(lab) = Lab::new() else { return };
    let _guest = lab.shim("--bridge br0,uplink=none -name alice").through_sh(r#"umask 0; exec "$0" "$@""#).boot();
    let found = lab.sh("find /run/kvm-bridge /var/lib/kvm-bridge -perm /022").run().succeeds().out;
    assert_eq!(found, "");
}

#[test]
fn a_kernel_that_is_too_old_is_told_before_anything_is_made() {
    let Some(lab) = Lab::with_address() else { return };
    // Says that it is Linux 2.6.
    let old = "setarch --uname-2.6";
    for command in [lab.shim("--bridge br0"), lab.shim("--bridge-dry-run --bridge br0"), lab.kvm_bridge("up br0")] {
        let said = command.through(old).run().exits_with(125).err;
        assert!(said.contains("this is Linux 2.6.") && said.contains("bridges need 5.10 or later"), "{said}");
        lab.is_untouched();
    }
    let said = lab.kvm_bridge("doctor br0 --quick").through(old).run().exits_with(1).out;
    assert!(said.contains("failure  linux: this is Linux 2.6."), "{said}");
}
