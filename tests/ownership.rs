//! Which bridges are ours to remove, and whom they are kept for.

use crate::support::{Lab, wait_for};
use crate::teardown::kill_everything;

#[test]
fn a_bridge_with_a_port_of_somebody_else_stays_until_that_has_gone() {
    let Some(lab) = Lab::new() else { return };
    let guest = lab.shim("--bridge br0,uplink=none").boot();
    lab.ip("link add veth-c type veth peer name veth-d");
    lab.ip("link set veth-c master br0");
    guest.terminate();
    lab.waits_until_gone("kvb0");
    lab.reapers_rest();
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
    // The start has one look at the journal that was left, and forgets it.
    wait_for("the last reaper's end", 10, || lab.reapers().is_empty().then_some(()));
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
    wait_for("its TAP to go", 10, || (!std::fs::exists("/sys/class/net/kvb0").expect("look")).then_some(()));
    lab.reapers_rest();
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
    lab.reapers_rest();
    assert_eq!(lab.ports("br0"), ["eth0", "kvb0"]);
    guest.terminate();
    lab.becomes_as_before();
}
