//! `kvm-bridge up` and `down`: a bridge that stays, TAPs that belong to users, and the way back.

use crate::support::namespaces::hide;
use crate::support::{Lab, have, wait_for};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// The flags of a link, and one that it has to have.
fn has_flag(link: &Value, flag: &str) -> bool {
    link["flags"].as_array().is_some_and(|flags| flags.iter().any(|known| known == flag))
}

#[test]
fn up_shares_the_uplink_and_down_takes_that_back() {
    let Some(lab) = Lab::with_everything() else { return };
    let before = lab.addresses("eth0");
    let ended = lab.kvm_bridge("up br0 --uplink eth0").run().succeeds();
    assert_eq!(ended.out, "br0 is created, with the uplink eth0\n");
    assert_eq!(ended.err, "");
    assert_eq!(lab.addresses("eth0"), before, "the host keeps all");
    assert_eq!(lab.addresses("br0"), [""; 0]);
    // It keeps the uplink shared, whatever becomes of that.
    lab.reaper_of("br0");
    let ended = lab.kvm_bridge("down br0").run().succeeds();
    assert!(ended.out.starts_with("br0 is removed"), "{}", ended.out);
    lab.becomes_as_before();
}

#[test]
fn up_without_words_takes_the_interface_of_the_default_route() {
    let Some(lab) = Lab::with_address() else { return };
    lab.kvm_bridge("up br0").run().succeeds();
    assert_eq!(lab.ports("br0"), ["kvbp-br0"]);
    lab.kvm_bridge("down br0").run().succeeds();
    lab.becomes_as_before();
}

#[test]
fn up_twice_is_as_up_once() {
    let Some(lab) = Lab::with_address() else { return };
    let up = "up br0 --uplink eth0 --tap tap0 --tap tap1 --user root";
    lab.kvm_bridge(up).run().succeeds();
    let links = lab.ip_json("-d link");
    let ended = lab.kvm_bridge(up).run().succeeds();
    assert_eq!(
        ended.out,
        "br0 exists already, with the uplink eth0\ntap0 is there already on br0, for root\n\
         tap1 is there already on br0, for root\n"
    );
    assert_eq!(ended.err, "");
    assert_eq!(lab.kvm_bridge("recover").run().succeeds().out, "br0 is persistent, and stays\n");
    assert_eq!(lab.ip_json("-d link").as_array().map(Vec::len), links.as_array().map(Vec::len));
    lab.kvm_bridge("down br0").run().succeeds();
    assert_eq!(lab.kvm_bridge("down br0").run().succeeds().out, "There is no br0.\n");
    lab.becomes_as_before();
}

#[test]
fn a_bridge_with_an_uplink_is_not_said_to_have_none() {
    let Some(lab) = Lab::with_address() else { return };
    lab.kvm_bridge("up br0 --uplink eth0").run().succeeds();
    let refused = lab.kvm_bridge("up br0 --uplink none").run().exits_with(125);
    assert!(
        refused.err.contains("eth0 is its uplink") && refused.err.contains("kvm-bridge down br0"),
        "{}",
        refused.err
    );
    lab.kvm_bridge("down br0").run().succeeds();
    lab.becomes_as_before();
}

#[test]
fn guests_join_a_lasting_bridge_which_stays_when_they_have_gone() {
    let Some(lab) = Lab::with_address() else { return };
    lab.kvm_bridge("up br0 --uplink eth0").run().succeeds();
    let mut guest = lab.shim("--bridge br0").then("arp:10.77.0.1,hold").start();
    assert_eq!(guest.qemu().answer("bridge0"), Some(lab.lan.mac()));
    guest.kill();
    lab.waits_until_gone("kvb0");
    lab.reapers_rest();
    assert_eq!(lab.ports("br0"), ["kvbp-br0"]);
    lab.kvm_bridge("down br0").run().succeeds();
    lab.becomes_as_before();
}

#[test]
fn a_bridge_that_was_made_for_a_guest_stays_from_then_on() {
    let Some(lab) = Lab::with_address() else { return };
    let guest = lab.shim("--bridge br0").boot();
    let ended = lab.kvm_bridge("up br0").run().succeeds();
    assert_eq!(ended.out, "br0 was created for a guest, with the uplink eth0, and is persistent from now on\n");
    guest.kill();
    lab.waits_until_gone("kvb0");
    lab.reapers_rest();
    assert_eq!(lab.ports("br0"), ["kvbp-br0"]);
    lab.kvm_bridge("down br0").run().succeeds();
    lab.becomes_as_before();
}

#[test]
fn taps_of_up_belong_to_their_users_and_carry_frames() {
    let Some(lab) = Lab::with_address() else { return };
    if !have("setpriv") || !have("qemu-system-x86_64") {
        return;
    }
    lab.kvm_bridge("up br0 --uplink eth0 --tap tap0 --tap tap1 --user nobody --user root").run().succeeds();
    for (tap, owner) in [("tap0", "nobody"), ("tap1", "root")] {
        let link = lab.a_link(tap);
        assert_eq!((&link["master"], &link["ifalias"]), (&"br0".into(), &"kvm-bridge-tap br0".into()));
        assert_eq!(link["linkinfo"]["info_data"]["persist"], true, "{link}");
        assert_eq!(link["linkinfo"]["info_data"]["user"], owner, "{link}");
        assert!(has_flag(&link, "UP"), "{link}");
        assert!(link["address"].as_str().is_some_and(|mac| mac.starts_with("fe:")), "{link}");
    }
    // The device as distributions have it, for everybody.
    hide("/dev/net").expect("an empty folder");
    mknod("/dev/net/tun", SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(10, 200)).expect("make the device");
    fs::set_permissions("/dev/net/tun", std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("open it");
    let as_nobody = |tap: &str| {
        let qemu =
            "setpriv --reuid nobody --clear-groups --inh-caps=-all qemu-system-x86_64 -accel tcg -display none -S";
        let card = format!("-netdev tap,id=n,ifname={tap},script=no,downscript=no -device e1000,netdev=n");
        lab.program("env").words(&format!("{qemu} {card}")).start()
    };
    let guest = as_nobody("tap0");
    wait_for("QEMU to have opened its TAP", 20, || has_flag(&lab.a_link("tap0"), "LOWER_UP").then_some(()));
    guest.kill();
    let refused = as_nobody("tap1").end().exits_with(1);
    assert!(refused.err.contains("Operation not permitted"), "{}", refused.err);
    let mut guest = lab.shim("--bridge br0,ifname=tap0").then("arp:10.77.0.1,hold").start();
    assert_eq!(guest.qemu().answer("bridge0"), Some(lab.lan.mac()));
    drop(guest);
    let ended = lab.kvm_bridge("down br0").run().succeeds();
    assert!(ended.out.starts_with("tap0 is deleted\ntap1 is deleted\n"), "{}", ended.out);
    lab.becomes_as_before();
}

#[test]
fn guests_on_two_taps_reach_each_other() {
    let Some(lab) = Lab::new() else { return };
    lab.kvm_bridge("up lab --uplink none --tap tap0 --tap tap1 --user root").run().succeeds();
    let mut there = lab.shim("--bridge lab,ifname=tap0,mac=02:00:00:00:00:aa").then("answer:10.9.0.1,hold").start();
    there.qemu();
    let mut here = lab.shim("--bridge lab,ifname=tap1,vm=other").then("arp:10.9.0.1,hold").start();
    assert_eq!(here.qemu().answer("bridge0").as_deref(), Some("02:00:00:00:00:aa"));
    drop(here);
    drop(there);
    lab.kvm_bridge("down lab").run().succeeds();
    lab.becomes_as_before();
}

#[test]
fn down_refuses_with_guests_and_lists_them() {
    let Some(lab) = Lab::with_address() else { return };
    lab.kvm_bridge("up br0 --tap tap9 --user root").run().succeeds();
    let guest = lab.shim("--bridge br0 -name alice").boot();
    let other = lab.shim("--bridge br0,ifname=tap9 -name bob").boot();
    let refused = lab.kvm_bridge("down br0").run().exits_with(1);
    let alice = format!("    kvb0: alice, fake-qemu ({})\n", guest.pid());
    let bob = format!("    tap9: bob, fake-qemu ({})\n", other.pid());
    assert!(refused.err.contains(&alice) && refused.err.contains(&bob), "{}", refused.err);
    assert!(refused.err.contains("kvm-bridge down br0 --force"), "{}", refused.err);
    assert_eq!(lab.ports("br0"), ["kvb0", "kvbp-br0", "tap9"]);
    let ended = lab.kvm_bridge("down br0 --force").run().succeeds();
    assert!(
        ended.out.contains("kvb0 is off br0: its guest has no network any more\ntap9 is deleted\n"),
        "{}",
        ended.out
    );
    assert!(lab.link("br0").is_none());
    assert!(lab.addresses("eth0").contains(&"10.77.0.2/24".to_owned()));
    drop(guest);
    drop(other);
    lab.becomes_as_before();
}

#[test]
fn a_bridge_with_a_port_of_somebody_else_stays() {
    let Some(lab) = Lab::with_address() else { return };
    lab.ip("link add name other type ifb");
    lab.kvm_bridge("up br0").run().succeeds();
    lab.ip("link set dev other master br0");
    for force in ["", " --force"] {
        let refused = lab.kvm_bridge(&format!("down br0{force}")).run().exits_with(125);
        assert!(refused.err.contains("ip link set dev other nomaster"), "{}", refused.err);
    }
    lab.ip("link set dev other nomaster");
    lab.kvm_bridge("down br0").run().succeeds();
    lab.becomes_as_before();
}

#[test]
fn somebody_elses_bridge_is_left_alone_but_for_our_taps() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let ended = lab.kvm_bridge("up br0 --tap tap0 --user root").run().succeeds();
    assert_eq!(
        ended.out,
        "br0 exists already; it was not created by kvm-bridge, and is not changed\ntap0 is made on br0, for root\n"
    );
    assert_eq!(
        lab.kvm_bridge("down br0").run().succeeds().out,
        "tap0 is deleted\nbr0 was not created by kvm-bridge, and stays\n"
    );
    lab.becomes_as_before();
}

#[test]
fn guests_on_somebody_elses_bridge_keep_it_and_are_told_of() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    lab.kvm_bridge("up br0 --tap tap7 --user root").run().succeeds();
    let guest = lab.shim("--bridge br0,ifname=tap7 -name bob").boot();
    let refused = lab.kvm_bridge("down br0 --json").run().exits_with(1);
    assert!(refused.err.contains(&format!("tap7: bob, fake-qemu ({})\n", guest.pid())), "{}", refused.err);
    let told: Value = serde_json::from_str(&refused.out).expect("JSON");
    assert!(told["error"]["what"].as_str().is_some_and(|what| what.contains("tap7: bob")), "{told}");
    drop(guest);
    assert_eq!(
        lab.kvm_bridge("down br0").run().succeeds().out,
        "tap7 is deleted\nbr0 was not created by kvm-bridge, and stays\n"
    );
    // One on a TAP of its own loses nothing.
    let guest = lab.shim("--bridge br0 -name alice").boot();
    let tap = lab.ports("br0").into_iter().find(|port| port.starts_with("kvb")).expect("its TAP");
    let ended = lab.kvm_bridge("down br0").run().succeeds();
    assert_eq!(ended.out, format!("br0 was not created by kvm-bridge, and stays, with the guests on {tap}\n"));
    let told: Value = serde_json::from_str(&lab.kvm_bridge("down br0 --json").run().succeeds().out).expect("JSON");
    assert_eq!((&told["guests"][0], &told["exists"]), (&Value::from(tap), &Value::from(true)));
    guest.kill();
    lab.becomes_as_before();
}

#[test]
fn a_bridge_without_ports_keeps_its_address_when_it_gets_a_tap_and_loses_it() {
    let Some(lab) = Lab::new() else { return };
    lab.ip("link add name br0 type bridge");
    lab.ip("link set dev br0 up");
    let mac = |lab: &Lab| lab.a_link("br0")["address"].as_str().map(str::to_owned);
    let before = mac(&lab);
    let ended = lab.kvm_bridge("up br0 --tap tap0 --user root").run().succeeds();
    assert!(ended.err.contains("br0 has no port, and keeps its address"), "{}", ended.err);
    assert_eq!(mac(&lab), before);
    let again = lab.kvm_bridge("up br0 --tap tap0 --user root").run().succeeds();
    assert_eq!(again.err, "", "it has a port by now");
    lab.kvm_bridge("down br0").run().succeeds();
    assert_eq!(mac(&lab), before);
    // Its carrier the kernel does not give back.
    lab.ends_here();
}

#[test]
fn a_saved_bridge_is_made_again_by_up_and_by_a_guest() {
    let Some(lab) = Lab::with_address() else { return };
    lab.configure("# my file\nmodel = \"e1000e\" # fast\n");
    let words = "up br0 --uplink eth0 --tap tap5 --user nobody --save";
    let ended = lab.kvm_bridge(words).run().succeeds();
    assert!(ended.out.ends_with("saved to /etc/kvm-bridge/config.toml\n"), "{}", ended.out);
    assert_eq!(
        fs::read_to_string("/etc/kvm-bridge/config.toml").expect("the configuration"),
        "# my file\nmodel = \"e1000e\" # fast\n\n[bridge.br0]\nuplink = \"eth0\"\nkeep = true\n\n\
         [bridge.br0.taps]\ntap5 = \"nobody\"\n"
    );
    lab.kvm_bridge("down br0").run().succeeds();
    lab.becomes_as_before();

    // As the unit does at boot.
    lab.kvm_bridge("up br0").run().succeeds();
    assert_eq!(lab.ports("br0"), ["kvbp-br0", "tap5"]);
    assert_eq!(lab.a_link("tap5")["linkinfo"]["info_data"]["user"], "nobody");
    lab.kvm_bridge("down br0").run().succeeds();
    lab.becomes_as_before();

    lab.shim("--bridge br0").run().succeeds();
    assert_eq!(lab.ports("br0"), ["kvbp-br0", "tap5"]);
    lab.kvm_bridge("down br0").run().succeeds();
    lab.becomes_as_before();
}

#[test]
fn a_user_who_is_gone_does_not_keep_the_bridge_away() {
    let Some(lab) = Lab::with_address() else { return };
    lab.configure("[bridge.br0.taps]\ntap5 = \"no-such-user\"\ntap6 = \"nobody\"\n");
    let ended = lab.kvm_bridge("up br0").run().succeeds();
    assert!(ended.err.contains("the TAP tap5 is not made: there is no user no-such-user"), "{}", ended.err);
    assert_eq!(lab.ports("br0"), ["kvbp-br0", "tap6"]);
    lab.kvm_bridge("down br0").run().succeeds();
    lab.becomes_as_before();
}

#[test]
fn nothing_is_saved_of_somebody_elses_bridge_and_that_is_said() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let ended = lab.kvm_bridge("up br0 --save").run().succeeds();
    assert!(ended.out.contains("Nothing is saved"), "{}", ended.out);
}

#[test]
fn an_uplink_that_somebody_manages_is_shared_like_any_other() {
    let Some(lab) = Lab::with_address() else { return };
    lab.configure("");
    fs::create_dir_all("/run/NetworkManager/devices").expect("make a folder");
    let file = format!("/run/NetworkManager/devices/{}", lab.a_link("eth0")["ifindex"]);
    fs::write(&file, "[device]\nmanaged=true\nconnection-uuid=x\n").expect("write a file");
    lab.kvm_bridge("up br0 --uplink eth0 --save").run().succeeds();
    lab.kvm_bridge("down br0").run().succeeds();
    let saved = fs::read_to_string("/etc/kvm-bridge/config.toml").expect("the configuration");
    assert_eq!(saved, "[bridge.br0]\nuplink = \"eth0\"\nkeep = true\n");
    lab.kvm_bridge("up br0").run().succeeds();
    assert_eq!(lab.ports("br0"), ["kvbp-br0"]);
    lab.kvm_bridge("down br0").run().succeeds();
    fs::remove_file(file).expect("remove it");
    lab.becomes_as_before();
}

#[test]
fn the_configuration_stays_whose_it_is_and_a_new_one_is_for_all_to_read() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    let Some(lab) = Lab::new() else { return };
    lab.configure("");
    let path = "/etc/kvm-bridge/config.toml";
    fs::remove_file(path).expect("remove it");
    let save = |name: &str| {
        let words = format!("umask 077; exec {} up {name} --uplink none --save", env!("CARGO_BIN_EXE_kvm-bridge"));
        lab.program("sh").arg("-c").arg(words).run().succeeds();
        let file = fs::metadata(path).expect("the configuration");
        (file.mode() & 0o777, file.gid())
    };
    assert_eq!(save("lab1"), (0o644, 0));
    chown(path, None, Some(1)).expect("give it to daemon");
    fs::set_permissions(path, fs::Permissions::from_mode(0o640)).expect("close it");
    assert_eq!(save("lab2"), (0o640, 1));
    for name in ["lab1", "lab2"] {
        lab.kvm_bridge(&format!("down {name}")).run().succeeds();
    }
    lab.becomes_as_before();
}

#[test]
fn no_bridge_is_lost_when_several_are_saved_at_once() {
    let Some(lab) = Lab::new() else { return };
    lab.configure("");
    let names: Vec<String> = (0..8).map(|number| format!("lab{number}")).collect();
    let words = |name: &String| format!("up {name} --uplink none --save");
    let all: Vec<_> = names.iter().map(|name| lab.kvm_bridge(&words(name)).start()).collect();
    for one in all {
        one.end().succeeds();
    }
    let saved = fs::read_to_string("/etc/kvm-bridge/config.toml").expect("the configuration");
    for name in &names {
        assert!(saved.contains(&format!("[bridge.{name}]")), "{saved}");
        lab.kvm_bridge(&format!("down {name}")).run().succeeds();
    }
    lab.becomes_as_before();
}

#[test]
fn a_configuration_that_is_broken_is_not_overwritten() {
    let Some(lab) = Lab::with_address() else { return };
    lab.configure("[bridge.br0\n");
    lab.kvm_bridge("up br0 --save").run().exits_with(125);
    assert_eq!(fs::read_to_string("/etc/kvm-bridge/config.toml").expect("the configuration"), "[bridge.br0\n");
    lab.becomes_as_before();
}

#[test]
fn what_cannot_be_done_is_refused_before_anything_is_touched() {
    let Some(lab) = Lab::with_address() else { return };
    lab.ip("tuntap add dev theirs mode tap user nobody");
    lab.ip("tuntap add dev anybodys mode tap");
    for (words, sentence, way_out) in [
        ("up br0 --tap eth0 --user root", "eth0 is there and is no persistent TAP", "another name"),
        ("up br0 --tap theirs --user root", "theirs is there and belongs to nobody", "ip tuntap del dev theirs"),
        ("up br0 --tap anybodys --user root", "anybodys is nobody's", "ip tuntap del dev anybodys"),
        ("up br0 --tap theirs --user nobody", "theirs is there and is no port of br0", "ip tuntap del dev theirs"),
        ("up br0 --tap tap0 --user no-such-user", "there is no user no-such-user", "getent passwd"),
        ("up br0 --tap a --tap b --tap c --user root --user root", "3 TAPs have 2 users", "--user once for all"),
        ("up br0 --tap a --tap a --user root", "a is asked for twice", "a name of its own"),
        ("up br0 --uplink eth7", "up br0: there is no interface eth7", "kvm-bridge up br0 --uplink eth0"),
        ("up br0 --force", "up: there is no option --force", "--force is an option of 'kvm-bridge down'"),
        ("up eth0", "eth0 exists and is not a bridge", "lists the bridges"),
        ("down eth0", "eth0 is no bridge", "kvm-bridge status"),
        ("up", "up: BRIDGE is required", "kvm-bridge help up"),
    ] {
        let refused = lab.kvm_bridge(words).run().exits_with(125);
        assert!(refused.err.contains(sentence) && refused.err.contains(way_out), "{words}:\n{}", refused.err);
    }
    lab.becomes_as_before();
}

#[test]
fn up_and_down_after_a_kill_at_any_moment_are_made_good_by_doing_them_again() {
    let Some(lab) = Lab::with_address() else { return };
    if !have("strace") {
        return;
    }
    let up = || lab.kvm_bridge("up br0 --uplink eth0 --tap tap0 --user nobody");
    let mut died = 0;
    for calls in ["sendto,ioctl", "rename,openat"] {
        let step = if calls.starts_with("send") { 2 } else { 11 };
        for nth in (1..60).step_by(step) {
            if !up().dies_at(calls, nth) {
                break;
            }
            died += 1;
            up().run().succeeds();
            assert_eq!(lab.ports("br0"), ["kvbp-br0", "tap0"], "{calls} {nth}");
            lab.kvm_bridge("down br0").run().succeeds();
            lab.becomes_as_before();
        }
        lab.kvm_bridge("down br0").run().succeeds();
        lab.becomes_as_before();
    }
    assert!(died > 10, "{died}");
}

#[test]
fn up_and_down_tell_programs_in_json() {
    let Some(lab) = Lab::with_address() else { return };
    let json = |words: &str| serde_json::from_str::<Value>(&lab.kvm_bridge(words).run().succeeds().out).expect("JSON");
    assert_eq!(
        json("up br0 --tap tap0 --user root --json"),
        serde_json::json!({ "bridge": "br0", "result": "created", "uplink": "eth0", "network": null, "vxlan": null,
            "waits_for": null, "saved": null,
            "taps": [{ "name": "tap0", "user": "root", "made": true }] })
    );
    assert_eq!(
        json("down br0 --json"),
        serde_json::json!({ "bridge": "br0", "removed": true, "exists": false, "uplink": "eth0",
            "taps": ["tap0"], "disconnected": [], "guests": [] })
    );
    lab.becomes_as_before();
}

/// Of a maker, and of one who saved.
#[test]
fn what_a_kill_has_left_is_gone_after_recover() {
    let Some(lab) = Lab::new() else { return };
    lab.configure("# mine\n");
    lab.baseline();
    let gone = Path::new("/run/kvm-bridge/4026539999");
    fs::create_dir_all(lab.run_dir()).expect("make a folder");
    fs::create_dir(gone).expect("make a folder");
    fs::write(gone.join("making"), "").expect("write a file");
    for end in ["new", "lock"] {
        fs::write(format!("/etc/kvm-bridge/config.toml.{end}"), "[bri").expect("write a file");
    }
    lab.kvm_bridge("recover").run().succeeds();
    assert!(!Path::new("/run/kvm-bridge").exists());
    let left: Vec<_> = fs::read_dir("/etc/kvm-bridge").expect("a folder").flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["config.toml"]);
}

#[test]
fn down_all_takes_all_bridges_of_ours_but_those_with_guests() {
    let Some(lab) = Lab::with_address() else { return };
    lab.kvm_bridge("up br0").run().succeeds();
    lab.kvm_bridge("up lab --uplink none").run().succeeds();
    lab.ip("link add theirs type bridge");
    let guest = lab.shim("--bridge lab").boot();
    let refused = lab.kvm_bridge("down --all").run().exits_with(1);
    assert!(refused.out.contains("br0 is removed") && refused.err.contains("lab: it has guests"), "{}", refused.err);
    assert!(lab.link("br0").is_none() && lab.link("lab").is_some());
    guest.kill();
    lab.waits_until_gone("kvb0");
    assert_eq!(lab.kvm_bridge("down --all").run().succeeds().out, "lab is removed\n");
    assert_eq!(lab.kvm_bridge("down --all").run().succeeds().out, "There is no bridge of kvm-bridge.\n");
    assert!(lab.link("theirs").is_some());
    lab.ip("link del theirs");
    lab.becomes_as_before();
}
