//! A bridge that is there already is joined, and nothing else about it changes.

use crate::support::state::comparable;
use crate::support::{Lab, have};
use serde_json::Value;

#[test]
fn a_guest_becomes_a_port_of_the_bridge_and_reaches_the_lan() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let mut guest = lab.shim("--bridge br0").then("arp:10.77.0.1,hold").start();
    let qemu = guest.qemu();
    assert_eq!(qemu.answer("bridge0"), Some(lab.lan.mac()));
    let tap = qemu.tap().name;
    assert_eq!(lab.ports("br0"), ["eth0", tap.as_str()]);
    assert!(guest.terminate().err.is_empty());
}

/// What `ip -d link` says of the bridge itself.
fn own_line(lab: &Lab) -> Value {
    let mut bridge = comparable(lab.a_link("br0"));
    // The kernel's sum over the ports: what each of them can send in one go.
    let sums = ["tso_max_size", "tso_max_segs", "gso_max_size", "gso_max_segs"];
    bridge.as_object_mut().expect("a link").retain(|name, _| !sums.contains(&name.as_str()));
    bridge
}

#[track_caller]
fn stays_as_it_is(lab: &Lab) {
    let before = own_line(lab);
    let guest = lab.shim("--bridge br0").boot();
    lab.settle();
    assert_eq!(own_line(lab), before);
    guest.terminate();
    lab.becomes_as_before();
}

#[test]
fn the_mac_of_a_joined_bridge_stays_though_nobody_pinned_it() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    stays_as_it_is(&lab);
}

#[test]
fn the_pinned_mac_of_a_joined_bridge_stays() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    lab.ip("link set br0 address 02:00:5e:10:20:30");
    stays_as_it_is(&lab);
}

#[test]
fn spanning_tree_and_delays_of_a_joined_bridge_stay() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    lab.ip("link set br0 type bridge stp_state 1 forward_delay 200 hello_time 100 ageing_time 1000 priority 7");
    // The topology change that we did not cause has to be over first.
    crate::support::wait_for("eth0 to forward", 10, || {
        let port = lab.a_link("eth0");
        (port["linkinfo"]["info_slave_data"]["state"] == "forwarding").then_some(())
    });
    let of_bridge = |lab: &Lab| {
        let mut bridge = lab.a_link("br0")["linkinfo"]["info_data"].clone();
        // A port that comes is a topology change, whoever makes it.
        for passing in ["topology_change", "topology_change_detected"] {
            bridge[passing] = Value::Null;
        }
        comparable(bridge)
    };
    let before = of_bridge(&lab);
    let guest = lab.shim("--bridge br0").boot();
    assert_eq!(of_bridge(&lab), before);
    drop(guest);
    crate::support::wait_for("the topology change to end", 10, || {
        (lab.a_link("br0")["linkinfo"]["info_data"]["topology_change"] == 0).then_some(())
    });
}

#[test]
fn addresses_and_routes_on_a_joined_bridge_stay() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    lab.ip("addr add 10.77.0.2/24 dev br0");
    lab.ip("addr add fd77::2/64 dev br0");
    lab.ip("route add default via 10.77.0.1");
    let addresses = lab.addresses("br0");
    let mut guest = lab.shim("--bridge br0").then("arp:10.77.0.2,hold").start();
    assert!(guest.qemu().answer("bridge0").is_some(), "the host itself answers the guest");
    assert_eq!(lab.addresses("br0"), addresses);
    assert!(lab.lan.reaches("10.77.0.2"));
}

#[test]
fn a_joined_bridge_is_set_up_if_it_is_down() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    lab.baseline();
    lab.ip("link set br0 down");
    let mut guest = lab.shim("--bridge br0").then("arp:10.77.0.1,hold").start();
    assert!(guest.qemu().answer("bridge0").is_some());
    drop(guest);
    lab.becomes_as_before();
}

#[test]
fn joining_leaves_no_process_and_no_file() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let guest = lab.shim("--bridge br0").boot();
    let others: Vec<_> = lab.processes().into_iter().filter(|process| process.pid != guest.pid()).collect();
    assert!(others.is_empty(), "{others:?}");
    assert!(!lab.run_dir().join("br0.json").exists());
}

#[test]
fn a_joined_bridge_is_never_deleted() {
    let Some(lab) = Lab::new() else { return };
    lab.add_bridge("br0");
    lab.shim("--bridge br0").boot().kill();
    lab.shim("--bridge br0").run().succeeds();
    assert!(lab.reapers().is_empty(), "nobody takes it away");
    assert!(lab.link("br0").is_some());
}

#[test]
fn an_uplink_that_is_named_too_has_to_be_a_port_of_it_already() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    lab.shim("--bridge br0,uplink=eth0").run().succeeds();
    lab.becomes_as_before();
    lab.add_bridge("br1");
    lab.baseline();
    lab.shim("--bridge br1,uplink=eth0").run().exits_with(125);
    lab.is_untouched();
}

#[test]
fn a_bridge_of_any_legal_name_is_joined() {
    let Some(lab) = Lab::new() else { return };
    for name in ["b", "fifteen-bytes-x", "br.0", "br_0-1", "br+0"] {
        lab.add_bridge(name);
        lab.baseline();
        let guest = lab.shim("--bridge").arg(name).boot();
        assert_eq!(lab.ports(name).len(), 2, "{name}");
        drop(guest);
        lab.becomes_as_before();
    }
}

#[test]
fn what_does_not_fit_a_bridge_that_is_there_is_refused() {
    let Some(lab) = Lab::with_address() else { return };
    let _guest = lab.shim("--bridge br0").boot();
    for (keys, why) in [
        ("uplink=none", "br0 is there, and eth0 is its uplink"),
        ("attach=port", "br0 is there, and shares eth0"),
        ("follow=on", "br0 is there, and does not follow the default route"),
    ] {
        let refused = lab.shim(&format!("--bridge br0,{keys}")).run().exits_with(125);
        assert!(refused.err.contains(why) && !refused.qemu_ran(), "{}", refused.err);
    }
    for keys in ["uplink=eth0", "uplink=auto", "attach=share", "follow=off", "keep=off"] {
        lab.shim(&format!("--bridge br0,{keys}")).run().succeeds();
    }
    let _isolated = lab.shim("--bridge lab,uplink=none").boot();
    lab.shim("--bridge lab,uplink=none").run().succeeds();
    let refused = lab.shim("--bridge lab,attach=share").run().exits_with(125);
    assert!(refused.err.contains("lab is there, and shares no uplink"), "{}", refused.err);
}

#[test]
fn a_bridge_with_a_port_to_the_network_is_not_joined_as_isolated() {
    let Some(lab) = Lab::new() else { return };
    let guest = lab.shim("--bridge br0,uplink=eth0,attach=port").boot();
    let refused = lab.shim("--bridge br0,uplink=none").run().exits_with(125);
    assert!(refused.err.contains("br0 is there, and eth0 is its uplink"), "{}", refused.err);
    guest.kill();
    lab.becomes_as_before();
}

/// Whether it would run is QEMU's own affair where nothing is made: no second process, no look at files.
#[test]
fn nothing_is_checked_for_a_bridge_that_is_there() {
    let Some(lab) = Lab::with_bridge("br0").filter(|_| have("strace")) else { return };
    let line =
        "--bridge br0 -device nosuch -M nosuch -cpu nosuch -display nosuch -soundhw x -kernel nosuch -name alice";
    let trace = lab.new_file("trace");
    let strace = format!("strace -f -o {} -e trace=file,process", trace.display());
    lab.shim(line).through(&strace).run().succeeds();
    let calls = std::fs::read_to_string(trace).expect("a trace");
    let looks = calls.lines().filter(|call| call.contains("nosuch") && !call.contains("execve("));
    assert_eq!(looks.collect::<Vec<_>>(), [""; 0]);
    assert!(calls.contains("execve(") && !calls.contains("fork(") && !calls.contains("clone"), "{calls}");
}
