//! Whatever becomes of an uplink while it is shared, guests are on the network again by themselves, and nothing of ours stays.

use crate::sharing::{becomes, entries, host, host_reaches, mac_of};
use crate::support::filters::{self, tc_json};
use crate::support::guest::Guest;
use crate::support::state::{ip_json, journal_text};
use crate::support::wire::{self, Wire};
use crate::support::{Lab, wait_for};
use nix::sys::signal::Signal;
use std::fs;

/// What IPv6 and routes lose when an interface goes down.
fn on_the_network_again(lab: &Lab) {
    lab.ip("route replace default via 10.77.0.1");
    lab.ip("addr replace fd77::2/64 dev eth0");
    lab.ip("-6 route replace default via fd77::1");
}

#[track_caller]
fn all_reach_each_other(lab: &Lab, guest: &Guest) {
    for address in ["10.77.0.1", "10.77.0.2", "fd77::1", "fd77::2"] {
        assert!(guest.reaches(address), "{address}");
    }
    host_reaches(lab, "10.77.0.11");
    assert!(lab.lan.reaches("10.77.0.11") && lab.lan.reaches("10.77.0.2"));
}

#[test]
fn another_address_of_the_uplink_is_followed() {
    let Some(lab) = host() else { return };
    lab.baseline();
    let guest = Guest::boot(&lab, 11);
    let before = mac_of(&lab, "eth0");
    let new = "02:00:00:00:12:34";
    lab.ip(&format!("link set eth0 address {new}"));
    becomes("the pair to have the new address", || mac_of(&lab, "kvbh-br0") == new);
    let forget = || {
        // What they know of the host has to be asked for again.
        guest.run("ip neigh flush dev eth0");
        lab.lan.run("ip neigh flush dev lan0");
    };
    forget();
    all_reach_each_other(&lab, &guest);
    assert_eq!(entries("eth0"), [guest.mac.as_str()]);
    // What is for the new address is the host's alone, what is for the old one is not any more.
    let (lan, card) = (Wire::in_namespace("lan", "lan0"), Wire::in_namespace("guest11", "eth0"));
    for (to, label) in [(new, "to the new"), (before.as_str(), "to the old"), ("ff:ff:ff:ff:ff:ff", "fence")] {
        lan.send(&wire::frame(to, &lab.lan.mac(), label));
    }
    card.waits_for("fence");
    assert_eq!((card.came("to the new"), card.came("to the old"), card.came("fence")), (0, 1, 1));
    lab.ip(&format!("link set eth0 address {before}"));
    becomes("the pair to have the old address", || mac_of(&lab, "kvbh-br0") == before);
    forget();
    all_reach_each_other(&lab, &guest);
    guest.terminate();
    lab.becomes_as_before();
}

#[test]
fn an_uplink_that_was_down_carries_again_when_it_is_up() {
    let Some(lab) = host() else { return };
    lab.baseline();
    let guest = Guest::boot(&lab, 11);
    let other = Guest::boot(&lab, 12);
    lab.ip("link set eth0 down");
    assert!(guest.reaches("10.77.0.12"), "guests among themselves need no uplink");
    lab.ip("link set eth0 up");
    on_the_network_again(&lab);
    all_reach_each_other(&lab, &guest);
    // And without its cable.
    lab.lan.run("ip link set lan0 down");
    assert!(guest.reaches("10.77.0.12"));
    lab.lan.run("ip link set lan0 up");
    lab.lan.run("ip addr replace fd77::1/64 dev lan0");
    all_reach_each_other(&lab, &guest);
    other.terminate();
    guest.terminate();
    lab.becomes_as_before();
}

#[test]
fn an_uplink_that_goes_down_with_the_last_guest_is_given_back_all_the_same() {
    let Some(lab) = host() else { return };
    lab.baseline();
    let guest = Guest::boot(&lab, 11);
    lab.ip("link set eth0 down");
    guest.terminate();
    lab.waits_until_gone("br0");
    lab.ip("link set eth0 up");
    on_the_network_again(&lab);
    lab.becomes_as_before();
}

#[test]
fn an_uplink_that_is_renamed_is_known_by_its_new_name() {
    let Some(lab) = host() else { return };
    lab.baseline();
    let guest = Guest::boot(&lab, 11);
    lab.ip("link set eth0 name wan0");
    all_reach_each_other(&lab, &guest);
    becomes("status to say its name", || lab.kvm_bridge("status br0").run().out.contains("wan0"));
    let second = Guest::boot(&lab, 12);
    assert!(second.reaches("10.77.0.1") && second.reaches("10.77.0.2"));
    second.terminate();
    guest.terminate();
    lab.waits_until_gone("br0");
    lab.ip("link set wan0 name eth0");
    lab.becomes_as_before();
}

/// Another cable in the place of the one that was pulled out, adapter and all.
fn plug_in_again(lab: &Lab, more: &str, lan: &str) {
    lab.ip(&format!("link add name eth0 {more} type veth peer name lan0 address {lan} netns lan"));
    for command in ["addr add 10.77.0.1/24 dev lan0", "addr add fd77::1/64 dev lan0", "link set lan0 up"] {
        lab.lan.run(&format!("ip {command}"));
    }
    lab.ip("link set eth0 up");
    lab.ip("addr add 10.77.0.2/24 dev eth0");
    on_the_network_again(lab);
}

#[test]
fn an_uplink_that_vanishes_and_comes_back_is_shared_again() {
    let Some(lab) = host() else { return };
    let guest = Guest::boot(&lab, 11);
    let other = Guest::boot(&lab, 12);
    let lan = lab.lan.mac();
    for more in ["", "address 02:00:00:00:56:78", ""] {
        lab.ip("link del eth0");
        assert!(guest.reaches("10.77.0.12"), "guests among themselves need no uplink");
        assert!(lab.kvm_bridge("status br0").run().exits_with(1).out.contains("guest11"));
        plug_in_again(&lab, more, &lan);
        // The host has another MAC address then, which has to be asked for again.
        guest.run("ip neigh flush dev eth0");
        all_reach_each_other(&lab, &guest);
        let mut macs = [guest.mac.clone(), other.mac.clone()];
        macs.sort();
        becomes("the guests' rules", || entries("eth0") == macs);
    }
    guest.terminate();
    other.terminate();
    lab.waits_until_gone("br0");
    becomes("no filter to stay", || filters::tc_json("qdisc show dev eth0").to_string().matches("clsact").count() == 0);
    assert!(lab.lan.reaches("10.77.0.2"));
    assert!(!lab.a_link("eth0")["flags"].to_string().contains("PROMISC"));
    lab.ends_here();
}

#[test]
fn a_tap_with_the_uplinks_address_is_not_taken_for_it() {
    let Some(lab) = host() else { return };
    let guest = Guest::boot(&lab, 11);
    let (lan, mac) = (lab.lan.mac(), mac_of(&lab, "eth0"));
    lab.ip("tuntap add dev aaa0 mode tap");
    lab.ip(&format!("link set aaa0 address {mac}"));
    lab.ip("link del eth0");
    // It comes back under another name, with its address.
    lab.ip(&format!("link add name enx1 address {mac} type veth peer name lan0 address {lan} netns lan"));
    for command in ["addr add 10.77.0.1/24 dev lan0", "link set lan0 up"] {
        lab.lan.run(&format!("ip {command}"));
    }
    lab.ip("link set enx1 up");
    lab.ip("addr add 10.77.0.2/24 dev enx1");
    guest.run("ip neigh flush dev eth0");
    assert!(guest.reaches("10.77.0.1") && guest.reaches("10.77.0.2"));
    guest.terminate();
    lab.waits_until_gone("br0");
    lab.ip("link del aaa0");
    lab.ends_here();
}

#[test]
fn an_uplink_that_has_gone_for_good_leaves_nothing() {
    let Some(lab) = host() else { return };
    let guest = Guest::boot(&lab, 11);
    lab.ip("link del eth0");
    guest.terminate();
    lab.waits_until_gone("br0");
    lab.waits_until_gone("kvbh-br0");
    wait_for("its reaper to end", 10, || lab.reapers().is_empty().then_some(()));
    lab.ends_here();
}

#[test]
fn another_mtu_of_the_uplink_is_followed() {
    let Some(lab) = host() else { return };
    lab.baseline();
    let guest = Guest::boot(&lab, 11);
    for mtu in [1400, 9000, 1500] {
        lab.lan.run(&format!("ip link set lan0 mtu {mtu}"));
        lab.ip(&format!("link set eth0 mtu {mtu}"));
        becomes("the pair to have the MTU", || {
            ["kvbh-br0", "kvbp-br0"].iter().all(|name| lab.a_link(name)["mtu"] == mtu)
        });
        assert!(guest.reaches("10.77.0.1") && guest.reaches("10.77.0.2"));
    }
    guest.terminate();
    lab.becomes_as_before();
}

/// A second interface to a second network.
fn second_network(lab: &Lab) {
    lab.ip("link add name eth1 type veth peer name lan1 netns lan");
    for command in ["addr add 10.78.0.1/24 dev lan1", "link set lan1 up"] {
        lab.lan.run(&format!("ip {command}"));
    }
    fs::write("/proc/sys/net/ipv6/conf/eth1/disable_ipv6", "1").expect("change a setting");
    lab.ip("link set eth1 up");
    lab.ip("addr add 10.78.0.2/24 dev eth1");
    lab.settle();
}

fn is_shared(lab: &Lab, link: &str) -> bool {
    let is_promiscuous = lab.a_link(link)["flags"].to_string().contains("PROMISC");
    let has_filters = tc_json(&format!("qdisc show dev {link}")).to_string().contains("clsact");
    assert!(is_promiscuous == has_filters || { has_filters }, "{link} is promiscuous without a filter");
    has_filters
}

#[test]
fn the_default_route_is_followed_if_that_is_asked_for() {
    let Some(lab) = host() else { return };
    second_network(&lab);
    lab.baseline();
    let guest = Guest::boot_with(&lab, 11, "--bridge br0,follow=on");
    guest.run("ip addr add 10.78.0.11/24 dev eth0");
    all_reach_each_other(&lab, &guest);
    lab.ip("route replace default via 10.78.0.1 dev eth1");
    lab.ip("-6 route del default");
    becomes("eth1 to be shared", || is_shared(&lab, "eth1"));
    assert!(guest.reaches("10.78.0.1") && guest.reaches("10.78.0.2"));
    becomes("eth0 to be free", || !lab.a_link("eth0")["flags"].to_string().contains("PROMISC"));
    assert!(
        !is_shared(&lab, "eth0")
            && filters::all().iter().all(|line| !line.contains("\"eth0\"") || !line.contains("clsact"))
    );
    host_reaches(&lab, "10.78.0.11");
    assert!(lab.lan.reaches("10.77.0.2"), "the host itself is where it was");
    // And back.
    on_the_network_again(&lab);
    becomes("eth0 to be shared again", || is_shared(&lab, "eth0"));
    all_reach_each_other(&lab, &guest);
    becomes("eth1 to be free", || !is_shared(&lab, "eth1"));
    guest.terminate();
    lab.becomes_as_before();
}

#[test]
fn the_default_route_is_not_followed_without_a_word() {
    let Some(lab) = host() else { return };
    second_network(&lab);
    lab.baseline();
    let guest = Guest::boot(&lab, 11);
    lab.ip("route replace default via 10.78.0.1 dev eth1");
    lab.ip("-6 route del default");
    // A change that the reaper does react to, and that comes later.
    lab.ip("link set eth0 mtu 1400");
    becomes("the pair to follow", || lab.a_link("kvbh-br0")["mtu"] == 1400);
    assert!(is_shared(&lab, "eth0") && !is_shared(&lab, "eth1"));
    lab.ip("link set eth0 mtu 1500");
    on_the_network_again(&lab);
    all_reach_each_other(&lab, &guest);
    guest.terminate();
    lab.becomes_as_before();
}

#[test]
fn an_uplink_that_is_made_a_port_of_another_bridge_goes_on_being_shared() {
    let Some(lab) = host() else { return };
    lab.baseline();
    let guest = Guest::boot(&lab, 11);
    lab.ip("link add name other type bridge");
    lab.ip("link set other up");
    lab.ip("link set eth0 master other");
    assert!(guest.reaches("10.77.0.1"), "what comes in is copied before another bridge gets it");
    lab.ip("link set eth0 nomaster");
    lab.ip("link del other");
    all_reach_each_other(&lab, &guest);
    guest.terminate();
    lab.becomes_as_before();
}

#[test]
fn all_that_is_ours_deleted_by_hand_leaves_the_host_as_it_was() {
    let Some(lab) = host() else { return };
    lab.baseline();
    for deeds in [
        &["ip link del br0", "ip link del kvbh-br0", "tc qdisc del dev eth0 clsact", "ip link set eth0 promisc off"][..],
        &["ip link del br0"][..],
        &["ip link del kvbh-br0", "ip link del br0"][..],
    ] {
        let guest = Guest::boot(&lab, 11);
        assert!(guest.reaches("10.77.0.1"));
        for deed in deeds {
            // The reaper may have been faster.
            lab.sh(&format!("{deed} 2>/dev/null || :")).run().succeeds();
        }
        lab.becomes_as_before_but_for(&guest.running);
        assert!(lab.lan.reaches("10.77.0.2"));
        guest.terminate();
        lab.becomes_as_before();
    }
}

#[test]
fn a_pair_that_was_deleted_by_hand_costs_the_host_nothing_and_is_made_again() {
    let Some(lab) = host() else { return };
    lab.baseline();
    let guest = Guest::boot(&lab, 11);
    for end in ["kvbh-br0", "kvbp-br0"] {
        lab.ip(&format!("link del {end}"));
        assert!(lab.lan.reaches("10.77.0.2"));
        host_reaches(&lab, "10.77.0.1");
        all_reach_each_other(&lab, &guest);
        let second = Guest::boot(&lab, 12);
        all_reach_each_other(&lab, &second);
        second.terminate();
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv6/conf/kvbh-br0/disable_ipv6").expect("read"), "1\n");
    }
    // By somebody else while nobody looks; and with the last guest.
    lab.reaper_of("br0").kill();
    lab.ip("link del kvbh-br0");
    lab.kvm_bridge("recover").run().succeeds();
    all_reach_each_other(&lab, &guest);
    let reaper = lab.reaper_of("br0");
    reaper.send(Signal::SIGSTOP);
    lab.ip("link del kvbh-br0");
    guest.terminate();
    reaper.send(Signal::SIGCONT);
    lab.becomes_as_before();
}

#[test]
fn an_end_of_the_pair_that_is_taken_off_or_set_down_works_again() {
    let Some(lab) = host() else { return };
    lab.baseline();
    let guest = Guest::boot(&lab, 11);
    for deed in ["kvbp-br0 nomaster", "kvbp-br0 down", "kvbh-br0 down", "kvbh-br0 address 02:00:00:00:99:99"] {
        lab.ip(&format!("link set {deed}"));
        all_reach_each_other(&lab, &guest);
    }
    guest.terminate();
    lab.becomes_as_before();
}

#[test]
fn filters_that_were_deleted_by_hand_are_made_again() {
    let Some(lab) = host() else { return };
    lab.baseline();
    let guest = Guest::boot(&lab, 11);
    for deed in [
        "qdisc del dev eth0 clsact",
        "qdisc del dev kvbh-br0 clsact",
        "filter del dev eth0 ingress",
        "filter del dev eth0 egress",
        "filter del dev kvbh-br0 ingress pref 4",
        "filter del dev eth0 egress pref 27511",
    ] {
        filters::tc(deed);
        becomes("the filters to be there", || {
            ["eth0 ingress", "eth0 egress", "kvbh-br0 ingress"].iter().all(|hook| {
                let (link, hook) = hook.split_once(' ').expect("two words");
                !filters::text(link, hook).is_empty()
            })
        });
        all_reach_each_other(&lab, &guest);
        becomes("the guest's rule", || entries("eth0") == [guest.mac.as_str()]);
    }
    guest.terminate();
    lab.becomes_as_before();
}

#[test]
fn a_firewall_that_is_loaded_anew_changes_nothing() {
    let Some(lab) = host() else { return };
    if !crate::support::have("nft") {
        return;
    }
    lab.baseline();
    let guest = Guest::boot(&lab, 11);
    lab.program("nft").arg("flush ruleset").run().succeeds();
    guest.stack.pings("-b -w 3 10.77.0.255");
    assert_eq!(crate::sharing::learnt(&guest.mac), [guest.tap.as_str()], "its own broadcast does not come back to it");
    all_reach_each_other(&lab, &guest);
    guest.terminate();
    lab.becomes_as_before();
}

#[test]
fn a_port_that_gets_an_address_of_the_hosts_is_shared_from_then_on() {
    let Some(lab) = Lab::new() else { return };
    let (address, own) = ("10.77.0.2/24", "10.77.0.2");
    // As at boot, before the interface is configured; and with a guest alone.
    for (line, ends) in [("up br0 --uplink eth0", "down br0"), ("", "")] {
        {
            lab.ip("link set eth0 down");
            lab.baseline();
            if !line.is_empty() {
                lab.kvm_bridge(line).run().succeeds();
            }
            let guest = Guest::boot_with(&lab, 11, "--bridge br0,uplink=eth0");
            assert_eq!(lab.ports("br0"), ["eth0", guest.tap.as_str()]);
            assert!(guest.reaches("10.77.0.1"));
            lab.ip(&format!("addr add {address} dev eth0 nodad"));
            becomes("it to be shared", || lab.ports("br0").iter().any(|port| port == "kvbp-br0"));
            assert!(lab.lan.reaches(own), "{own}");
            assert!(guest.reaches("10.77.0.1") && guest.reaches(own), "{own}");
            host_reaches(&lab, "10.77.0.11");
            becomes("the guest's rule", || entries("eth0") == [guest.mac.as_str()]);
            assert!(lab.a_link("br0")["flags"].to_string().contains("NOARP"));
            let status = lab.kvm_bridge("status br0").run().out;
            assert!(status.contains("shared"), "{status}");
            guest.terminate();
            if !ends.is_empty() {
                lab.kvm_bridge(ends).run().succeeds();
            }
            lab.waits_until_gone("br0");
            assert!(lab.lan.reaches(own), "the host keeps it");
            lab.ip("addr flush dev eth0");
            lab.ip("link set eth0 down");
            lab.becomes_as_before();
        }
    }
}

#[test]
fn a_port_that_was_asked_for_stays_one() {
    let Some(lab) = Lab::new() else { return };
    lab.baseline();
    let guest = Guest::boot_with(&lab, 11, "--bridge br0,uplink=eth0,attach=port");
    lab.ip("addr add 10.77.0.2/24 dev eth0");
    let said = lab.kvm_bridge("doctor br0 --quick").run().exits_with(1).out;
    assert!(said.contains("eth0 is a port and has 10.77.0.2/24"), "{said}");
    assert_eq!(lab.ports("br0"), ["eth0", guest.tap.as_str()]);
    lab.ip("addr flush dev eth0");
    guest.terminate();
    lab.becomes_as_before();
}

#[test]
fn a_bridge_that_is_set_down_by_hand_costs_the_host_nothing() {
    let Some(lab) = Lab::with_everything() else { return };
    lab.baseline();
    let guest = Guest::boot(&lab, 11);
    lab.ip("link set br0 down");
    assert!(lab.lan.reaches("10.77.0.2"));
    guest.terminate();
    lab.becomes_as_before();
}

#[test]
fn ports_of_others_keep_the_bridge_and_its_way_to_the_network() {
    let Some(lab) = host() else { return };
    lab.baseline();
    let guest = Guest::boot(&lab, 11);
    let stack = crate::sharing::container(&lab, 31);
    guest.terminate();
    // The reaper has looked by the time that the rule of the guest has gone.
    let mac = stack.run("cat /sys/class/net/eth0/address").trim().to_owned();
    assert!(stack.reaches("10.77.0.1"));
    becomes("the guest's rule to go", || entries("eth0") == [mac.clone()]);
    assert!(stack.reaches("10.77.0.1") && stack.reaches("10.77.0.2"));
    lab.ip("link del box31");
    lab.becomes_as_before();
}

#[test]
fn what_an_admin_changes_meanwhile_stays_changed() {
    let Some(lab) = host() else { return };
    let guest = Guest::boot(&lab, 11);
    lab.ip("addr add 10.77.0.50/24 dev eth0");
    lab.ip("route add 10.50.0.0/16 via 10.77.0.1");
    lab.ip("link set eth0 txqueuelen 777");
    guest.terminate();
    lab.waits_until_gone("br0");
    assert!(lab.addresses("eth0").contains(&"10.77.0.50/24".to_owned()));
    assert_eq!(ip_json("route show 10.50.0.0/16")[0]["dev"], "eth0");
    assert_eq!(lab.a_link("eth0")["txqlen"], 777);
    lab.ip("route del 10.50.0.0/16");
    lab.ip("addr del 10.77.0.50/24 dev eth0");
    lab.ip("link set eth0 txqueuelen 1000");
}

#[test]
fn a_journal_of_another_life_of_the_machine_is_only_forgotten() {
    let Some(lab) = host() else { return };
    lab.baseline();
    let guest = lab.shim("--bridge br0").boot();
    let journal = fs::read_to_string(lab.run_dir().join("br0.json")).expect("read the journal");
    guest.terminate();
    lab.becomes_as_before();
    let mut journal: serde_json::Value = serde_json::from_str(&journal).expect("it is JSON");
    journal["boot"] = "00000000-0000-0000-0000-000000000000".into();
    lab.ip("link set eth0 promisc on");
    lab.baseline();
    fs::create_dir_all(lab.run_dir()).expect("make the folder");
    fs::write(lab.run_dir().join("br0.json"), journal_text(journal.clone())).expect("write the journal");
    lab.kvm_bridge("recover").run().succeeds();
    lab.is_untouched();
}

#[test]
fn a_journal_that_does_not_match_harms_nothing() {
    let Some(lab) = Lab::with_everything() else { return };
    lab.baseline();
    let guest = lab.shim("--bridge br0").boot();
    let journal = fs::read_to_string(lab.run_dir().join("br0.json")).expect("read the journal");
    guest.terminate();
    lab.becomes_as_before();
    // As if the machine had it from another life: the bridge is somebody else's, the uplink's index a TAP's.
    lab.add_bridge("br0");
    lab.baseline();
    let mut journal: serde_json::Value = serde_json::from_str(&journal).expect("it is JSON");
    for index in
        [lab.a_link("br0")["ifindex"].clone(), lab.a_link("eth0")["ifindex"].clone(), serde_json::Value::from(4711)]
    {
        journal["index"] = index.clone();
        fs::create_dir_all(lab.run_dir()).expect("make the folder");
        fs::write(lab.run_dir().join("br0.json"), journal_text(journal.clone())).expect("write the journal");
        lab.kvm_bridge("recover").run().succeeds();
        lab.is_untouched();
    }
}

#[test]
fn another_interface_of_the_uplinks_name_and_index_is_left_alone() {
    let Some(lab) = Lab::with_address() else { return };
    let guest = lab.shim("--bridge br0").boot();
    lab.reaper_of("br0").kill();
    guest.kill();
    for command in ["link del br0", "link del eth0", "link add index 10 name eth0 type veth peer name x0"] {
        lab.ip(command);
    }
    lab.ip("link set eth0 up");
    lab.ip("addr add 10.1.1.1/24 dev eth0");
    lab.kvm_bridge("recover").run().succeeds();
    assert_eq!(lab.addresses("eth0").iter().filter(|address| address.starts_with("10.")).count(), 1);
    lab.ends_here();
}
