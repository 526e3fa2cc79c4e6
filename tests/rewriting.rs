//! What becomes of the command line.

use crate::support::programs;
use crate::support::record::{bytes, key};
use crate::support::{Lab, have, namespaces};

/// The words that QEMU gets, with the kernel's and the lease's part of them replaced by FD and MAC.
#[track_caller]
fn rewritten(lab: &Lab, line: &str) -> String {
    let ended = lab.shim(line).run().succeeds();
    let qemu = ended.qemu();
    let mut line = qemu.line();
    for netdev in qemu.values_of("-netdev") {
        if let Some(fd) = key(&netdev, "fd") {
            line = line.replace(&format!(",fd={fd}"), ",fd=FD");
        }
    }
    for mac in qemu.macs() {
        line = line.replace(&mac, "MAC");
    }
    line
}

#[test]
fn the_option_is_replaced_where_it_stands() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    for spelling in ["--bridge br0", "-bridge br0", "--bridge=br0", "-bridge=br0"] {
        assert_eq!(
            rewritten(&lab, &format!("-m 64 {spelling} -nographic")),
            "-m 64 -netdev tap,id=bridge0,fd=FD -device e1000,netdev=bridge0,mac=MAC -nographic",
            "{spelling}"
        );
    }
}

#[test]
fn each_option_becomes_one_nic_in_its_order() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    assert_eq!(
        rewritten(&lab, "--bridge br0 -m 64 --bridge br0,model=virtio-net-pci"),
        "-netdev tap,id=bridge0,fd=FD -device e1000,netdev=bridge0,mac=MAC -m 64 \
         -netdev tap,id=bridge1,fd=FD -device virtio-net-pci,netdev=bridge1,mac=MAC"
    );
}

#[test]
fn ids_that_the_line_uses_are_left_to_it() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    for taken in ["-netdev user,id=bridge0", "-chardev null,id=bridge0", "-device e1000,id=bridge0"] {
        let line = rewritten(&lab, &format!("--bridge br0 {taken}"));
        assert!(line.starts_with("-netdev tap,id=bridge1,fd=FD -device e1000,netdev=bridge1,mac=MAC"), "{line}");
        assert!(line.ends_with(taken), "{line}");
    }
}

#[test]
fn an_id_of_the_users_is_used() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let line = rewritten(&lab, "--bridge br0,id=lan");
    assert_eq!(line, "-netdev tap,id=lan,fd=FD -device e1000,netdev=lan,mac=MAC");
}

#[test]
fn a_device_of_the_users_is_left_as_it_is() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let device = "-device virtio-net-pci,netdev=lan,mac=02:00:00:00:00:07,bus=pci.0";
    let ended = lab.shim(&format!("{device} --bridge br0,id=lan -m 64")).run().succeeds();
    let netdev = ended.qemu().value_of("-netdev");
    assert_eq!(ended.qemu().line(), format!("{device} -netdev {netdev} -m 64"));
}

#[test]
fn a_device_in_json_is_seen_too() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    for device in [
        r#"{"driver":"virtio-net-pci","netdev":"lan","mac":"02:00:00:00:00:07"}"#,
        "{'driver':'virtio-net-pci','netdev':'lan','mac':'02:00:00:00:00:07'}",
    ] {
        let ended = lab.shim("--bridge br0,id=lan -device").arg(device).run().succeeds();
        assert_eq!(ended.qemu().values_of("-device"), [device]);
    }
}

#[test]
fn a_device_of_the_users_without_an_address_gets_the_vms() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let mac = lab.shim("--bridge br0 -name alice").run().succeeds().qemu().mac();
    for (device, becomes) in [
        ("-device e1000,netdev=lan", format!("-device e1000,netdev=lan,mac={mac}")),
        ("-net nic,netdev=lan,model=e1000", format!("-net nic,netdev=lan,model=e1000,macaddr={mac}")),
    ] {
        let ended = lab.shim(&format!("{device} --bridge br0,id=lan -name alice")).run().succeeds();
        let netdev = ended.qemu().value_of("-netdev");
        assert_eq!(ended.qemu().line(), format!("{becomes} -netdev {netdev} -name alice"));
    }
    let device = "-device e1000,netdev=lan,mac=02:00:00:00:00:07";
    lab.shim(&format!("{device} --bridge br0,id=lan -name bob")).run().succeeds();
    let listed = lab.kvm_bridge("mac list").run().succeeds().out;
    assert!(!listed.contains("bob"), "it has its own: {listed}");
}

#[test]
fn a_value_that_looks_like_our_option_is_a_value() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let line = rewritten(&lab, "-append --bridge -m 64 --bridge br0 -name -bridge");
    assert_eq!(
        line,
        "-append --bridge -m 64 -netdev tap,id=bridge0,fd=FD -device e1000,netdev=bridge0,mac=MAC -name -bridge"
    );
}

#[test]
fn odd_bytes_around_our_option_stay() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let odd = [bytes(b"\xff\xfe"), bytes(b"a b"), bytes(b"")];
    let cmd = lab.shim("-append").arg(&odd[0]).words("--bridge br0 -name").arg(&odd[1]).words("-append").arg(&odd[2]);
    let argv = cmd.run().succeeds().qemu().argv.clone();
    assert_eq!((&argv[2], &argv[argv.len() - 3], &argv[argv.len() - 1]), (&odd[0], &odd[1], &odd[2]));
}

#[test]
fn the_environment_adds_nics_at_the_end() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let ended = lab.shim("-m 64").env("KVM_BRIDGE", "br0,mac=02:00:00:00:00:01 br0,model=rtl8139").run().succeeds();
    let qemu = ended.qemu();
    assert!(qemu.line().starts_with("-m 64 -netdev tap,id=bridge0,"), "{}", qemu.line());
    assert_eq!(qemu.macs()[0], "02:00:00:00:00:01");
    assert!(qemu.values_of("-device")[1].starts_with("rtl8139,netdev=bridge1,"), "{}", qemu.line());
}

#[test]
fn our_card_takes_the_place_of_a_clients_user_mode_card() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    // As debvm, quickemu, virtme-ng and Packer write it.
    for (line, card, lost) in [
        (
            "-append x -netdev user,id=net0,hostfwd=tcp:127.0.0.1:2222-:22 -device virtio-net-pci,netdev=net0 -name vm",
            "-device virtio-net-pci,netdev=net0,mac=MAC",
            "hostfwd=tcp:127.0.0.1:2222-:22 of -netdev user is dropped",
        ),
        (
            "-name vm -device virtio-net,netdev=nic -netdev user,hostname=vm,hostfwd=tcp::22220-:22,id=nic",
            "-device virtio-net,netdev=nic,mac=MAC",
            "hostname=vm, hostfwd=tcp::22220-:22 of -netdev user are dropped",
        ),
        (
            "-name vm -device virtio-net-pci,netdev=n0 -netdev user,id=n0",
            "-device virtio-net-pci,netdev=n0,mac=MAC",
            "",
        ),
        (
            "-name vm -netdev user,id=user.0,hostfwd=tcp::3456-:22 -device virtio-net,netdev=user.0",
            "-device virtio-net,netdev=user.0,mac=MAC",
            "hostfwd=tcp::3456-:22 of -netdev user is dropped",
        ),
        ("-name vm -nic user,model=virtio", "-net nic,model=virtio,netdev=bridge0,macaddr=MAC", ""),
        ("-name vm -net nic -net user", "-net nic,netdev=bridge0,macaddr=MAC", ""),
    ] {
        let run = |variable: &str| lab.shim(line).env("KVM_BRIDGE", variable).run().succeeds();
        let ended = run("br0,replace=user");
        let qemu = ended.qemu();
        let macs: Vec<String> = (qemu.values_of("-device").iter().chain(&qemu.values_of("-net")))
            .filter_map(|card| key(card, "mac").or(key(card, "macaddr")))
            .collect();
        assert_eq!((macs.len(), qemu.taps().len()), (1, 1), "{}", qemu.line());
        let is = qemu.line().replace(&macs[0], "MAC");
        assert!(is.contains(card) && !is.contains("user,") && !is.ends_with("user"), "{is}");
        let id = format!("id={},", key(card, "netdev").expect("an id"));
        assert!(qemu.value_of("-netdev").contains(&id), "{is}");
        match lost {
            "" => assert_eq!(ended.err, "", "{line}"),
            lost => assert_eq!(
                ended.err,
                format!("qemu-kvm: {lost}: the guest has an address of its own: kvm-bridge ip vm\n")
            ),
        }
        // The same VM, the same address; and what is not asked for is not done.
        assert!(run("br0,replace=user").qemu().line().contains(&macs[0]));
        let beside = run("br0");
        assert!(beside.qemu().line().starts_with(line), "{}", beside.qemu().line());
        assert_eq!(beside.err, "");
    }
    let dry = lab.shim("--bridge-dry-run -nic user,hostfwd=a").env("KVM_BRIDGE", "br0,replace=user").run().succeeds();
    assert!(dry.out.contains("# hostfwd=a of -nic user is dropped"), "{}", dry.out);
}

#[test]
fn an_empty_environment_variable_is_none() {
    let Some(lab) = Lab::new() else { return };
    assert_eq!(lab.shim("-m 64").env("KVM_BRIDGE", "").run().succeeds().qemu().line(), "-m 64");
}

#[test]
fn a_probe_of_qemu_starts_no_bridge() {
    let Some(lab) = Lab::new() else { return };
    for probe in
        ["-version", "--version", "-help", "-h", "-device help", "-machine none -S", "-drive format=help", "-L help"]
    {
        let ended = lab.shim(probe).env("KVM_BRIDGE", "br0,uplink=none").run().succeeds();
        assert_eq!(ended.qemu().line(), probe);
        assert_eq!((ended.out.as_str(), ended.err.as_str()), ("", ""), "{probe}");
    }
    lab.is_untouched();
}

// What a machine, a model and speed make of it.

#[test]
fn several_nics_have_ids_taps_and_addresses_by_their_place() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    lab.add_bridge("br1");
    let line = "--bridge br0 --bridge br1,model=virtio-net-pci,mac=02:00:00:00:00:01 --bridge br0 -name alice";
    let mut guest = lab.shim(line).boot();
    let qemu = guest.qemu().clone();
    let devices: Vec<String> = qemu.values_of("-device");
    assert!(devices[0].starts_with("e1000,netdev=bridge0,mac="), "{devices:?}");
    assert_eq!(devices[1], "virtio-net-pci,netdev=bridge1,mac=02:00:00:00:00:01");
    assert!(devices[2].starts_with("e1000,netdev=bridge2,mac="), "{devices:?}");
    let masters: Vec<String> = qemu
        .values_of("-netdev")
        .iter()
        .map(|netdev| {
            let fd = key(netdev, "fd").expect("a descriptor");
            let tap = qemu.taps().into_iter().find(|tap| tap.fd.to_string() == fd).expect("a TAP");
            lab.a_link(&tap.name)["master"].as_str().expect("a port").to_owned()
        })
        .collect();
    assert_eq!(masters, ["br0", "br1", "br0"]);
    let again = lab.shim(line).run().succeeds().qemu().macs();
    drop(guest);
    assert_ne!(again[0], qemu.macs()[0], "a second run at once has addresses of its own");
    assert_eq!(lab.shim(line).run().succeeds().qemu().macs(), qemu.macs());
}

#[test]
fn the_card_fits_the_machine_and_a_word_says_so() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    for (machine, model) in [("-M microvm", "virtio-net-device"), ("-machine type=isapc", "ne2k_isa")] {
        let ended = lab.shim(&format!("{machine} --bridge br0")).run().succeeds();
        assert!(
            ended.qemu().value_of("-device").starts_with(&format!("{model},netdev=bridge0,")),
            "{}",
            ended.qemu().line()
        );
        assert!(ended.err.contains(model), "{}", ended.err);
    }
    let ended = lab.shim("-M microvm --bridge br0,model=virtio-net-device").run().succeeds();
    assert_eq!(ended.err, "");
    let plan = lab.kvm_bridge("plan -- -M microvm --bridge br0").run().succeeds();
    assert!(
        plan.out.contains("virtio-net-device,netdev=bridge0,") && plan.out.contains("# this machine"),
        "{}",
        plan.out
    );
}

/// A QEMU for boards: one card of the SoC's, whatever the machine. It writes down what it is asked.
fn qemu_for_boards(folder: &std::path::Path, card: &str) -> std::path::PathBuf {
    let asked = folder.join("asked");
    programs::script(
        folder.join("qemu-system-arm"),
        &format!(
            r#"case "$*" in *"-qmp stdio"*) ;; *) exec {fake} "$@" ;; esac
echo "$*" >>{asked}
[ "$2" != silent ] || exit 1
cat >/dev/null
cat <<'END'
{{"return": {{}}}}
{{"return": "bus: main-system-bus\r\n  type System\r\n"}}
{{"return": "hub 0\r\n \\ card0: {card}.0: index=0,type=nic\r\n"}}
END"#,
            fake = crate::support::command::fake_qemu().display(),
            asked = asked.display(),
        ),
    );
    asked
}

#[test]
fn qemu_is_asked_once_what_a_board_has() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let folder = lab.new_file("bin");
    std::fs::create_dir(&folder).expect("make a folder");
    let asked = qemu_for_boards(&folder, "lan9118");
    let shim = |line: &str| lab.shim(line).env("KVM_BRIDGE_QEMU", folder.join("qemu-system-arm"));
    let questions = || std::fs::read_to_string(&asked).unwrap_or_default().lines().count();
    for line in ["-M virt --bridge br0,model=e1000", "--bridge br0", "-M virt --bridge br0", "-M board"] {
        shim(line).run().succeeds();
        assert_eq!(questions(), 0, "{line}");
    }
    for (line, count) in [
        ("-M board --bridge br0 -name a", 1),
        ("-M board --bridge br0 -name b", 1),
        ("-M board,memory=x --bridge-dry-run --bridge br0", 1),
        ("-M other --bridge br0", 2),
    ] {
        let ended = shim(line).run().succeeds();
        assert!(ended.err.contains("is the lan9118 on board") || line.contains("dry-run"), "{line}: {}", ended.err);
        assert_eq!(questions(), count, "{line}");
    }
    let ended = shim("-M board --bridge br0 -name a").run().succeeds();
    let mac = key(&ended.qemu().value_of("-net"), "macaddr").expect("a MAC");
    assert_eq!(ended.qemu().value_of("-net"), format!("nic,netdev=bridge0,macaddr={mac}"));
    assert!(ended.qemu().values_of("-device").is_empty(), "{}", ended.qemu().line());
    // The same VM, the same address.
    let again = shim("-M board --bridge br0 -name a").run().succeeds();
    assert_eq!(key(&again.qemu().value_of("-net"), "macaddr"), Some(mac));
    // Another version is asked again.
    qemu_for_boards(&folder, "smc91c111");
    let ended = shim("-M board --bridge br0").run().succeeds();
    assert!(ended.err.contains("is the smc91c111 on board"), "{}", ended.err);
    assert_eq!(questions(), 3);
    // Of one that does not tell, in whatever way it is asked, nothing is taken for granted: who calls has the last word.
    for _ in 0..2 {
        let before = questions();
        let ended = shim("-M silent --bridge br0").run().exits_with(125);
        assert!(
            ended.err.contains("does not tell") && ended.err.contains("br0,model=e1000 if it has PCI"),
            "{}",
            ended.err
        );
        assert!(questions() > before, "it is asked again");
    }
    let ended = shim("-M silent --bridge br0,model=e1000").run().succeeds();
    assert!(ended.qemu().value_of("-device").starts_with("e1000,"), "{}", ended.qemu().line());
    let ended = shim("-M board --bridge br0,model=e1000").run().exits_with(125);
    assert!(ended.err.contains("Leave model= out, for the smc91c111"), "{}", ended.err);
    // What nobody can be sure of is not kept as root where others could write it. Kept are the board, and that this script
    // hands on what it inherits.
    let kept = lab.sh("find /var/cache/kvm-bridge -type f ! -perm /022 | wc -l; find /var/cache/kvm-bridge -perm /022");
    assert_eq!(kept.run().succeeds().out.trim(), "2");
}

#[test]
fn a_number_that_a_caller_gives_is_never_that_of_a_descriptor_of_ours() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let ended = lab.shim("--bridge br0,model=virtio-net-pci,queues=2,vhost=off -add-fd fd=3,set=1").run().succeeds();
    let is_ours = |(_, link): &&(i64, String)| link.contains("/net/tun") || link.contains("/var/lib/kvm-bridge");
    let fds: Vec<i64> = ended.qemu().fds().iter().filter(is_ours).map(|(fd, _)| *fd).collect();
    assert!(fds.len() == 3 && fds.iter().all(|fd| *fd >= 100), "{fds:?}");
}

#[test]
fn a_limit_on_open_files_is_named() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let line = "--bridge br0,model=virtio-net-pci,queues=16,vhost=off";
    let ended = lab.shim(line).through_sh("ulimit -n 14; exec \"$0\" \"$@\"").run().exits_with(125);
    assert!(ended.err.contains("ulimit -n") && !ended.err.contains("modprobe"), "{}", ended.err);
}

#[test]
fn many_queues_are_many_descriptors_of_one_tap() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let mut guest = lab.shim("-smp 3 --bridge br0,model=virtio-net-pci,queues=auto,vhost=off").then("hold").start();
    let qemu = guest.qemu().clone();
    let fds = key(&qemu.value_of("-netdev"), "fds").expect("several descriptors");
    let taps = qemu.taps();
    assert_eq!(taps.iter().map(|tap| tap.fd.to_string()).collect::<Vec<_>>().join(":"), fds);
    assert!(taps.len() == 3 && taps.iter().all(|tap| tap.multi_queue && tap.name == taps[0].name), "{taps:?}");
    assert!(qemu.value_of("-device").ends_with(",mq=on,vectors=8"), "{}", qemu.line());
    guest.kill();
    lab.waits_until_gone(&taps[0].name);
    let ended = lab.shim("--bridge br0,queues=2").run().exits_with(125);
    assert!(ended.err.contains("the network card e1000 has one queue"), "{}", ended.err);
}

#[test]
fn a_persistent_tap_has_as_many_queues_as_it_was_made_for() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    for (name, kind) in [("tap-m", " multi_queue"), ("tap-s", "")] {
        lab.ip(&format!("tuntap add dev {name} mode tap vnet_hdr{kind}"));
        lab.ip(&format!("link set dev {name} master br0 addrgenmode none up"));
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1").expect("switch IPv6 off");
    }
    lab.settle();
    let with = |tap: &str| lab.shim(&format!("--bridge br0,model=virtio-net-pci,queues=2,ifname={tap}")).run();
    assert_eq!(with("tap-m").succeeds().qemu().taps().len(), 2);
    let ended = with("tap-s").exits_with(125);
    assert!(ended.err.contains("has one queue, not 2") && ended.err.contains("multi_queue"), "{}", ended.err);
}

/// A /dev with these files besides the devices that programs need.
fn dev_with(files: &[&str]) {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    namespaces::hide("/dev").expect("hide /dev");
    std::fs::create_dir("/dev/net").expect("make a folder");
    for (name, major, minor) in [("null", 1, 3), ("zero", 1, 5), ("urandom", 1, 9), ("net/tun", 10, 200)] {
        let mode = Mode::from_bits_truncate(0o666);
        mknod(format!("/dev/{name}").as_str(), SFlag::S_IFCHR, mode, makedev(major, minor)).expect("make a device");
    }
    // Whatever the umask is.
    std::fs::set_permissions("/dev/net/tun", std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("let all in");
    for file in files {
        std::fs::write(file, "").expect("make a file");
    }
}

#[test]
fn vhost_is_passed_on_where_it_can_be_opened() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    dev_with(&[]);
    let virtio = |more: &str| lab.shim(&format!("--bridge br0,model=virtio-net-pci{more}")).run();
    for more in ["", ",vhost=auto", ",vhost=off"] {
        assert!(!virtio(more).succeeds().qemu().line().contains("vhost"), "{more}");
    }
    let ended = virtio(",vhost=on").exits_with(125);
    assert!(ended.err.contains("cannot open /dev/vhost-net") && ended.err.contains("modprobe"), "{}", ended.err);

    // A file that stands in for the device: what is opened and passed on is all that is seen here.
    std::fs::write("/dev/vhost-net", "").expect("make a file");
    for (more, count) in [("", 1), (",vhost=auto", 1), (",vhost=on", 1), (",queues=3", 3), (",vhost=off", 0)] {
        let ended = virtio(more).succeeds();
        let qemu = ended.qemu();
        let netdev = qemu.value_of("-netdev");
        let named = key(&netdev, if count > 1 { "vhostfds" } else { "vhostfd" }).unwrap_or_default();
        let is_vhost = |(fd, link): &(i64, String)| (link == "/dev/vhost-net").then(|| fd.to_string());
        let open: Vec<String> = qemu.fds().iter().filter_map(is_vhost).collect();
        assert_eq!((open.len(), open.join(":")), (count, named), "{more}: {netdev}");
        assert_eq!(netdev.contains(",vhost=on,"), count > 0, "{netdev}");
    }
    let e1000 = lab.shim("--bridge br0").run().succeeds();
    assert!(!e1000.qemu().line().contains("vhost"), "{}", e1000.qemu().line());
    lab.shim("--bridge br0,vhost=on").run().exits_with(125);
    let device = "-device virtio-net-pci,netdev=lan,mac=02:00:00:00:00:07";
    let own = lab.shim(&format!("{device} --bridge br0,id=lan")).run().succeeds();
    assert!(own.qemu().value_of("-netdev").contains("vhostfd="), "{}", own.qemu().line());
    namespaces::show_again("/dev").expect("show /dev again");
}

#[test]
fn who_may_not_open_dev_kvm_is_told_once_how_to_be_let_in() {
    use std::os::unix::fs::{PermissionsExt, chown};
    let Some(lab) = Lab::with_bridge("br0") else { return };
    if !have("setpriv") {
        return;
    }
    dev_with(&["/dev/kvm"]);
    let kvm = nix::unistd::Gid::from_raw(7);
    let group = nix::unistd::Group::from_gid(kvm).ok().flatten().expect("a group").name;
    chown("/dev/kvm", Some(0), Some(kvm.as_raw())).expect("give it to a group");
    std::fs::set_permissions("/dev/kvm", std::fs::Permissions::from_mode(0o660)).expect("let the group in");
    std::fs::set_permissions(lab.dir.path(), std::fs::Permissions::from_mode(0o777)).expect("let everybody in");
    let folder = lab.new_file("bin");
    std::fs::create_dir(&folder).expect("make a folder");
    let copy = |from: &str, to: &str| programs::copy(from, folder.join(to));
    copy(env!("CARGO_BIN_EXE_qemu-kvm"), "qemu-kvm");
    copy(&crate::support::command::fake_qemu().display().to_string(), "fake-qemu");
    let as_user = |groups: &str, line: &str| {
        lab.program(folder.join("qemu-kvm"))
            .words(line)
            .env("KVM_BRIDGE_QEMU", folder.join("fake-qemu"))
            .env("XDG_STATE_HOME", lab.new_file("state"))
            .env("HOME", "/")
            .through(&format!(
                "setpriv --reuid=65534 --regid=65534 --inh-caps=+net_admin --ambient-caps=+net_admin {groups}"
            ))
            .run()
            .succeeds()
    };
    let outside = "--clear-groups";
    for line in ["--bridge br0", "-enable-kvm --bridge br0", "-accel kvm --bridge br0", "-M accel=kvm:tcg --bridge br0"]
    {
        let ended = as_user(outside, line);
        assert_eq!(ended.err.matches("/dev/kvm").count(), 1, "{line}: {}", ended.err);
        assert!(ended.err.contains(&format!("usermod -aG {group} $USER")), "{line}: {}", ended.err);
        assert!(ended.qemu_ran());
    }
    for line in ["-accel tcg --bridge br0", "-M pc,accel=tcg --bridge br0", "-m 64"] {
        assert_eq!(as_user(outside, line).err, "", "{line}");
    }
    assert_eq!(as_user("--groups=7", "--bridge br0").err, "");
    namespaces::show_again("/dev").expect("show /dev again");
}
