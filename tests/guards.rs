//! What a guest's port is held to: with frames that are written by hand, and honest ones beside them.

use crate::helper_attacked::request::set_persistent;
use crate::sharing::host;
use crate::support::Lab;
use crate::support::filters::text;
use crate::support::guest::Guest;
use crate::support::user::{ALICE, Helper, Right, our_helper};
use crate::support::wait_for;
use crate::support::wire::{self, Wire, frame, tagged};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};

const ALL: &str = "ff:ff:ff:ff:ff:ff";
/// Somebody whom no frame here is really of.
const OTHER: &str = "52:54:00:66:66:66";
/// One that a factory gives.
const GATEWAY: &str = "00:1b:21:01:02:03";

/// Frames with their labels, each with whether it passes a bridge without a guard, and with one.
fn frames(own: &str) -> Vec<(Vec<u8>, &'static str, bool, bool)> {
    let with_tag = |kind: u16, label: &str| {
        let mut frame = tagged(ALL, own, 10, label);
        frame[12..14].copy_from_slice(&kind.to_be_bytes());
        frame
    };
    let twice = |label: &str| {
        let mut frame = tagged(ALL, own, 20, label);
        frame.splice(12..12, [0x81, 0, 0, 10]);
        frame
    };
    vec![
        (frame(ALL, own, "own"), "own", true, true),
        (tagged(ALL, own, 0xe000, "a priority"), "a priority", true, true),
        (frame("01:00:5e:00:00:fb", own, "multicast"), "multicast", true, true),
        (frame(ALL, OTHER, "another's"), "another's", true, false),
        (frame(ALL, GATEWAY, "the gateway's"), "the gateway's", true, false),
        (with_tag(0x8100, "802.1Q"), "802.1Q", true, false),
        (with_tag(0x88a8, "802.1ad"), "802.1ad", true, false),
        (twice("two tags"), "two tags", true, false),
        (frame("01:80:c2:00:00:00", own, "STP"), "STP", true, false),
        (frame("01:80:c2:00:00:02", own, "LACP"), "LACP", false, false),
        (frame("01:80:c2:00:00:21", own, "MVRP"), "MVRP", true, false),
        (frame("01:00:0c:cc:cc:cc", own, "CDP"), "CDP", true, false),
        (frame("01:00:0c:cc:cc:cd", own, "PVST"), "PVST", true, false),
        (frame(ALL, own, "last"), "last", true, true),
    ]
}

#[track_caller]
fn check(lan: &Wire, own: &str, is_guarded: bool, send: impl Fn(&[u8])) {
    let frames = frames(own);
    frames.iter().for_each(|(frame, ..)| send(frame));
    lan.waits_for("last");
    for (_, label, unguarded, guarded) in frames {
        let passes = if is_guarded { guarded } else { unguarded };
        assert_eq!(lan.came(label) > 0, passes, "{label}, guarded: {is_guarded}");
    }
}

#[test]
fn a_guarded_guest_sends_in_its_own_name_and_nothing_for_switches() {
    for words in ["br0,uplink=eth0", "br0,uplink=eth0,attach=share"] {
        let Some(lab) = Lab::new() else { return };
        let boot = |number, guard: &str| Guest::boot_with(&lab, number, &format!("--bridge {words}{guard}"));
        let (free, held) = (boot(11, ""), boot(12, ",guard=on"));
        for (guest, is_guarded) in [(&free, false), (&held, true)] {
            // What a shared uplink sends to the network leaves out what is for switches by itself.
            if is_guarded || !words.contains("share") {
                let lan = Wire::in_namespace("lan", "lan0");
                let wire = Wire::in_namespace(&guest.stack.name, "eth0");
                check(&lan, &guest.mac, is_guarded, |frame| wire.send(frame));
            }
            assert!(guest.reaches("10.77.0.1") && guest.reaches("fd77::1"));
        }
        assert!(free.reaches("10.77.0.12") && held.reaches("10.77.0.11"));
        held.terminate();
        free.terminate();
        lab.becomes_as_before();
    }
}

#[test]
fn isolated_guests_see_the_network_and_not_each_other() {
    let Some(lab) = Lab::new() else { return };
    let boot = |number, words: &str| Guest::boot_with(&lab, number, &format!("--bridge br0,uplink=eth0{words}"));
    let (one, other, free) = (boot(11, ",isolated=on"), boot(12, ",isolated=on"), boot(13, ""));
    for guest in [&one, &other] {
        assert!(guest.reaches("10.77.0.1") && guest.reaches("10.77.0.13"));
    }
    assert!(free.reaches("10.77.0.11") && lab.lan.reaches("10.77.0.12"));
    assert!(!one.stack.pings("-w 2 10.77.0.12") && !other.stack.pings("-w 2 fd77::11"));
    [one, other, free].into_iter().for_each(|guest| drop(guest.terminate()));
    lab.becomes_as_before();
}

#[test]
fn what_is_configured_holds_for_each_guest_and_a_users_tap_but_for_those_that_say_otherwise() {
    let Some(lab) = Lab::new() else { return };
    lab.configure("[bridge.br0]\nuplink = \"eth0\"\nguard = true\ntaps = { tap0 = \"1000\" }\n");
    lab.kvm_bridge("up br0").run().succeeds();
    assert!(text("tap0", "ingress").contains("direct-action"));
    let (held, free) = (Guest::boot(&lab, 11), Guest::boot_with(&lab, 12, "--bridge br0,guard=off"));
    assert!(
        text(&held.tap, "ingress").contains("direct-action") && !text(&free.tap, "ingress").contains("direct-action")
    );
    lab.shim("--bridge br0,ifname=tap0,guard=on").run().exits_with(125);
    held.terminate();
    free.terminate();
    lab.kvm_bridge("down br0").run().succeeds();
    lab.becomes_as_before();
}

/// What does not filter is left so, and a kernel that can't do what is asked for is named.
#[test]
fn a_port_that_cannot_be_held_to_what_is_asked_for_is_none() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let said = lab.shim("--bridge br0,vlan=10").run().exits_with(125).err;
    assert!(said.contains("ip link set dev br0 type bridge vlan_filtering 1"), "{said}");
    let said = lab.shim("--bridge br0,vlan_filtering=on").run().exits_with(125).err;
    assert!(said.contains("does not filter VLANs"), "{said}");
    for (words, says) in [
        ("vlan=0", "Give a number from 1 to 4094"),
        ("vlan=10:10", "Give a number from 1 to 4094"),
        ("rate=100", "100mbit"),
        ("guard=yes", "guard=on or guard=ip or guard=off"),
        ("vlan=10,vlan_filtering=off", "Leave vlan_filtering=off out"),
    ] {
        let said = lab.shim(&format!("--bridge br0,{words}")).run().exits_with(125).err;
        assert!(said.contains(says), "{words}: {said}");
    }
    lab.becomes_as_before();
}

/// A host with br0 and alice, whose rules these are.
fn with_rules(rules: &str) -> Option<(Lab, Helper)> {
    let lab = Lab::with_bridge("br0").and_then(Lab::with_users)?;
    let helper = lab.install_helper(&our_helper(), true, Right::Capability);
    lab.allow_more(rules);
    Some((lab, helper))
}

fn sender(tap: OwnedFd) -> impl Fn(&[u8]) {
    let tap = File::from(tap);
    move |frame| (&tap).write_all(frame).expect("send a frame")
}

#[test]
fn a_users_guest_is_guarded_unless_a_rule_says_otherwise() {
    let own = "52:54:00:11:22:33";
    for (rules, is_guarded) in [("allow br0\n", true), ("allow br0 user alice guard off\n", false)] {
        let Some((lab, helper)) = with_rules(rules) else { return };
        let lan = Wire::in_namespace("lan", "lan0");
        let tap = lab.call(&helper, &format!("--br=br0 --fd=0 --mac={own}")).gives_a_tap();
        check(&lan, own, is_guarded, sender(tap));
    }
    // QEMU does not tell whose address it is: none of the factory's, then.
    let Some((lab, helper)) = with_rules("allow br0\n") else { return };
    let lan = Wire::in_namespace("lan", "lan0");
    let send = sender(lab.call(&helper, "--br=br0 --fd=0").gives_a_tap());
    for (frame, ..) in frames(own).into_iter().filter(|(_, label, ..)| *label != "last") {
        send(&frame);
    }
    send(&frame(ALL, own, "last"));
    lan.waits_for("last");
    let came = ["own", "another's", "the gateway's", "STP", "802.1Q"].map(|label| lan.came(label) > 0);
    assert_eq!(came, [true, true, false, false, false]);
}

#[test]
fn a_user_gets_nobody_elses_address() {
    let Some((lab, helper)) = with_rules("allow br0\n") else { return };
    let call = |mac: &str| lab.call(&helper, &format!("--br=br0 --fd=0 --mac={mac}"));
    // Somebody of the LAN who has spoken, the host itself, and a switch that has not.
    let lan = Wire::in_namespace("lan", "lan0");
    lan.send(&frame(ALL, OTHER, "heard"));
    for (mac, says) in [
        (OTHER, "is another's there"),
        (lab.a_link("br0")["address"].as_str().expect("an address"), "is another's there"),
        (GATEWAY, "one of the factory's"),
    ] {
        let said = call(mac).refusal();
        assert!(said.contains(says) && said.contains("guard off"), "{mac}: {said}");
        assert!(lab.ports("br0").iter().all(|port| !port.starts_with("kvb")));
    }
    // Two guests have one address each.
    let own = "52:54:00:11:22:33";
    let first = call(own).gives_a_tap();
    assert!(call(own).refusal().contains("is another's there"));
    drop(first);
    lab.waits_until_gone("kvb0");
    let tap = call(own).gives_a_tap();
    // Whoever sends in its name from elsewhere does not get what is for it, and has left nothing behind when it has gone.
    lan.send(&frame(ALL, own, "spoofed"));
    let guest = Wire::at("kvb0");
    lan.send(&frame(own, OTHER, "for the guest"));
    wait_for("the guest gets what is for it", 10, || (guest.went("for the guest") > 0).then_some(()));
    drop(tap);
    lab.waits_until_gone("kvb0");
    drop(call(own).gives_a_tap());
}

#[test]
fn rules_isolate_users_guests() {
    let Some((lab, helper)) = with_rules("allow br0 user alice isolated\n") else { return };
    let tap = |mac: &str| lab.call(&helper, &format!("--br=br0 --fd=0 --mac={mac}")).gives_a_tap();
    let (one, _other) = (tap("52:54:00:11:22:33"), tap("52:54:00:11:22:44"));
    let (lan, peer) = (Wire::in_namespace("lan", "lan0"), Wire::at("kvb1"));
    sender(one)(&frame(ALL, "52:54:00:11:22:33", "to all"));
    lan.waits_for("to all");
    assert_eq!(peer.went("to all"), 0);
}

#[test]
fn a_user_is_told_what_is_roots_to_decide() {
    let Some((lab, helper)) = with_rules("allow br0 user alice isolated\n") else { return };
    let shim = lab.install(std::path::Path::new(env!("CARGO_BIN_EXE_qemu-kvm")), Right::None);
    let _ = helper;
    for (words, says) in [
        ("guard=off", "a rule that has: guard off"),
        ("isolated=off", "guarded, isolated"),
        ("rate=10mbit", "a rule that has: rate 10mbit"),
    ] {
        let said = lab.as_user(ALICE, &shim).words(&format!("--bridge br0,{words}")).run().exits_with(125).err;
        assert!(said.contains("is root's to decide") && said.contains(says), "{words}: {said}");
    }
    // What the helper would refuse a dry run refuses, and what it prints tells it the address.
    let factorys = format!("--bridge br0,mac={GATEWAY}");
    let said = lab.as_user(ALICE, &shim).words(&factorys).run().exits_with(125).err;
    assert!(said.contains("one of the factory's") && !said.contains("helper"), "{said}");
    let plan = lab.as_user(ALICE, &shim).words(&factorys).words("--bridge-dry-run").run().succeeds().out;
    assert!(plan.starts_with("# Not as this user") && plan.contains("one of the factory's"), "{plan}");
    let own = "52:54:00:11:22:33";
    let plan =
        lab.as_user(ALICE, &shim).words(&format!("--bridge br0,mac={own} --bridge-dry-run")).run().succeeds().out;
    assert!(plan.contains(&format!("kvm-bridge-helper --mac={own}")), "{plan}");
    let plan = lab.as_user(ALICE, &shim).words("--bridge br0,guard=on,isolated=on --bridge-dry-run").run().succeeds();
    assert!(plan.out.contains("(guarded, isolated)"), "{}", plan.out);
}

#[test]
fn a_user_does_not_get_the_routers_address_which_the_bridge_has_not_heard() {
    let Some((lab, helper)) = with_rules("allow br0\n") else { return };
    let call = |mac: &str| lab.call(&helper, &format!("--br=br0 --fd=0 --mac={mac}"));
    for (number, words) in [
        (1, "addr add 10.99.0.2/24 dev way; route add default via 10.99.0.1; neigh add 10.99.0.1"),
        (2, "addr add fd99::2/64 dev way nodad; -6 route add default via fd99::1; neigh add fd99::1"),
        (3, "addr add fd99::2/64 dev way nodad; route add default via inet6 fd99::1 dev way; neigh add fd99::1"),
    ] {
        let router = format!("52:54:00:99:00:0{number}");
        lab.ip("link add way type veth peer name other");
        lab.ip("link set way up");
        lab.ip("link set other up");
        drop(call(&router).gives_a_tap());
        for words in words.split("; ") {
            let rest = if words.starts_with("neigh") { format!(" lladdr {router} dev way") } else { String::new() };
            lab.ip(&format!("{words}{rest}"));
        }
        let said = call(&router).refusal();
        assert!(said.contains("it is the router's, through which this host sends"), "{words}: {said}");
        drop(call("52:54:00:11:22:33").gives_a_tap());
        lab.ip("link del way");
    }
    // Routes that lead nowhere are no routers.
    lab.ip("route add blackhole default");
    lab.ip("-6 route add unreachable default");
    drop(call("52:54:00:11:22:33").gives_a_tap());
    lab.waits_until_gone("kvb0");
    lab.baseline();
}

/// Whoever has a TAP can take another's address from the bridge's memory, and not from the mark.
#[test]
fn an_address_that_the_bridge_was_made_to_forget_is_still_its_users() {
    let Some((lab, helper)) = with_rules("allow br0\n") else { return };
    let call = |mac: &str| lab.call(&helper, &format!("--br=br0 --fd=0 --mac={mac}"));
    let victims = "52:54:00:11:22:44";
    let (_attackers, victim) = (call("52:54:00:11:22:33").gives_a_tap(), call(victims).gives_a_tap());
    let own = lab.a_link("kvb0")["address"].as_str().expect("an address").to_owned();
    let said = call(victims).refusal();
    assert!(said.contains("is another's there: the bridge has it at the port kvb1, of the user alice"), "{said}");
    for mac in [victims, &own] {
        lab.ip(&format!("link set dev kvb0 address {mac}"));
    }
    let fdb = lab.sh("bridge fdb show br br0").run().succeeds().out;
    assert!(!fdb.contains(victims), "{fdb}");
    let said = call(victims).refusal();
    assert!(said.contains("at the port kvb1, of the user alice"), "{said}");
    drop(victim);
    lab.waits_until_gone("kvb1");
    drop(call(victims).gives_a_tap());
}

#[test]
fn a_rule_that_says_guard_is_for_guests_whose_address_is_told() {
    for guard in ["on", "ip"] {
        let Some((lab, helper)) = with_rules(&format!("allow br0 guard {guard}\n")) else { return };
        let said = lab.call(&helper, "--br=br0 --fd=0").refusal();
        assert!(said.contains(&format!("the rules say guard {guard}")) && said.contains("--mac="), "{said}");
        drop(lab.call(&helper, "--br=br0 --fd=0 --mac=52:54:00:11:22:33").gives_a_tap());
    }
}

/// A guest can have a checksum written into its frame behind the guard, by the header before it (virtio_net_hdr): from byte 20
/// on, 16 bits of its choice.
#[test]
fn a_checksum_is_no_way_past_the_guard() {
    let own = "52:54:00:11:22:33";
    // As QEMU's announcement, which passes before it has an address.
    let rarp = |rest: &[u8]| {
        let head =
            [[255; 6].as_slice(), &wire::bytes(own), &[0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3], &wire::bytes(own)].concat();
        let mut frame = [head.as_slice(), &[0; 14], rest].concat();
        frame.resize(60, 0);
        frame
    };
    let Some((lab, helper)) = with_rules("allow br0 guard ip\n") else { return };
    let tap = lab.call(&helper, &format!("--use-vnet --br=br0 --fd=0 --mac={own}")).gives_a_tap();
    // For who takes no checksums of others the kernel writes them.
    let _peers = lab.call(&helper, "--br=br0 --fd=0 --mac=52:54:00:11:22:44").gives_a_tap();
    let (send, peer) = (sender(tap), Wire::at("kvb1"));
    // struct virtio_net_hdr: VIRTIO_NET_HDR_F_NEEDS_CSUM, no segments, csum_start and csum_offset: the sender's IP address. What is
    // no header to the TAP is the beginning of a frame.
    let header = [&[1, 0, 0, 0, 0, 0][..], &20_u16.to_ne_bytes(), &10_u16.to_ne_bytes()].concat();
    send(&[header, rarp(b"forged")].concat());
    send(&rarp(b"last"));
    wait_for("the last frame", 10, || (!peer.from(own).is_empty()).then_some(()));
    assert_eq!(peer.from(own), [rarp(b"last")]);
    // Where the MAC address is the kernel itself lets none be written.
    let Some((lab, helper)) = with_rules("allow br0\n") else { return };
    let tap = File::from(lab.call(&helper, &format!("--use-vnet --br=br0 --fd=0 --mac={own}")).gives_a_tap());
    for start in 0..20_u16 {
        let header = [&[1, 0, 0, 0, 0, 0][..], &start.to_ne_bytes(), &6_u16.to_ne_bytes()].concat();
        let written = (&tap).write_all(&[header, rarp(b"forged")].concat());
        assert_eq!(written.map_err(|error| error.raw_os_error()), Err(Some(libc::EINVAL)), "{start}");
    }
}

/// A guest that may not have such headers has none, and is off the bridge when its TAP could be opened anew with them.
#[test]
fn a_tap_that_could_be_opened_anew_is_taken_off_the_bridge() {
    let Some(lab) = Lab::new().and_then(Lab::with_users) else { return };
    let helper = lab.install_helper(&our_helper(), true, Right::Capability);
    lab.allow_more("allow br0 user alice guard ip\n");
    lab.kvm_bridge("up br0 --uplink eth0").run().succeeds();
    let roots = Guest::boot_silent(&lab, "alice", "--bridge br0,guard=ip");
    let tap = lab.call(&helper, "--use-vnet --br=br0 --fd=0 --mac=52:54:00:11:22:33").gives_a_tap();
    for name in [roots.tap.as_str(), "kvb1"] {
        let info = lab.a_link(name)["linkinfo"]["info_data"].clone();
        assert_eq!((&info["vnet_hdr"], &info["persist"]), (&false.into(), &false.into()), "{name}: {info}");
    }
    lab.reapers_rest();
    assert!(lab.ports("br0").contains(&"kvb1".to_owned()));
    // SAFETY: a number only, for a descriptor of this test's.
    #[allow(unsafe_code)]
    unsafe { set_persistent(tap.as_raw_fd(), 1) }.expect("make it persistent");
    wait_for("the TAP to be taken off", 10, || (!lab.ports("br0").contains(&"kvb1".to_owned())).then_some(()));
    drop(tap);
    lab.ip("tuntap del dev kvb1 mode tap");
    assert!(lab.ports("br0").contains(&roots.tap));
    roots.terminate();
    lab.kvm_bridge("down br0").run().succeeds();
    lab.becomes_as_before();
}

/// A rule that names somebody counts instead of the one for everybody, and the configuration is for root's guests alone.
#[test]
fn rules_that_hold_users_to_less_than_one_would_think_are_told() {
    let Some((lab, _)) = with_rules("allow br0 isolated\nallow br0 user alice max 4\nallow br0 user bob guard on\n")
    else {
        return;
    };
    let told = |words: &str| {
        let ended = lab.kvm_bridge(words).run();
        [ended.out, ended.err].concat()
    };
    for words in ["install --check", "doctor br0 --quick"] {
        let said = told(words);
        let line = "line 2 says nothing of ports: whom it names is not held to what /etc/kvm-bridge/bridge.conf, line 1 says (isolated)";
        assert!(said.contains(line) && !said.contains("line 3"), "{words}: {said}");
    }
    lab.configure("[bridge.br0]\nguard = true\nrate = \"10mbit\"\n");
    lab.allow_more("allow br0\nallow br0 user bob guard on\n");
    for words in ["install --check", "doctor br0 --quick"] {
        let said = told(words);
        let line = "line 1 says nothing of ports: users' guests on br0 are not held to what /etc/kvm-bridge/config.toml says (10mbit)";
        assert!(said.contains(line) && !said.contains("line 2"), "{words}: {said}");
    }
}

/// Who asks who is in which multicast group gets what is for all of them.
#[test]
fn a_guarded_guest_asks_for_no_multicast() {
    let Some(lab) = host() else { return };
    let guest = Guest::boot_with(&lab, 11, "--bridge br0,guard=on");
    let shown = lab.sh(&format!("bridge -d link show dev {}", guest.tap)).run().succeeds().out;
    assert!(shown.contains("mcast_router 0"), "{shown}");
    guest.terminate();
    lab.becomes_as_before();
}

/// A user may have the address of a guest of root's that does not run, and no longer.
#[test]
fn a_guest_of_roots_gets_its_address_back() {
    let Some(lab) = Lab::new().and_then(Lab::with_users) else { return };
    let helper = lab.install_helper(&our_helper(), true, Right::Capability);
    lab.allow_more("allow br0\n");
    lab.kvm_bridge("up br0 --uplink eth0").run().succeeds();
    let own = "52:54:00:11:22:33";
    let tap = lab.call(&helper, &format!("--br=br0 --fd=0 --mac={own}")).gives_a_tap();
    let users = lab.ports("br0").into_iter().find(|port| port.starts_with("kvb")).expect("its port");
    let roots = Guest::boot_silent(&lab, "alice", &format!("--bridge br0,mac={own}"));
    wait_for("the user's to be taken off", 10, || (!lab.ports("br0").contains(&users)).then_some(()));
    assert!(lab.ports("br0").contains(&roots.tap));
    let says = format!("{users} is off the bridge: its guest's address is that of a guest of root's, at {}", roots.tap);
    wait_for("status to say so", 10, || lab.kvm_bridge("status br0").run().out.contains(&says).then_some(()));
    let said = lab.call(&helper, &format!("--br=br0 --fd=0 --mac={own}")).refusal();
    assert!(said.contains("is another's there"), "{said}");
    drop(tap);
    roots.terminate();
    lab.kvm_bridge("down br0").run().succeeds();
}

/// Who holds the TAP of a guest of root's gets no port of a user's off the bridge with its address.
#[test]
fn an_address_that_a_tap_of_roots_was_not_given_takes_nobodys_port_away() {
    let Some(lab) = Lab::new().and_then(Lab::with_users) else { return };
    let helper = lab.install_helper(&our_helper(), true, Right::Capability);
    lab.allow_more("allow br0\n");
    lab.kvm_bridge("up br0 --uplink eth0").run().succeeds();
    let roots = Guest::boot_silent(&lab, "alice", "--bridge br0");
    let tap = lab.call(&helper, "--br=br0 --fd=0 --mac=52:54:00:11:22:33").gives_a_tap();
    lab.reapers_rest();
    let users = lab.ports("br0").into_iter().find(|port| port.starts_with("kvb") && *port != roots.tap);
    lab.ip(&format!("link set dev {} address fe:54:00:11:22:33", roots.tap));
    wait_for("root's to be taken off", 10, || (!lab.ports("br0").contains(&roots.tap)).then_some(()));
    lab.reapers_rest();
    assert!(lab.ports("br0").contains(&users.expect("its port")));
    drop(tap);
    roots.terminate();
    lab.kvm_bridge("down br0").run().succeeds();
}
