//! docs/no-address.md shows what `doctor` says of real faults: each sample is compared with a run after its fault was made.
//!
//! Other than MAC addresses, leased addresses and numbers of frames nothing may differ.

use crate::docs::{Block, blocks};
use crate::doctor::{second_server, without_driver};
use crate::guests::boot_linux;
use crate::support::files::path;
use crate::support::{Lab, frames, have, wait_for};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

const SAMPLES: [&str; 12] = [
    "no frame",
    "no offer",
    "firewall",
    "stp",
    "none of dhcp",
    "no request",
    "no ack",
    "two servers",
    "asked",
    "ip",
    "announced",
    "well",
];

fn page() -> Vec<Block> {
    blocks(&fs::read_to_string(path("docs/no-address.md")).expect("read the page"))
}

/// A sample of the page.
#[track_caller]
fn sample(name: &str) -> String {
    let mark = format!("output: {name}");
    page().into_iter().find(|block| block.mark == mark).unwrap_or_else(|| panic!("there is no '{mark}'")).text
}

/// What differs from run to run is made the same: MAC addresses, leased addresses, the number of frames, the order of
/// servers.
fn plain(line: &str) -> String {
    let is_mac = |word: &str| word.len() == 17 && word.split(':').all(|part| part.len() == 2);
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let words = line.trim_end().split(' ').map(|word| {
        let core = word.trim_matches(['(', ')', ',', ';', ':']);
        let address = core.trim_end_matches("/24");
        match address.strip_prefix("10.77.0.") {
            Some(last) if is_number(last) && last.len() == 3 => word.replace(address, "ADDRESS"),
            _ if is_mac(core) => word.replace(core, "MAC"),
            _ => word.to_owned(),
        }
    });
    let mut words: Vec<String> = words.collect();
    let at = words.iter().position(|word| word.starts_with("frame")).filter(|_| line.contains("it has sent"));
    if let Some(count) = at.and_then(|at| words.get_mut(at - 1)).filter(|count| is_number(count)) {
        "N".clone_into(count);
    }
    if line.contains("servers answer") || line.contains("fix: bridge fdb show") {
        words.iter_mut().for_each(|word| *word = word.trim_end_matches(';').to_owned());
        words.sort();
    }
    words.join(" ")
}

/// The checks of an output: each is a line that begins with its verdict, and those that are indented below it.
fn checks(output: &str) -> Vec<Vec<String>> {
    let mut checks: Vec<Vec<String>> = Vec::new();
    for line in output.lines().filter(|line| !line.trim().is_empty()) {
        match checks.last_mut() {
            Some(check) if line.starts_with("         ") => check.push(plain(line)),
            _ => checks.push(vec![plain(line)]),
        }
    }
    checks
}

/// All that a sample shows has to be in this output.
#[track_caller]
fn shows(name: &str, output: &str) {
    let (said, found) = (checks(&sample(name)), checks(output));
    assert!(!said.is_empty());
    for check in &said {
        assert!(found.contains(check), "'{name}' shows\n{}\nwhich is not in\n{output}", check.join("\n"));
    }
}

fn doctor(lab: &Lab, words: &str) -> String {
    lab.kvm_bridge(&format!("doctor --verbose {words}")).start().end_within(90).out
}

#[test]
fn every_sample_of_the_page_is_compared() {
    let marks = page().into_iter().map(|block| block.mark).filter(|mark| !mark.starts_with("not run: "));
    let marks: Vec<String> = marks.collect();
    let known: BTreeSet<String> = SAMPLES.iter().map(|name| format!("output: {name}")).collect();
    assert_eq!(marks.len(), known.len(), "{marks:?}");
    assert_eq!(marks.into_iter().collect::<BTreeSet<_>>(), known);
    let own = fs::read_to_string(path("tests/no_address.rs")).expect("read this file");
    for name in SAMPLES {
        assert!(own.contains(&format!("shows(\"{name}\"")), "nobody makes '{name}'");
    }
}

#[test]
fn addresses_and_counts_of_a_sample_may_differ_and_nothing_else() {
    assert_eq!(plain("from 10.77.0.139/24 (b6:db:ee:ce:9a:65)"), "from ADDRESS/24 (MAC)");
    assert_eq!(plain("it has sent 13 frames, and 2 in 3 s"), "it has sent N frames, and 2 in 3 s");
    assert_ne!(plain("OFFER in 3 s"), plain("OFFER in 4 s"));
    assert_ne!(plain("10.77.0.1"), plain("10.77.0.2"));
    assert_eq!(checks("ok   a\n         b\nok   c\n").len(), 2);
}

#[test]
fn a_guest_without_driver() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let Some(guest) = without_driver(&lab, "alice") else { return };
    shows("no frame", &doctor(&lab, "br0 --watch 3"));
    drop(guest);
}

#[test]
fn a_network_without_server_and_a_firewall() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let words = format!("--bridge br0,mac={} -name alice", frames::MAC);
    let mut guest = lab.shim(&words).then(&format!("send:{},hold", frames::dhcp(1, &[]))).start();
    guest.qemu();
    shows("no offer", &doctor(&lab, "br0 --watch 3"));
    guest.kill();
    lab.ip("link set dev br0 type bridge stp_state 1 forward_delay 1500");
    shows("stp", &doctor(&lab, "br0 --quick"));
    if have("iptables-nft") && Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists() {
        // As Docker sets it up.
        for rule in
            ["-P FORWARD DROP", "-N DOCKER", "-A FORWARD -o docker0 -j DOCKER", "-A FORWARD -i docker0 -j ACCEPT"]
        {
            let status = Command::new("iptables-nft").args(rule.split(' ')).status().expect("run iptables");
            assert!(status.success(), "{rule}");
        }
        shows("firewall", &doctor(&lab, "br0 --quick"));
    } else {
        crate::support::lacks("this kernel has no br_netfilter");
    }
    lab.ends_here();
}

#[test]
fn a_guest_that_gets_only_so_far() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    if !lab.lan.serve_dhcp() {
        return;
    }
    let start = |deeds: &str| {
        let mut guest = lab.shim(&format!("--bridge br0,mac={} -name carol", frames::MAC)).then(deeds).start();
        guest.qemu();
        guest
    };
    let end = |guest: crate::support::command::Running| {
        guest.kill();
        lab.waits_until_gone("kvb0");
    };
    let guest = start(&format!("send:{},hold", frames::is_free("fe80::99")));
    shows("none of dhcp", &doctor(&lab, "br0 --watch 3"));
    end(guest);

    let guest = start(&format!("send:{},hold", frames::dhcp(1, &[])));
    shows("no request", &doctor(&lab, "br0 --watch 3"));
    end(guest);

    // An address of another network is refused; and then there is nobody any more to refuse it.
    let guest = start(&format!("send:{},hold", frames::dhcp(3, &[50, 4, 10, 99, 0, 7])));
    let refused = doctor(&lab, "br0 --watch 3");
    lab.lan.close();
    shows("no ack", &(refused + &doctor(&lab, "br0 --watch 3")));
    end(guest);
}

#[test]
fn two_servers() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    if !lab.lan.serve_dhcp() {
        return;
    }
    let mut other = second_server(&lab);
    let output = wait_for("both to answer", 30, || {
        let output = doctor(&lab, "br0 --watch 0");
        output.contains("2 servers answer").then_some(output)
    });
    let _ = (other.kill(), other.wait());
    lab.ends_here();
    shows("two servers", &output);
}

#[test]
fn a_guest_that_is_well() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let Some(guest) = boot_linux(&lab, "br0,announce=on,vm=alice") else { return };
    wait_for("the guest's TAP", 10, || lab.ports("br0").contains(&"kvb0".to_owned()).then_some(()));
    shows("well", &doctor(&lab, "br0 --watch 60"));
    wait_for("the announcement", 10, || guest.err().contains(" for 1 h").then_some(()));
    shows("announced", &guest.err());
    // The host speaks to it now for the first time.
    lab.ip("addr add 10.77.0.2/24 dev br0");
    let command = "kvm-bridge ip alice --wait 60";
    let found = lab.kvm_bridge(command.strip_prefix("kvm-bridge ").expect("ours")).start().end_within(70).succeeds();
    shows("ip", &format!("# {command}\n{}", found.out.lines().next().unwrap_or_default()));
    shows("asked", &doctor(&lab, "br0 --watch 60"));
    guest.kill();
    lab.ends_here();
}
