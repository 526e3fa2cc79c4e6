//! An uplink that comes when its bridge is there already: at boot, or when an adapter is plugged in again.

use crate::sharing::becomes;
use crate::support::Lab;
use crate::support::guest::Guest;

/// Plugs an adapter in: another way to the LAN.
fn plug_in(lab: &Lab, name: &str) {
    lab.ip(&format!("link add name {name} type veth peer name {name}-lan address 02:00:00:00:99:01 netns lan"));
    lab.lan.run(&format!("ip link set {name}-lan up"));
    lab.lan.run(&format!("ip addr add 10.99.0.1/24 dev {name}-lan"));
}

fn pull_out(lab: &Lab, name: &str) {
    lab.ip(&format!("link del {name}"));
}

/// Gives a guest an address on the network of the adapter.
fn address(guest: &Guest) {
    guest.run("ip addr add 10.99.0.11/24 dev eth0");
}

#[test]
fn an_uplink_that_is_not_there_is_an_error_unless_it_may_be_late() {
    let Some(lab) = Lab::new() else { return };
    lab.baseline();
    for words in ["up br0 --uplink usb0", "up br0"] {
        let err = lab.kvm_bridge(words).run().exits_with(125).err;
        assert!(err.contains("no interface usb0") || err.contains("no default route"), "{err}");
        lab.is_untouched();
    }
    let err = lab.kvm_bridge("up br0 --uplink usb0 --wait 0").run().exits_with(1).err;
    assert!(err.contains("usb0 did not come within 0 s\n  br0 is up"), "{err}");
    lab.kvm_bridge("down br0").run().succeeds();
    lab.becomes_as_before();
}

#[test]
fn an_uplink_that_comes_later_is_shared_and_again_when_it_was_away() {
    let Some(lab) = Lab::new() else { return };
    lab.baseline();
    let said = lab.kvm_bridge("up br0 --uplink usb0 --late").run().succeeds();
    assert_eq!(said.out, "br0 is created, and waits for usb0, which is not there yet\n");
    let status = lab.kvm_bridge("status br0").run().out;
    assert!(status.contains("waits for usb0, which is not there"), "{status}");
    let doctor = lab.kvm_bridge("doctor br0 --quick").run().exits_with(1).out;
    assert!(doctor.contains("br0 waits for usb0"), "{doctor}");
    // Guests among themselves need none.
    let guest = Guest::boot(&lab, 11);
    address(&guest);
    for turn in 0..2 {
        plug_in(&lab, "usb0");
        // Whoever manages it sets it up.
        lab.ip("link set usb0 up");
        becomes("it to be shared", || lab.ports("br0").iter().any(|port| port == "kvbp-br0"));
        assert!(guest.reaches("10.99.0.1"), "turn {turn}");
        lab.ip("addr add 10.99.0.2/24 dev usb0");
        assert!(guest.reaches("10.99.0.2"), "turn {turn}");
        assert!(!lab.kvm_bridge("status br0").run().out.contains("waits"));
        pull_out(&lab, "usb0");
        guest.run("ip neigh flush dev eth0");
    }
    guest.terminate();
    lab.kvm_bridge("down br0").run().succeeds();
    lab.becomes_as_before();
}

#[test]
fn a_script_can_wait_for_a_late_uplink() {
    let Some(lab) = Lab::new() else { return };
    lab.baseline();
    let waiting = lab.kvm_bridge("up br0 --uplink usb0 --wait 60").start();
    becomes("the bridge", || lab.link("br0").is_some());
    plug_in(&lab, "usb0");
    let ended = waiting.end().succeeds();
    assert_eq!(ended.out, "br0 is created, with the uplink usb0\n");
    lab.kvm_bridge("down br0").run().succeeds();
    pull_out(&lab, "usb0");
    lab.becomes_as_before();
}

#[test]
fn a_default_route_that_comes_later_says_which() {
    let Some(lab) = Lab::new() else { return };
    lab.baseline();
    lab.kvm_bridge("up br0 --late").run().succeeds();
    assert!(lab.kvm_bridge("status br0").run().out.contains("waits for a default route"));
    let guest = Guest::boot(&lab, 11);
    lab.ip("addr add 10.77.0.2/24 dev eth0");
    lab.ip("route add default via 10.77.0.1");
    becomes("it to be shared", || lab.ports("br0").iter().any(|port| port == "kvbp-br0"));
    assert!(guest.reaches("10.77.0.1") && guest.reaches("10.77.0.2") && lab.lan.reaches("10.77.0.2"));
    guest.terminate();
    lab.kvm_bridge("down br0").run().succeeds();
    lab.ip("route del default");
    lab.ip("addr del 10.77.0.2/24 dev eth0");
    lab.becomes_as_before();
}

#[test]
fn a_port_that_is_pulled_out_joins_again() {
    let Some(lab) = Lab::new() else { return };
    lab.baseline();
    for attach in ["", ",attach=port"] {
        plug_in(&lab, "usb0");
        let guest = Guest::boot_with(&lab, 11, &format!("--bridge br0,uplink=usb0{attach}"));
        address(&guest);
        for _ in 0..2 {
            assert!(guest.reaches("10.99.0.1"));
            pull_out(&lab, "usb0");
            becomes("status to say so", || lab.kvm_bridge("status br0").run().out.contains("waits for usb0"));
            plug_in(&lab, "usb0");
            becomes("it to be a port again", || lab.ports("br0").iter().any(|port| port == "usb0"));
        }
        assert!(guest.reaches("10.99.0.1"));
        guest.terminate();
        lab.waits_until_gone("br0");
        assert_eq!(lab.a_link("usb0")["operstate"], "DOWN", "as it was found");
        pull_out(&lab, "usb0");
        lab.becomes_as_before();
    }
}

/// Somebody took it off the bridge: it may be wanted so, and is told of until it is asked for again.
#[test]
fn a_port_that_was_taken_off_is_told_of_and_joins_again_when_it_is_asked_for() {
    let Some(lab) = Lab::new() else { return };
    lab.baseline();
    for again in ["recover", "up br0", "up br0 --uplink usb0"] {
        plug_in(&lab, "usb0");
        lab.kvm_bridge("up br0 --uplink usb0").run().succeeds();
        lab.ip("link set usb0 nomaster");
        let status = lab.kvm_bridge("status br0").run().exits_with(1).out;
        assert!(status.contains("its uplink usb0 is no port of it: kvm-bridge recover"), "{status}");
        let doctor = lab.kvm_bridge("doctor br0 --quick").run().exits_with(1).out;
        assert!(doctor.contains("usb0 is its uplink, and no port of br0"), "{doctor}");
        lab.kvm_bridge(again).run().succeeds();
        assert_eq!(lab.ports("br0"), ["usb0"], "{again}");
        lab.kvm_bridge("status br0").run().succeeds();

        // Another bridge's port is left to it.
        lab.ip("link add name other type bridge");
        lab.ip("link set usb0 master other");
        let err = lab.kvm_bridge(again).run().exits_with(125).err;
        assert!(err.contains("usb0 is a port of another link by now"), "{err}");
        lab.ip("link del other");

        // One that the host uses meanwhile is shared: as a port it would cut the host off.
        lab.ip("addr add 10.99.0.2/24 dev usb0");
        becomes("it to be shared", || lab.ports("br0") == ["kvbp-br0"]);
        lab.kvm_bridge("down br0").run().succeeds();
        pull_out(&lab, "usb0");
        lab.becomes_as_before();
    }
}

#[test]
fn an_interface_that_comes_and_cannot_be_the_uplink_is_told_of() {
    let Some(lab) = Lab::new() else { return };
    lab.baseline();
    lab.kvm_bridge("up br0 --uplink usb0 --late").run().succeeds();
    lab.ip("link add usb0 type bridge");
    becomes("status to say so", || lab.kvm_bridge("status br0").run().out.contains("usb0 cannot be the uplink"));
    lab.ip("link del usb0");
    plug_in(&lab, "usb0");
    becomes("it to be shared", || lab.ports("br0").iter().any(|port| port == "kvbp-br0"));
    becomes("nothing to be said any more", || !lab.kvm_bridge("status br0").run().out.contains("cannot be"));
    lab.kvm_bridge("down br0").run().succeeds();
    pull_out(&lab, "usb0");
    lab.becomes_as_before();
}

#[test]
fn the_saved_configuration_says_how_the_uplink_is_attached() {
    let Some(lab) = Lab::new() else { return };
    lab.baseline();
    lab.kvm_bridge("up br0 --uplink eth0 --save").run().succeeds();
    assert_eq!(lab.ports("br0"), ["eth0"]);
    let saved = std::fs::read_to_string("/etc/kvm-bridge/config.toml").expect("read the configuration");
    assert!(saved.contains("attach = \"port\""), "{saved}");
    lab.kvm_bridge("down br0").run().succeeds();
    // As at boot.
    lab.kvm_bridge("up br0 --late").run().succeeds();
    assert_eq!(lab.ports("br0"), ["eth0"]);
    lab.kvm_bridge("down br0").run().succeeds();
    lab.becomes_as_before();
}
