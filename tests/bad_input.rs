//! Whatever is wrong is said in a clear sentence of its own, with status 125, and the host is untouched.

use crate::support::command::{Cmd, Ended};
use crate::support::{Lab, have, namespaces, snapshot};
use std::fs;
use std::process::Command;

/// Runs it, sees to it that nothing happened, and compares what it said with tests/snapshots/errors.txt.
#[track_caller]
fn is_refused(lab: &Lab, name: &str, cmd: Cmd) -> Ended {
    let ended = cmd.run().exits_with(125);
    assert!(!ended.qemu_ran(), "{name}: QEMU ran all the same");
    assert_eq!(ended.out, "", "{name}: errors belong on stderr");
    lab.is_untouched();
    let said = tidy(lab, &ended.err);
    assert!(said.starts_with("qemu-kvm: "), "{name}: {said}");
    assert!(said.trim_end().lines().count() >= 2, "{name}: no line says what to do: {said}");
    snapshot::matches("errors.txt", name, &said);
    ended
}

/// Without what differs from run to run.
fn tidy(lab: &Lab, text: &str) -> String {
    text.replace(&lab.dir.path().display().to_string(), "FOLDER")
}

#[test]
fn words_that_are_wrong_in_themselves() {
    let Some(lab) = Lab::new() else { return };
    for (name, value) in [
        ("unknown key", "br0,colour=red"),
        ("key without a value", "br0,mac"),
        ("key given twice", "br0,mtu=1400,mtu=1300"),
        ("port of the host without a protocol", "br0,forward=2222:22"),
        ("port of the host that is given twice", "br0,forward=tcp:2222:22,forward=tcp:0.0.0.0:2222:80"),
        ("port of the host on a bridge without a network of the host's own", "br0,uplink=none,forward=tcp:2222:22"),
        ("network that is not private", "br0,uplink=nat,net=8.8.8.0/24"),
        ("name of a bridge that means more to a firewall", "br+,uplink=nat"),
        ("empty name", ""),
        ("empty name before a key", ",uplink=none"),
        ("name of 16 bytes", "sixteen-bytes-xy"),
        ("name with a slash", "br/0"),
        ("name with a blank", "br 0"),
        ("name that is a folder", ".."),
        ("name with a colon", "br:0"),
        ("name with a percent sign", "br%d"),
        ("mac that is none", "br0,uplink=none,mac=1:2"),
        ("mac with other letters", "br0,uplink=none,mac=02:00:5e:10:20:3g"),
        ("mac of a group", "br0,uplink=none,mac=03:00:5e:10:20:30"),
        ("mac of zeroes", "br0,uplink=none,mac=00:00:00:00:00:00"),
        ("mtu that is no number", "br0,uplink=none,mtu=big"),
        ("mtu that is too small", "br0,uplink=none,mtu=10"),
        ("mtu that is too large", "br0,uplink=none,mtu=70000"),
        ("keep that is neither on nor off", "br0,uplink=none,keep=maybe"),
        ("model that is empty", "br0,uplink=none,model="),
        ("model with a comma", "br0,uplink=none,model=e1000,,mac=02:00:00:00:00:01"),
        ("id that qemu would not take", "br0,uplink=none,id=7up"),
        ("ifname of 16 bytes", "br0,uplink=none,ifname=sixteen-bytes-xy"),
        ("ifname that is the bridge", "br0,uplink=none,ifname=br0"),
        ("replace of something else", "br0,uplink=none,replace=tap"),
        ("replace beside an id", "br0,uplink=none,id=lan,replace=user"),
        ("vm that is empty", "br0,uplink=none,vm="),
        ("uplink that is missing", "br0,uplink=nope0"),
        ("uplink that is the bridge itself", "br0,uplink=br0"),
        ("uplink that is the loopback", "br0,uplink=lo"),
        ("uplink that is no name", "br0,uplink=sixteen-bytes-xy"),
    ] {
        is_refused(&lab, name, lab.shim("--bridge").arg(value).words("-m 64"));
    }
}

#[test]
fn a_line_that_is_wrong_as_a_whole() {
    let Some(lab) = Lab::new() else { return };
    for (name, line) in [
        ("--bridge as the last word", "-m 64 --bridge"),
        ("the same TAP twice", "--bridge br0,uplink=none,ifname=tap7 --bridge br0,ifname=tap7"),
        ("the same id twice", "--bridge br0,uplink=none,id=lan --bridge br0,id=lan"),
        ("an id that the line uses for a netdev", "--bridge br0,uplink=none,id=lan -netdev user,id=lan"),
        ("the same MAC twice", "--bridge br0,uplink=none,mac=02:00:00:00:00:01 --bridge br0,mac=02:00:00:00:00:01"),
        ("two uplinks for one bridge", "--bridge br0,uplink=none --bridge br0,uplink=eth0"),
        ("a hub where a card is to be replaced", "--bridge br0,uplink=none,replace=user -net nic -net nic -net user"),
        ("one uplink for two bridges", "--bridge br0,uplink=eth0 --bridge br1,uplink=eth0"),
    ] {
        is_refused(&lab, name, lab.shim(line));
    }
}

#[test]
fn the_second_nic_is_wrong_and_the_first_is_not_made() {
    let Some(lab) = Lab::new() else { return };
    is_refused(&lab, "the second of two", lab.shim("--bridge br0,uplink=none --bridge br1,uplink=nope0"));
}

#[test]
fn an_environment_that_is_wrong() {
    let Some(lab) = Lab::new() else { return };
    let run = |value: &str| lab.shim("-m 64").env("KVM_BRIDGE", value);
    is_refused(&lab, "unknown key in the environment", run("br0,colour=red"));
    is_refused(&lab, "open quote in the environment", run("'br0,uplink=none"));
}

#[test]
fn a_link_of_that_name_is_no_bridge() {
    let Some(lab) = Lab::new() else { return };
    is_refused(&lab, "a link that is no bridge", lab.shim("--bridge eth0"));
    is_refused(&lab, "a link that is no bridge, with an uplink", lab.shim("--bridge eth0,uplink=none"));
}

#[test]
fn an_uplink_that_belongs_to_another_bridge() {
    let Some(lab) = Lab::with_bridge("br1") else { return };
    is_refused(&lab, "uplink that has a master", lab.shim("--bridge br0,uplink=eth0"));
    is_refused(&lab, "uplink that is a bridge", lab.shim("--bridge br0,uplink=br1"));
}

#[test]
fn a_bridge_that_is_there_and_not_as_it_is_asked_for() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    is_refused(&lab, "mtu that the bridge has not", lab.shim("--bridge br0,mtu=1400"));
    lab.add_bridge("br1");
    lab.baseline();
    is_refused(&lab, "uplink that is no port of the bridge", lab.shim("--bridge br1,uplink=eth0"));
}

#[test]
fn a_persistent_tap_that_is_no_port_of_the_bridge() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    lab.ip("tuntap add dev tap-p mode tap");
    is_refused(&lab, "persistent TAP that is no port", lab.shim("--bridge br0,ifname=tap-p"));
}

#[test]
fn a_bridge_that_is_missing_and_no_word_on_its_uplink() {
    let Some(lab) = Lab::new() else { return };
    is_refused(&lab, "no bridge and no uplink", lab.shim("--bridge br0"));
}

#[test]
fn a_tap_that_somebody_else_has() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let guest = lab.shim("--bridge br0,ifname=tap7 -name alice").boot();
    let ended = lab.shim("--bridge br0,ifname=tap7 -name bob").run().exits_with(125);
    assert!(ended.err.contains(&guest.pid().to_string()), "it names the holder: {}", ended.err);
    let said = ended.err.replace(&guest.pid().to_string(), "PID");
    snapshot::matches("errors.txt", "TAP that another QEMU has", &said);
    assert_eq!(lab.ports("br0"), ["eth0", "tap7"]);
    drop(guest);
    lab.becomes_as_before();
    is_refused(&lab, "ifname that is no TAP", lab.shim("--bridge br0,ifname=eth0"));
}

#[test]
fn no_tun_device() {
    let Some(lab) = Lab::new() else { return };
    namespaces::hide("/dev/net").expect("hide /dev/net");
    is_refused(&lab, "no /dev/net/tun", lab.shim("--bridge br0,uplink=none"));
}

#[test]
fn no_right_to_change_the_network() {
    let Some(lab) = Lab::with_bridge("br1") else { return };
    if !have("setpriv") {
        return;
    }
    let without = "setpriv --bounding-set=-net_admin --inh-caps=-net_admin";
    is_refused(&lab, "root without CAP_NET_ADMIN", lab.shim("--bridge br0,uplink=none").through(without));
    is_refused(&lab, "joining without CAP_NET_ADMIN", lab.shim("--bridge br1").through(without));
}

#[test]
fn a_bridge_that_is_full() {
    let Some(lab) = Lab::new() else { return };
    lab.add_bridge("br0");
    let mut batch = String::new();
    for i in 1..1023 {
        batch += &format!("link add p{i} type ifb\nlink set p{i} master br0\n");
    }
    let file = lab.new_file("batch");
    fs::write(&file, batch).expect("write the batch");
    let status = Command::new("ip").arg("-batch").arg(&file).status().expect("run ip");
    assert!(status.success());
    is_refused(&lab, "a bridge that is full", lab.shim("--bridge br0"));
}

#[test]
fn a_configuration_that_is_wrong() {
    let Some(lab) = Lab::new() else { return };
    lab.configure("qemu = 5\n");
    is_refused(&lab, "configuration with a wrong type", lab.shim("--bridge br0,uplink=none"));
    lab.configure("qemu = \"/bin/true\"\ncolour = \"red\"\n");
    is_refused(&lab, "configuration with an unknown key", lab.shim("--bridge br0,uplink=none"));
    lab.configure("qemu = \n");
    is_refused(&lab, "configuration that is no TOML", lab.shim("--bridge br0,uplink=none"));
}

#[test]
fn another_name_of_a_bridge_or_uplink_is_answered_with_its_own() {
    let Some(lab) = Lab::with_address() else { return };
    lab.ip("link property add dev eth0 altname enp0s3");
    lab.baseline();
    for words in ["--bridge br0,uplink=enp0s3", "--bridge-dry-run --bridge br0,uplink=enp0s3", "--bridge enp0s3"] {
        let said = lab.shim(words).run().exits_with(125).err;
        assert!(said.contains("enp0s3 is another name of eth0") && said.contains("Give its own name: eth0"), "{said}");
        lab.is_untouched();
    }
    lab.kvm_bridge("up br0").run().succeeds();
    lab.ip("link property add dev br0 altname lan0br");
    for words in ["up lan0br", "up lan0br --tap t0 --user root", "down lan0br"] {
        let said = lab.kvm_bridge(words).run().exits_with(125).err;
        assert!(said.contains("lan0br is another name of br0"), "{words}: {said}");
    }
    assert!(lab.link("t0").is_none());
    lab.kvm_bridge("down br0").run().succeeds();
    lab.becomes_as_before();
}

#[test]
fn a_forgotten_value_takes_no_interface() {
    let Some(lab) = Lab::with_address() else { return };
    for (name, line) in [
        ("forgotten name before an option", "--bridge -m 256"),
        ("forgotten name before an image", "--bridge disk.qcow2"),
        ("name that begins with a line", "--bridge _br"),
    ] {
        is_refused(&lab, name, lab.shim(line));
    }
    is_refused(&lab, "the option itself in the environment", lab.shim("-m 64").env("KVM_BRIDGE", "--bridge br0"));
    for word in ["-m", "disk.qcow2", "bzImage"] {
        let said = lab.kvm_bridge(&format!("up -- {word}")).run().exits_with(125).err;
        let start =
            format!("kvm-bridge: up {word}: there is no bridge {word}, and none is made of that name: it looks like");
        assert!(said.starts_with(&start), "{said}");
        assert!(said.contains("Name a bridge: kvm-bridge up br0") && !said.contains("--bridge"), "{said}");
    }
    lab.is_untouched();
    // One that is there may have any name.
    lab.ip("link add -m type bridge");
    lab.baseline();
    lab.shim("--bridge -m -nographic").run().succeeds();
    lab.ip("link del dev -m");
    lab.baseline();
}

#[test]
fn a_name_that_is_a_files_or_means_something_else_makes_no_bridge() {
    let Some(lab) = Lab::with_address() else { return };
    let folder = lab.new_file("folder");
    std::fs::create_dir(&folder).expect("make a folder");
    std::fs::write(folder.join("disk"), "").expect("write a file");
    let cd = format!("cd {} && exec \"$0\" \"$@\"", folder.display());
    let said = lab.shim("--bridge disk -m 64").through_sh(&cd).run().exits_with(125).err;
    assert!(said.contains("there is no such bridge, and a file of that name"), "{said}");
    let cd = format!("cd {} && exec \"$0\" \"$@\"", folder.display());
    let said = lab.kvm_bridge("up disk").through_sh(&cd).run().exits_with(125).err;
    assert!(said.contains("there is no such bridge, and a file of that name"), "{said}");
    for (word, why) in [
        ("none", "is a word for something else"),
        ("q35", "is a word for something else"),
        ("nographic", "is a word for something else"),
        ("256", "is a number"),
        ("1G", "is a size"),
        ("vmlinuz-6.1", "looks like what a guest boots"),
        ("alice.vhd", "looks like a file's"),
    ] {
        for mode in ["", "--bridge-dry-run "] {
            let said = lab.shim(&format!("{mode}--bridge {word}")).run().exits_with(125).err;
            assert!(said.contains(&format!("none is made of that name: it {why}")), "{said}");
            assert!(said.contains(&format!("Name a bridge: --bridge br0 {word}")), "{said}");
        }
    }
    lab.is_untouched();
    // A folder's name, and a VLAN's, are bridges' as well.
    lab.shim("--bridge folder.7,uplink=none").run().succeeds();
    lab.waits_until_gone("folder.7");
    fs::create_dir(folder.join("vms")).expect("make a folder");
    lab.shim("--bridge vms,uplink=none").through_sh(&cd).run().succeeds();
    lab.becomes_as_before();
}

#[test]
fn an_option_where_the_value_of_a_key_was_forgotten_is_seen() {
    let Some(lab) = Lab::with_address() else { return };
    for key in ["uplink", "ifname", "vm", "id", "model"] {
        let said = lab.shim(&format!("--bridge br0,{key}=-name alice")).run().exits_with(125).err;
        assert!(said.contains(&format!("{key}= cannot be '-name', which looks like an option")), "{said}");
    }
    let said = lab.kvm_bridge("up br0 --uplink=-x").run().exits_with(125).err;
    assert!(said.contains("uplink= cannot be '-x', which looks like an option"), "{said}");
    let said = lab.kvm_bridge("up br0 --user root --tap=-x").run().exits_with(125).err;
    assert!(said.contains("--tap cannot be '-x', which looks like an option"), "{said}");
    lab.is_untouched();
}

#[test]
fn a_misspelt_option_is_told_and_reaches_qemu() {
    let Some(lab) = Lab::new() else { return };
    let ended = lab.shim("--brdige br0 -m 64").run().succeeds();
    assert_eq!(ended.qemu().line(), "--brdige br0 -m 64");
    assert!(ended.err.contains("is --bridge meant by --brdige?"), "{}", ended.err);
    assert_eq!(lab.shim("-m 64 -name bridge").run().succeeds().err, "");
}

#[test]
fn a_name_as_long_as_a_command_line_is_a_vms_too() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    for length in [244, 255, 3000] {
        lab.shim("--bridge br0 -name").arg("q".repeat(length)).run().succeeds();
    }
}

#[test]
fn a_blank_behind_a_comma_is_seen() {
    let Some(lab) = Lab::with_address() else { return };
    let said = lab.shim("--bridge br0, uplink=eth0").run().exits_with(125).err;
    assert!(said.contains("a comma is the end of it") && said.contains("without a blank"), "{said}");
    lab.is_untouched();
    // A comma in a value is written twice.
    lab.shim("--bridge br0,uplink=none,vm=a,,").run().succeeds();
    lab.becomes_as_before();
}

#[test]
fn a_misspelt_uplink_is_met_with_what_is_near_and_where_it_was_named() {
    let Some(lab) = Lab::with_address() else { return };
    let said = lab.shim("--bridge br0,uplink=eht0").run().exits_with(125).err;
    assert!(said.contains("there is no interface eht0 to be the uplink\n  Is eth0 meant? To make br0: "), "{said}");
    lab.configure("[bridge.br0]\nuplink = \"eht0\"\n");
    let said = lab.shim("--bridge br0").run().exits_with(125).err;
    assert!(said.contains("there is no interface eht0, which the configuration names, to be the uplink"), "{said}");
}

#[test]
fn what_qemu_is_certain_to_refuse_makes_nothing() {
    let Some(lab) = Lab::with_address() else { return };
    if !have("qemu-system-x86_64") {
        return;
    }
    let shim = |line: &str| lab.shim(line).env("KVM_BRIDGE_QEMU", crate::support::real::QEMU);
    for (name, line) in [
        ("disk that is not there", "--bridge br0 typo.qcow2"),
        ("drive that is not there", "--bridge br0 -drive if=virtio,file=typo.img,format=raw"),
        ("kernel that is not there", "--bridge br0 -kernel nosuch"),
        ("kernel that is a folder", "--bridge br0 -kernel /etc"),
        ("option that QEMU does not have", "--bridge br0 -nographicc"),
        ("option without its value", "--bridge br0 -m"),
        ("misspelt option of ours", "--bridge br0 --brdige br1"),
    ] {
        is_refused(&lab, name, shim(line));
    }
    // What may be elsewhere, or has no file, is QEMU's to say; and on a bridge that is there all of it is.
    lab.add_bridge("br1");
    lab.baseline();
    let said = shim("--bridge br1 -display none typo.qcow2").run();
    assert!(said.err.contains("Could not open 'typo.qcow2'"), "{}", said.err);
    let fake = |line: &str| lab.shim(line).run().succeeds();
    fake("--bridge br0,uplink=none -bios nosuch.bin");
    fake("--bridge br0,uplink=none -drive file=rbd:a/b");
    fake("--bridge br0,uplink=none -initrd a.img,b.img");
    lab.ip("link del br1");
    lab.waits_until_gone("br0");
    lab.baseline();
}

/// Starts and plans with the real QEMU, neither of which makes anything; what they say.
#[track_caller]
fn is_refused_by_qemu(lab: &Lab, line: &str) -> String {
    let said = refusal(lab, line);
    lab.is_untouched();
    said
}

#[track_caller]
fn refusal(lab: &Lab, line: &str) -> String {
    let run = |mode: &str| {
        let line = format!("{mode}--bridge br0 {line}");
        lab.shim(&line).env("KVM_BRIDGE_QEMU", crate::support::real::QEMU).run().exits_with(125).err
    };
    let said = run("");
    assert_eq!(run("--bridge-dry-run "), said, "{line}");
    assert!(said.contains("\n  Nothing was made."), "{line}: {said}");
    said
}

/// Plans with the real QEMU, which nothing is said against.
#[track_caller]
fn is_left_to_qemu(lab: &Lab, line: &str) {
    let line = format!("--bridge-dry-run --bridge br0 {line}");
    lab.shim(&line).env("KVM_BRIDGE_QEMU", crate::support::real::QEMU).run().succeeds();
}

/// A host with files to try, and its way to their folder.
fn with_files() -> Option<(Lab, String)> {
    let lab = Lab::with_address().filter(|_| have("qemu-system-x86_64") && have("qemu-img"))?;
    let folder = lab.new_file("files");
    fs::create_dir(&folder).expect("make a folder");
    let path = folder.display().to_string();
    let image = |words: &str| {
        let words = format!("qemu-img create -q {words}");
        let made = Command::new("sh").args(["-c", &words]).current_dir(&folder).status().expect("run qemu-img");
        assert!(made.success(), "{words}");
    };
    image("-f raw raw.img 1M && mkdir sub");
    for words in ["sub/base.qcow2 8M", "-b base.qcow2 -F qcow2 sub/mid.qcow2", "-b sub/mid.qcow2 -F qcow2 top.qcow2"] {
        image(&format!("-f qcow2 {words}"));
    }
    Some((lab, path))
}

#[test]
fn files_that_qemu_looks_for_elsewhere_are_looked_for_there() {
    let Some((lab, folder)) = with_files() else { return };
    // A kernel whose header has a place for a device tree.
    let mut kernel = vec![0; 8192];
    kernel[0x202..0x208].copy_from_slice(b"HdrS\x0d\x02");
    fs::write(format!("{folder}/kernel"), kernel).expect("write a kernel");
    for line in [
        "-bios nosuch.bin",
        "-M q35 -bios nosuch.bin",
        "-machine pc,firmware=nosuch.bin",
        "-device e1000,romfile=nosuch.rom",
        "-device {\"driver\":\"e1000\",\"romfile\":\"nosuch.rom\"}",
        &format!("-kernel {folder}/kernel -dtb nosuch.dtb"),
        &format!("-kernel {folder}/kernel -initrd nosuch"),
        "-drive if=pflash,file=nosuch.fd",
        "-pflash nosuch.fd",
        "-blockdev driver=file,node-name=n,filename=nosuch.img",
        "-mtdblock nosuch",
        "-smbios file=nosuch",
        "-acpitable file=nosuch",
        "-fw_cfg name=opt/x,file=nosuch",
        "-readconfig nosuch",
        "-object secret,id=s,file=nosuch",
    ] {
        assert!(is_refused_by_qemu(&lab, line).contains("No such file or directory"), "{line}");
    }
    for line in [
        "-bios bios-256k.bin",
        "-bios nosuch.bin -bios bios-256k.bin",
        &format!("-L {folder} -bios raw.img"),
        &format!("-pflash {folder}/raw.img -bios nosuch.bin"),
        "-device e1000,romfile=efi-e1000.rom",
        "-device e1000,romfile=nosuch.rom,rombar=0",
        "-device e1000,romfile=",
        "-dtb nosuch.dtb",
        "-option-rom nosuch.rom",
        "-object memory-backend-file,id=m,size=1M,mem-path=nosuch",
    ] {
        is_left_to_qemu(&lab, line);
    }
    lab.is_untouched();
}

#[test]
fn an_image_on_one_that_is_missing_makes_nothing() {
    let Some((lab, folder)) = with_files() else { return };
    let top = format!("{folder}/top.qcow2");
    is_left_to_qemu(&lab, &top);
    fs::remove_file(format!("{folder}/sub/base.qcow2")).expect("remove the base");
    for line in [
        top.clone(),
        format!("-hda {top}"),
        format!("-cdrom {top}"),
        format!("-snapshot -drive file={top},format=qcow2,if=none"),
        format!("-drive file={folder}/sub/mid.qcow2"),
        format!("-blockdev driver=qcow2,node-name=d,file.driver=file,file.filename={top}"),
        format!("-blockdev driver=file,node-name=f,filename={top} -blockdev driver=qcow2,node-name=d,file=f"),
    ] {
        let said = is_refused_by_qemu(&lab, &line);
        assert!(
            said.contains(&format!("cannot open {folder}/sub/base.qcow2, which {folder}/sub/mid.qcow2 is")),
            "{said}"
        );
    }
    for line in [
        format!("-drive file={top},format=raw"),
        format!("-blockdev driver=file,node-name=f,filename={top}"),
        format!("-drive file={top},backing.driver=null-co"),
        format!(
            "-blockdev {{\"driver\":\"qcow2\",\"node-name\":\"d\",\"file\":{{\"driver\":\"file\",\"filename\":\"{top}\"}},\"backing\":null}}"
        ),
        format!("{folder}/raw.img"),
    ] {
        is_left_to_qemu(&lab, &line);
    }
}

#[test]
fn an_image_that_another_qemu_has_makes_nothing() {
    let Some((lab, folder)) = with_files() else { return };
    let (base, raw) = (format!("{folder}/sub/base.qcow2"), format!("{folder}/raw.img"));
    let running = format!(
        "-accel tcg -display none -S -qmp unix:{folder}/qmp,server=on,wait=off -hda {base} -drive file={raw},format=raw"
    );
    let _other = lab.shim(&running).env("KVM_BRIDGE_QEMU", crate::support::real::QEMU).start();
    let _is_there = crate::support::real::Qmp::connect(std::path::Path::new(&format!("{folder}/qmp")));
    for line in [
        base.clone(),
        format!("-hda {base}"),
        format!("-drive file={base},readonly=on"),
        format!("-snapshot {base}"),
        format!("-drive file={raw},format=raw,if=none"),
        format!("-blockdev driver=qcow2,node-name=d,file.driver=file,file.filename={base}"),
    ] {
        assert!(refusal(&lab, &line).contains("another process uses"), "{line}");
        assert!(lab.link("br0").is_none());
    }
    for line in [
        format!("-drive file={raw},format=raw,file.locking=off"),
        format!("-drive file={raw},format=raw,readonly=on,if=none"),
        format!("-blockdev driver=file,node-name=f,filename={base}"),
        format!("-hda {base} -incoming defer"),
    ] {
        is_left_to_qemu(&lab, &line);
    }
}

#[test]
fn what_this_qemu_does_not_have_makes_nothing() {
    let Some(lab) = Lab::with_address().filter(|_| have("qemu-system-x86_64")) else { return };
    for (line, what) in [
        ("-device virtio-nett", "-device virtio-nett\n  Nothing was made. Is virtio-net meant?"),
        ("-device {\"driver\":\"nosuch\"}", "-device nosuch"),
        ("-M q53", "-machine q53"),
        ("-machine pc-q35-99.9,accel=tcg", "-machine pc-q35-99.9"),
        ("-cpu nosuch,+avx", "-cpu nosuch"),
        ("-accel nosuch", "-accel nosuch"),
        ("-M accel=nosuch:hvf", "-accel nosuch"),
        ("-vga stdd", "-vga stdd"),
        ("-display nosuch", "-display nosuch"),
        ("-nosuch", "option -nosuch"),
    ] {
        assert!(
            is_refused_by_qemu(&lab, line).contains(&format!("{} has no {what}", crate::support::real::QEMU)),
            "{line}"
        );
    }
    for line in [
        "-device virtio-net -device isa-debugcon,chardev=x -device VGA -device e1000-82540em",
        "-M pc,accel=kvm",
        "-M isapc",
        "-machine type=q35,accel=nosuch:tcg",
        "-cpu host",
        "-cpu max",
        "-cpu qemu64,+avx",
        "-cpu EPYC-v1",
        "-accel nosuch -accel tcg",
        "-accel qtest",
        "-vga std",
        "-vga none",
        "-display vnc=:1",
        "-display none",
    ] {
        is_left_to_qemu(&lab, line);
    }
    lab.is_untouched();
}

#[test]
fn keys_of_qemus_own_are_answered() {
    let Some(lab) = Lab::new() else { return };
    for (name, value) in [
        ("QEMU's key for the address", "br0,macaddr=02:00:00:00:00:01"),
        ("QEMU's key for the bridge", "uplink=none,br=br0"),
        ("QEMU's key for a script", "br0,script=no"),
        ("QEMU's key of a card", "br0,bootindex=1"),
        ("misspelt key", "br0,uplnk=eth0"),
        ("QEMU's key of a TAP's use", "br0,poll-us=10"),
        ("QEMU's key of the user-mode network", "br0,hostfwd=tcp::2222-:22"),
        ("QEMU's key of another backend", "br0,connect=:1234"),
        ("QEMU's key of queues", "br0,mq=on"),
        ("misspelt key of QEMU's", "br0,hostfwdd=x"),
    ] {
        is_refused(&lab, name, lab.shim("--bridge").arg(value));
    }
}

#[test]
fn a_wrong_command_line_of_kvm_bridge_is_told_in_the_form_of_all_errors() {
    let Some(lab) = Lab::new() else { return };
    for (words, says, remedy) in [
        ("hlep", "there is no command hlep", "Is 'kvm-bridge help' meant?"),
        ("stauts", "there is no command stauts", "Is 'kvm-bridge status' meant?"),
        ("mac lst", "mac: there is no command lst", "Is 'kvm-bridge mac list' meant?"),
        ("frobnicate", "there is no command frobnicate", "The commands are status, monitor, ip, "),
        ("-v", "a command is missing", "The commands are "),
        ("install --chekc", "install: there is no option --chekc", "Is --check meant?"),
        (
            "install --nci",
            "install: there is no option --nci",
            "--nic is an option of 'kvm-bridge mac get' and 'kvm-bridge mac set'",
        ),
        ("install -check", "install: there is no option -", ""),
        ("--verzion", "there is no option --verzion", "Is --version meant?"),
        ("plan --bridge br0", "plan: there is no option --bridge", "kvm-bridge plan -- --bridge"),
        ("up", "up: BRIDGE is required", "kvm-bridge up"),
        ("up br0 br1", "up: br1 is a word too many", "kvm-bridge help up"),
        ("up br0 --attach prot", "up: --attach cannot be 'prot'", "Is --attach port meant?"),
        ("up br0 --uplink", "up: --uplink has no value", "Write --uplink IF"),
        ("up br0 --wait 4294967296", "up: --wait cannot be '4294967296'", "a whole number from 0 to 4294967295"),
        ("ip x --wait -5", "ip: --wait cannot be '-5'", "a whole number from 0 to 4294967295"),
        ("up br0 --mtu 9.5", "up: --mtu cannot be '9.5'", "a whole number from 68 to 65535"),
        ("mac set a 02:00:5e:00:00:01 --slot 99999", "mac set: --slot cannot be '99999'", "from 0 to 1023"),
        ("down br0 --all", "cannot be used with --all", "Leave one of them out."),
        ("status --json=x", "status: --json has no value", "Write --json."),
        ("status --json --json", "status: --json is given twice", "Give it once."),
        ("install --link other", "install: other is a word too many", "--link=other"),
        ("install --allow br0,br1", "install: --allow: 'br0,br1' can be meant", "--allow once for each bridge"),
    ] {
        let ended = lab.kvm_bridge(words).run().exits_with(125);
        let (first, rest) = ended.err.split_once("\n  ").unwrap_or_else(|| panic!("{words}: {}", ended.err));
        assert!(first.starts_with("kvm-bridge: ") && first.contains(says), "{words}: {}", ended.err);
        assert!(rest.contains(remedy) && !rest.trim_end().contains('\n'), "{words}: {}", ended.err);
        for foreign in ["error:", "tip:", "argument", "subcommand", "For more information"] {
            assert!(!ended.err.contains(foreign), "{words}: {}", ended.err);
        }
        assert_eq!(ended.out.is_empty(), !words.contains("--json"), "{words}: {}", ended.out);
    }
    let said = lab.shim("--bridge-hlep").run().exits_with(125).err;
    assert!(said.contains("there is no option --bridge-hlep\n  Is --bridge-help meant?"), "{said}");
}
