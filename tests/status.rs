//! `kvm-bridge status`: what is on the bridges, for people and for programs.

use crate::support::{Lab, have, wait_for};
use serde_json::Value;
use std::fs;

fn json(lab: &Lab, words: &str) -> Value {
    let ended = lab.kvm_bridge(words).run().succeeds();
    serde_json::from_str(&ended.out).expect("JSON")
}

/// The output of a command at a terminal.
fn at_a_terminal(lab: &Lab, words: &str, environment: &str) -> String {
    let command = format!("env TERM=xterm {environment} {} {words}", env!("CARGO_BIN_EXE_kvm-bridge"));
    lab.program("script").words("-q -e -c").arg(command).arg("/dev/null").run().out
}

#[test]
fn status_tells_who_is_on_the_bridge() {
    let Some(lab) = Lab::with_address() else { return };
    let mut alice = lab.shim("--bridge br0 -name alice").then("arp:10.77.0.1,hold").start();
    let mac = alice.qemu().macs()[0].clone();
    let second = lab.shim("--bridge br0 -name alice").boot();
    lab.ip(&format!("neigh add 10.77.0.100 lladdr {mac} dev eth0"));
    lab.ip("link add name veth0 type veth peer name veth1");
    lab.ip("link set dev veth0 master br0 up");
    lab.ip("link add name other type bridge");

    let text = lab.kvm_bridge("status br0").run().succeeds().out;
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with("br0  created by kvm-bridge, removed after its last guest, STP off, MTU 1500"),
        "{text}"
    );
    let cells =
        |line: &str| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect();
    let cells: Vec<Vec<String>> = lines[1..].iter().map(|line| cells(line)).collect();
    let header = ["PORT", "VM", "STATE", "ADDRESS", "MAC", "USER", "PROCESS", "SLOT", "SINCE", "RECEIVED", "SENT"]
        .map(str::to_owned);
    assert_eq!(cells[0], header, "{text}");
    assert_eq!(cells[1][..3], ["kvbp-br0", "-", "shared uplink eth0, carrier"], "{text}");
    let process = format!("fake-qemu {}", alice.pid());
    assert_eq!(cells[2][..8], ["kvb0", "alice", "in use", "10.77.0.100", &mac, "root", &process, "0"], "{text}");
    assert_eq!(cells[2][9], "60 B", "{text}");
    let process = format!("fake-qemu {}", second.pid());
    assert_eq!((&cells[3][1], &cells[3][6], &cells[3][7]), (&"alice".into(), &process, &"1".into()), "{text}");
    assert_eq!(cells[4][..3], ["veth0", "-", "foreign veth, no carrier"], "{text}");
    assert!(lines[6].starts_with("  eth0: from the network ") && lines.len() == 7, "{text}");
    assert!(!text.contains('\x1b') && !text.contains('├'), "{text}");

    let found = json(&lab, "status --json");
    let names: Vec<&str> =
        found["bridges"].as_array().expect("a list").iter().filter_map(|b| b["name"].as_str()).collect();
    assert_eq!(names, ["br0", "other"]);
    let bridge = &found["bridges"][0];
    assert_eq!((&bridge["managed"], &bridge["persistent"]), (&true.into(), &false.into()));
    assert_eq!((&bridge["uplink"], &bridge["uplink_carrier"]), (&"eth0".into(), &true.into()));
    let port = &bridge["ports"][1];
    assert_eq!((&port["vm"], &port["pid"]), (&"alice".into(), &alice.pid().into()));
    assert_eq!((&port["mac"], &port["slot"]), (&mac.into(), &0.into()));
    assert_eq!((&port["addresses"], &port["user"]), (&serde_json::json!(["10.77.0.100"]), &"root".into()));
    assert!(port["since"].as_u64().is_some_and(|since| since > 1_600_000_000), "{port}");
    assert_eq!(bridge["ports"][3]["role"], "foreign");
    assert_eq!(found["bridges"][1]["managed"], false);
    lab.ip("link del veth0");
    lab.ip("link del other");
}

#[test]
fn trees_and_colours_are_for_terminals() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    if !have("script") {
        return;
    }
    let _guest = lab.shim("--bridge br0 -name alice").boot();
    let text = at_a_terminal(&lab, "status", "");
    assert!(text.contains("├─ ") && text.contains("└─ ") && text.contains("\x1b[1mbr0\x1b[m"), "{text}");
    let text = at_a_terminal(&lab, "status", "NO_COLOR=1");
    assert!(text.contains("└─ ") && !text.contains('\x1b'), "{text}");
    let text = at_a_terminal(&lab, "status", "TERM=dumb");
    assert!(text.contains("└─ ") && !text.contains('\x1b'), "{text}");
    assert!(!at_a_terminal(&lab, "status --json", "").contains('\x1b'));
}

#[test]
fn ports_are_in_the_order_of_their_vms_and_a_narrow_terminal_is_enough() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    if !have("script") {
        return;
    }
    let _guests = ["zoe", "alice", "mia"].map(|name| lab.shim(&format!("--bridge br0 -name {name}")).boot());
    let found = json(&lab, "status br0 --json");
    let ports = found["bridges"][0]["ports"].as_array().expect("a list").clone();
    let vms: Vec<&str> = ports.iter().filter_map(|port| port["vm"].as_str()).collect();
    assert_eq!(vms, ["alice", "mia", "zoe"]);
    for width in [60, 40] {
        let text = at_a_width(&lab, "status br0", width);
        assert!(text.lines().any(|line| line.starts_with("├─ kvb")), "{text}");
    }
}

/// What is told at a terminal of this width, none of whose lines is longer.
#[track_caller]
fn at_a_width(lab: &Lab, words: &str, width: usize) -> String {
    let program = env!("CARGO_BIN_EXE_kvm-bridge");
    let command = format!("stty cols {width}; env TERM=xterm NO_COLOR=1 {program} {words}");
    let text = lab.program("script").words("-q -e -c").arg(command).arg("/dev/null").run().out.replace('\r', "");
    assert!(text.lines().count() > 3, "{text}");
    for line in text.lines() {
        assert!(line.chars().count() <= width, "{width}: {line}\n{text}");
    }
    text
}

#[test]
fn no_line_is_wider_than_the_terminal_whatever_is_on_it() {
    let Some(lab) = Lab::with_address() else { return };
    if !have("script") {
        return;
    }
    let mut guest = lab.shim("--bridge br0 -name").arg("long".repeat(40)).then("arp:10.77.0.1,hold").start();
    let mac = guest.qemu().macs()[0].clone();
    lab.ip(&format!("neigh add 10.77.0.100 lladdr {mac} dev eth0"));
    lab.ip("link add name a-long-name-o-1 type bridge stp_state 1");
    lab.ip("addr add 2001:db8:1111:2222:3333:4444:5555:6666/64 dev a-long-name-o-1");
    for width in [80, 60, 40, 20] {
        let text = at_a_width(&lab, "status", width);
        let whole: String = text.chars().filter(|c| !c.is_whitespace() && !"├└│─".contains(*c)).collect();
        for part in ["a-long-name-o-1", "fromthenetwork", "MTU1500"] {
            assert!(whole.contains(part), "{width}: {text}");
        }
        // Of a name the first 63 letters are shown.
        assert_eq!(whole.matches("long").count(), 16, "{width}: {text}");
    }
    // What keeps a bridge from being well, and what leads to the network, is told as narrowly.
    lab.reaper_of("br0").kill();
    at_a_width(&lab, "status", 40);
    lab.ip("link del a-long-name-o-1");
    drop(guest);
    lab.kvm_bridge("recover").run();
    at_a_width(&lab, "status", 40);
}

#[test]
fn a_user_sees_what_the_kernel_lets_one_see() {
    let Some(lab) = Lab::with_address() else { return };
    if !have("setpriv") {
        return;
    }
    let mut guest = lab.shim("--bridge br0 -name alice").boot();
    let mac = guest.qemu().macs()[0].clone();
    let ended =
        lab.kvm_bridge("status").through("setpriv --reuid nobody --clear-groups --inh-caps=-all").run().succeeds();
    assert!(ended.out.contains("br0  created by kvm-bridge, removed after its last guest, STP off"), "{}", ended.out);
    let line = ended.out.lines().find(|line| line.contains("kvb0 ")).expect("its line");
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[..6], ["kvb0", "alice", "in", "use", &mac, "0"], "{}", ended.out);
    assert_eq!(ended.err, "kvm-bridge: the processes of other users' guests are seen by root only\n");
}

#[test]
fn what_keeps_guests_off_the_network_is_shown() {
    let Some(lab) = Lab::new() else { return };
    lab.ip("link add name br0 type bridge stp_state 1 forward_delay 1500");
    lab.ip("link set dev eth0 master br0");
    lab.ip("link set dev br0 up");
    lab.lan.run("ip link set dev lan0 down");
    wait_for("eth0 to lose its carrier", 5, || lab.kvm_bridge("status").run().out.contains("no carrier").then_some(()));
    let text = lab.kvm_bridge("status").run().succeeds().out;
    assert!(text.contains("br0  found, STP on, delay 15 s, MTU 1500"), "{text}");
    lab.ip("link set dev br0 down");
    assert!(lab.kvm_bridge("status").run().succeeds().out.contains("br0  found, down, "));
    lab.ends_here();
}

#[test]
fn why_a_bridge_could_not_be_taken_back_is_shown() {
    let Some(lab) = Lab::with_address() else { return };
    lab.kvm_bridge("up br0").run().succeeds();
    // Its reaper would see that all is well.
    lab.reaper_of("br0").kill();
    fs::write(
        lab.run_dir().join("br0.error"),
        "br0 could not be taken back: Device or resource busy\n  To try again: kvm-bridge recover\n",
    )
    .expect("write a file");
    let text = lab.kvm_bridge("status").run().exits_with(1).out;
    assert!(
        text.contains("\n  br0 could not be taken back: Device or resource busy\n  To try again: kvm-bridge recover\n"),
        "{text}"
    );
    lab.kvm_bridge("down br0").run().succeeds();
    lab.becomes_as_before();
}

#[test]
fn no_bridge_is_an_answer_and_a_missing_one_an_error() {
    let Some(lab) = Lab::new() else { return };
    assert_eq!(lab.kvm_bridge("status").run().succeeds().out, "There is no bridge.\n");
    assert_eq!(json(&lab, "status --json"), serde_json::json!({ "bridges": [], "uplinks": [] }));
    lab.ip("link add other type bridge");
    lab.ip("link property add dev other altname another");
    let refused = lab.kvm_bridge("status another").run().exits_with(125);
    assert!(refused.err.contains("another is another name of other"), "{}", refused.err);
    lab.ip("link del other");
    let refused = lab.kvm_bridge("status br7").run().exits_with(125);
    assert!(refused.err.starts_with("kvm-bridge: there is no bridge br7\n"), "{}", refused.err);
    assert!(refused.err.contains("kvm-bridge up br7"), "{}", refused.err);
}

#[test]
fn a_guest_whose_tap_a_helper_made_is_no_foreigner() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    if !have("qemu-system-x86_64") {
        return;
    }
    let words = "-accel tcg -display none -S -name carol -netdev tap,id=n,ifname=tap7,script=no,downscript=no \
                 -device e1000,netdev=n,mac=02:00:00:00:00:07";
    let guest = lab.program("qemu-system-x86_64").words(words).start();
    wait_for("its TAP", 20, || lab.link("tap7").map(|_| ()));
    lab.ip("link set dev tap7 master br0 up");
    let text = lab.kvm_bridge("status br0").run().succeeds().out;
    let line = text.lines().find(|line| line.contains("tap7")).expect("its line");
    assert!(line.contains("tap7  carol  in use ") && line.contains("02:00:00:00:00:07"), "{text}");
    guest.kill();
}

#[test]
fn a_name_commands_no_terminal() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let guest = lab.shim("--bridge br0 -name").arg("ev\u{1b}[2Jil\nbr1").boot();
    let text = lab.kvm_bridge("status br0").run().succeeds().out;
    assert!(!text.contains('\u{1b}') && text.contains(r"ev\u{1b}[2Jil\nbr1"), "{text}");
    let listed = lab.kvm_bridge("mac list").run().succeeds().out;
    assert!(!listed.contains('\u{1b}'), "{listed}");
    drop(guest);
}

#[test]
fn what_is_not_as_it_should_be_is_told_and_decides_on_the_exit_status() {
    let Some(lab) = Lab::with_address() else { return };
    lab.kvm_bridge("up br0").run().succeeds();
    lab.kvm_bridge("status br0").run().succeeds();
    let is_faulty = |fault: &str| {
        let told = lab.kvm_bridge("status br0").run().exits_with(1).out;
        assert!(told.contains(fault), "{told}");
        let found: Value =
            serde_json::from_str(&lab.kvm_bridge("status br0 --json").run().exits_with(1).out).expect("JSON");
        let faults = found["bridges"][0]["faults"].as_array().expect("a list").clone();
        assert!(faults.iter().any(|told| told.as_str().is_some_and(|told| told.contains(fault))), "{faults:?}");
    };
    lab.reaper_of("br0").kill();
    is_faulty("its reaper does not run: kvm-bridge recover");
    lab.ip("link set dev br0 down");
    is_faulty("it is down: ip link set dev br0 up");
    lab.ip("link set dev br0 up");
    let deleted =
        std::process::Command::new("tc").args(["qdisc", "del", "dev", "eth0", "clsact"]).status().expect("run tc");
    assert!(deleted.success());
    is_faulty("of its filters are missing: kvm-bridge recover");
    // The same command again makes it whole.
    lab.kvm_bridge("up br0").run().succeeds();
    wait_for("it to be well", 10, || lab.kvm_bridge("status br0").run().status.success().then_some(()));
    lab.kvm_bridge("down br0").run().succeeds();
    lab.becomes_as_before();
}

#[test]
fn commands_that_only_look_tell_what_they_read() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let guest = lab.shim("--bridge br0 -name alice").boot();
    for words in
        ["status", "ip kvb0", "mac list", "mac export", "plan -- --bridge br0 -m 64", "recover", "install --check"]
    {
        let quiet = lab.kvm_bridge(words).run();
        for verbose in ["-v", "-vv", "--verbose -vvv"] {
            let told = lab.kvm_bridge(&format!("{verbose} {words}")).run();
            assert_eq!(told.status, quiet.status, "{words}: {}", told.err);
            let steps: Vec<&str> = told.err.lines().filter(|line| line.contains(" ms  ")).collect();
            assert!(
                !steps.is_empty() && steps.iter().all(|line| line.starts_with("kvm-bridge: ")),
                "{words}: {}",
                told.err
            );
        }
        assert!(!quiet.err.contains(" ms  "), "{words}: {}", quiet.err);
    }
    guest.kill();
}
