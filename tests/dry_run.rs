//! What would be done, told without doing it, in words that can be pasted.

use crate::support::command::fake_qemu;
use crate::support::state::comparable;
use crate::support::{Lab, snapshot};
use serde_json::Value;
use std::fs;

const LINE: &str = "--bridge br0,uplink=none -name alice -m 64";

/// What is the same each time: no paths of this machine, no random MAC.
fn tidy(text: &str) -> String {
    let text = text.replace(&fake_qemu().display().to_string(), "QEMU");
    let words = text.split_inclusive([' ', ',', '=', '\n']);
    words
        .map(|word| match word.trim_end_matches([' ', ',', '=', '\n']) {
            mac if mac.len() == 17 && mac.matches(':').count() == 5 => word.replace(mac, "MAC"),
            _ => word.to_owned(),
        })
        .collect()
}

#[test]
fn a_dry_run_changes_nothing_and_qemu_does_not_run() {
    let Some(lab) = Lab::new() else { return };
    for line in [LINE, "--bridge br0,uplink=eth0 -m 64"] {
        let ended = lab.shim(&format!("--bridge-dry-run {line}")).run().succeeds();
        assert!(!ended.qemu_ran());
        lab.kvm_bridge(&format!("plan -- {line}")).run().succeeds();
        lab.is_untouched();
    }
    assert!(!fs::exists("/var/lib/kvm-bridge").expect("look"), "no MAC is claimed");
    assert!(!fs::exists("/run/kvm-bridge").expect("look"));
}

#[test]
fn plan_and_dry_run_say_the_same() {
    let Some(lab) = Lab::with_bridge("br1") else { return };
    for line in [LINE, "--bridge br1 -m 64", "-m 64 --bridge br1,ifname=alice-net,mac=02:00:5e:10:20:30"] {
        let dry = lab.shim(&format!("--bridge-dry-run {line}")).run().succeeds();
        let plan = lab.kvm_bridge(&format!("plan -- {line}")).run().succeeds();
        assert_eq!(tidy(&dry.out), tidy(&plan.out));
    }
}

#[test]
fn a_dry_run_reads_as_the_commands_that_a_person_would_type() {
    let Some(lab) = Lab::new() else { return };
    let mac = ",mac=02:00:5e:10:20:30";
    let isolated = lab.shim(&format!("--bridge-dry-run --bridge br0,uplink=none{mac} -name alice")).run().succeeds();
    snapshot::matches("plans.txt", "an isolated bridge", &tidy(&isolated.out));
    let uplink = lab.shim(&format!("--bridge-dry-run --bridge br0,uplink=eth0{mac} -name alice")).run().succeeds();
    snapshot::matches("plans.txt", "a bridge with an uplink", &tidy(&uplink.out));
    lab.add_bridge("br0");
    let joined =
        lab.shim(&format!("--bridge-dry-run --bridge br0{mac} -m 64 -name")).arg("it's alice").run().succeeds();
    snapshot::matches("plans.txt", "a bridge that is there", &tidy(&joined.out));
    lab.baseline();
}

/// What matters of a link, for comparing one that was typed with one that we made.
fn essence(lab: &Lab, name: &str) -> Value {
    let link = comparable(lab.a_link(name));
    let data = &link["linkinfo"]["info_data"];
    serde_json::json!([
        link["mtu"],
        link["master"],
        link["flags"],
        data["stp_state"],
        data["forward_delay"],
        link["linkinfo"]["info_kind"],
    ])
}

#[test]
fn a_dry_run_pasted_into_a_shell_does_the_same() {
    let Some(lab) = Lab::new() else { return };
    let line = "--bridge br0,uplink=eth0,ifname=tap-a -name alice -m 64";
    let plan = lab.kvm_bridge(&format!("plan -- {line}")).run().succeeds().out;
    let mut guest = lab.shim(line).boot();
    let ours = [essence(&lab, "br0"), essence(&lab, "eth0")];
    let device = guest.qemu().value_of("-device");
    guest.terminate();
    lab.becomes_as_before();

    let typed = lab.sh(&format!("set -e\n{plan}")).run().succeeds();
    assert_eq!(lab.ports("br0"), ["eth0", "tap-a"]);
    let netdev = typed.qemu().value_of("-netdev");
    assert!(netdev.contains("ifname=tap-a,script=no,downscript=no"), "{netdev}");
    assert_eq!(typed.qemu().values_of("-name"), ["alice"]);
    let without_mac = |device: &str| device.split(",mac=").next().map(str::to_owned);
    assert_eq!(without_mac(&typed.qemu().value_of("-device")), without_mac(&device));
    // The TAP that was typed has no QEMU, so that the bridge's carrier is eth0's alone either way.
    assert_eq!([essence(&lab, "br0"), essence(&lab, "eth0")], ours);

    lab.ip("link del tap-a");
    lab.ip("link del br0");
    std::fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "0").expect("change a setting");
}

#[test]
fn words_that_a_shell_would_split_are_quoted() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let odd = ["it's alice", "", "$HOME `id` \\ \"x\" *", "a\nb", "~", "#x", "a;b&c|d"];
    let mut cmd = lab.kvm_bridge("plan -- --bridge br0,ifname=tap-a");
    for word in odd {
        cmd = cmd.words("-append").arg(word);
    }
    let plan = cmd.run().succeeds().out;
    let typed = lab.sh(&format!("set -e\n{plan}")).run().succeeds();
    assert_eq!(typed.qemu().values_of("-append"), odd);
    lab.ip("link del tap-a");
}

#[test]
fn an_error_of_a_dry_run_is_an_error() {
    let Some(lab) = Lab::new() else { return };
    lab.shim("--bridge-dry-run --bridge br0,colour=red").run().exits_with(125);
    let ended = lab.kvm_bridge("plan -- --bridge br0,colour=red").run();
    assert!(!ended.status.success() && ended.err.contains("colour"), "{}", ended.err);
}

#[test]
fn bridge_help_says_what_there_is() {
    let Some(lab) = Lab::new() else { return };
    let ended = lab.shim("--bridge-help").run().succeeds();
    for key in ["uplink=", "mac=", "model=", "ifname=", "id=", "vm=", "keep=", "mtu=", "--bridge-dry-run", "KVM_BRIDGE"]
    {
        assert!(ended.out.contains(key), "{key} is missing in:\n{}", ended.out);
    }
    assert!(!ended.qemu_ran());
}

#[test]
fn a_question_to_qemu_needs_no_network_in_a_dry_run() {
    let Some(lab) = Lab::new() else { return };
    let ended = lab.shim("--bridge-dry-run --bridge br0,uplink=none -version").run().succeeds();
    assert_eq!(tidy(&ended.out), "QEMU -version\n");
}

#[test]
fn the_tap_does_not_have_the_name_of_the_bridge() {
    let Some(lab) = Lab::new() else { return };
    let ended = lab.shim("--bridge-dry-run --bridge kvb0,uplink=none").run().succeeds();
    assert!(ended.out.contains("ifname=kvb1,"), "{}", ended.out);
}

#[test]
fn bytes_that_are_no_text_survive_every_shell() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let odd = crate::support::record::bytes(b"a\xff\xfe'b c\xe2\x82$x");
    let plan = lab.kvm_bridge("plan -- --bridge br0,ifname=tap-a -append").arg(&odd).run().succeeds().out;
    for shell in ["dash", "bash"] {
        let typed = lab.program(format!("/bin/{shell}")).arg("-c").arg(format!("set -e\n{plan}")).run().succeeds();
        assert_eq!(typed.qemu().argv.last(), Some(&odd), "{shell}: {plan}");
        lab.ip("link del tap-a");
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    for script in [r#"exec "$0" --bridge-dry-run --bridge br0 >/dev/full"#, r#"exec "$0" --bridge-help >/dev/full"#] {
        let ended = lab.shim("").through_sh(script).run().exits_with(125);
        assert!(ended.err.contains("cannot write"), "{}", ended.err);
    }
}
