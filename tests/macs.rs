//! A MAC belongs to a VM, for ever.

use crate::support::{Lab, have, wait_for};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// The MAC of a guest that ran for a moment.
#[track_caller]
fn mac_of(lab: &Lab, line: &str) -> String {
    lab.shim(line).run().succeeds().qemu().mac()
}

#[test]
fn a_new_mac_is_local_and_of_the_quadrant_that_is_free_for_us() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let mac = mac_of(&lab, "--bridge br0 -name alice");
    assert_eq!(mac.as_bytes()[1], b'2', "{mac}");
    assert_eq!(mac.to_lowercase(), mac);
}

#[test]
fn a_vm_has_the_same_mac_each_time() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    for vm in [
        "-name alice",
        "-name guest=bob,debug-threads=on",
        "-uuid 6d1c0a3e-27a5-4a12-9f4d-2c1f6f2c9d10",
        "-drive file=disk.qcow2,if=virtio",
        "-hda other.qcow2",
        "plain.img",
        "-kernel bzImage",
    ] {
        let line = format!("--bridge br0 -m 64 {vm}");
        assert_eq!(mac_of(&lab, &line), mac_of(&lab, &line), "{vm}");
    }
}

#[test]
fn an_image_is_one_vm_from_every_folder_and_in_every_spelling() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let folders = ["one", "two"].map(|name| lab.dir.path().join(name));
    folders.iter().for_each(|folder| fs::create_dir(folder).expect("make a folder"));
    let mac = |folder: usize, words: &[&str]| {
        let script = format!("cd {} && exec \"$0\" \"$@\"", folders[folder].display());
        let cmd = words.iter().fold(lab.shim("--bridge br0"), |cmd, word| cmd.arg(word));
        cmd.through_sh(&script).run().succeeds().qemu().mac()
    };
    for words in [
        &["-drive", "file=rbd:vms/virt-1:id=admin"][..],
        &["-hda", "nbd:10.0.0.1:10809:exportname=x"],
        &["iscsi://10.0.0.1/iqn.x/1"],
        &["-blockdev", "driver=nbd,node-name=n,server.type=inet,server.host=h,server.port=1"],
        &["-cdrom", "https://host/x.iso"],
    ] {
        assert_eq!(mac(0, words), mac(1, words), "{words:?}");
    }
    let rbd = mac(0, &["-hda", "rbd:vms/virt-1"]);
    assert_eq!(mac(1, &["-blockdev", r#"{"driver":"rbd","node-name":"n","pool":"vms","image":"virt-1"}"#]), rbd);
    assert_eq!(mac(1, &["-drive", "file=rbd:vms/virt-1:id=admin"]), rbd);

    fs::write(folders[0].join("disk"), "").expect("make an image");
    let path = folders[0].join("disk").display().to_string();
    let own = mac(0, &["disk"]);
    let json = format!(r#"json:{{"driver":"qcow2","file":{{"driver":"file","filename":"{path}"}}}}"#);
    let blockdev = format!("driver=file,node-name=n,filename={path}");
    for words in [
        ["-hda", &path],
        ["-hda", &format!("file:{path}")],
        ["-drive", &format!("if=virtio,file=file:{path}")],
        ["-drive", &format!("driver=qcow2,file.driver=file,file.filename={path}")],
        ["-hda", &json],
        ["-drive", &format!("file={}", json.replace(',', ",,"))],
        ["-blockdev", &blockdev],
        ["-fda", &path],
        ["-drive", &format!("if=floppy,file={path}")],
    ] {
        assert_eq!(mac(1, &words), own, "{words:?}");
    }
    assert_ne!(mac(1, &["disk"]), own, "a local file of another folder is another one");
    let kept = lab.kvm_bridge("mac list").run().succeeds().out;
    assert!(kept.contains("rbd:vms/virt-1") && !kept.contains("/rbd:"), "{kept}");
    lab.kvm_bridge("mac set disk:rbd:vms/virt-9 02:00:00:00:00:09").run().succeeds();
    assert_eq!(mac(1, &["rbd:vms/virt-9:id=x"]), "02:00:00:00:00:09");
}

#[test]
fn the_second_guest_that_nothing_tells_apart_is_told_what_to_add() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let first = lab.shim("--bridge br0 -m 64").boot();
    let second = lab.shim("--bridge br0 -m 64").boot();
    let third = lab.shim("--bridge br0 -m 64").boot();
    let named = lab.shim("--bridge br0 -m 64 -name alice").boot();
    assert!(second.err().contains("-name NAME"), "{}", second.err());
    assert_eq!([first.err(), third.err(), named.err()], ["", "", ""].map(str::to_owned));
}

#[test]
fn different_vms_have_different_macs() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let vms = ["-name alice", "-name bob", "-kernel bzImage", "-hda disk.qcow2", "-hda other.qcow2", ""];
    let macs: HashSet<String> = vms.iter().map(|vm| mac_of(&lab, &format!("--bridge br0 {vm}"))).collect();
    assert_eq!(macs.len(), vms.len());
}

#[test]
fn vms_that_share_their_firmware_have_different_macs() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let mac = |disk: &str| {
        let firmware = "-blockdev node-name=code,driver=file,filename=code.fd,read-only=on -machine q35,pflash0=code";
        mac_of(&lab, &format!("--bridge br0 {firmware} -blockdev node-name=d,driver=file,filename={disk}"))
    };
    assert_ne!(mac("a.img"), mac("b.img"));
}

#[test]
fn the_name_counts_more_than_the_disk_and_vm_more_than_the_name() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let alice = mac_of(&lab, "--bridge br0 -name alice -hda one.img");
    assert_eq!(mac_of(&lab, "--bridge br0 -name alice -hda two.img"), alice);
    assert_eq!(mac_of(&lab, "--bridge br0,vm=alice -name bob"), alice);
    assert_ne!(mac_of(&lab, "--bridge br0 -name bob -hda one.img"), alice);
}

#[test]
fn each_nic_has_a_mac_of_its_own_and_keeps_it() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let line = "--bridge br0 --bridge br0 -name alice";
    let first = lab.shim(line).run().succeeds().qemu().macs();
    let second = lab.shim(line).run().succeeds().qemu().macs();
    assert_eq!(first, second);
    assert_ne!(first[0], first[1]);
    assert_eq!(mac_of(&lab, "--bridge br0 -name alice"), first[0]);
}

#[test]
fn a_vm_that_runs_twice_has_two_macs_and_both_come_back() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let run_both = || {
        let mut one = lab.shim("--bridge br0 -name alice").boot();
        let mut two = lab.shim("--bridge br0 -name alice").boot();
        (one.qemu().mac(), two.qemu().mac())
    };
    let (one, two) = run_both();
    assert_ne!(one, two);
    assert_eq!(run_both(), (one.clone(), two));
    assert_eq!(mac_of(&lab, "--bridge br0 -name alice"), one);
}

#[test]
fn a_slot_is_free_again_after_a_kill() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let mut guest = lab.shim("--bridge br0 -name alice").boot();
    let mac = guest.qemu().mac();
    guest.kill();
    assert_eq!(mac_of(&lab, "--bridge br0 -name alice"), mac);
}

#[test]
fn a_guest_that_went_to_the_background_still_holds_its_slot() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let first = lab.shim("--bridge br0 -name alice").then("daemonize,hold").run().succeeds();
    let second = mac_of(&lab, "--bridge br0 -name alice");
    let tap = first.qemu().tap().name;
    assert!(lab.link(&tap).is_some());
    let daemon = nix::unistd::Pid::from_raw(first.daemon.expect("a daemon"));
    nix::sys::signal::kill(daemon, Signal::SIGKILL).expect("the daemon runs");
    assert_ne!(first.qemu().mac(), second);
    lab.waits_until_gone(&tap);
    assert_eq!(mac_of(&lab, "--bridge br0 -name alice"), first.qemu().mac());
}

#[test]
fn a_mac_on_the_command_line_is_for_this_run_only() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let own = mac_of(&lab, "--bridge br0 -name alice");
    assert_eq!(mac_of(&lab, "--bridge br0,mac=02:00:5E:10:20:30 -name alice"), "02:00:5e:10:20:30");
    assert_eq!(mac_of(&lab, "--bridge br0 -name alice"), own);
}

#[test]
fn a_vm_with_a_name_of_odd_bytes_has_a_mac_too() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let run = |name: &[u8]| {
        let cmd = lab.shim("--bridge br0 -name").arg(crate::support::record::bytes(name));
        cmd.run().succeeds().qemu().mac()
    };
    assert_eq!(run(b"al\xffice"), run(b"al\xffice"));
    assert_ne!(run(b"al\xffice"), run(b"al\xfeice"));
    assert_ne!(run(b"../../etc/passwd"), run(b".."));
}

#[test]
fn macs_are_listed() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let mac = mac_of(&lab, "--bridge br0 -name alice");
    let ended = lab.kvm_bridge("mac list").run().succeeds();
    assert!(ended.out.lines().any(|line| line.contains("alice") && line.contains(&mac)), "{}", ended.out);
    let ended = lab.kvm_bridge("mac list --json").run().succeeds();
    let json: Value = serde_json::from_str(&ended.out).expect("it is JSON");
    assert!(json.to_string().contains(&mac) && json.to_string().contains("alice"), "{json}");
}

#[test]
fn a_name_that_a_terminal_would_obey_is_listed_in_words() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    lab.shim("--bridge br0 -name").arg("a\x1b[2Jb\nc").run().succeeds();
    let listed = lab.kvm_bridge("mac list").run().succeeds().out;
    assert!(listed.contains("name:a\\u{1b}[2Jb\\nc") && listed.lines().count() == 2, "{listed:?}");
}

#[test]
fn a_forgotten_mac_does_not_come_back() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let (alice, bob) = (mac_of(&lab, "--bridge br0 -name alice"), mac_of(&lab, "--bridge br0 -name bob"));
    lab.kvm_bridge("mac forget alice").run().succeeds();
    assert_ne!(mac_of(&lab, "--bridge br0 -name alice"), alice);
    assert_eq!(mac_of(&lab, "--bridge br0 -name bob"), bob);
    let ended = lab.kvm_bridge("mac forget nobody").run();
    assert!(!ended.status.success() && ended.err.contains("nobody"), "{}", ended.err);
}

#[test]
fn the_mac_of_a_running_vm_is_not_forgotten() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let mut guest = lab.shim("--bridge br0 -name alice").boot();
    let mac = guest.qemu().mac();
    assert!(!lab.kvm_bridge("mac forget alice").run().status.success());
    guest.kill();
    assert_eq!(mac_of(&lab, "--bridge br0 -name alice"), mac);
}

#[test]
fn a_corrupt_state_file_is_kept_beside_and_said() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    mac_of(&lab, "--bridge br0 -name alice");
    let state = json_files("/var/lib/kvm-bridge");
    assert!(!state.is_empty(), "there is a state file");
    for file in &state {
        fs::write(file, "{ this is not JSON").expect("damage it");
    }
    let ended = lab.shim("--bridge br0 -name alice").run();
    let said = ended.err.clone();
    assert!(said.contains("/var/lib/kvm-bridge"), "it names the file: {said}");
    let kept = wait_for("the damaged text", 1, || Some(all_files("/var/lib/kvm-bridge"))).into_iter();
    let kept = kept.filter(|file| fs::read_to_string(file).is_ok_and(|text| text == "{ this is not JSON"));
    assert!(kept.count() >= 1, "the damaged file is not thrown away");
}

fn json_files(folder: &str) -> Vec<std::path::PathBuf> {
    all_files(folder).into_iter().filter(|file| file.extension().is_some_and(|end| end == "json")).collect()
}

fn all_files(folder: &str) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => all_files(&entry.path().to_string_lossy()),
            _ => vec![entry.path()],
        })
        .collect()
}

#[test]
fn a_mac_that_is_given_is_not_that_of_another_card() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let own = mac_of(&lab, "--bridge br0 -name alice");
    let ended = lab.shim(&format!("--bridge br0 --bridge br0,mac={own} -name alice")).run().exits_with(125);
    assert!(ended.err.contains("another network card of this VM"), "{}", ended.err);
}

#[test]
fn a_corrupt_file_of_one_vm_is_no_matter_of_the_others() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    mac_of(&lab, "--bridge br0 -name alice");
    let damaged = json_files("/var/lib/kvm-bridge").remove(0);
    let bob = mac_of(&lab, "--bridge br0 -name bob");
    for round in 1..=2 {
        fs::write(&damaged, format!("{{ damage {round}")).expect("damage it");
        let ended = lab.kvm_bridge("mac list").run().exits_with(125);
        assert!(ended.out.contains(&bob), "{}", ended.out);
        assert!(ended.err.contains("cannot be read"), "{}", ended.err);
        lab.kvm_bridge("mac forget alice").run().succeeds();
    }
    lab.kvm_bridge("mac forget bob").run().succeeds();
    let kept =
        all_files("/var/lib/kvm-bridge").iter().filter_map(|file| fs::read_to_string(file).ok()).collect::<String>();
    assert!(kept.contains("{ damage 1") && kept.contains("{ damage 2"), "{kept}");
}

#[test]
fn a_vm_that_is_started_a_hundred_times_has_one_mac_and_one_address() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    if !lab.lan.serve_dhcp() {
        return;
    }
    let image = |name: &str| lab.dir.path().join(name);
    fs::write(image("disk.img"), "").expect("make an image");
    std::os::unix::fs::symlink("disk.img", image("link.img")).expect("make a link");
    let start = |name: &str| {
        let image = image(name).display().to_string();
        let ended = lab.shim("--bridge br0 -m 64 -hda").arg(image).then("dhcp").run().succeeds();
        (ended.qemu().mac(), ended.qemu().lease("bridge0").expect("an address"))
    };
    let first = start("disk.img");
    for round in 1..100 {
        if round == 50 {
            fs::rename(image("disk.img"), image("moved.img")).expect("move the image");
        }
        let name = match round {
            ..25 => "disk.img",
            25..50 => "link.img",
            _ => "moved.img",
        };
        assert_eq!(start(name), first, "start {round}");
    }
    fs::copy(image("moved.img"), image("copy.img")).expect("copy the image");
    assert_ne!(start("copy.img").0, first.0);
}

#[test]
fn a_moved_kernel_and_every_spelling_of_a_path_are_the_same_vm() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let folder = lab.dir.path().join("vm");
    fs::create_dir(&folder).expect("make a folder");
    fs::write(folder.join("bzImage"), "").expect("make a kernel");
    let run = |kernel: &str| {
        let script = format!("cd {} && exec \"$0\" \"$@\"", folder.display());
        lab.shim("--bridge br0 -kernel").arg(kernel).through_sh(&script).run().succeeds().qemu().mac()
    };
    let mac = run("bzImage");
    let full = folder.join("bzImage").display().to_string();
    for spelling in ["./bzImage", "../vm/bzImage", &full] {
        assert_eq!(run(spelling), mac, "{spelling}");
    }
    fs::rename(folder.join("bzImage"), folder.join("old")).expect("move the kernel");
    assert_eq!(run("old"), mac);
    let listed = lab.kvm_bridge("mac list").run().succeeds().out;
    assert!(listed.contains("/vm/old") && !listed.contains("bzImage"), "{listed}");
    lab.kvm_bridge("mac forget").arg(folder.join("old")).run().succeeds();
    assert_ne!(run("old"), mac);
}

#[test]
fn a_mac_that_is_set_is_kept() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let ended = lab.kvm_bridge("mac set alice 02:00:5E:00:00:01").run().succeeds();
    assert_eq!(ended.out, "name:alice has 02:00:5e:00:00:01\n");
    assert_eq!(mac_of(&lab, "--bridge br0 -name alice"), "02:00:5e:00:00:01");
    lab.kvm_bridge("mac set --nic 1 name:alice 02:00:5e:00:00:02").run().succeeds();
    lab.kvm_bridge("mac set --slot 1 alice 02:00:5e:00:00:03").run().succeeds();
    let macs = lab.shim("--bridge br0 --bridge br0 -name alice").run().succeeds().qemu().macs();
    assert_eq!(macs, ["02:00:5e:00:00:01", "02:00:5e:00:00:02"]);
    let mut guest = lab.shim("--bridge br0 -name alice").boot();
    guest.qemu();
    assert_eq!(mac_of(&lab, "--bridge br0 -name alice"), "02:00:5e:00:00:03");
    let ended = lab.kvm_bridge("mac set alice 02:00:5e:00:00:09").run().exits_with(125);
    assert!(ended.err.contains("alice is running"), "{}", ended.err);
    guest.kill();

    // What one VM has, another can't have, until it is free again.
    for (line, why) in [
        ("mac set bob 02:00:5e:00:00:01", "is the address of name:alice"),
        ("mac set --nic 2 alice 02:00:5e:00:00:01", "another network card of this VM"),
        ("mac set bob 01:00:5e:00:00:01", "group address"),
        ("mac set bob nonsense", "no MAC address"),
    ] {
        let ended = lab.kvm_bridge(line).run().exits_with(125);
        assert!(ended.err.contains(why), "{line}: {}", ended.err);
    }
    lab.kvm_bridge("mac set alice 02:00:5e:00:00:07").run().succeeds();
    lab.kvm_bridge("mac set bob 02:00:5e:00:00:01").run().succeeds();
    assert_eq!(mac_of(&lab, "--bridge br0 -name bob"), "02:00:5e:00:00:01");
}

#[test]
fn a_mac_that_is_got_is_claimed_and_the_next_start_has_it() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let get = |words: &str| lab.kvm_bridge(&format!("mac get {words}")).run().succeeds().out.trim().to_owned();
    let first = get("alice");
    assert_eq!(get("alice"), first);
    assert_eq!(mac_of(&lab, "--bridge br0 -name alice"), first);
    // One for a card that is plugged while it runs, and that it has on its next command line.
    let mut guest = lab.shim("--bridge br0 -name alice").boot();
    assert_eq!(guest.qemu().mac(), first);
    let second = get("name:alice --new");
    assert_eq!(get("alice --nic 1"), second);
    let fourth = get("alice --nic 3");
    let third: Value =
        serde_json::from_str(&lab.kvm_bridge("mac get alice --new --json").run().succeeds().out).expect("JSON");
    assert_eq!((&third["vm"], &third["nic"], &third["new"]), (&"name:alice".into(), &2.into(), &true.into()));
    guest.kill();
    let cards = "--bridge br0 ".repeat(4);
    let macs = lab.shim(&format!("{cards} -name alice")).run().succeeds().qemu().macs();
    let third = third["mac"].as_str().expect("an address").to_owned();
    assert_eq!(macs, [first.clone(), second.clone(), third.clone(), fourth.clone()]);
    assert_ne!(get("alice --slot 1"), first);
    // They are nobody else's, and free when it is forgotten.
    let refused = lab.kvm_bridge(&format!("mac set bob {second}")).run().exits_with(125).err;
    assert!(refused.contains("is the address of name:alice"), "{refused}");
    lab.kvm_bridge("mac forget alice").run().succeeds();
    assert!(![first, second, third, fourth].contains(&get("alice")));
    for (words, why) in [
        ("alice --nic 1 --new", "cannot be used with"),
        ("alice --nic 1024", "--nic cannot be '1024'"),
        ("", "VM is required"),
    ] {
        let ended = lab.kvm_bridge(&format!("mac get {words}")).run().exits_with(125);
        assert!(ended.err.contains(why), "{words}: {}", ended.err);
    }
}

#[test]
fn a_mac_set_for_an_image_is_found_by_its_start_and_where_it_moves() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let at = |name: &str| lab.dir.path().join(name);
    fs::write(at("disk.img"), "").expect("make an image");
    let script = format!("cd {} && exec \"$0\" \"$@\"", lab.dir.path().display());
    lab.kvm_bridge("mac set disk:disk.img 02:00:00:00:00:01").through_sh(&script).run().succeeds();
    fs::rename(at("disk.img"), at("moved.img")).expect("move it");
    let mac = |name: &str| lab.shim("--bridge br0 -hda").arg(at(name)).run().succeeds().qemu().mac();
    assert_eq!(mac("moved.img"), "02:00:00:00:00:01");
    let export = lab.new_file("export");
    fs::write(&export, lab.kvm_bridge("mac export").run().succeeds().out).expect("write a file");
    fs::remove_dir_all("/var/lib/kvm-bridge").expect("forget all");
    lab.kvm_bridge("mac import").arg(&export).run().succeeds();
    fs::rename(at("moved.img"), at("again.img")).expect("move it");
    assert_eq!(mac("again.img"), "02:00:00:00:00:01");
}

#[test]
fn macs_go_to_another_host_and_back() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let (alice, bob) = (mac_of(&lab, "--bridge br0 -name alice"), mac_of(&lab, "--bridge br0 -name bob"));
    let export = lab.kvm_bridge("mac export").run().succeeds().out;
    let json: Value = serde_json::from_str(&export).expect("it is JSON");
    assert_eq!(
        (&json["version"], &json["vms"][1]),
        (&1.into(), &serde_json::json!({"vm": "name:bob", "slots": [[bob]]}))
    );
    let only = lab.kvm_bridge("mac export alice").run().succeeds().out;
    assert!(only.contains(&alice) && !only.contains(&bob), "{only}");
    lab.kvm_bridge("mac export nobody").run().exits_with(125);
    let list = lab.kvm_bridge("mac list --json").run().succeeds().out;

    // The other host is this one with nothing in it.
    for (text, said) in [(export.as_str(), "imported 2 VMs\n"), (&list, "imported 2 VMs\n"), (&only, "imported 1 VM\n")]
    {
        fs::remove_dir_all("/var/lib/kvm-bridge").expect("forget all");
        let file = lab.new_file("export");
        fs::write(&file, text).expect("write a file");
        assert_eq!(lab.kvm_bridge("mac import").arg(&file).run().succeeds().out, said);
        assert_eq!(
            lab.kvm_bridge("mac import").stdin(fs::File::open(&file).expect("open it")).run().succeeds().out,
            "nothing to import: all of it is here already\n"
        );
        assert_eq!(mac_of(&lab, "--bridge br0 -name alice"), alice);
    }
}

#[test]
fn an_import_that_does_not_fit_changes_nothing() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let alice = mac_of(&lab, "--bridge br0 -name alice");
    let before = lab.kvm_bridge("mac list").run().succeeds().out;
    let vm = |vm: &str, mac: &str| serde_json::json!({"vm": vm, "slots": [[mac]]});
    let (new, one, two) = (vm("name:new", "02:00:00:00:00:09"), "02:00:00:00:00:01", "02:00:00:00:00:02");
    for (vms, why) in [
        (vec![new.clone(), vm("name:alice", one)], "name:alice has other addresses here"),
        (vec![new.clone(), vm("name:bob", &alice)], "is that of name:alice"),
        (vec![vm("name:bob", one), vm("name:eve", one)], "is that of name:bob"),
        (vec![vm("name:bob", one), vm("name:bob", two)], "name:bob is there twice"),
        (vec![vm("bob", two)], "is no key of a VM"),
        (vec![vm("name:bob", "01:00:00:00:00:02")], "is no address of a card"),
    ] {
        let file = lab.new_file("export");
        fs::write(&file, serde_json::json!({"version": 1, "vms": vms}).to_string()).expect("write a file");
        let ended = lab.kvm_bridge("mac import").arg(&file).run().exits_with(125);
        assert!(ended.err.contains("nothing was imported") && ended.err.contains(why), "{}", ended.err);
        assert_eq!(lab.kvm_bridge("mac list").run().succeeds().out, before);
    }
    for text in ["", "{", "{}", r#"{"version":2,"vms":[]}"#, r#"{"version":1,"vms":[{"vm":"name:x"}]}"#, "[7]"] {
        let file = lab.new_file("export");
        fs::write(&file, text).expect("write a file");
        let ended = lab.kvm_bridge("mac import").arg(&file).run().exits_with(125);
        assert!(ended.err.contains("is no export of MAC addresses"), "{text}: {}", ended.err);
    }
}

#[test]
fn an_import_that_fails_half_way_is_taken_back() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    lab.kvm_bridge("mac set alice 02:00:00:00:01:01").run().succeeds();
    // A folder where a file is to be: the last one can't be written.
    let names: Vec<String> = (0..20).map(|n| format!("name:v{n}")).collect();
    let macs = std::path::Path::new("/var/lib/kvm-bridge/macs");
    let vm = |(n, vm): (usize, &String)| serde_json::json!({"vm": vm, "slots": [[format!("02:00:00:00:00:{n:02x}")]]});
    let vms: Vec<Value> = names.iter().enumerate().map(vm).collect();
    let file = lab.new_file("export");
    fs::write(&file, Value::Array(vms).to_string()).expect("write a file");
    lab.kvm_bridge("mac import").arg(&file).run().succeeds();
    let last = json_files("/var/lib/kvm-bridge").into_iter().find(|file| file.to_string_lossy().contains("/v19-"));
    let last = last.expect("a file of the last VM").with_extension("new");
    names.iter().for_each(|vm| drop(lab.kvm_bridge("mac forget").arg(vm).run().succeeds()));
    fs::create_dir(&last).expect("make a folder");
    let ended = lab.kvm_bridge("mac import").arg(&file).run().exits_with(125);
    assert!(ended.err.contains("nothing was imported"), "{}", ended.err);
    assert_eq!((fs::read_dir(macs).expect("a folder").count(), json_files("/var/lib/kvm-bridge").len()), (1, 1));
    fs::remove_dir(&last).expect("remove the folder");
    assert_eq!(lab.kvm_bridge("mac import").arg(&file).run().succeeds().out, "imported 20 VMs\n");
}

#[test]
fn what_a_kill_has_left_in_a_vms_name_is_forgotten_with_it() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    lab.kvm_bridge("mac set alice 02:00:00:00:00:01").run().succeeds();
    for (mac, vm) in [("020000000002", "name:alice"), ("020000000003", "name:eve")] {
        fs::write(format!("/var/lib/kvm-bridge/macs/{mac}"), vm).expect("write a claim");
    }
    lab.kvm_bridge("mac set bob 02:00:00:00:00:02").run().exits_with(125);
    lab.kvm_bridge("mac forget alice").run().succeeds();
    lab.kvm_bridge("mac set bob 02:00:00:00:00:02").run().succeeds();
    lab.kvm_bridge("mac set bob 02:00:00:00:00:03").run().exits_with(125);
    lab.kvm_bridge("mac forget eve").run().succeeds();
    lab.kvm_bridge("mac set bob 02:00:00:00:00:03").run().succeeds();
}

#[test]
fn ten_thousand_vms_cost_a_start_no_more_than_one() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    if !crate::support::have("strace") {
        return;
    }
    let image = lab.dir.path().join("disk.img");
    fs::write(&image, "").expect("make an image");
    // All system calls of the shim itself, up to its becoming QEMU: first starts, and starts again.
    let calls = |vm: &str| {
        let trace = lab.new_file("trace");
        let launcher = format!("strace -qq -o {}", trace.display());
        lab.shim(&format!("--bridge br0 {vm}")).through(&launcher).run().succeeds();
        let trace = fs::read_to_string(trace).expect("strace writes a file");
        let end = trace.lines().skip(1).position(|line| line.starts_with("execve(")).expect("it becomes QEMU");
        // How an answer of the kernel is cut into reads, and memory, is not a matter of ours.
        let is_counted =
            |line: &&str| !["brk(", "mmap(", "munmap(", "mremap(", "recv"].iter().any(|call| line.starts_with(call));
        trace.lines().take(end + 1).filter(is_counted).count()
    };
    let disk = format!("-hda {}", image.display());
    let with_one = ["-name alice", "-name alice", &disk, &disk].map(calls);
    let vms: Vec<Value> = (0..10_000)
        .map(|n: u32| {
            let [_, _, high, low] = n.to_be_bytes();
            let mac = format!("02:00:00:00:{high:02x}:{low:02x}");
            serde_json::json!({"vm": format!("name:vm{n}"), "slots": [[mac]]})
        })
        .collect();
    let file = lab.new_file("export");
    fs::write(&file, Value::Array(vms).to_string()).expect("write a file");
    assert_eq!(lab.kvm_bridge("mac import").arg(&file).run().succeeds().out, "imported 10000 VMs\n");
    let bob = lab.dir.path().join("other.img");
    fs::write(&bob, "").expect("make an image");
    let disk = format!("-hda {}", bob.display());
    let with_many = ["-name bob", "-name bob", &disk, &disk].map(calls);
    // The first start of all makes the folders as well.
    assert!(with_many[0] <= with_one[0] && with_many[2] <= with_one[2], "{with_one:?} {with_many:?}");
    assert_eq!([with_many[1], with_many[3]], [with_one[1], with_one[3]]);
}

#[test]
fn a_record_that_was_damaged_or_copied_gives_no_address_twice() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let macs = ["alice", "bob"].map(|vm| mac_of(&lab, &format!("--bridge br0 -name {vm}")));
    let files = fs::read_dir("/var/lib/kvm-bridge/vms").expect("the records").flatten().map(|entry| entry.path());
    let files: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    let of_bob = files.iter().find(|path| fs::read_to_string(path).expect("read a record").contains(&macs[1]));
    let of_bob = of_bob.expect("bob's record");
    let record = fs::read_to_string(of_bob).expect("read a record");
    let with = |mac: &str| fs::write(of_bob, record.replace(&macs[1], mac)).expect("write a record");
    let refused = || lab.shim("--bridge br0 -name bob").run().exits_with(125).err;

    with("01:00:5e:00:00:01");
    let said = refused();
    assert!(said.contains("01:00:5e:00:00:01 is a group address"), "{said}");
    with(&macs[0]);
    let said = refused();
    assert!(said.contains(&format!("{} is the address of alice and of bob", macs[0])), "{said}");
    assert!(said.contains("kvm-bridge mac forget bob"), "{said}");
    lab.kvm_bridge("mac forget bob").run().succeeds();
    assert_eq!(mac_of(&lab, "--bridge br0 -name alice"), macs[0]);
    assert!(!macs.contains(&mac_of(&lab, "--bridge br0 -name bob")));
}

/// Only what is made is synced, and then all that has to last.
#[test]
fn a_start_syncs_what_it_makes_and_an_ordinary_one_nothing() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    if !have("strace") {
        return;
    }
    let synced = || {
        let log = lab.new_file("synced");
        let strace = format!("strace -y -qq -e trace=fsync,fdatasync,syncfs,sync -o {}", log.display());
        lab.shim("--bridge br0 -name alice").through(&strace).run().succeeds();
        let log = fs::read_to_string(log).expect("what strace wrote");
        log.lines().map(|line| line.split(['<', '>']).nth(1).unwrap_or(line).to_owned()).collect::<Vec<_>>()
    };
    let first = synced();
    assert!(first.len() == 2 && first[0].ends_with(".new") && first[1].ends_with("/vms"), "{first:?}");
    assert_eq!(synced(), [""; 0]);
}

#[test]
fn where_nothing_can_be_written_a_guest_still_joins_and_brings_its_own() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let kept = mac_of(&lab, "--bridge br0 -name alice");
    crate::support::namespaces::read_only("/var/lib/kvm-bridge").expect("make it read-only");
    assert_eq!(mac_of(&lab, "--bridge br0 -name alice"), kept);
    let bob = lab.shim("--bridge br0 -name bob").run().succeeds();
    let mac = bob.qemu().mac();
    assert!(
        bob.err.contains(&format!("it is {mac} for this run")) && bob.err.contains(&format!("mac={mac}")),
        "{}",
        bob.err
    );
    let given = "02:00:5e:00:00:01";
    let made = lab.shim(&format!("--bridge br1,uplink=none,mac={given} -name carol")).run().succeeds();
    assert_eq!((made.qemu().mac().as_str(), made.err.as_str()), (given, ""));
    lab.waits_until_gone("br1");
    let refused = lab.shim("--bridge br1,uplink=none -name carol").run().exits_with(125).err;
    assert!(refused.contains("/var/lib/kvm-bridge") && refused.contains("Read-only"), "{refused}");
}

#[test]
fn a_limit_on_the_size_of_files_is_told_in_a_sentence() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let script = r#"(ulimit -f 0; "$0" "$@"; echo "status $?") 2>&1 | cat"#;
    let said = lab.shim("--bridge br0 -name alice").through_sh(script).run().out;
    assert!(said.contains("a file may not become so large (ulimit -f)") && said.contains("status 125"), "{said}");
}

#[test]
fn a_full_disk_keeps_no_guest_from_a_bridge_that_is_there() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let kept = mac_of(&lab, "--bridge br0 -name alice");
    let folder = Path::new("/var/lib/kvm-bridge");
    // One that has no block left, and one that has no inode.
    for options in ["size=64k", "nr_inodes=40"] {
        let copy = lab.new_file(options);
        let copied = std::process::Command::new("cp").arg("-a").arg(folder).arg(&copy).status();
        assert!(copied.expect("run cp").success());
        mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some(options))
            .expect("mount a small file system");
        let copied = std::process::Command::new("cp").arg("-a").arg(copy.join(".")).arg(folder).status();
        assert!(copied.expect("run cp").success());
        if options.starts_with("size") {
            let _ = fs::write(folder.join("all"), vec![1; 1 << 20]);
        } else {
            (0..100).take_while(|number| fs::write(folder.join(format!("{number}")), "").is_ok()).count();
        }
        assert_eq!(mac_of(&lab, "--bridge br0 -name alice"), kept, "{options}");
        let bob = lab.shim("--bridge br0 -name bob").run().succeeds();
        assert!(bob.err.contains(&format!("it is {} for this run", bob.qemu().mac())), "{options}: {}", bob.err);
        lab.shim("--bridge br1,uplink=none,mac=02:00:5e:00:00:01 -name carol").run().succeeds();
        lab.waits_until_gone("br1");
        let refused = lab.shim("--bridge br1,uplink=none -name carol").run().exits_with(125).err;
        assert!(refused.contains("No space left"), "{options}: {refused}");
        umount2(folder, MntFlags::MNT_DETACH).expect("unmount it");
    }
}

#[test]
fn what_keeps_a_file_from_being_written_is_told_as_it_is() {
    let Some(lab) = Lab::new() else { return };
    let script = r#"(ulimit -f 0; "$0" "$@"; echo "status $?") 2>&1 | cat"#;
    let said = lab.shim("--bridge br0,uplink=none,mac=02:00:5e:00:00:01").through_sh(script).run().out;
    assert!(said.contains("ulimit -f") && !said.contains("as root") && said.contains("status 125"), "{said}");
    // A reaper that can't write is not done: it tries again.
    wait_for("the reaper's end", 10, || lab.reapers().is_empty().then_some(()));
    crate::support::namespaces::read_only("/run").expect("make it read-only");
    let said = lab.shim("--bridge br0,uplink=none,mac=02:00:5e:00:00:01").run().exits_with(125).err;
    assert!(said.contains("Read-only") && said.contains("remount,rw") && !said.contains("as root"), "{said}");
    lab.ends_here();
}

#[test]
fn an_export_that_is_none_is_told_in_our_words() {
    let Some(lab) = Lab::new() else { return };
    let file = lab.new_file("export");
    for (text, says) in [
        ("root:x:0", "it is no JSON: line 1, column 1"),
        ("", "it is empty"),
        ("[{\"vm\":\"name:a\"}]", "slots is missing in it"),
        ("{\"version\":1,\"vms\":[],\"more\":1}", "it has more, which is not known"),
        ("{\"version\":\"x\",\"vms\":[]}", "another form"),
        ("[{\"vm\":\"name:a\",\"slots\":[[\"02:00\"]]}]", "no MAC address"),
    ] {
        fs::write(&file, text).expect("write it");
        let said = lab.kvm_bridge(&format!("mac import {}", file.display())).run().exits_with(125).err;
        assert!(said.contains(says) && said.contains("kvm-bridge mac export"), "{text}: {said}");
        assert!(!said.contains("expected") && !said.contains("field"), "{text}: {said}");
    }
}

/// A folder that two hosts have, each by a mount of its own: that passes its locks on, as NFS 4 does, or does not.
#[test]
fn a_folder_that_hosts_share_gives_no_address_twice_if_its_locks_are_shared() {
    for (words, are_shared) in [("--enable-lock-forwarding --multithreaded", true), ("", false)] {
        let Some(lab) = Lab::with_bridge("br0") else { return };
        if !have("bindfs") {
            return;
        }
        lab.sh("ip netns add other; ip -n other link add br0 type bridge; ip -n other link set br0 up")
            .run()
            .succeeds();
        let (folder, shared) = (Path::new("/var/lib/kvm-bridge"), lab.dir.path().join("shared"));
        fs::create_dir_all(folder).expect("make a folder");
        fs::create_dir(&shared).expect("make a folder");
        // The first guest's locks stay those of its own mount when the other host's is laid over it.
        let start = |script: &str| {
            lab.sh(&format!("bindfs {words} -o nonempty {} {}", shared.display(), folder.display())).run().succeeds();
            let mut guest = lab.shim("--bridge br0 -name alice").then("hold").through_sh(script).start();
            let mac = guest.qemu().mac();
            (guest, mac)
        };
        let [(one, here), (other, there)] = ["exec \"$0\" \"$@\"", "exec ip netns exec other \"$0\" \"$@\""].map(start);
        assert_eq!(here != there, are_shared, "{here} {there}");
        drop((one.terminate(), other.terminate()));
        // Who is started elsewhere when the first has ended is the same.
        assert_eq!(mac_of(&lab, "--bridge br0 -name alice"), here);
        for _ in 0..2 {
            umount2(folder, MntFlags::MNT_DETACH).expect("take it off");
        }
        lab.sh("ip netns del other").run().succeeds();
    }
}
