//! `kvm-bridge ip`: the addresses of a guest.

use crate::guests::{boot_linux, mac_of};
use crate::support::{Lab, frames, have, wait_for};
use serde_json::Value;

#[test]
fn what_a_guest_gets_by_dhcp_is_learnt_on_its_port() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    // It is waited for before it is there. This host has no address of its own on that network, and so no neighbours.
    let waiting = lab.kvm_bridge("ip alice --wait 90").start();
    let Some(guest) = boot_linux(&lab, "br0,vm=alice") else { return };
    let known = waiting.end_within(95).succeeds();
    let address = lab.lan.lease_of(&mac_of(&guest), 10);
    assert_eq!(known.out.lines().next(), Some(address.as_str()), "{}{}", known.out, known.err);
    assert_eq!(known.err, "", "a progress line is for terminals");
    // On a bridge that is not ours there is nobody who listened but the command itself, which has written it down.
    let kept = lab.kvm_bridge("ip alice --json").run().succeeds().out;
    let found: Value = serde_json::from_str(&kept).expect("JSON");
    assert_eq!(
        found["guests"][0]["addresses"],
        serde_json::json!([{ "address": address, "source": "dhcp" }]),
        "{found:#}"
    );
    let nobodys = lab.kvm_bridge("ip alice").through("setpriv --reuid nobody --clear-groups --inh-caps=-all");
    assert_eq!(nobodys.run().succeeds().out, format!("{address}\n"));
    guest.kill();
    lab.waits_until_gone("kvb0");
    // The next run of it is another guest.
    let again = lab.shim("--bridge br0,vm=alice").boot();
    lab.kvm_bridge("ip alice").run().exits_with(1);
    again.kill();
    lab.kvm_bridge("recover").run().succeeds();
    lab.ends_here();
}

#[test]
fn what_the_reaper_saw_is_known_without_watching() {
    let Some(lab) = Lab::with_address() else { return };
    let Some(guest) = boot_linux(&lab, "br0,vm=alice") else { return };
    let address = lab.lan.lease_of(&mac_of(&guest), 90);
    let shown = wait_for("the lease", 10, || {
        let shown: Value =
            serde_json::from_str(&lab.kvm_bridge("status br0 --json").run().succeeds().out).expect("JSON");
        let ports = shown["bridges"][0]["ports"].as_array().expect("ports").clone();
        ports.into_iter().find(|port| port["dhcp_leases"].as_array().is_some_and(|leases| !leases.is_empty()))
    });
    let lease = &shown["dhcp_leases"][0];
    assert_eq!((&lease["address"], &lease["mac"]), (&Value::from(address.clone()), &shown["mac"]), "{shown:#}");
    assert!(lease["seconds_left"].as_u64().is_some_and(|left| (3500..=3600).contains(&left)), "{shown:#}");
    // The host has never talked to it.
    assert!(lab.kvm_bridge("ip alice").run().succeeds().out.lines().any(|line| line == address));
    assert!(lab.kvm_bridge("status br0").run().succeeds().out.contains(&address));
    guest.kill();
    lab.becomes_as_before();
}

#[test]
fn a_guest_that_answers_in_a_servers_name_keeps_nobody_busy() {
    let Some(lab) = Lab::with_address() else { return };
    let mut guest = lab.shim("--bridge br0 -name alice").boot();
    let mac = guest.qemu().macs()[0].clone();
    let bytes: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hex")).collect();
    let client: [u8; 6] = bytes.try_into().expect("a MAC");
    // Another guest answers alice in the name of a server, as often as it can, and without having been asked.
    let answer = frames::dhcp_answer(client, [10, 66, 6, 6]);
    let mut liar = lab.shim("--bridge br0 -name liar").then(&format!("flood:{answer},hold")).start();
    liar.qemu();
    let ours = wait_for("the reaper", 5, || lab.reapers().pop());
    let sent = || lab.ip_json("-s link show dev kvb1")[0]["stats64"]["rx"]["packets"].as_u64().expect("a number");
    let (before, first) = (ours.ticks(), sent());
    wait_for("20,000 frames", 60, || (sent() > first + 20_000).then_some(()));
    let ticks = ours.ticks() - before;
    assert!(ticks < 60, "the reaper was busy for {ticks} hundredths of a second");
    let shown = lab.kvm_bridge("ip alice").run().exits_with(1);
    assert!(!shown.out.contains("10.66.6.6"), "{}", shown.out);
    drop(liar);
    guest.kill();
}

#[test]
fn a_guest_that_uses_arp_and_one_that_uses_nd_are_heard() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let mut guest = lab.shim("--bridge br0 -name bob").then("answer:10.77.0.50,hold").start();
    let mac = guest.qemu().macs()[0].clone();
    let waiting = lab.kvm_bridge("ip bob --wait 20 --json").start();
    waiting.waits();
    let _ = lab.lan.command("ping -c 1 -w 2 10.77.0.50").output();
    let found: Value = serde_json::from_str(&waiting.end_within(25).succeeds().out).expect("JSON");
    assert_eq!(
        found,
        serde_json::json!({ "guests": [{ "bridge": "br0", "port": "kvb0", "vm": "bob", "mac": mac,
            "addresses": [{ "address": "10.77.0.50", "source": "arp" }] }] })
    );
    drop(guest);
    let deeds = format!("send:{},hold", frames::is_free("fd77::99"));
    let mut guest = lab.shim(&format!("--bridge br0,mac={} -name carol", frames::MAC)).then(&deeds).start();
    guest.qemu();
    // It may get an IPv4 address yet.
    let waiting = lab.kvm_bridge("ip carol --wait 4").start();
    assert_eq!(waiting.end_within(10).succeeds().out, "fd77::99\n");
    let waiting = lab.kvm_bridge("ip carol --wait 4 --json").start();
    let found: Value = serde_json::from_str(&waiting.end_within(10).succeeds().out).expect("JSON");
    let expected = serde_json::json!([{ "address": "fd77::99", "source": "nd" }]);
    assert_eq!(found["guests"][0]["addresses"], expected, "{found:#}");
}

#[test]
fn a_real_guest_with_ipv6_is_heard_by_neighbour_discovery() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let waiting = lab.kvm_bridge("ip alice --wait 90 --json").start();
    let Some(guest) = boot_linux(&lab, "br0,vm=alice") else { return };
    let found: Value = serde_json::from_str(&waiting.end_within(95).succeeds().out).expect("JSON");
    let mac = mac_of(&guest);
    let byte = |at: usize| u8::from_str_radix(&mac[3 * at..3 * at + 2], 16).expect("a MAC");
    // What a kernel makes of its card's address (RFC 4291, A); it asks for doubles of it as soon as the card is up.
    let bytes = [byte(0) ^ 2, byte(1), byte(2), 0xff, 0xfe, byte(3), byte(4), byte(5)];
    let tail: Vec<u16> = bytes.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
    let own = std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, tail[0], tail[1], tail[2], tail[3]).to_string();
    let addresses = found["guests"][0]["addresses"].as_array().expect("a list");
    let sources: Vec<(&str, &str)> =
        addresses.iter().filter_map(|one| Some((one["address"].as_str()?, one["source"].as_str()?))).collect();
    assert!(sources.contains(&(own.as_str(), "nd")), "{own} is not in {sources:?}");
    assert!(sources.iter().any(|(_, source)| *source == "dhcp"), "{sources:?}");
    guest.kill();
    lab.kvm_bridge("recover").run().succeeds();
}

#[test]
fn what_the_host_knows_already_is_not_waited_for() {
    let Some(lab) = Lab::with_address() else { return };
    let mut guest = lab.shim("--bridge br0 -name alice").boot();
    let mac = guest.qemu().macs()[0].clone();
    for neighbour in ["fe80::77", "10.77.0.100", "fd77::100"] {
        lab.ip(&format!("neigh add {neighbour} lladdr {mac} dev eth0"));
    }
    let expected = "10.77.0.100\nfd77::100\nfe80::77\n";
    for words in [
        "ip alice",
        "ip name:alice",
        "ip kvb0",
        &format!("ip {mac}"),
        &format!("ip {}", guest.pid()),
        "ip alice --wait 60",
    ] {
        assert_eq!(lab.kvm_bridge(words).run().succeeds().out, expected, "{words}");
    }
    let as_nobody = lab.kvm_bridge("ip alice").through("setpriv --reuid nobody --clear-groups --inh-caps=-all");
    assert_eq!(as_nobody.run().succeeds().out, expected);
}

#[test]
fn what_an_earlier_run_had_is_not_taken_for_an_address() {
    let Some(lab) = Lab::with_address() else { return };
    let mut guest = lab.shim("--bridge br0 -name alice").boot();
    let mac = guest.qemu().macs()[0].clone();
    // The host knew it before the guest was started; it can't have asked this run.
    lab.ip(&format!("neigh replace 10.77.0.100 lladdr {mac} dev br0 nud stale"));
    let unknown = lab.kvm_bridge("ip alice").run().exits_with(1);
    assert!(unknown.err.contains("before it was started now it had 10.77.0.100"), "{}", unknown.err);
    lab.kvm_bridge("ip alice --wait 1").run().exits_with(1);
    assert!(!lab.kvm_bridge("status").run().succeeds().out.contains("10.77.0.100"));
}

#[test]
fn an_ipv4_address_of_every_card_is_waited_for() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let first = lab.shim(&format!("--bridge br0,mac={} -name bob", frames::MAC));
    let mut first = first.then(&format!("send:{},hold", frames::is_free("fd77::99"))).start();
    first.qemu();
    let mut second = lab.shim("--bridge br0,vm=bob -name bob").then("answer:10.77.0.50,hold").start();
    second.qemu();
    let waiting = lab.kvm_bridge("ip bob --wait 4").start();
    waiting.waits();
    let _ = lab.lan.command("ping -c 1 -w 1 10.77.0.50").output();
    // It has heard that, and the first card has none yet.
    waiting.waits();
    assert_eq!(waiting.end_within(10).succeeds().out, "10.77.0.50\nfd77::99\n");
}

#[test]
fn a_user_waits_for_what_the_host_learns() {
    let Some(lab) = Lab::with_address() else { return };
    let mut guest = lab.shim("--bridge br0 -name alice").boot();
    let mac = guest.qemu().macs()[0].clone();
    let waiting =
        lab.kvm_bridge("ip alice --wait 20").through("setpriv --reuid nobody --clear-groups --inh-caps=-all").start();
    wait_for("it to say so", 10, || waiting.err().contains("by root only").then_some(()));
    lab.ip(&format!("neigh add 10.77.0.100 lladdr {mac} dev eth0"));
    assert_eq!(waiting.end_within(25).succeeds().out, "10.77.0.100\n");
}

#[test]
fn waiting_in_vain_ends_and_shows_how_far_it_is_on_a_terminal() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    if !have("script") {
        return;
    }
    let guest = lab.shim("--bridge br0 -name alice").boot();
    let ended = lab.kvm_bridge("ip alice --wait 1").run().exits_with(1);
    assert_eq!(ended.err, "kvm-bridge: no address of alice is known\n  to see why: kvm-bridge doctor br0\n");
    let command = format!("{} ip alice --wait 2", env!("CARGO_BIN_EXE_kvm-bridge"));
    let shown = lab.program("script").words("-q -e -c").arg(command).arg("/dev/null").run();
    assert!(shown.out.contains("\r\x1b[Kwaiting for alice: 1 s, no DHCP"), "{:?}", shown.out);
    let waiting = lab.kvm_bridge("ip alice --wait 60").start();
    waiting.waits();
    guest.kill();
    let ended = waiting.end_within(10).exits_with(125);
    assert!(ended.err.contains("alice ended while it was waited for"), "{}", ended.err);
    lab.kvm_bridge("ip alice --wait 1").run().exits_with(125);
    let ended = lab.kvm_bridge("ip alice").run().exits_with(125);
    assert!(ended.err.contains("there is no guest alice") && ended.err.contains("kvm-bridge status"), "{}", ended.err);
}
