//! What doctor says of a shared uplink: each fault made for real.

use crate::doctor::look;
use crate::sharing::{becomes, host};
use crate::support::filters::{self, tc};
use crate::support::guest::Guest;
use crate::support::{Lab, have};
use std::path::Path;

#[test]
fn a_shared_uplink_that_is_well_is_said_to_be() {
    let Some(lab) = host() else { return };
    look(&lab, "br0").has("uplink", "ok", &["eth0", "would be shared"]);
    lab.is_untouched();
    let guest = Guest::boot(&lab, 11);
    assert!(guest.reaches("10.77.0.1"));
    look(&lab, "br0").has("uplink", "ok", &["eth0 is shared, up and has a carrier"]);
    guest.terminate();
}

/// Pastes what doctor says fixes it.
#[track_caller]
fn is_fixed(lab: &Lab, verdict: &str, words: &[&str]) {
    let found = look(lab, "br0");
    found.has("uplink", verdict, words);
    let fix = found.of("uplink")[0]["fix"].as_str().expect("a fix").to_owned();
    let programs = std::path::Path::new(env!("CARGO_BIN_EXE_kvm-bridge")).parent().expect("a folder");
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.display());
    lab.sh(&fix).env("PATH", path).run().succeeds();
    look(lab, "br0").has("uplink", "ok", &["eth0 is shared"]);
}

#[test]
fn a_filter_that_is_missing_is_found_and_made_again() {
    let Some(lab) = host() else { return };
    let guest = Guest::boot(&lab, 11);
    // The reaper would make them again.
    lab.reaper_of("br0").kill();
    for (link, hook) in [("eth0", "ingress"), ("eth0", "egress"), ("kvbh-br0", "ingress")] {
        tc(&format!("filter del dev {link} {hook}"));
        is_fixed(&lab, "failure", &["of the filters by which eth0 is shared are missing"]);
        assert!(guest.reaches("10.77.0.1") && guest.reaches("10.77.0.2"), "{link} {hook}");
        lab.reaper_of("br0").kill();
    }
    // One of several.
    let shown = filters::text("kvbh-br0", "ingress");
    assert!(shown.contains("pref 4"), "{shown}");
    tc("filter del dev kvbh-br0 ingress pref 4");
    is_fixed(&lab, "failure", &["1 of the filters by which eth0 is shared"]);
    guest.terminate();
}

#[test]
fn an_uplink_that_is_not_promiscuous_any_more_is_found() {
    let Some(lab) = host() else { return };
    let guest = Guest::boot(&lab, 11);
    // The reaper would set it again.
    lab.reaper_of("br0").kill();
    lab.ip("link set eth0 promisc off");
    is_fixed(&lab, "failure", &["eth0 is not promiscuous any more"]);
    guest.terminate();
    lab.kvm_bridge("recover").run().succeeds();
}

#[test]
fn an_uplink_that_has_gone_is_found() {
    let Some(lab) = host() else { return };
    let guest = Guest::boot(&lab, 11);
    lab.ip("link del eth0");
    look(&lab, "br0").has("uplink", "failure", &["eth0 is not there", "shared again"]);
    guest.terminate();
    lab.waits_until_gone("br0");
    lab.ends_here();
}

#[test]
fn an_uplink_that_is_down_or_without_a_cable_is_found() {
    let Some(lab) = host() else { return };
    let guest = Guest::boot(&lab, 11);
    lab.lan.run("ip link set lan0 down");
    becomes("the carrier to go", || lab.a_link("eth0")["flags"].to_string().contains("NO-CARRIER"));
    look(&lab, "br0").has("uplink", "failure", &["eth0 has no carrier"]);
    lab.lan.run("ip link set lan0 up");
    lab.ip("link set eth0 down");
    look(&lab, "br0").has("uplink", "failure", &["eth0 is down", "ip link set dev eth0 up"]);
    guest.terminate();
    lab.waits_until_gone("br0");
    lab.ends_here();
}

#[test]
fn a_filter_of_others_that_ends_classification_is_found() {
    let Some(lab) = host() else { return };
    tc("qdisc add dev eth0 clsact");
    lab.baseline();
    // It says of all frames that they are to go on to the host, and no filter behind it sees any. It stands before ours
    // do: what the LAN says of itself (IPv6's neighbours) would have reached them in between.
    let add = "tc filter add dev eth0 ingress protocol all pref 5 bpf direct-action bytecode '1,6 0 0 0'";
    lab.sh(add).run().succeeds();
    let guest = Guest::boot(&lab, 11);
    assert!(!guest.stack.pings("-w 2 10.77.0.1"), "nothing comes in for the guest any more");
    // Our own filters may be made anew at this moment, for the guest's address.
    becomes("doctor to tell", || look(&lab, "br0").of("uplink")[0]["verdict"] == "warning");
    look(&lab, "br0").has("uplink", "warning", &["filters of kvm-bridge", "tc -s filter show dev eth0 ingress"]);
    tc("filter del dev eth0 ingress pref 5");
    assert!(guest.reaches("10.77.0.1"), "{}{}", filters::text("eth0", "ingress"), guest.run("ip neigh"));
    guest.terminate();
    lab.becomes_as_before();
}

/// A switch that lets in one address for each port.
fn switch_with_port_security(lab: &Lab) {
    let mac = lab.a_link("eth0")["address"].as_str().expect("a MAC").to_owned();
    for words in [
        "add table netdev switch".to_owned(),
        "add chain netdev switch port { type filter hook ingress device lan0 priority 0; }".to_owned(),
        format!("add rule netdev switch port ether saddr != {mac} drop"),
    ] {
        let done = lab.lan.command("nft").arg(&words).output().expect("run nft");
        assert!(done.status.success(), "{words}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

#[test]
fn a_bridge_that_goes_while_servers_are_asked_is_no_fault_of_the_switch() {
    let Some(lab) = host() else { return };
    if !have("nft") || !lab.lan.serve_dhcp() {
        return;
    }
    // The host itself is answered, as always.
    switch_with_port_security(&lab);
    lab.kvm_bridge("up br0").run().succeeds();
    let doctor = lab.kvm_bridge("doctor br0 --json").start();
    let probe = || lab.ports("br0").iter().any(|port| port != "kvbp-br0").then_some(());
    crate::support::wait_for("doctor to ask", 30, probe);
    lab.kvm_bridge("down br0").run().succeeds();
    let ended = doctor.end_within(60);
    assert!(ended.out.contains("went away meanwhile") && !ended.out.contains("port security"), "{}", ended.out);
    lab.becomes_as_before();
}

#[test]
fn a_switch_that_lets_in_one_address_is_told_of() {
    let Some(lab) = host() else { return };
    if !have("nft") || !lab.lan.serve_dhcp() {
        return;
    }
    switch_with_port_security(&lab);
    let mut guest = lab.shim("--bridge br0").then("dhcp,hold").start();
    assert_eq!(guest.qemu().lease("bridge0"), None, "the switch drops what the guest sends");
    assert!(lab.lan.reaches("10.77.0.2"), "and not what the host sends");
    let ended = lab.kvm_bridge("doctor br0 --json").start().end_within(60);
    assert!(ended.out.contains("port security"), "{}", ended.out);
    guest.terminate();
}

/// As firewalld's are: rules of which it cannot be told what becomes of DHCP.
#[test]
fn a_firewall_that_may_drop_the_answers_is_no_fault_of_the_switch() {
    let Some(lab) = host() else { return };
    if !have("nft") || !lab.lan.serve_dhcp() {
        return;
    }
    if !Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists() {
        return crate::support::lacks("this kernel has no br_netfilter");
    }
    let guest = Guest::boot(&lab, 11);
    lab.sh("nft add table inet others; nft add chain inet others forward '{ type filter hook forward priority 0; }'
        nft add rule inet others forward udp dport '{ 67, 68 }' drop")
        .run()
        .succeeds();
    let doctor = || lab.kvm_bridge("doctor br0 --verbose").start().end_within(60).out;
    let told = doctor();
    assert!(told.contains("may drop some of them") && told.contains("nobody on br0 answers"), "{told}");
    assert!(!told.contains("port security"), "{told}");
    lab.sh("nft delete table inet others").run().succeeds();
    let told = doctor();
    assert!(told.contains("offers 10.77.0."), "{told}");
    guest.terminate();
    lab.becomes_as_before();
}
