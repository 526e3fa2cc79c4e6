//! An uplink with addresses: nothing of the host's network is lost, neither on the way in nor on the way out.

use crate::support::command::Running;
use crate::support::state::{comparable, ip_json};
use crate::support::{Lab, wait_for};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// What the host has by way of an interface, with `IT` for its name: addresses, all routes, lasting neighbours.
fn belongings(device: &str) -> Vec<String> {
    let mut all = Vec::new();
    let addresses = ip_json(&format!("addr show {device}"));
    for address in addresses[0]["addr_info"].as_array().expect("a list") {
        // The bridge may have more of its own, and loses none.
        if address["scope"] != "link" || address["family"] == "inet" || address["local"] == "fe80::abcd" {
            all.push(format!("address {}", comparable(address.clone())));
        }
    }
    for family in ["-4", "-6"] {
        let routes = ip_json(&format!("{family} route show table all"));
        for route in routes.as_array().expect("a list") {
            let text = comparable(route.clone()).to_string();
            if text.contains(&format!("\"{device}\"")) {
                all.push(format!("route {text}"));
            }
        }
    }
    let neighbours = ip_json(&format!("neigh show dev {device} nud permanent"));
    all.extend(neighbours.as_array().expect("a list").iter().map(|one| format!("neighbour {one}")));
    let proxies = ip_json(&format!("neigh show proxy dev {device}"));
    all.extend(proxies.as_array().expect("a list").iter().map(|one| format!("proxy {one}")));
    let mut all: Vec<String> = all
        .iter()
        .map(|line| line.replace(&format!("\"{device}\""), "IT").replace(&format!("\"{device}:"), "\"IT:"))
        .collect();
    all.sort();
    all
}

/// Addresses and routes of a port that is only a port: none.
#[track_caller]
fn has_nothing(device: &str) {
    let lines: Vec<String> = belongings(device);
    assert!(lines.is_empty(), "{device} still has {lines:#?}");
    assert_eq!(
        ip_json(&format!("-6 addr show {device}"))
            .as_array()
            .map(|a| a.iter().filter(|a| a["addr_info"].as_array().is_some_and(|i| !i.is_empty())).count()),
        Some(0)
    );
}

#[test]
fn without_a_word_the_default_routes_interface_is_taken() {
    let Some(lab) = Lab::with_address() else { return };
    let mut guest = lab.shim("--bridge br0").then("arp:10.77.0.1,hold").start();
    assert_eq!(guest.qemu().answer("bridge0"), Some(lab.lan.mac()));
    assert_eq!(lab.a_link("eth0")["master"], "br0");
    assert_eq!(lab.a_link("br0")["address"], lab.a_link("eth0")["address"]);
    assert!(lab.addresses("br0").contains(&"10.77.0.2/24".to_owned()), "{:?}", lab.addresses("br0"));
    assert!(lab.lan.reaches("10.77.0.2"));
    let said = guest.err();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("qemu-kvm: made br0 with the uplink eth0"), "{said}");
    guest.terminate();
    lab.becomes_as_before();
    assert!(lab.lan.reaches("10.77.0.2"));
}

#[test]
fn all_that_the_host_has_on_the_uplink_goes_over_and_comes_back() {
    let Some(lab) = Lab::with_everything() else { return };
    let before = belongings("eth0");
    assert!(before.len() > 20, "{before:#?}");
    let guest = lab.shim("--bridge br0,uplink=eth0").boot();
    has_nothing("eth0");
    let during = belongings("br0");
    let missing: Vec<&String> = before.iter().filter(|line| !during.contains(line)).collect();
    assert!(missing.is_empty(), "not on br0: {missing:#?}\nbut there is: {during:#?}");
    for (setting, value) in
        [("ipv4/conf/br0/rp_filter", "2"), ("ipv4/conf/br0/forwarding", "1"), ("ipv6/conf/br0/accept_ra", "2")]
    {
        let now = fs::read_to_string(format!("/proc/sys/net/{setting}")).expect("read a setting");
        assert_eq!(now.trim(), value, "{setting}");
    }
    guest.terminate();
    lab.becomes_as_before();
    assert_eq!(belongings("eth0"), before);
}

#[test]
fn lifetimes_run_on() {
    let Some(lab) = Lab::with_everything() else { return };
    let valid = |device: &str| -> u64 {
        let addresses = ip_json(&format!("addr show {device}"));
        let all = addresses[0]["addr_info"].as_array().expect("a list").clone();
        let one = all.iter().find(|address| address["local"] == "fd77::3").expect("it is there");
        one["valid_life_time"].as_u64().expect("a number")
    };
    let before = valid("eth0");
    let guest = lab.shim("--bridge br0").boot();
    let during = valid("br0");
    assert!((before - 60..=before).contains(&during), "{before} then {during}");
    guest.terminate();
    lab.waits_until_gone("br0");
    assert!((before - 120..=during).contains(&valid("eth0")));
}

#[test]
fn an_open_connection_of_the_host_lives_on() {
    let Some(lab) = Lab::with_address() else { return };
    let listener = lab.lan.thread(|| TcpListener::bind("10.77.0.1:7777").expect("listen")).join().expect("a listener");
    let echo = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("set a limit");
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() {
            stream.write_all(&byte).expect("answer");
        }
    });
    let mut stream = TcpStream::connect("10.77.0.1:7777").expect("connect");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set a limit");
    let mut ask = |what: u8| {
        let mut answer = [0];
        stream.write_all(&[what]).expect("write");
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer, [what]);
    };
    ask(1);
    let guest = lab.shim("--bridge br0").boot();
    ask(2);
    guest.terminate();
    ask(3);
    lab.becomes_as_before();
    ask(4);
    drop(stream);
    echo.join().expect("the other end");
}

#[test]
fn what_an_admin_changed_meanwhile_is_not_lost() {
    let Some(lab) = Lab::with_address() else { return };
    lab.baseline();
    let guest = lab.shim("--bridge br0").boot();
    lab.ip("addr add 10.77.0.50/24 dev br0");
    lab.ip("route add 10.50.0.0/16 via 10.77.0.1");
    lab.ip("addr add fd77::50/64 dev br0");
    guest.terminate();
    lab.waits_until_gone("br0");
    let addresses = lab.addresses("eth0");
    for wanted in ["10.77.0.2/24", "10.77.0.50/24", "fd77::50/64"] {
        assert!(addresses.contains(&wanted.to_owned()), "{wanted} is not in {addresses:?}");
    }
    let route = ip_json("route show 10.50.0.0/16");
    assert_eq!(route[0]["dev"], "eth0", "{route}");
    lab.ip("route del 10.50.0.0/16");
    lab.ip("addr del 10.77.0.50/24 dev eth0");
    lab.ip("addr del fd77::50/64 dev eth0");
}

#[test]
fn a_bridge_that_is_deleted_by_hand_takes_nothing_along() {
    let Some(lab) = Lab::with_everything() else { return };
    let guest = lab.shim("--bridge br0").boot();
    lab.ip("link del br0");
    lab.becomes_as_before_but_for(&guest);
    guest.terminate();
}

#[test]
fn a_gateway_that_is_lost_by_it_brings_all_back() {
    let Some(lab) = Lab::new() else { return };
    lab.ip("addr add 10.77.0.2/24 dev eth0");
    lab.ip("route add default via 10.77.0.9");
    // The kernel believes that it has heard of it, and nobody is there.
    lab.ip("neigh replace 10.77.0.9 lladdr 02:00:00:00:00:99 nud reachable dev eth0");
    lab.settle();
    let ended = lab.shim("--bridge br0").run().exits_with(125);
    assert!(ended.err.contains("10.77.0.9 answered before"), "{}", ended.err);
    assert!(!ended.qemu_ran());
    lab.becomes_as_before();
}

#[test]
fn a_gateway_that_never_answered_is_no_reason() {
    let Some(lab) = Lab::new() else { return };
    lab.ip("addr add 10.77.0.2/24 dev eth0");
    lab.ip("route add default via 10.77.0.9");
    lab.shim("--bridge br0").run().succeeds();
    lab.becomes_as_before();
}

#[test]
fn ports_of_others_keep_the_bridge_and_what_is_on_it() {
    let Some(lab) = Lab::with_address() else { return };
    let guest = lab.shim("--bridge br0").boot();
    lab.ip("link add veth-c type veth peer name veth-d");
    lab.ip("link set veth-c master br0");
    guest.terminate();
    std::thread::sleep(Duration::from_secs(4));
    assert!(lab.addresses("br0").contains(&"10.77.0.2/24".to_owned()));
    lab.ip("link del veth-c");
    lab.becomes_as_before();
}

#[test]
fn a_bridge_that_is_kept_is_taken_over_by_the_next_guest_that_does_not_keep_it() {
    let Some(lab) = Lab::with_address() else { return };
    lab.baseline();
    lab.shim("--bridge br0,keep=on").run().succeeds();
    std::thread::sleep(Duration::from_secs(3));
    assert!(lab.lan.reaches("10.77.0.2"), "by the bridge");
    let said = lab.kvm_bridge("recover").run().succeeds().out;
    assert!(said.contains("kept"), "{said}");
    assert!(lab.link("br0").is_some());
    lab.shim("--bridge br0,keep=off").run().succeeds();
    lab.becomes_as_before();
}

#[test]
fn the_dry_run_can_be_pasted_and_does_the_same() {
    let Some(lab) = Lab::with_everything() else { return };
    let line = "--bridge br0,ifname=tap-a -name alice -m 64";
    let plan = lab.kvm_bridge(&format!("plan -- {line}")).run().succeeds().out;
    lab.is_untouched();
    let guest = lab.shim(line).boot();
    let ours = belongings("br0");
    guest.terminate();
    lab.becomes_as_before();
    lab.sh(&format!("set -e\n{plan}")).run().succeeds();
    let typed = belongings("br0");
    // By hand an IPv6 address comes with the mark that it was not looked for, and neighbours are learnt again.
    let tidy = |lines: &[String]| -> Vec<String> {
        let lines = lines.iter().filter(|line| !line.starts_with("neighbour") && !line.starts_with("proxy"));
        lines.map(|line| line.replace("\"nodad\":true,", "").replace(",\"nodad\":true", "")).collect()
    };
    assert_eq!(tidy(&typed), tidy(&ours));
    has_nothing("eth0");
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
    assert!(ended.err.contains("line 2: unknown field `colour`"), "{}", ended.err);
}

/// Somebody looks after eth0: it is left alone, unless one says so.
#[track_caller]
fn is_left_to(lab: &Lab, who: &str) {
    let ended = lab.shim("--bridge br0").run().exits_with(125);
    assert!(ended.err.contains(who) && ended.err.contains("force=on"), "{}", ended.err);
    assert_eq!(lab.shim("--bridge br0,uplink=eth0").run().exits_with(125).err, ended.err);
    lab.is_untouched();
    lab.shim("--bridge br0,uplink=eth0,force=on").run().succeeds();
    lab.becomes_as_before();
}

#[test]
fn an_uplink_of_networkmanager_is_left_alone() {
    let Some(lab) = Lab::with_address() else { return };
    let index = lab.a_link("eth0")["ifindex"].clone();
    fs::create_dir_all("/run/NetworkManager/devices").expect("make a folder");
    let file = format!("/run/NetworkManager/devices/{index}");
    fs::write(&file, "[device]\nmanaged=true\nconnection-uuid=6d1c0a3e\n").expect("write a file");
    is_left_to(&lab, "NetworkManager");
    fs::write(&file, "[device]\nmanaged=false\n").expect("write a file");
    lab.shim("--bridge br0").run().succeeds();
}

#[test]
fn an_uplink_of_networkd_is_left_alone() {
    let Some(lab) = Lab::with_address() else { return };
    let index = lab.a_link("eth0")["ifindex"].clone();
    fs::create_dir_all("/run/systemd/netif/links").expect("make a folder");
    let file = format!("/run/systemd/netif/links/{index}");
    fs::write(&file, "ADMIN_STATE=configured\nNETWORK_FILE=/etc/systemd/network/a.network\n").expect("write a file");
    is_left_to(&lab, "systemd-networkd");
    fs::write(&file, "ADMIN_STATE=unmanaged\n").expect("write a file");
    lab.shim("--bridge br0").run().succeeds();
}

#[test]
fn an_uplink_with_a_lease_is_left_alone() {
    let Some(lab) = Lab::new() else { return };
    lab.ip("addr add 10.77.0.2/24 dev eth0 valid_lft 1000 preferred_lft 1000");
    lab.ip("route add default via 10.77.0.1");
    is_left_to(&lab, "a DHCP client looks after it, and its address has an end");
}

#[test]
fn an_uplink_with_a_dhcp_client_is_left_alone() {
    let Some(lab) = Lab::with_address() else { return };
    let client = lab.new_file("bin");
    fs::create_dir(&client).expect("make a folder");
    let client = client.join("dhcp6c");
    // It stays for its time and has the name that it is known by.
    fs::copy(crate::support::command::fake_qemu(), &client).expect("copy a program");
    let running = lab.program(&client).words("-i eth0").then("hold:60000").start();
    wait_for("it to run", 5, || fs::exists(format!("/proc/{}/exe", running.pid())).ok().filter(|there| *there));
    lab.baseline();
    let is_left_to = |running: &Running| {
        let ended = lab.shim("--bridge br0").run().exits_with(125);
        assert!(ended.err.contains(&format!("dhcp6c ({})", running.pid())), "{}", ended.err);
    };
    is_left_to(&running);
    drop(running);
    for words in ["-b", "-ieth0"] {
        let running = lab.program(&client).words(words).then("hold:60000").start();
        wait_for("it to run", 5, || {
            let line = fs::read_to_string(format!("/proc/{}/cmdline", running.pid())).unwrap_or_default();
            line.contains("dhcp6c").then_some(())
        });
        is_left_to(&running);
    }
    let other = lab.program(&client).words("-i lo").then("hold:60000").start();
    lab.shim("--bridge br0").run().succeeds();
    drop(other);
    lab.shim("--bridge br0").run().succeeds();
}

#[test]
fn a_route_that_cannot_be_moved_is_named_before_anything_is_touched() {
    let Some(lab) = Lab::with_address() else { return };
    lab.ip("nexthop add id 7 via 10.77.0.1 dev eth0");
    lab.ip("route add 10.3.0.0/16 nhid 7");
    let ended = lab.shim("--bridge br0").run().exits_with(125);
    assert!(ended.err.contains("10.3.0.0/16"), "{}", ended.err);
    lab.is_untouched();
    lab.ends_here();
}

#[test]
fn two_bridges_do_not_take_the_same_uplink() {
    let Some(lab) = Lab::with_address() else { return };
    let ended = lab.shim("--bridge br0 --bridge br1").run().exits_with(125);
    assert!(ended.err.contains("eth0 is already to be the uplink of br0"), "{}", ended.err);
    lab.is_untouched();
}

#[test]
fn two_thousand_routes_are_moved_too() {
    let Some(lab) = Lab::with_address() else { return };
    let routes: String =
        (0..2000).map(|i| format!("route add 172.{}.{}.0/24 via 10.77.0.1\n", 16 + i / 250, i % 250)).collect();
    let file = lab.new_file("batch");
    fs::write(&file, routes).expect("write the batch");
    lab.ip(&format!("-batch {}", file.display()));
    let guest = lab.shim("--bridge br0").boot();
    let on = |device: &str| ip_json(&format!("route show dev {device}")).as_array().map_or(0, Vec::len);
    assert_eq!((on("eth0"), on("br0")), (0, 2002));
    guest.terminate();
    lab.becomes_as_before();
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
    let mut journal: Value = serde_json::from_str(&journal).expect("it is JSON");
    for index in [lab.a_link("br0")["ifindex"].clone(), lab.a_link("eth0")["ifindex"].clone(), Value::from(4711)] {
        journal["index"] = index.clone();
        fs::create_dir_all(lab.run_dir()).expect("make the folder");
        fs::write(lab.run_dir().join("br0.json"), journal.to_string()).expect("write the journal");
        lab.kvm_bridge("recover").run().succeeds();
        lab.is_untouched();
    }
}

#[test]
fn what_comes_to_the_uplink_while_its_gateway_is_waited_for_goes_along() {
    let Some(lab) = Lab::new() else { return };
    lab.ip("addr add 10.77.0.2/24 dev eth0");
    lab.ip("route add default via 10.77.0.99");
    lab.baseline();
    let mut guest = lab.shim("--bridge br0").then("hold").start();
    std::thread::sleep(Duration::from_millis(500));
    assert!(lab.link("br0").is_none(), "it still waits for a gateway that is silent");
    lab.ip("addr add 10.77.0.55/24 dev eth0");
    lab.ip("route add 10.99.0.0/16 via 10.77.0.1");
    guest.qemu();
    has_nothing("eth0");
    assert!(lab.addresses("br0").contains(&"10.77.0.55/24".to_owned()), "{:?}", lab.addresses("br0"));
    guest.terminate();
    lab.waits_until_gone("br0");
    assert_eq!(ip_json("route show 10.99.0.0/16")[0]["dev"], "eth0");
    lab.ip("route del 10.99.0.0/16");
    lab.ip("addr del 10.77.0.55/24 dev eth0");
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

#[test]
fn a_journal_of_another_life_of_the_machine_is_only_forgotten() {
    let Some(lab) = Lab::with_address() else { return };
    lab.baseline();
    let guest = lab.shim("--bridge br0").boot();
    let journal = fs::read_to_string(lab.run_dir().join("br0.json")).expect("read the journal");
    guest.terminate();
    lab.becomes_as_before();
    let mut journal: Value = serde_json::from_str(&journal).expect("it is JSON");
    journal["boot"] = "00000000-0000-0000-0000-000000000000".into();
    lab.ip("addr flush dev eth0");
    lab.baseline();
    fs::create_dir_all(lab.run_dir()).expect("make the folder");
    fs::write(lab.run_dir().join("br0.json"), journal.to_string()).expect("write the journal");
    lab.kvm_bridge("recover").run().succeeds();
    lab.is_untouched();
}

#[test]
fn an_uplink_that_was_renamed_is_given_back_all_the_same() {
    let Some(lab) = Lab::with_everything() else { return };
    lab.baseline();
    let guest = lab.shim("--bridge br0").boot();
    lab.ip("link set eth0 name wan0");
    guest.terminate();
    lab.waits_until_gone("br0");
    assert!(lab.addresses("wan0").contains(&"fd77::2/64".to_owned()), "{:?}", lab.addresses("wan0"));
    lab.ip("link set wan0 down");
    lab.ip("link set wan0 name eth0");
    lab.ends_here();
}

#[test]
fn an_uplink_that_is_down_is_given_back_when_it_is_up() {
    let Some(lab) = Lab::with_address() else { return };
    lab.baseline();
    let guest = lab.shim("--bridge br0").boot();
    lab.ip("link set eth0 down");
    guest.terminate();
    std::thread::sleep(Duration::from_secs(13));
    assert!(lab.addresses("br0").contains(&"10.77.0.2/24".to_owned()), "the host stays where it has all");
    lab.ip("link set eth0 up");
    lab.becomes_as_before();
}

#[test]
fn a_bridge_that_is_set_down_by_hand_costs_nothing() {
    let Some(lab) = Lab::with_everything() else { return };
    lab.baseline();
    let guest = lab.shim("--bridge br0").boot();
    lab.ip("link set br0 down");
    guest.terminate();
    lab.waits_until_gone("br0");
    assert!(lab.lan.reaches("10.77.0.2"));
    let addresses = lab.addresses("eth0");
    assert!(addresses.contains(&"fd77::2/64".to_owned()), "{addresses:?}");
    assert_eq!(ip_json("route show default")[0]["gateway"], "10.77.0.1");
    lab.ends_here();
}

#[test]
fn routes_to_the_same_place_keep_their_order() {
    let Some(lab) = Lab::with_address() else { return };
    lab.ip("route append 10.64.0.0/16 via 10.77.0.1");
    lab.ip("route append 10.64.0.0/16 dev eth0");
    lab.shim("--bridge br0").run().succeeds();
    lab.becomes_as_before();
    assert_eq!(ip_json("route get 10.64.1.1")[0]["gateway"], "10.77.0.1");
}

#[test]
fn a_route_over_two_uplinks_follows_both() {
    let Some(lab) = Lab::with_address() else { return };
    for command in [
        "link add eth1 type veth peer name lan1",
        "link set lan1 up",
        "link set eth1 up",
        "addr add 10.78.0.2/24 dev eth1",
        "route add 10.7.0.0/16 nexthop via 10.77.0.1 dev eth0 nexthop via 10.78.0.1 dev eth1",
    ] {
        lab.ip(command);
    }
    lab.settle();
    let guest = lab.shim("--bridge br0,uplink=eth0 --bridge br1,uplink=eth1").boot();
    let hops = ip_json("route show 10.7.0.0/16")[0]["nexthops"].clone();
    assert_eq!((&hops[0]["dev"], &hops[1]["dev"]), (&"br0".into(), &"br1".into()));
    guest.terminate();
    lab.waits_until_gone("br0");
    lab.waits_until_gone("br1");
    let hops = ip_json("route show 10.7.0.0/16")[0]["nexthops"].clone();
    assert_eq!((&hops[0]["dev"], &hops[1]["dev"]), (&"eth0".into(), &"eth1".into()));
    // Of two links IPv6 lists last the one that came to it last.
    lab.ends_here();
}

#[test]
fn force_is_for_an_uplink_that_is_named() {
    let Some(lab) = Lab::new() else { return };
    lab.ip("addr add 10.77.0.2/24 dev eth0 valid_lft 1000 preferred_lft 1000");
    lab.ip("route add default via 10.77.0.1");
    lab.shim("--bridge br0,force=on").run().exits_with(125);
    lab.is_untouched();
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
