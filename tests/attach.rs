//! `kvm-bridge attach` and `detach`: network cards of guests that run. The real QEMU.

use crate::guests::{boot_linux_by, mac_of, waits_for_qemu};
use crate::json::is_as_documented;
use crate::lifecycle::monitor;
use crate::support::command::Running;
use crate::support::real::{GuestShell, QEMU, QUIET, Qmp, shim};
use crate::support::user::{ALICE, Right, our_helper};
use crate::support::{Lab, have, wait_for};
use crate::user_network;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

fn taps(lab: &Lab) -> Vec<String> {
    let links = lab.ip_json("link show type tun");
    let names = links.as_array().expect("a list").iter().filter_map(|link| link["ifname"].as_str());
    names.map(str::to_owned).collect()
}

/// A guest that has only been made, and its monitor.
fn paused<'lab>(lab: &'lab Lab, words: &str) -> (Running<'lab>, PathBuf) {
    let (socket, monitor) = monitor(lab);
    let mut guest = shim(lab, &format!("-accel tcg -S {QUIET} {words} {monitor}")).start();
    waits_for_qemu(&mut guest);
    wait_for("its monitor", 20, || socket.exists().then_some(()));
    (guest, socket)
}

#[test]
fn a_real_guest_gets_a_card_and_lets_go_of_it_and_has_the_same_at_its_next_start() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let (socket, words) = monitor(&lab);
    let (keyboard, shell) = std::io::pipe().expect("a pipe");
    let cmd = lab.shim(&format!("--bridge br0 -name alice {words}")).stdin(keyboard);
    let Some(guest) = boot_linux_by(&lab, cmd, "shell") else { return };
    let first = mac_of(&guest);
    wait_for("the guest's shell", 120, || guest.out().contains("guest: shell").then_some(()));
    let mut shell = GuestShell::new(shell);
    let attach = |words: &str| lab.kvm_bridge(&format!("attach alice --bridge {words}"));
    let said = attach("br0 --save").run().succeeds().out;
    assert!(said.contains("alice has a new network card on br0: e1000, ") && said.contains(", kvb1"), "{said}");
    assert!(said.ends_with("add behind the others: --bridge br0\n"), "{said}");
    let second = said.split(", ").nth(1).expect("an address").to_owned();
    assert_eq!(lab.kvm_bridge("mac get alice --nic 1").run().succeeds().out.trim(), second);
    // It works: by it alone the LAN is reached.
    let in_guest =
        format!("for i in 1 2 3 4 5 6 7 8 9; do grep -l {second} /sys/class/net/*/address && break; sleep 1; done");
    let (status, said) = shell.run(&guest, &in_guest);
    assert_eq!(status, 0, "{said}");
    let link = said.lines().find_map(|line| line.split('/').nth(4)).expect("a link").to_owned();
    let use_it =
        format!("ip link set eth0 down; ip link set {link} up && udhcpc -i {link} -s /init -f -n -q -t 10 -T 1");
    let (status, said) = shell.run(&guest, &use_it);
    assert_eq!(status, 0, "{said}");
    lab.lan.lease_of(&second, 30);
    // A third one, whose address is somebody's choice; then one of several has to be named.
    let json = attach("br0,model=virtio-net-pci,mac=02:00:5e:00:00:09 --json").run().succeeds().out;
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&json["model"], &json["port"]), (&"virtio-net-pci".into(), &"kvb2".into()), "{json}");
    assert_eq!(json["save"], "--bridge br0,model=virtio-net-pci,mac=02:00:5e:00:00:09");
    let refused = lab.kvm_bridge("detach alice").run().exits_with(125).err;
    assert!(refused.contains("several network cards: kvb0 ("), "{refused}");
    let refused = lab.kvm_bridge("detach alice kvb9").run().exits_with(125).err;
    assert!(refused.contains("no network card kvb9"), "{refused}");
    lab.kvm_bridge("detach alice 02:00:5e:00:00:09").run().succeeds();
    let said = lab.kvm_bridge("detach alice kvb1").run().succeeds().out;
    assert_eq!(said, format!("alice has no network card {second} any more\n"));
    wait_for("the TAPs to go", 10, || (taps(&lab) == ["kvb0"]).then_some(()));
    assert_eq!(shell.run(&guest, &format!("! grep {second} /sys/class/net/*/address")).0, 0);
    // The same again, and also the card that it was started with.
    assert!(attach("br0").run().succeeds().out.contains(&second));
    lab.kvm_bridge("detach alice").arg(&first).run().succeeds();
    assert!(attach("br0").run().succeeds().out.contains(&first));
    let network = Qmp::connect(&socket).say("info network");
    assert!(network.contains(&first) && network.contains(&second), "{network}");
    // None at all: it is found by its name.
    lab.kvm_bridge("detach alice").arg(&second).run().succeeds();
    lab.kvm_bridge("detach alice").run().succeeds();
    wait_for("the TAPs to go", 10, || taps(&lab).is_empty().then_some(()));
    let refused = lab.kvm_bridge("detach alice").run().exits_with(125).err;
    assert!(refused.contains("It has: none."), "{refused}");
    for mac in [&first, &second] {
        assert!(attach("br0").run().succeeds().out.contains(mac.as_str()), "{mac}");
    }
    is_as_documented(&lab, "attach", "attach alice --bridge br0 --json");
    is_as_documented(&lab, "detach", "detach alice kvb2 --json");
    guest.kill();
    let macs = lab.shim("--bridge br0 --bridge br0 -name alice").run().succeeds().qemu().macs();
    assert_eq!(macs, [first, second]);
}

#[test]
fn a_card_goes_where_the_machine_takes_one_or_what_is_missing_is_said() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    if !have("qemu-system-x86_64") {
        return;
    }
    let attach = |words: &str| lab.kvm_bridge(&format!("attach vm --bridge {words}"));
    let port = |id: u32| format!("-device pcie-root-port,id=hot{id},chassis={}", id + 1);
    for (machine, words, bus) in [
        ("pc", "br0", Value::Null),
        ("pc", "br0,model=virtio-net-pci,queues=2", Value::Null),
        (&format!("q35 {}", port(0)), "br0", "hot0".into()),
        (&format!("q35 {} -device virtio-rng-pci,bus=hot0 {}", port(0), port(1)), "br0,model=e1000e", "hot1".into()),
    ] {
        let (guest, socket) = paused(&lab, &format!("--bridge br0 -name vm -machine {machine}"));
        let said: Value = serde_json::from_str(&attach(&format!("{words} --json")).run().succeeds().out).expect("JSON");
        assert_eq!(said["bus"], bus, "{machine} {words}");
        let network = Qmp::connect(&socket).say("info network");
        let mac = said["mac"].as_str().expect("an address");
        assert!(
            network.contains(&format!("bridge1: index=0,type=nic,model={}", said["model"].as_str().expect("one"))),
            "{network}"
        );
        assert!(network.contains(mac) && network.contains("type=tap,fd="), "{network}");
        assert_eq!(taps(&lab).len(), 2);
        guest.kill();
        wait_for("the TAPs to go", 10, || taps(&lab).is_empty().then_some(()));
    }
    // Whatever is refused leaves the guest as it was, and the host.
    let (guest, socket) = paused(&lab, "--bridge br0 -name vm -machine q35");
    let before = Qmp::connect(&socket).say("info network");
    for (words, what) in [
        ("br0", "-device pcie-root-port,id=hot0,chassis=1"),
        ("br0,model=nonsense", "nonsense"),
        ("br0,id=bridge0", "the id 'bridge0'"),
        ("nosuch,uplink=nosuch0", "nosuch0"),
        ("br0,forward=tcp:2222:22", "forward= is for the start"),
        ("br0,announce=on", "announce= is for the start"),
        ("br0,vm=other", "vm= is for the start"),
        ("br0,slot=3", "slot= is for the start"),
        ("br0,replace=user", "replace= is for the start"),
        ("br0,nonsense=1", "nonsense"),
        ("br0,mac=zz", "zz"),
        ("", "--bridge"),
    ] {
        let err = lab.kvm_bridge("attach vm --bridge").arg(words).run().exits_with(125).err;
        assert!(err.contains(what), "{words}: {err}");
        assert_eq!(
            (Qmp::connect(&socket).say("info network"), taps(&lab)),
            (before.clone(), vec!["kvb0".to_owned()]),
            "{words}"
        );
    }
    // One more run of this VM has its own addresses, and this one keeps its.
    let mac = mac_of(&guest);
    let err = attach(&format!("br0,mac={mac}")).run().exits_with(125).err;
    assert!(err.contains(&format!("has a network card {mac} already")), "{err}");
    guest.kill();
}

#[test]
fn what_an_attach_that_was_killed_has_left_is_removed_by_the_next() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    if !have("qemu-system-x86_64") || !have("strace") {
        return;
    }
    let (guest, socket) = paused(&lab, "--bridge br0 -name vm");
    let attach = || lab.kvm_bridge("attach vm --bridge br0");
    let is_tap = |line: &&str| line.contains("type=tap");
    let (mut nth, mut removed) = (1, 0);
    while attach().dies_at("sendmsg", nth) {
        nth += 1;
        let said = lab.kvm_bridge("detach vm nosuch").run().exits_with(125).err;
        removed += usize::from(said.contains("which an attach that was killed has left"));
        let network = Qmp::connect(&socket).say("info network");
        assert!(!network.lines().any(|line| is_tap(&line) && !line.starts_with(' ')), "{nth}: {network}");
    }
    assert!(removed > 0, "{removed} of {nth}");
    // A TAP that QEMU was given and has not used yet is replaced by the next, which has its name.
    let network = Qmp::connect(&socket).say("info network");
    assert_eq!(network.lines().filter(is_tap).count(), taps(&lab).len(), "{network}");
    guest.kill();
}

#[test]
fn only_the_monitor_of_the_guest_itself_is_talked_with() {
    let Some(lab) = Lab::with_bridge("br0").and_then(Lab::with_users) else { return };
    if !have("qemu-system-x86_64") {
        return;
    }
    let attach = |vm: &str| lab.kvm_bridge("attach").arg(vm).words("--bridge br0").run().exits_with(125).err;
    let guest = shim(&lab, &format!("--bridge br0 -name bare -accel tcg -S {QUIET}")).start();
    wait_for("the guest", 20, || lab.kvm_bridge("ip bare").run().err.contains("no address of bare").then_some(()));
    let err = attach("bare");
    assert!(err.contains("the QEMU of bare has no QMP socket") && err.contains("-qmp unix:"), "{err}");
    guest.kill();
    assert!(attach("nobody").contains("there is no guest nobody"));
    // Another program has it, or another's socket is in its place.
    let (guest, socket) = paused(&lab, "--bridge br0 -name busy");
    let other = Qmp::connect(&socket);
    assert!(attach("busy").contains("A monitor talks with one program at a time"));
    drop(other);
    fs::rename(&socket, socket.with_extension("aside")).expect("move it");
    let _theirs = UnixListener::bind(&socket).expect("another socket");
    let err = attach("busy");
    assert!(err.contains(&format!("it is not that of process {}", guest.pid())), "{err}");
    guest.kill();
    // Another user's, whose word its command line is.
    lab.install(Path::new(env!("CARGO_BIN_EXE_qemu-kvm")), Right::None);
    lab.install(Path::new(env!("CARGO_BIN_EXE_kvm-bridge")), Right::None);
    lab.install(&our_helper(), Right::Capability);
    lab.allow_more("allow br0 user alice\n");
    let words = format!("--bridge br0 -name hers -accel tcg -S {QUIET} -qmp unix:/run/alice/qmp,server=on,wait=off");
    let mut hers = lab.as_user(ALICE, "/run/bin/qemu-kvm").words(&words).env("KVM_BRIDGE_QEMU", QEMU).start();
    waits_for_qemu(&mut hers);
    wait_for("its monitor", 20, || Path::new("/run/alice/qmp").exists().then_some(()));
    let tap = taps(&lab).pop().expect("her TAP");
    for vm in ["hers", &tap] {
        let err = attach(vm);
        assert!(err.contains("alice"), "{err}");
    }
    assert!(attach(&tap).contains("sudo -u alice kvm-bridge attach"));
    // She does it herself, by the helper.
    let own = |words: &str| lab.as_user(ALICE, "/run/bin/kvm-bridge").words(words).run().succeeds().out;
    let said = own("attach hers --bridge br0 --save");
    assert!(said.contains("hers has a new network card on br0: e1000, ") && said.contains("--bridge br0\n"), "{said}");
    assert!(Qmp::connect(Path::new("/run/alice/qmp")).say("info network").contains("bridge1: "));
    assert_eq!(taps(&lab).len(), 2);
    hers.kill();
    // One of libvirt's is libvirt's.
    let libvirts =
        "-chardev socket,id=charmonitor,path=/run/charmonitor,server=on,wait=off -mon chardev=charmonitor,mode=control";
    let mut guest = shim(&lab, &format!("--bridge br0 -name guest=web -accel tcg -S {QUIET} {libvirts}")).start();
    waits_for_qemu(&mut guest);
    assert!(attach("web").contains("virsh attach-interface web bridge br0 --live"));
    let err = lab.kvm_bridge("detach web").run().exits_with(125).err;
    assert!(err.contains("virsh detach-interface web bridge --mac MAC --live"), "{err}");
    guest.kill();
    let _ = fs::remove_file("/run/charmonitor");
}

#[test]
fn a_guest_in_a_network_of_its_users_own_gets_a_card_there() {
    let Some(lab) = user_network::host() else { return };
    if !have("qemu-system-x86_64") {
        return;
    }
    let run = |name: &str, words: &str| user_network::program(&lab, ALICE, name).words(words);
    let words = format!("-name vm -accel tcg -S {QUIET}");
    let mut guest =
        run("qemu-kvm", "--bridge uplug,uplink=user,monitor=on").words(&words).env("KVM_BRIDGE_QEMU", QEMU).start();
    waits_for_qemu(&mut guest);
    let folder = Path::new("/run/alice/kvm-bridge/machine-monitors");
    let socket = || Some(fs::read_dir(folder).ok()?.flatten().next()?.path());
    let socket = wait_for("its monitor", 20, socket);
    let said = run("kvm-bridge", "attach vm --bridge uplug,model=virtio-net-pci").run().succeeds().out;
    assert!(said.contains("vm has a new network card on uplug: virtio-net-pci, "), "{said}");
    let mac = said.split(", ").nth(1).expect("an address").to_owned();
    assert!(Qmp::connect(&socket).say("info network").contains(&mac));
    let status: Value =
        serde_json::from_str(&run("kvm-bridge", "status uplug --json").run().succeeds().out).expect("JSON");
    assert_eq!(status["bridges"][0]["ports"].as_array().map(Vec::len), Some(2), "{status}");
    assert!(status["bridges"][0]["nat"]["guests"].to_string().contains(&mac), "{status}");
    let err = run("kvm-bridge", "attach vm --bridge other,uplink=user").run().exits_with(125).err;
    assert!(err.contains("has no bridge other"), "{err}");
    guest.terminate().succeeds();
    fs::remove_dir(folder).expect("it is empty");
    user_network::is_gone("uplug", "/run/alice");
}

#[test]
fn a_monitor_of_ones_own_is_ones_own_and_goes_with_the_guest() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    if !have("qemu-system-x86_64") {
        return;
    }
    let folder = Path::new("/run/kvm-bridge/machine-monitors");
    let sockets = || fs::read_dir(folder).map_or(0, |entries| entries.count());
    let boot = || {
        let mut guest = shim(&lab, &format!("--bridge br0,monitor=on -name vm -accel tcg -S {QUIET}")).start();
        waits_for_qemu(&mut guest);
        wait_for("its monitor", 20, || (sockets() == 1).then_some(()));
        guest
    };
    let dry = lab.shim("--bridge-dry-run --bridge br0,monitor=on -name vm").run().succeeds().out;
    assert!(dry.contains("-qmp unix:/run/kvm-bridge/machine-monitors/vm-") && !folder.exists(), "{dry}");
    let guest = boot();
    assert_eq!(fs::metadata(folder).expect("a folder").permissions().mode() & 0o777, 0o700);
    let nobody = "setpriv --reuid nobody --clear-groups --inh-caps=-all";
    lab.program("ls").arg(folder).through(nobody).run().exits_with(2);
    lab.kvm_bridge("attach vm --bridge br0").run().succeeds();
    assert_eq!(taps(&lab).len(), 2);
    guest.terminate().succeeds();
    assert_eq!(sockets(), 0);
    // What a kill leaves the next start removes.
    boot().kill();
    assert_eq!(sockets(), 1);
    let guest = boot();
    guest.kill();
    lab.kvm_bridge("recover").run().succeeds();
    assert_eq!(sockets(), 0);
    let guest = boot();
    lab.kvm_bridge("attach vm --bridge br0").run().succeeds();
    guest.terminate().succeeds();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("open it");
    let refused = lab.shim("--bridge br0,monitor=on").run().exits_with(125);
    assert!(
        refused.err.contains("/run/kvm-bridge/machine-monitors is open to others") && !refused.qemu_ran(),
        "{}",
        refused.err
    );
    assert!(lab.shim("--bridge br0,monitor=off").run().succeeds().qemu_ran());
    fs::remove_dir(folder).expect("remove it");
}
