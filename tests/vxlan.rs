//! `uplink=vxlan:`: a bridge between hosts. The other one is the LAN's end of the cable; whole fabrics with FRR are
//! `make check-fabric`'s.

use crate::sharing::becomes;
use crate::support::guest::Guest;
use crate::support::{Lab, wait_for};

const REMOTE: &str = "uplink=vxlan:7:remote=10.77.0.1+10.77.0.2";

/// The network's other host, with an address in it.
fn other_host(lab: &Lab, more: &str) {
    lab.lan.run(&format!("ip link add vx7 type vxlan id 7 dstport 4789 local 10.77.0.1 {more}"));
    lab.lan.run("ip addr add 10.99.0.1/24 dev vx7");
    lab.lan.run("ip link set vx7 up");
}

/// What `bridge fdb` says of a device.
fn fdb(lab: &Lab, device: &str) -> String {
    lab.sh(&format!("bridge fdb show dev {device}")).run().succeeds().out
}

#[test]
fn two_hosts_are_one_network_and_all_goes_with_the_last_guest() {
    let Some(lab) = Lab::with_address() else { return };
    for (more, uplink) in [("remote 10.77.0.2", REMOTE), ("group 239.1.1.1 dev lan0", "uplink=vxlan:7:group=239.1.1.1")]
    {
        other_host(&lab, more);
        lab.baseline();
        let guest = Guest::boot_with(&lab, 11, &format!("--bridge br0,{uplink}"));
        guest.run("ip addr add 10.99.0.11/24 dev eth0");
        assert!(guest.reaches("10.99.0.1"), "{uplink}");
        assert_eq!(lab.a_link("br0")["mtu"], 1450);
        assert_eq!(lab.a_link(&guest.tap)["mtu"], 1450);
        // As large as a frame can be: no packet of the underlay's is in two pieces.
        assert!(guest.stack.pings("-M do -s 1422 10.99.0.1"), "{uplink}");
        let status = lab.kvm_bridge("status br0").run().out;
        assert!(status.contains("VXLAN 7 from 10.77.0.2 on eth0") && status.contains("uplink, carrier"), "{status}");
        guest.terminate();
        lab.becomes_as_before();
        lab.lan.run("ip link del vx7");
    }
}

#[test]
fn a_bridge_of_evpns_leaves_its_forwarding_database_to_frr() {
    let Some(lab) = Lab::with_address() else { return };
    lab.baseline();
    let said = lab.kvm_bridge("up lab --uplink vxlan:7").run().succeeds().out;
    assert_eq!(said, "lab is created, with VXLAN 7 from 10.77.0.2 on eth0 (EVPN), MTU 1450\n");
    let again = lab.kvm_bridge("up lab --uplink vxlan:7").run().succeeds().out;
    assert!(again.starts_with("lab exists already, with VXLAN 7"), "{again}");
    let port = lab.sh("ip -d link show kvbv-lab").run().succeeds().out;
    for setting in ["vxlan id 7 local 10.77.0.2", "dstport 4789 nolearning", "learning off", "neigh_suppress on"] {
        assert!(port.contains(setting), "{setting}: {port}");
    }
    let fdb = fdb(&lab, "kvbv-lab");
    assert!(!fdb.contains("dst"), "{fdb}");
    assert!(lab.addresses("kvbv-lab").is_empty());
    for (words, why) in [
        ("up lab --uplink vxlan:8", "lab is there, and has uplink=vxlan:7\n"),
        ("up lab --uplink vxlan:7:local=10.77.0.2", "has uplink=vxlan:7\n"),
        ("up lab --uplink none", "kvbv-lab is its uplink"),
        ("up other --uplink vxlan:7", "the VNI 7 is that of kvbv-lab already"),
        ("up other --uplink vxlan:8:local=10.77.0.9", "the host has no address 10.77.0.9"),
        ("up other --uplink vxlan:8:dev=eth9", "there is no interface eth9"),
        ("up other --uplink vxlan:8:remote=no.such.host.invalid", "the address of no.such.host.invalid is not known"),
        ("up other --uplink vxlan:8 --mtu 1500", "more than 1450"),
        ("up other --uplink vxlan:8 --attach port", "attach= is of an interface"),
    ] {
        let err = lab.kvm_bridge(words).run().exits_with(125).err;
        assert!(err.contains(why), "{words}: {err}");
    }
    // What the kernel counts as taken, wherever it has gone.
    lab.sh("ip link add vx9 type vxlan id 9 dstport 4789").run().succeeds();
    lab.sh("ip link set vx9 netns lan").run().succeeds();
    let err = lab.kvm_bridge("up other --uplink vxlan:9").run().exits_with(125).err;
    assert!(err.contains("of a VXLAN its VNI, even in another network namespace"), "{err}");
    lab.lan.run("ip link del vx9");
    lab.kvm_bridge("up other --uplink vxlan:8").run().succeeds();
    lab.kvm_bridge("down --all").run().succeeds();
    lab.becomes_as_before();
}

#[test]
fn each_request_to_the_kernel_may_be_refused() {
    let Some(lab) = Lab::with_address() else { return };
    lab.baseline();
    let (mut steps, mut needs) = (0, String::new());
    for nth in 1..40 {
        let ended = lab.shim(&format!("--bridge br0,{REMOTE}")).env("KVM_BRIDGE_TEST_FAIL", nth.to_string()).run();
        assert!(ended.status.success() || ended.status.code() == Some(125), "request {nth}: {}", ended.err);
        wait_for(&format!("a clean host after request {nth}"), 15, || lab.is_as_before().then_some(()));
        if !ended.err.contains("fails") {
            break;
        }
        needs += &ended.err;
        steps += 1;
    }
    assert!(steps > 6, "only {steps} requests");
    assert!(needs.contains("The kernel needs vxlan for that (CONFIG_VXLAN)"), "{needs}");
}

#[test]
fn a_device_that_somebody_deleted_is_made_again() {
    let Some(lab) = Lab::with_address() else { return };
    lab.baseline();
    lab.kvm_bridge(&format!("up br0 --{}", REMOTE.replace('=', " ").replacen("remote ", "remote=", 1)))
        .run()
        .succeeds();
    let before = fdb(&lab, "kvbv-br0").replace('\n', " ");
    assert!(
        before.contains("00:00:00:00:00:00 dst 10.77.0.1 self permanent") && !before.contains("10.77.0.2"),
        "{before}"
    );
    for line in ["ip link del kvbv-br0", "ip link set kvbv-br0 nomaster"] {
        lab.sh(line).run().succeeds();
        let status = lab.kvm_bridge("status br0").run().out;
        assert!(status.contains("its uplink kvbv-br0 is no port of it: kvm-bridge recover"), "{status}");
        lab.kvm_bridge("recover").run().succeeds();
        assert_eq!(lab.ports("br0"), ["kvbv-br0"], "{line}");
        assert!(fdb(&lab, "kvbv-br0").contains("dst 10.77.0.1"));
    }
    // One that somebody made of that name is not ours.
    lab.kvm_bridge("down br0").run().succeeds();
    lab.becomes_as_before();
}

#[test]
fn at_boot_the_address_may_come_later() {
    let Some(lab) = Lab::new() else { return };
    lab.baseline();
    let said = lab.kvm_bridge("up br0 --uplink vxlan:7:remote=10.77.0.1 --late").run().succeeds().out;
    assert!(said.contains("waits for vxlan:7:remote=10.77.0.1"), "{said}");
    other_host(&lab, "remote 10.77.0.2");
    let guest = Guest::boot(&lab, 11);
    guest.run("ip addr add 10.99.0.11/24 dev eth0");
    lab.ip("addr add 10.77.0.2/24 dev eth0");
    becomes("its VXLAN", || lab.ports("br0").iter().any(|port| port == "kvbv-br0"));
    assert!(guest.reaches("10.99.0.1"));
    assert_eq!(lab.a_link("br0")["mtu"], 1450);
    guest.terminate();
    lab.kvm_bridge("down br0").run().succeeds();
    lab.lan.run("ip link del vx7");
    lab.ip("addr del 10.77.0.2/24 dev eth0");
    lab.becomes_as_before();
}

#[test]
fn a_host_whose_own_name_is_127_0_1_1_leaves_itself_out() {
    let Some(lab) = Lab::with_address() else { return };
    lab.baseline();
    let own = "127.0.1.1";
    let said = lab.kvm_bridge(&format!("up br0 --uplink vxlan:7:remote={own}+10.77.0.1")).run().succeeds().out;
    assert!(said.contains("with VXLAN 7 from 10.77.0.2 on eth0 (10.77.0.1), MTU 1450"), "{said}");
    lab.kvm_bridge("down br0").run().succeeds();
    let init = |who: &str| lab.kvm_bridge(&format!("fabric init --as 65000 {who}")).run();
    for (who, line) in [
        (format!("--peers {own},10.77.0.1"), " neighbor 10.77.0.1 activate\n  advertise-all-vni"),
        (format!("--reflectors {own},10.77.0.1"), " bgp listen range 10.77.0.0/24 peer-group clients"),
    ] {
        let lines = init(&who).succeeds().out;
        assert!(lines.contains("router-id 10.77.0.2") && lines.contains(line) && !lines.contains(own), "{lines}");
    }
    let unknown = init("--peers no.such.host.invalid").exits_with(125).err;
    assert!(unknown.contains("Give its address, or have the name in /etc/hosts"), "{unknown}");
    let alone = init(&format!("--peers {own}")).exits_with(125).err;
    assert!(alone.contains("Give --local an address of the host"), "{alone}");
    lab.becomes_as_before();
}

#[test]
fn doctor_names_an_address_that_the_host_has_lost() {
    let Some(lab) = Lab::with_address() else { return };
    lab.ip("addr add 10.77.0.9/24 dev eth0");
    lab.baseline();
    lab.kvm_bridge("up br0 --uplink vxlan:7:local=10.77.0.9:remote=10.77.0.1").run().succeeds();
    let lost = "the host has no address 10.77.0.9 any more";
    let before = lab.kvm_bridge("doctor br0 --quick").run().out;
    lab.ip("addr del 10.77.0.9/24 dev eth0");
    let after = lab.kvm_bridge("doctor br0 --quick").run().exits_with(1).out;
    assert!(!before.contains(lost) && after.contains(lost), "{before}{after}");
    lab.ip("addr add 10.77.0.9/24 dev eth0");
    lab.kvm_bridge("down br0").run().succeeds();
    lab.becomes_as_before();
}

#[test]
fn a_dry_run_says_the_commands() {
    let Some(lab) = Lab::with_address() else { return };
    lab.baseline();
    let out = lab.shim(&format!("--bridge-dry-run --bridge br0,{REMOTE}")).run().succeeds().out;
    let add = "ip link add name kvbv-br0 type vxlan id 7 dstport 4789 local 10.77.0.2\n";
    assert!(out.contains(add) && out.contains("dst 10.77.0.1\n") && !out.contains("dst 10.77.0.2"), "{out}");
    lab.is_untouched();
}
