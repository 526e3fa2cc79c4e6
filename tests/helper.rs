//! The contract of qemu-bridge-helper, held by QEMU's own and by ours: one suite, run against both.
//!
//! Where ours differs, the test says so with `is_ours` and why. The deviations, all of them towards refusing or towards
//! saying more:
//!
//! - what was meant as a number and is none (`--fd=3x`) is a mistake; QEMU's takes the digits, or 0;
//! - a bridge's other names (altnames) are refused: the rules are about the one name that it has;
//! - an include that is relative, endless, no plain file, or cannot be understood refuses, as does any line that QEMU's reads
//!   otherwise than it looks (see `acl::line`); QEMU's ignores the include, or stops at its faults;
//! - so do a file of more than 1 MiB, includes more than 8 deep, and more than 4096 of them;
//! - files of rules that others than root can write are refused;
//! - a missing file of rules has no rules, where QEMU's takes it for an error: the outcome is the same, the words are not;
//! - the TAP has an alias and an owner, and no IPv6 address of its own.

use crate::support::Lab;
use crate::support::command::Cmd;
use crate::support::user::{ALICE, BOB, Helper, Right, helpers, socket_pair, write_rules};
use nix::sys::socket::SockType;
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// A host with br0 and its LAN, for each helper and each way of giving it its right.
fn with_each(test: impl Fn(&Lab, &Helper)) {
    for right in [Right::Capability, Right::Setuid] {
        for (path, is_ours) in helpers() {
            let Some(lab) = Lab::with_bridge("br0").and_then(Lab::with_users) else { return };
            let helper = lab.install_helper(&path, is_ours, right);
            test(&lab, &helper);
        }
    }
}

#[test]
fn a_user_who_is_allowed_gets_a_tap_that_frames_cross() {
    with_each(|lab, helper| {
        lab.allow("allow br0\n");
        for (words, vnet_hdr) in [("--use-vnet --fd=0 --br=br0", true), ("--br=br0 --fd=0", false)] {
            let tap = lab.call(helper, words).gives_a_tap();
            let record = lab.try_tap(tap);
            let seen = record.tap();
            assert_eq!(
                (seen.vnet_hdr, seen.persistent, seen.packet_information, seen.multi_queue),
                (vnet_hdr, false, false, false)
            );
            assert_eq!(record.answer("bridge0"), Some(lab.lan.mac()), "{helper:?}");
            lab.waits_until_gone(&seen.name);
        }
    });
}

#[test]
fn the_tap_is_up_a_port_and_has_the_bridges_mtu_and_a_high_address() {
    with_each(|lab, helper| {
        lab.ip("link set eth0 mtu 1400");
        lab.ip("link set br0 mtu 1400");
        lab.allow("allow br0\n");
        let _tap = lab.call(helper, "--br=br0 --fd=0").gives_a_tap();
        let link = lab.a_link(helper.first_tap());
        assert_eq!((&link["master"], &link["mtu"]), (&"br0".into(), &1400.into()));
        assert!(link["address"].as_str().is_some_and(|address| address.starts_with("fe:")), "{link}");
        assert!(link["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "UP")), "{link}");
        if helper.is_ours {
            let index = &lab.a_link("br0")["ifindex"];
            assert_eq!(link["ifalias"], format!("kvm-bridge-helper uid 1000 bridge {index}"));
            assert_eq!(lab.addresses("kvb0"), [""; 0]);
        }
    });
}

#[test]
fn the_tap_goes_with_its_last_descriptor() {
    with_each(|lab, helper| {
        lab.allow("allow br0\n");
        drop(lab.call(helper, "--br=br0 --fd=0").gives_a_tap());
        lab.waits_until_gone(helper.first_tap());
        lab.becomes_as_before();
    });
}

#[test]
fn anything_else_on_the_command_line_is_answered_with_the_usage() {
    with_each(|lab, helper| {
        lab.allow("allow br0\n");
        for words in [
            "",
            "--help",
            "--version=1",
            "--br=br0",
            "--fd=0",
            "--br br0 --fd 0",
            "--br=br0 --fd=0 x",
            "-h",
            "--use-vnet",
        ] {
            let said = lab.call(helper, words).refusal();
            assert!(said.to_lowercase().contains("usage"), "{words}: {said}");
        }
    });
}

#[test]
fn the_helper_tells_its_version_and_gives_no_tap_for_it() {
    let Some(lab) = Lab::with_bridge("br0").and_then(Lab::with_users) else { return };
    let Some((path, _)) = helpers().into_iter().find(|(_, is_ours)| *is_ours) else { return };
    let told = lab.as_user(ALICE, &path).words("--version").run().succeeds();
    assert_eq!(told.out, format!("kvm-bridge-helper {}\n", env!("CARGO_PKG_VERSION")));
    lab.as_user(ALICE, &path).words("--version --br=br0").run().exits_with(1);
}

#[test]
fn a_rule_that_allows_nothing_by_mistake_is_told_with_the_refusal() {
    let Some(lab) = Lab::with_bridge("br0").and_then(Lab::with_users) else { return };
    let Some((path, is_ours)) = helpers().into_iter().find(|(_, is_ours)| *is_ours) else { return };
    let helper = lab.install_helper(&path, is_ours, Right::Capability);
    for (rule, meant) in [
        ("allow br0 # my bridge", "write allow br0, with '# my bridge' on a line of its own"),
        ("allow br0,br1", "write one line for each bridge: allow NAME"),
        ("allow \"br0\"", "write allow br0"),
    ] {
        lab.allow(&format!("{rule}\n"));
        let refused = lab.call(&helper, "--br=br0 --fd=0").refusal();
        let expected = format!("/etc/qemu/bridge.conf, line 1 allows no bridge of any name; {meant}");
        assert!(refused.contains(&expected), "{refused}");
        let checked = lab.kvm_bridge("install --check").run();
        assert!(checked.err.contains(&expected), "{}", checked.err);
        let doctor = lab.kvm_bridge("doctor --quick").run();
        assert!(doctor.out.contains(&expected), "{}", doctor.out);
    }
}

#[test]
fn the_last_of_several_counts() {
    with_each(|lab, helper| {
        lab.allow("allow br0\n");
        lab.call(helper, "--br=other --fd=9 --br=br0 --fd=0").gives_a_tap();
        lab.call(helper, "--br=br0 --fd=0 --br=other").refusal();
    });
}

#[test]
fn the_descriptor_may_have_any_number() {
    with_each(|lab, helper| {
        lab.allow("allow br0\n");
        for number in [3, 7, 9] {
            let script = format!(r#"exec "$0" "$@" {number}<&0 </dev/null"#);
            let words = format!("--use-vnet --fd={number} --br=br0");
            lab.call_by(lab.as_user(ALICE, &helper.path).words(&words).through_sh(&script)).gives_a_tap();
        }
    });
}

#[test]
fn what_no_rule_allows_is_refused() {
    with_each(|lab, helper| {
        // No file at all, an empty one, another bridge.
        lab.call(helper, "--br=br0 --fd=0").refusal();
        for text in ["", "# allow br0\n", "allow br1\n", "allow br\n", "allow br00\n", "deny br1\n"] {
            lab.allow(text);
            let said = lab.call(helper, "--br=br0 --fd=0").refusal();
            assert!(said.contains("access denied"), "{text:?}: {said}");
        }
        lab.becomes_as_before();
    });
}

/// What QEMU's grammar says of br0.
const RULES: [(&str, bool); 28] = [
    ("allow br0\n", true),
    ("allow br0", true),
    ("allow all\n", true),
    ("   allow    br0   \n", true),
    ("allow\tbr0\n", true),
    ("allow br0\r\n", true),
    ("\n\n# a\n  # b\nallow br0\n", true),
    ("allow br0\nallow br0\n", true),
    ("allow br1\nallow br0\n", true),
    ("deny br1\nallow br0\n", true),
    ("deny br0\n", false),
    ("deny all\n", false),
    ("allow br0\ndeny br0\n", false),
    ("deny br0\nallow br0\n", false),
    ("deny all\nallow br0\n", false),
    ("allow all\ndeny br0\n", false),
    ("allow br0 # lan\n", false),
    ("allow br0 # the office\n", false),
    ("allow br0\nallow br1 # lan\n", true),
    ("allow br0\nallow br1 # the office\n", false),
    ("allow br0\ndeny sixteen-bytes-xy\n", false),
    ("allow br0 br1\n", false),
    ("allow\n", false),
    ("allow br0\nallow\n", false),
    ("ALLOW br0\n", false),
    ("allow br0\npermit br1\n", false),
    ("allowbr0\n", false),
    ("allow\tbr0 \n", false),
];

#[test]
fn the_rules_mean_the_same() {
    with_each(|lab, helper| {
        for (text, is_allowed) in RULES {
            lab.allow(text);
            let called = lab.call(helper, "--br=br0 --fd=0");
            match is_allowed {
                true => drop(called.gives_a_tap()),
                false => drop(called.refusal()),
            }
            lab.waits_until_gone(helper.first_tap());
        }
    });
}

#[test]
fn included_files_are_read_as_the_caller_who_asks() {
    with_each(|lab, helper| {
        lab.allow("include /etc/qemu/kvm.conf\ninclude /etc/qemu/missing.conf\n");
        write_rules("/etc/qemu/kvm.conf", "allow br0\n");
        lab.call(helper, "--br=br0 --fd=0").gives_a_tap();
        // As the manual of QEMU has it: one file for each group.
        std::os::unix::fs::chown("/etc/qemu/kvm.conf", Some(0), Some(104)).expect("give it to the group");
        fs::set_permissions("/etc/qemu/kvm.conf", fs::Permissions::from_mode(0o640)).expect("set the mode");
        lab.call(helper, "--br=br0 --fd=0").gives_a_tap();
        let of_bob = lab.call_by(lab.as_user(BOB, &helper.path).words("--br=br0 --fd=0")).refusal();
        assert!(!of_bob.contains("kvm.conf"), "{of_bob}");
    });
}

#[test]
fn rules_that_the_caller_may_not_read_refuse() {
    with_each(|lab, helper| {
        lab.allow("allow br0\n");
        fs::set_permissions("/etc/qemu/bridge.conf", fs::Permissions::from_mode(0o600)).expect("set the mode");
        lab.call(helper, "--br=br0 --fd=0").refusal();
    });
}

#[test]
fn a_bridge_that_is_missing_or_none_is_refused() {
    with_each(|lab, helper| {
        lab.allow("allow all\n");
        for bridge in ["br1", "eth0", "lo"] {
            let said = lab.call(helper, &format!("--br={bridge} --fd=0")).refusal();
            assert!(!helper.is_ours || said.contains(bridge), "{said}");
        }
        lab.becomes_as_before();
    });
}

#[test]
fn names_that_no_bridge_can_have_are_refused() {
    with_each(|lab, helper| {
        lab.allow("allow all\n");
        for name in
            ["", ".", "..", "br0/", "../br0", "tap%d", "br0%d", "sixteen-bytes-xy", "br0-with-a-name-that-never-ends"]
        {
            lab.call(helper, &format!("--fd=0 --br={name}")).refusal();
        }
        let odd = crate::support::record::bytes(b"--br=br0\xff");
        lab.call_by(lab.as_user(ALICE, &helper.path).arg(odd).words("--fd=0")).refusal();
        lab.becomes_as_before();
    });
}

#[test]
fn the_helper_without_its_right_refuses() {
    for (path, is_ours) in helpers() {
        let Some(lab) = Lab::with_bridge("br0").and_then(Lab::with_users) else { return };
        let helper = lab.install_helper(&path, is_ours, Right::None);
        lab.allow("allow br0\n");
        let said = lab.call(&helper, "--br=br0 --fd=0").refusal();
        if is_ours {
            assert!(said.contains("sudo kvm-bridge install"), "{said}");
        }
        lab.becomes_as_before();
    }
}

#[test]
fn root_needs_a_rule_too() {
    for (path, is_ours) in helpers() {
        let Some(lab) = Lab::with_bridge("br0").and_then(Lab::with_users) else { return };
        let helper = lab.install_helper(&path, is_ours, Right::None);
        lab.call_by(lab.program(&helper.path).words("--br=br0 --fd=0")).refusal();
        lab.allow("allow br0\n");
        lab.call_by(lab.program(&helper.path).words("--br=br0 --fd=0")).gives_a_tap();
    }
}

#[test]
fn a_socket_that_nobody_reads_from_is_no_success() {
    with_each(|lab, helper| {
        lab.allow("allow br0\n");
        let (ours, theirs) = socket_pair(SockType::Stream);
        drop(ours);
        let ended = lab.as_user(ALICE, &helper.path).words("--br=br0 --fd=0").stdin(theirs).run();
        assert!(!ended.status.success());
        lab.becomes_as_before();
    });
}

// QEMU as the one that calls.

fn real_qemu<'lab>(lab: &'lab Lab) -> Option<Cmd<'lab>> {
    let is_there = crate::support::have("qemu-system-x86_64") && lab.lan.serve_dhcp();
    is_there.then(|| {
        let qemu = lab.as_user(ALICE, "/usr/bin/qemu-system-x86_64");
        qemu.words("-accel tcg -display none -machine pc,graphics=off -m 64 -boot n")
    })
}

/// Boots a guest from the network, as alice, whose netdev is `netdev`; it gets its address.
#[track_caller]
fn a_guest_gets_an_address_by(netdev: &str, helper_of: impl Fn(&Helper) -> String) {
    for (path, is_ours) in helpers() {
        let Some(lab) = Lab::with_bridge("br0").and_then(Lab::with_users) else { return };
        let helper = lab.install_helper(&path, is_ours, Right::Capability);
        lab.allow("allow br0\n");
        let Some(qemu) = real_qemu(&lab) else { return };
        let netdev = netdev.replace("HELPER", &helper_of(&helper));
        let device = "e1000,netdev=n,mac=02:00:5e:00:00:02";
        let guest = qemu.arg("-netdev").arg(&netdev).words("-device").arg(device).start();
        lab.lan.lease_of("02:00:5e:00:00:02", 60);
        guest.terminate().succeeds();
        lab.becomes_as_before();
    }
}

#[test]
fn qemu_calls_the_helper_for_netdev_bridge() {
    a_guest_gets_an_address_by("bridge,id=n,br=br0,helper=HELPER", |helper| helper.path.display().to_string());
}

#[test]
fn qemu_calls_the_helper_for_netdev_tap() {
    a_guest_gets_an_address_by("tap,id=n,br=br0,helper=HELPER", |helper| helper.path.display().to_string());
}

#[test]
fn qemu_calls_the_helper_through_a_shell() {
    // A blank makes QEMU take it for a line of sh, to which it adds nothing but --fd, --use-vnet and, where missing, --br.
    a_guest_gets_an_address_by("tap,id=n,helper=HELPER", |helper| format!("{} --br=br0", helper.path.display()));
}
