//! Hosts that are not as most are, and hands that are faster: nothing of theirs is lost either.

use crate::support::command::fake_qemu;
use crate::support::state::ip_json;
use crate::support::{Lab, have, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::time::Duration;

fn setting(name: &str) -> String {
    fs::read_to_string(format!("/proc/sys/net/{name}")).expect("read a setting").trim().to_owned()
}

fn set(name: &str, value: &str) {
    fs::write(format!("/proc/sys/net/{name}"), value).expect("change a setting");
}

/// A second interface, with IPv4 only: what IPv6 makes for each by itself comes in the order in which it was made.
fn second_interface(lab: &Lab) {
    lab.ip("link add eth1 type veth peer name x1");
    for link in ["eth1", "x1"] {
        set(&format!("ipv6/conf/{link}/disable_ipv6"), "1");
        lab.ip(&format!("link set {link} up"));
    }
    lab.ip("addr add 10.78.0.2/24 dev eth1");
}

/// Where the kernel would send a packet to.
fn way_to(address: &str) -> String {
    ip_json(&format!("route get {address}"))[0]["dev"].as_str().unwrap_or("nowhere").to_owned()
}

/// A guest comes and goes; the host is on the network all the time and in the end as it was.
#[track_caller]
fn comes_and_goes(lab: &Lab, options: &str) {
    lab.settle();
    lab.baseline();
    let guest = lab.shim(&format!("--bridge br0{options}")).boot();
    assert!(lab.lan.reaches("10.77.0.2"), "by the bridge");
    guest.terminate();
    lab.becomes_as_before();
    assert!(lab.lan.reaches("10.77.0.2"), "by the interface");
}

#[test]
fn a_host_that_networkmanager_has_laid_out_is_taken_as_it_is() {
    let Some(lab) = Lab::new() else { return };
    for command in [
        "addr add 10.77.0.2/24 dev eth0 noprefixroute",
        "route add 10.77.0.0/24 dev eth0 proto kernel scope link src 10.77.0.2 metric 100",
        "route add default via 10.77.0.1 proto dhcp metric 100",
        "route add 10.99.0.0/24 dev eth0 proto kernel scope link metric 100",
        "addr add fd77::2/64 dev eth0 noprefixroute",
        "-6 route add fd77::/64 dev eth0 proto kernel metric 100",
        "-6 route add default via fd77::1 proto static metric 100",
    ] {
        lab.ip(command);
    }
    comes_and_goes(&lab, "");
}

#[test]
fn a_gateway_that_nothing_leads_to_any_more_is_kept() {
    let Some(lab) = Lab::new() else { return };
    for command in [
        "addr add 10.77.0.2/32 dev eth0",
        "route add 10.77.0.1 dev eth0",
        "route add default via 10.77.0.1",
        "route del 10.77.0.1",
    ] {
        lab.ip(command);
    }
    lab.settle();
    lab.shim("--bridge br0").run().succeeds();
    lab.waits_until_gone("br0");
    let route = ip_json("route show default");
    assert_eq!((&route[0]["gateway"], &route[0]["dev"]), (&"10.77.0.1".into(), &"eth0".into()), "{route}");
    lab.ends_here();
}

#[test]
fn routes_to_the_same_place_by_two_interfaces_keep_their_order() {
    let Some(lab) = Lab::with_address() else { return };
    second_interface(&lab);
    for command in ["addr add 10.77.0.3/24 dev eth1", "route append default via 10.78.0.1 dev eth1"] {
        lab.ip(command);
    }
    // And one that stands behind.
    lab.ip("addr add 10.78.0.9/24 dev eth0");
    lab.settle();
    let ways = || ["8.8.8.8", "10.77.0.9", "10.78.0.5"].map(way_to);
    let routes = || ip_json("route show");
    let before = (ways(), routes());
    assert_eq!(before.0, ["eth0", "eth0", "eth1"]);
    let guest = lab.shim("--bridge br0,uplink=eth0").boot();
    assert_eq!(ways(), ["br0", "br0", "eth1"]);
    guest.terminate();
    lab.waits_until_gone("br0");
    assert_eq!((ways(), routes()), before);
    // The kernel's own notes of its addresses come in the order in which they were made.
    lab.ends_here();
}

#[test]
fn a_host_whose_new_interfaces_have_no_ipv6_keeps_that_of_the_uplink() {
    let Some(lab) = Lab::with_address() else { return };
    lab.ip("addr add fd77::2/64 dev eth0");
    set("ipv6/conf/default/disable_ipv6", "1");
    comes_and_goes(&lab, "");
}

#[test]
fn the_address_of_a_gateway_that_an_admin_has_set_stays_set() {
    let Some(lab) = Lab::with_address() else { return };
    lab.ip(&format!("neigh replace 10.77.0.1 lladdr {} dev eth0 nud permanent", lab.lan.mac()));
    lab.settle();
    let state = || ip_json("neigh show 10.77.0.1")[0]["state"][0].as_str().unwrap_or_default().to_owned();
    let guest = lab.shim("--bridge br0").boot();
    assert_eq!(state(), "PERMANENT");
    guest.terminate();
    lab.becomes_as_before();
    assert_eq!(state(), "PERMANENT");
}

#[test]
fn each_gateway_of_a_default_route_over_several_is_asked() {
    let Some(lab) = Lab::new() else { return };
    second_interface(&lab);
    for command in [
        "addr add 10.77.0.2/24 dev eth0",
        "route add default nexthop via 10.78.0.1 dev eth1 nexthop via 10.77.0.9 dev eth0",
        // The kernel believes that it has heard of it, and nobody is there.
        "neigh replace 10.77.0.9 lladdr 02:00:00:00:00:99 nud reachable dev eth0",
    ] {
        lab.ip(command);
    }
    lab.settle();
    lab.baseline();
    let ended = lab.shim("--bridge br0,uplink=eth0").run().exits_with(125);
    assert!(ended.err.contains("10.77.0.9 answered before"), "{}", ended.err);
    lab.becomes_as_before();
    lab.ends_here();
}

#[test]
fn an_uplink_without_addresses_has_none_as_a_port() {
    let Some(lab) = Lab::new() else { return };
    lab.baseline();
    let guest = lab.shim("--bridge br0,uplink=eth0").boot();
    assert_eq!(ip_json("-6 addr show dev eth0").as_array().map(Vec::len), Some(0));
    guest.terminate();
    lab.becomes_as_before();
}

#[test]
fn a_dhcp_client_that_waits_for_its_first_lease_is_seen() {
    let Some(lab) = Lab::new() else { return };
    let client = lab.dir.path().join("dhclient");
    fs::copy(fake_qemu(), &client).expect("copy a program");
    let running = lab.program(&client).words("-4 eth0").then("hold:60000").start();
    wait_for("it to run", 5, || {
        let line = fs::read_to_string(format!("/proc/{}/cmdline", running.pid())).unwrap_or_default();
        line.contains("dhclient").then_some(())
    });
    lab.baseline();
    let ended = lab.shim("--bridge br0,uplink=eth0").run().exits_with(125);
    assert!(ended.err.contains("dhclient"), "{}", ended.err);
    assert_eq!(lab.network_difference(), None);
}

/// The default gateway answers, all by eth0, whatever was killed: at most after a while.
#[track_caller]
fn next_start_completes(lab: &Lab) {
    let guest = lab.shim("--bridge br0").boot();
    assert!(lab.ports("br0").contains(&"eth0".to_owned()), "a bridge with its uplink: {:?}", lab.ports("br0"));
    assert!(lab.lan.reaches("10.77.0.2"), "by the bridge");
    assert_eq!(setting("ipv6/conf/br0/accept_ra"), "2");
    guest.kill();
    // At once: that the reaper does so after a while is another test's matter.
    lab.kvm_bridge("recover").run().succeeds();
}

#[test]
fn the_next_start_ends_what_a_killed_start_began() {
    let Some(lab) = Lab::with_everything() else { return };
    if !have("strace") {
        return;
    }
    lab.baseline();
    let mut steps = 0;
    while lab.shim("--bridge br0").dies_at("sendto,write,rename,unlink", steps + 1) {
        steps += 1;
        // As a port it never lets in what a router says that the host does not listen to.
        let accepts = fs::read_to_string("/proc/sys/net/ipv6/conf/br0/accept_ra");
        if lab.link("br0").is_some() && lab.ports("br0").contains(&"eth0".to_owned()) {
            assert!(accepts.is_ok_and(|accepts| accepts.trim() == "2"), "step {steps}");
        }
        next_start_completes(&lab);
        lab.becomes_as_before();
    }
    assert!(steps > 15, "only {steps} steps");
}

#[test]
fn the_next_start_ends_what_a_killed_restore_began_and_the_host_is_on_the_network() {
    let Some(lab) = Lab::with_everything() else { return };
    if !have("strace") {
        return;
    }
    lab.baseline();
    let mut steps = 0;
    loop {
        let guest = lab.shim("--bridge br0").boot();
        lab.reaper_of("br0").kill();
        guest.kill();
        wait_for("its TAP to go", 5, || (lab.ports("br0") == ["eth0"]).then_some(()));
        let is_killed = lab.kvm_bridge("recover").dies_at("sendto,write,rename,unlink", steps + 1);
        assert!(lab.lan.reaches("10.77.0.2"), "after step {}", steps + 1);
        next_start_completes(&lab);
        lab.becomes_as_before();
        if !is_killed {
            break;
        }
        steps += 1;
    }
    assert!(steps > 10, "only {steps} steps");
}

#[test]
fn a_failure_and_a_kill_before_it_is_mended_lose_nothing() {
    let Some(lab) = Lab::with_everything() else { return };
    if !have("strace") {
        return;
    }
    lab.baseline();
    let mut kills = 0;
    for nth in (1..200).step_by(4) {
        // How many sends a start makes that fails: those at the end are to mend it. It varies a little with what
        // gateways answer.
        let trace = lab.new_file("trace");
        let count = format!("strace -qq -e trace=sendto -o {}", trace.display());
        let fails = |launcher: &str| {
            lab.shim("--bridge br0").env("KVM_BRIDGE_TEST_FAIL", nth.to_string()).through(launcher).run()
        };
        let ended = fails(&count);
        lab.kvm_bridge("recover").run().succeeds();
        if !ended.err.contains("fails") {
            break;
        }
        if ended.status.code() == Some(125) {
            let sends = fs::read_to_string(&trace).expect("a trace").lines().count();
            for last in [sends, sends.saturating_sub(1), sends.saturating_sub(2)] {
                let kill = format!("strace -qq -e trace=sendto -e inject=sendto:signal=KILL:when={last} -o /dev/null");
                kills += usize::from(fails(&kill).signal() == Some(Signal::SIGKILL as i32));
                lab.kvm_bridge("recover").run().succeeds();
                let left = lab.network_difference();
                assert!(left.is_none(), "request {nth} failed, killed at send {last} of {sends}: {left:?}");
            }
        }
    }
    assert!(kills > 15, "only {kills} kills");
    lab.becomes_as_before();
}

#[test]
fn a_journal_that_was_left_does_not_set_an_interface_down_that_is_used_again() {
    let Some(lab) = Lab::new() else { return };
    lab.ip("link set eth0 down");
    lab.baseline();
    let guest = lab.shim("--bridge br0,uplink=eth0").boot();
    lab.reaper_of("br0").kill();
    guest.kill();
    lab.ip("link del br0");
    lab.ip("link set eth0 up");
    lab.ip("addr add 10.77.0.2/24 dev eth0");
    lab.ip("route add default via 10.77.0.1");
    lab.settle();
    lab.kvm_bridge("recover").run().succeeds();
    assert!(lab.lan.reaches("10.77.0.2"), "it is up, with its address");
    assert_eq!(ip_json("route show default").as_array().map(Vec::len), Some(1));
    lab.baseline();
    // A journal of the first version knows the interface by its index alone.
    let mut journal: Value = serde_json::from_str(include_str!("fixtures/journal-1.json")).expect("it is JSON");
    for step in journal["steps"].as_array_mut().expect("a list") {
        if step["index"].is_number() {
            step["index"] = lab.a_link("eth0")["ifindex"].clone();
        }
    }
    fs::create_dir_all(lab.run_dir()).expect("make the folder");
    fs::write(lab.run_dir().join("br0.json"), journal.to_string()).expect("write the journal");
    lab.kvm_bridge("recover").run().succeeds();
    lab.is_untouched();
    lab.ends_here();
}

#[test]
fn a_guest_that_joins_changes_no_setting() {
    let Some(lab) = Lab::with_everything() else { return };
    lab.baseline();
    let first = lab.shim("--bridge br0").boot();
    set("ipv4/conf/br0/forwarding", "0");
    lab.ip("link set eth0 name wan0");
    lab.ip("link add eth0 type veth peer name x0");
    lab.ip("link set eth0 up");
    lab.ip("addr add fd88::1/64 dev eth0");
    let second = lab.shim("--bridge br0").boot();
    assert_eq!(setting("ipv4/conf/br0/forwarding"), "0");
    assert_eq!(setting("ipv6/conf/eth0/disable_ipv6"), "0");
    first.kill();
    second.kill();
    lab.waits_until_gone("br0");
    assert_eq!(setting("ipv6/conf/wan0/disable_ipv6"), "0");
    assert!(lab.addresses("wan0").contains(&"10.77.0.2/24".to_owned()));
    lab.ends_here();
}

#[test]
fn an_admins_route_by_a_next_hop_of_its_own_is_carried_over() {
    let Some(lab) = Lab::with_address() else { return };
    let guest = lab.shim("--bridge br0").boot();
    lab.ip("nexthop add id 9 via 10.77.0.1 dev br0");
    lab.ip("route add 10.9.0.0/16 nhid 9");
    guest.terminate();
    lab.waits_until_gone("br0");
    let route = ip_json("route show 10.9.0.0/16");
    assert_eq!((&route[0]["gateway"], &route[0]["dev"]), (&"10.77.0.1".into(), &"eth0".into()), "{route}");
    lab.ends_here();
}

#[test]
fn routes_without_a_gateway_wait_for_an_uplink_that_is_down() {
    let Some(lab) = Lab::with_address() else { return };
    for command in ["route add 10.8.0.0/16 dev eth0", "-6 route add fd44::/64 dev eth0"] {
        lab.ip(command);
    }
    lab.settle();
    lab.baseline();
    let guest = lab.shim("--bridge br0").boot();
    lab.ip("link set eth0 down");
    guest.terminate();
    std::thread::sleep(Duration::from_secs(4));
    assert!(lab.link("br0").is_some(), "the host stays where it has all");
    lab.ip("link set eth0 up");
    lab.becomes_as_before();
}

#[test]
fn what_stands_on_the_bridge_keeps_it() {
    let Some(lab) = Lab::with_address() else { return };
    let guest = lab.shim("--bridge br0").boot();
    lab.ip("link add mv0 link br0 type macvlan mode bridge");
    guest.terminate();
    std::thread::sleep(Duration::from_secs(4));
    assert!(lab.link("mv0").is_some());
    lab.ip("link del mv0");
    lab.becomes_as_before();
}

#[test]
fn a_bridge_whose_uplink_was_given_to_another_keeps_the_hosts_addresses() {
    let Some(lab) = Lab::with_address() else { return };
    let guest = lab.shim("--bridge br0").boot();
    lab.ip("link add brn type bridge");
    lab.ip("link set eth0 master brn");
    guest.terminate();
    std::thread::sleep(Duration::from_secs(4));
    assert!(lab.addresses("br0").contains(&"10.77.0.2/24".to_owned()));
    lab.ip("link set eth0 nomaster");
    lab.ip("link del brn");
    lab.becomes_as_before();
}

#[test]
fn a_bridge_whose_journal_cannot_be_read_is_joined_and_the_way_out_is_told() {
    let Some(lab) = Lab::with_address() else { return };
    let guest = lab.shim("--bridge br0").boot();
    let path = lab.run_dir().join("br0.json");
    let journal = fs::read_to_string(&path).expect("read the journal");
    fs::write(&path, r#"{"version":99}"#).expect("spoil it");
    lab.shim("--bridge br0").run().succeeds();
    let ended = lab.kvm_bridge("recover").run().exits_with(125);
    assert!(ended.err.contains("its version 99 is not one of ours"), "{}", ended.err);
    assert!(ended.err.contains("before you delete it"), "{}", ended.err);
    fs::write(&path, journal).expect("mend it");
    guest.terminate();
    lab.becomes_as_before();
}
