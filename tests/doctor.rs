//! `kvm-bridge doctor`: each check both ways, with the fault made for real.

use crate::guests::{boot_linux, mac_of, real};
use crate::support::namespaces::hide;
use crate::support::programs;
use crate::support::real::linux;
use crate::support::user::{ALICE, Right, our_helper, write_rules};
use crate::support::{Lab, frames, have, wait_for};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

/// What a run found.
pub(crate) struct Found(Vec<Value>);

impl Found {
    /// The checks of a name, the worst first.
    pub(crate) fn of(&self, name: &str) -> Vec<&Value> {
        let order =
            |check: &&Value| ["failure", "warning", "ok"].iter().position(|verdict| check["verdict"] == *verdict);
        let mut checks: Vec<&Value> = self.0.iter().filter(|check| check["name"] == name).collect();
        checks.sort_by_key(order);
        checks
    }

    /// The worst of a name have to be this, and one of them to speak of these.
    #[track_caller]
    pub(crate) fn has(&self, name: &str, verdict: &str, words: &[&str]) -> &Self {
        let mut checks = self.of(name);
        let worst =
            checks.first().unwrap_or_else(|| panic!("there is no check {name}: {:#?}", self.0))["verdict"].clone();
        assert_eq!(worst, verdict, "{checks:#?}");
        checks.retain(|check| check["verdict"] == verdict);
        let speaks = |check: &&Value| words.iter().all(|word| check.to_string().contains(word));
        assert!(checks.iter().any(speaks), "{words:?} is not in {checks:#?}");
        assert!(verdict == "ok" || checks.iter().all(|check| check["fix"].is_string()), "{checks:#?}");
        self
    }
}

const AS_NOBODY: &str = "setpriv --reuid nobody --clear-groups --inh-caps=-all";

#[track_caller]
fn examined(cmd: crate::support::command::Cmd) -> Found {
    let ended = cmd.start().end_within(60);
    let found: Value =
        serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {}{}", ended.out, ended.err));
    let failures = found["failures"].as_u64().expect("a number");
    assert_eq!(ended.status.code(), Some(i32::from(failures > 0)), "{found:#}");
    let found = Found(found["checks"].as_array().expect("a list").clone());
    found.0.iter().filter_map(|check| check["fix"].as_str()).for_each(can_be_pasted);
    found
}

/// A shell understands the whole of it, with what it says to people; what takes more than a command is a sentence.
#[track_caller]
fn can_be_pasted(fix: &str) {
    if fix.starts_with(char::is_uppercase) || fix.contains(". ") {
        return;
    }
    let read = Command::new("sh").args(["-n", "-c", &format!(" {fix}")]).output().expect("run sh");
    assert!(read.status.success(), "{fix}: {}", String::from_utf8_lossy(&read.stderr));
}

/// Looks, without asking and watching.
#[track_caller]
pub(crate) fn look(lab: &Lab, words: &str) -> Found {
    examined(lab.kvm_bridge(&format!("doctor --quick --json {words}")))
}

#[track_caller]
fn look_as_nobody(lab: &Lab, words: &str) -> Found {
    examined(lab.kvm_bridge(&format!("doctor --quick --json {words}")).through(AS_NOBODY))
}

#[track_caller]
fn run(program: &str, words: &str) {
    let output = Command::new(program).args(words.split_whitespace()).output().expect("run a program");
    assert!(output.status.success(), "{program} {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The device as distributions have it, or as a fault would have it.
fn own_tun(mode: u32) {
    hide("/dev/net").expect("an empty folder");
    if mode != 0 {
        mknod("/dev/net/tun", SFlag::S_IFCHR, Mode::from_bits_truncate(mode), makedev(10, 200))
            .expect("make the device");
        fs::set_permissions("/dev/net/tun", fs::Permissions::from_mode(mode)).expect("open it");
    }
}

#[test]
fn doctor_speaks_to_people_and_tells_scripts_by_its_status() {
    let Some(lab) = Lab::with_address() else { return };
    let all = lab.kvm_bridge("doctor br0 --quick --verbose").run().succeeds().out;
    assert!(all.contains("ok       uplink of br0: eth0 would be shared\n"), "{all}");
    lab.is_untouched();
    // Without it, all that is well is one line.
    let ended = lab.kvm_bridge("doctor br0 --quick").run().succeeds();
    let well = all.lines().filter(|line| line.starts_with("ok ")).count();
    let bad: Vec<&str> = ended.out.lines().filter(|line| line.starts_with("warning ")).collect();
    assert!(!ended.out.contains("\nok ") && !ended.out.starts_with("ok "), "{}", ended.out);
    let end = match bad.is_empty() {
        true => format!("No problems found: {well} checks passed; --verbose shows them.\n"),
        false => format!(" and {well} checks passed; --verbose shows them.\n"),
    };
    assert!(ended.out.ends_with(&end), "{}", ended.out);
    let ended = lab.kvm_bridge("doctor br0 --quick -- --bridge br0,uplink=eth7").run().exits_with(1);
    let expected = "failure  uplink of br0: --bridge br0: there is no interface eth7 to be the uplink\n         \
                    The bridge is not there: a guest's start would make it, with this uplink.\n         \
                    fix: Is eth0 meant? To make br0: --bridge br0,uplink=eth0, or --bridge br0,uplink=none";
    assert!(ended.out.contains(expected), "{}", ended.out);
    let end = ended.out.lines().last().unwrap_or_default();
    assert!(end.starts_with("1 failure, 0 warnings, and ") && end.ends_with(" passed; --verbose shows them."), "{end}");
    lab.kvm_bridge("doctor a/b").run().exits_with(125);
    lab.is_untouched();
}

/// What somebody may call a thing, to have root paste it or look at it.
const TRAP: &str = "a\u{1b}[31mb\nx; echo \"$(id)\" 'c\u{202e}";

#[test]
fn what_others_chose_commands_no_terminal_and_no_shell() {
    let Some(lab) = Lab::new() else { return };
    let netdev = format!("tap,id={TRAP}");
    let line = |words: &str| {
        let cmd = lab.kvm_bridge(words).arg("--").arg("-kernel").arg(TRAP).arg("-netdev").arg(&netdev);
        cmd.arg("-device").arg(format!("e1000,netdev=m{TRAP}")).arg("-append").arg(TRAP).arg("-nographic")
    };
    let found = examined(line("doctor --quick --json"));
    let quoted = found.of("kernel")[0]["fix"].as_str().expect("a fix").strip_prefix("ls -l ").expect("ls");
    let told = Command::new("sh").args(["-c", &format!("printf %s {quoted}")]).output().expect("run sh");
    assert_eq!(String::from_utf8_lossy(&told.stdout), TRAP);
    let is_tame = |text: &str| !text.chars().any(|c| c != '\n' && c.is_control() || c == '\u{202e}');
    let ended = line("doctor --quick").run().exits_with(1);
    assert!(is_tame(&ended.out) && ended.out.contains("a\\u{1b}[31mb\\nx; echo"), "{}", ended.out);
    // A bridge, too, may be called almost anything.
    let name = "b\u{1b}[7m;id";
    lab.sh("ip link add \"$(printf 'b\\033[7m;id')\" type bridge").run().succeeds();
    look(&lab, "").has("bridge-mac", "warning", &["printf"]);
    for words in ["status", "doctor --quick"] {
        let ended = lab.kvm_bridge(words).run();
        assert!(is_tame(&ended.out) && ended.out.contains("b\\u{1b}[7m;id"), "{}", ended.out);
    }
    for words in ["ip", "status", "up", "down", "mac set", "mac forget"] {
        let cmd = lab.kvm_bridge(words).arg(TRAP);
        let ended = if words == "mac set" { cmd.arg("52:54:00:12:34:57").run() } else { cmd.run() };
        assert!(is_tame(&ended.out) && is_tame(&ended.err), "{words}: {}{}", ended.out, ended.err);
    }
    lab.sh(&format!("ip link del \"{name}\"")).run().succeeds();
}

#[test]
fn a_pipe_or_a_device_beside_a_kernel_keeps_nobody() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.new_file("kernel");
    fs::write(&kernel, "no kernel").expect("write it");
    let beside = kernel.with_file_name(format!("{}.config", kernel.file_name().expect("a name").display()));
    nix::unistd::mkfifo(&beside, Mode::S_IRWXU).expect("make a pipe");
    let words = format!("-- --bridge br0,uplink=none -kernel {}", kernel.display());
    look(&lab, &words).has("kernel", "warning", &["neither in it nor beside it"]);
    fs::remove_file(&beside).expect("remove it");
    std::os::unix::fs::symlink("/dev/zero", &beside).expect("link it");
    look(&lab, &words).has("kernel", "warning", &["neither in it nor beside it"]);
    lab.kvm_bridge(&format!("doctor --quick -- -kernel {}", beside.display())).run().exits_with(1);
}

#[test]
fn kvm_and_tun_are_tried() {
    let Some(lab) = Lab::new() else { return };
    if !have("setpriv") {
        return;
    }
    if Path::new("/dev/kvm").exists() {
        look(&lab, "").has("kvm", "ok", &[]);
        look_as_nobody(&lab, "").has("kvm", "warning", &["may not be opened", "sudo "]);
        mount(Some("/dev/null"), "/dev/kvm", None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("hide KVM");
        look(&lab, "").has("kvm", "warning", &["is not KVM's device", "mknod"]);
    } else {
        look(&lab, "").has("kvm", "warning", &["is missing", "modprobe"]);
    }
    look(&lab, "").has("tun", "ok", &[]);
    own_tun(0o600);
    look_as_nobody(&lab, "").has("tun", "failure", &["chmod 666 /dev/net/tun"]);
    own_tun(0o666);
    look_as_nobody(&lab, "").has("tun", "ok", &[]);
    own_tun(0);
    look(&lab, "").has("tun", "failure", &["modprobe tun"]);
}

#[test]
fn doctor_tells_which_qemu_runs_and_what_it_lacks() {
    let Some(lab) = Lab::new() else { return };
    look(&lab, "").has("qemu", "ok", &["fake-qemu"]);
    let nowhere = lab.kvm_bridge("doctor --quick --json").env("KVM_BRIDGE_QEMU", "/no/such/qemu");
    examined(nowhere).has("qemu", "failure", &["/no/such/qemu"]);
}

/// A host with users, the program where they can run it, and no helper.
fn lab_with_users() -> Option<Lab> {
    let lab = Lab::with_bridge("br0").and_then(Lab::with_users)?;
    for folder in ["/usr/lib/qemu", "/usr/libexec", "/usr/local", "/etc/qemu"] {
        fs::create_dir_all(folder).expect("make a folder");
        hide(folder).expect("an empty folder");
    }
    lab.install(Path::new(env!("CARGO_BIN_EXE_kvm-bridge")), Right::None);
    Some(lab)
}

/// Alice looks, and root looks for her: both have to see the same of her rights.
#[track_caller]
fn look_as_alice(lab: &Lab) -> Found {
    let program = "/run/bin/kvm-bridge";
    let hers = examined(lab.as_user(ALICE, program).words("doctor --quick --json"));
    let roots = examined(lab.program(program).words("doctor --quick --json --user alice"));
    for name in ["helper", "acl"] {
        assert_eq!(hers.of(name), roots.of(name));
    }
    hers
}

#[test]
fn helpers_with_and_without_their_right_are_told_apart() {
    let Some(lab) = lab_with_users() else { return };
    look(&lab, "").has("helper", "ok", &["root needs no helper"]).has("acl", "ok", &[]);
    look_as_alice(&lab).has("helper", "failure", &["no helper is installed", "sudo kvm-bridge install"]);
    lab.install(&our_helper(), Right::None);
    look_as_alice(&lab).has(
        "helper",
        "failure",
        &["/run/bin/kvm-bridge-helper has neither", "sudo kvm-bridge install"],
    );
    // QEMU's, with its right, is better than ours without.
    let systems = "/usr/lib/qemu/qemu-bridge-helper";
    programs::copy("/bin/true", systems);
    fs::set_permissions(systems, fs::Permissions::from_mode(0o4755)).expect("make it setuid");
    look_as_alice(&lab).has("helper", "ok", &["/usr/lib/qemu/qemu-bridge-helper is setuid root"]);
    fs::remove_file(systems).expect("remove it");
    lab.install(&our_helper(), Right::Capability);
    look_as_alice(&lab).has("helper", "ok", &["/run/bin/kvm-bridge-helper has the capability cap_net_admin"]);
    mount(None::<&str>, "/run", None::<&str>, MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID, None::<&str>).expect("remount");
    look_as_alice(&lab).has("helper", "failure", &["mounted nosuid", "sudo mount -o remount,suid /run"]);
}

#[test]
fn rules_that_allow_and_deny_a_bridge_are_told() {
    let Some(lab) = lab_with_users() else { return };
    let install = "sudo kvm-bridge install --allow br0:alice";
    look_as_alice(&lab).has("acl", "failure", &["there is neither /etc/qemu/bridge.conf", install]);
    let included = "/etc/qemu/alice.conf";
    write_rules(included, "allow br0\n");
    for (list, verdict, words) in [
        ("allow br1\n", "failure", ["no rule allows br0 to alice", install]),
        ("# mine\nallow br0\n", "ok", ["br0 is allowed to alice", ""]),
        ("allow all\ndeny br0\n", "failure", ["line 2 denies br0 to alice", "sudoedit /etc/qemu/bridge.conf"]),
        ("include /etc/qemu/alice.conf\n", "ok", ["br0 is allowed to alice", ""]),
        ("permit br0\n", "failure", ["line 1: a line begins with", "sudo kvm-bridge install --check"]),
    ] {
        lab.allow(list);
        look_as_alice(&lab).has("acl", verdict, &words);
    }
    for (list, verdict, words) in [
        ("allow br0 user bob\n", "failure", ["no rule allows br0 to alice", install]),
        ("allow br0 group kvm max 2\n", "ok", ["allows alice 2 TAPs on br0", ""]),
        ("allow br0 user alice\ndeny br0 group kvm\n", "failure", ["line 2 denies br0 to alice", "sudoedit"]),
    ] {
        lab.allow("# nothing\n");
        lab.allow_more(list);
        look_as_alice(&lab).has("acl", verdict, &words);
    }
    // What she may not read does not count, and root, who may, is not misled by it.
    lab.allow_more("# nothing\n");
    lab.allow("include /etc/qemu/alice.conf\n");
    fs::set_permissions(included, fs::Permissions::from_mode(0o600)).expect("close it");
    look_as_alice(&lab).has("acl", "failure", &["no rule allows br0 to alice", install]);
    chown(included, None, Some(104)).expect("give it to kvm");
    fs::set_permissions(included, fs::Permissions::from_mode(0o640)).expect("open it to kvm");
    look_as_alice(&lab).has("acl", "ok", &["br0 is allowed to alice"]);
    fs::set_permissions("/etc/qemu/bridge.conf", fs::Permissions::from_mode(0o600)).expect("close it");
    look_as_alice(&lab).has(
        "acl",
        "failure",
        &["may not read /etc/qemu/bridge.conf", "sudo kvm-bridge install --check"],
    );
}

#[test]
fn the_uplink_of_a_bridge_that_is_to_be_made_is_checked() {
    let Some(lab) = Lab::with_address() else { return };
    look(&lab, "br0").has("uplink", "ok", &["eth0 would be shared"]);
    look(&lab, "br0 -- --bridge br0,uplink=none").has("uplink", "ok", &["without one"]);
    lab.lan.run("ip link set dev lan0 down");
    wait_for("eth0 to lose its carrier", 5, || {
        let found = look(&lab, "br0");
        (found.of("uplink")[0]["verdict"] == "failure")
            .then(|| found.has("uplink", "failure", &["no carrier", "ip monitor link dev eth0"]).0.len())
    });
    lab.lan.run("ip link set dev lan0 up");
    fs::create_dir_all("/run/NetworkManager/devices").expect("make a folder");
    let index = lab.a_link("eth0")["ifindex"].clone();
    let file = format!("/run/NetworkManager/devices/{index}");
    fs::write(&file, "[device]\nmanaged=true\nconnection-uuid=x\n").expect("write a file");
    look(&lab, "br0").has("uplink", "ok", &["eth0, which NetworkManager manages, would be shared"]);
    lab.kvm_bridge("up br0 --uplink eth0").run().succeeds();
    look(&lab, "br0").has("uplink", "ok", &["eth0 is shared, up and has a carrier"]);
    fs::remove_file(&file).expect("remove the file");
    lab.kvm_bridge("down br0").run().succeeds();
    lab.ip("link add name other type bridge");
    lab.ip("link set dev eth0 master other");
    look(&lab, "br0 -- --bridge br0,uplink=eth0").has("uplink", "failure", &["port of the bridge", "nomaster"]);
    lab.ends_here();
}

#[test]
fn the_uplink_of_a_bridge_that_is_there_is_checked() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    look(&lab, "br0").has("uplink", "ok", &["eth0"]);
    lab.lan.run("ip link set dev lan0 down");
    wait_for("eth0 to lose its carrier", 5, || {
        let found = look(&lab, "br0");
        (found.of("uplink")[0]["verdict"] == "failure").then(|| found.has("uplink", "failure", &["no carrier"]).0.len())
    });
    lab.ip("link set dev eth0 down");
    look(&lab, "br0").has("uplink", "failure", &["eth0 is down", "ip link set dev eth0 up"]);
    lab.ip("link set dev br0 down");
    look(&lab, "br0").has("bridge", "failure", &["br0 is down", "ip link set dev br0 up"]);
    lab.ip("link set dev eth0 nomaster");
    look(&lab, "br0").has("uplink", "ok", &["among themselves"]);
    if have("nft") {
        // As libvirt's networks are.
        lab.ip("addr add 192.168.122.1/24 dev br0");
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forward");
        look(&lab, "br0").has("uplink", "ok", &["behind the host, which forwards", "ip_forward is on"]);
        run("nft", "add table ip libvirt_network");
        run("nft", "add chain ip libvirt_network guest_nat { type nat hook postrouting priority 100 ; }");
        run("nft", "add rule ip libvirt_network guest_nat ip saddr 192.168.122.0/24 masquerade");
        look(&lab, "br0").has("uplink", "ok", &["put its own address in its place: ip libvirt_network guest_nat"]);
        run("nft", "delete table ip libvirt_network");
        fs::write("/proc/sys/net/ipv4/ip_forward", "0").expect("forward no more");
    }
    lab.ends_here();
}

#[test]
fn stp_mac_and_mtu_of_the_bridge_are_checked() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    look(&lab, "").has("stp", "ok", &["off"]).has("mtu", "ok", &["1500"]).has("vlan", "ok", &[]);
    look(&lab, "").has("bridge-mac", "warning", &["that of its lowest port", "ip link set dev br0 address"]);
    let mac = lab.a_link("br0")["address"].as_str().expect("a MAC").to_owned();
    lab.ip(&format!("link set dev br0 address {mac}"));
    look(&lab, "").has("bridge-mac", "ok", &["is pinned"]);
    lab.ip("link set dev br0 type bridge stp_state 1 forward_delay 1500");
    look(&lab, "").has("stp", "warning", &["first 30 s", "stp_state 0"]);
    lab.ip("link set dev br0 type bridge forward_delay 200");
    look(&lab, "").has("stp", "ok", &["only 2 s"]);
    // One that was given stays what it is.
    lab.ip("link set dev br0 mtu 1450");
    lab.ip("link set dev eth0 mtu 1400");
    look(&lab, "").has("mtu", "warning", &["eth0 1400", "ip link set dev br0 mtu 1400"]);
    lab.ends_here();
}

#[test]
fn a_bridge_that_filters_vlans_is_told_of() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    if !have("bridge") || !lab.lan.serve_dhcp() {
        return;
    }
    let set = |words: &str| {
        let words = format!("link set dev br0 type bridge {words}");
        Command::new("ip").args(words.split_whitespace()).output().is_ok_and(|output| output.status.success())
    };
    if !set("vlan_filtering 1") {
        return crate::support::lacks("this kernel's bridges do not filter VLANs");
    }
    let ask = || examined(lab.kvm_bridge("doctor br0 --json --watch 0"));
    ask().has("vlan", "warning", &["a new port is in VLAN 1", "vlan_filtering 0"]).has("dhcp", "ok", &["10.77.0.1 ("]);
    // The network is another VLAN than what new ports are in.
    run("bridge", "vlan add dev eth0 vid 7 pvid untagged");
    run("bridge", "vlan del dev eth0 vid 1");
    ask().has("vlan", "warning", &["VLAN 1"]).has("dhcp", "failure", &["nobody on br0 answers"]);
    assert!(set("vlan_default_pvid 0"));
    ask().has("vlan", "failure", &["in none", "vlan_default_pvid"]).has("dhcp", "failure", &["nobody"]);
    assert!(set("vlan_filtering 0"));
    ask().has("vlan", "ok", &[]).has("dhcp", "ok", &["10.77.0.1 ("]);
    lab.ends_here();
}

/// The kernel here has no Wi-Fi to play with: sysfs is made to say what it says of a station.
#[test]
fn an_uplink_that_is_wifi_is_told_of() {
    let Some(lab) = Lab::with_address() else { return };
    look(&lab, "br0").has("uplink", "ok", &["eth0 would be shared"]);
    hide("/sys/class/net").expect("an empty folder");
    fs::create_dir_all("/sys/class/net/eth0/phy80211").expect("make a folder");
    look(&lab, "br0").has("uplink", "failure", &["eth0", "it is Wi-Fi", "uplink=none"]);
}

#[test]
fn ports_near_the_limit_are_told_of() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    look(&lab, "").has("ports", "ok", &["1 of 1,023"]);
    let batch = lab.new_file("batch");
    let add = |range: std::ops::Range<u32>| {
        let lines: String =
            range.map(|n| format!("link add name p{n} type ifb\nlink set dev p{n} master br0\n")).collect();
        fs::write(&batch, lines).expect("write a file");
        run("ip", &format!("-batch {}", batch.display()));
    };
    add(1..960);
    look(&lab, "").has("ports", "warning", &["960 ports", "room for 63"]);
    add(960..1023);
    look(&lab, "").has("ports", "failure", &["is full"]);
    lab.ends_here();
}

#[test]
fn journals_that_are_left_over_are_told_of() {
    let Some(lab) = Lab::with_address() else { return };
    look(&lab, "").has("journal", "ok", &["nothing is left to be undone"]);
    let guest = lab.shim("--bridge br0").boot();
    look(&lab, "").has("journal", "ok", &["its reaper waits"]);
    // Of root's process a user does not see where it is.
    look_as_nobody(&lab, "").has("journal", "ok", &["its reaper waits"]);
    lab.reaper_of("br0").kill();
    wait_for("the reaper's end", 5, || lab.reapers().is_empty().then_some(()));
    look(&lab, "").has("journal", "failure", &["its reaper was killed", "kvm-bridge recover"]);
    guest.kill();
    lab.kvm_bridge("recover").run().succeeds();
    lab.becomes_as_before();

    lab.kvm_bridge("up br0").run().succeeds();
    // Its reaper would see that all is well, and take back what is left of it later.
    lab.reaper_of("br0").kill();
    let file = lab.run_dir().join("br0.json");
    let journal = fs::read_to_string(&file).expect("the journal");
    fs::write(lab.run_dir().join("br0.error"), "br0 could not be taken back: busy\n  Again.\n").expect("write a file");
    look(&lab, "").has("journal", "failure", &["could not be taken back: busy", "kvm-bridge recover"]);
    fs::write(&file, "{").expect("write a file");
    look(&lab, "").has("journal", "failure", &["cannot read the journal"]);
    fs::write(&file, journal).expect("write a file");
    fs::remove_file(lab.run_dir().join("br0.error")).expect("remove a file");
    lab.ip("link del br0");
    look(&lab, "").has("journal", "warning", &["br0 is gone", "kvm-bridge recover"]);
    lab.ip("link add name br0 type bridge");
    look(&lab, "br0").has("journal", "warning", &["of another bridge", "kvm-bridge recover"]);
    lab.ip("link del br0");
    lab.kvm_bridge("recover").run().succeeds();
    lab.becomes_as_before();
}

#[test]
fn a_firewall_is_seen_whatever_the_caller_ignores_and_has_on_path() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    if !have("nft") {
        return;
    }
    let rules = "add table bridge mine; add chain bridge mine f { type filter hook forward priority 0; policy drop; }";
    assert!(Command::new("nft").arg(rules).status().expect("run nft").success());
    let (folder, ran) = (lab.new_file("path"), lab.new_file("ran"));
    fs::create_dir(&folder).expect("make a folder");
    for name in ["nft", "iptables-legacy-save"] {
        let program = folder.join(name);
        programs::script(&program, &format!("echo ran >{}", ran.display()));
    }
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", folder.display());
    let doctor = lab.kvm_bridge("doctor --quick --json br0").env("PATH", path);
    examined(doctor.through("env --ignore-signal=CHLD")).has("firewall", "failure", &["bridge mine f"]);
    assert!(!ran.exists(), "root ran what the caller had on PATH");
}

#[test]
fn an_nft_that_hangs_is_not_waited_for() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    if !have("nft") {
        return;
    }
    let hangs = lab.new_file("nft");
    fs::write(&hangs, "#!/bin/sh\nsleep 1000\n").expect("write a script");
    fs::set_permissions(&hangs, fs::Permissions::from_mode(0o755)).expect("let it run");
    // The laboratory itself asks nft what there is, before and after.
    lab.baseline();
    mount(Some(&hangs), "/usr/sbin/nft", None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("lay it over nft");
    look(&lab, "br0").0.iter().find(|check| check["name"] == "firewall").expect("it goes on");
    assert!(lab.processes().is_empty(), "what hung still runs");
    nix::mount::umount("/usr/sbin/nft").expect("take it away again");
}

#[test]
fn firewalls_that_drop_what_a_bridge_forwards_are_told_of() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    if !have("nft") || !have("iptables-legacy") {
        return;
    }
    let switch = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    if !Path::new(switch).exists() {
        return crate::support::lacks("this kernel has no br_netfilter");
    }
    look(&lab, "").has("firewall", "ok", &[]);
    // As Docker sets it up.
    for rule in ["-P FORWARD DROP", "-N DOCKER", "-A FORWARD -o docker0 -j DOCKER", "-A FORWARD -i docker0 -j ACCEPT"] {
        run("iptables-nft", rule);
    }
    look(&lab, "").has("firewall", "failure", &["which Docker made", "sysctl -w net.bridge.bridge-nf-call-iptables=0"]);
    let guest = lab.shim("--bridge br0").then("arp:10.77.0.1,hold").start();
    drop(guest);
    look_as_nobody(&lab, "").has("firewall", "warning", &["root only"]);
    run("iptables-nft", "-I FORWARD -i br0 -j ACCEPT");
    look(&lab, "").has("firewall", "ok", &["lets them pass"]);
    run("iptables-nft", "-D FORWARD -i br0 -j ACCEPT");
    fs::write(switch, "0").expect("switch it off");
    fs::write(switch.replace("iptables", "ip6tables"), "0").expect("switch it off");
    look(&lab, "").has("firewall", "ok", &["no firewall is in the way"]);
    look_as_nobody(&lab, "").has("firewall", "ok", &["do not go through"]);
    fs::write(switch, "1").expect("switch it on");
    run("iptables-nft", "-F");
    run("iptables-nft", "-P FORWARD ACCEPT");
    look(&lab, "").has("firewall", "ok", &[]);

    run("ip6tables-nft", "-P FORWARD DROP");
    look(&lab, "").has("firewall", "ok", &["lets them pass"]);
    fs::write(switch.replace("iptables", "ip6tables"), "1").expect("switch it on");
    look(&lab, "").has("firewall", "failure", &["ip6 filter FORWARD", "bridge-nf-call-ip6tables=0"]);
    run("ip6tables-nft", "-P FORWARD ACCEPT");

    run("iptables-legacy", "-P FORWARD DROP");
    look(&lab, "").has("firewall", "failure", &["FORWARD of iptables"]);
    run("iptables-legacy", "-P FORWARD ACCEPT");

    // As firewalld does: its last rule drops what none before it let pass.
    run("nft", "add table inet firewalld");
    run("nft", "add chain inet firewalld filter_FORWARD { type filter hook forward priority 10 ; policy accept ; }");
    run("nft", "add rule inet firewalld filter_FORWARD iifname lo accept");
    look(&lab, "").has("firewall", "ok", &[]);
    run("nft", "add rule inet firewalld filter_FORWARD reject with icmpx admin-prohibited");
    look(&lab, "").has("firewall", "failure", &["inet firewalld filter_FORWARD", "which firewalld made"]);
    run("nft", "delete table inet firewalld");

    // What drops in spite of a policy that accepts, and what may.
    for (rule, verdict) in [("-i br0 -j DROP", "failure"), ("-p udp -j DROP", "warning"), ("-p tcp -j DROP", "ok")] {
        run("iptables-nft", &format!("-A FORWARD {rule}"));
        look(&lab, "").has("firewall", verdict, &[]);
        run("iptables-nft", &format!("-D FORWARD {rule}"));
    }
    // A policy that drops, and rules that accept all; or only what is no DHCP.
    run("iptables-nft", "-P FORWARD DROP");
    for (rule, verdict) in [("-j ACCEPT", "ok"), ("-p tcp --dport 22 -j ACCEPT", "failure")] {
        run("iptables-nft", &format!("-A FORWARD {rule}"));
        look(&lab, "").has("firewall", verdict, &[]);
        run("iptables-nft", &format!("-D FORWARD {rule}"));
    }
    fs::write(switch, "0").expect("switch it off");
    look(&lab, "").has("firewall", "ok", &[]);
    lab.ip("link set dev br0 type bridge nf_call_iptables 1");
    let index =
        fs::read_to_string("/sys/class/net/br0/ifindex").ok().and_then(|index| index.trim().parse::<u64>().ok());
    let has_sysfs = index.is_some() && index == lab.a_link("br0")["ifindex"].as_u64();
    if has_sysfs {
        look(&lab, "").has("firewall", "failure", &["ip filter FORWARD"]);
    }
    lab.ip("link set dev br0 type bridge nf_call_iptables 0");
    run("iptables-nft", "-P FORWARD ACCEPT");

    run("nft", "add table netdev early");
    run("nft", "add chain netdev early f { type filter hook ingress device eth0 priority 0 ; policy drop ; }");
    // Some versions of nft do not tell of which interface it is.
    let found = look(&lab, "");
    assert!(
        found.of("firewall")[0]["verdict"] != "ok" && found.of("firewall")[0].to_string().contains("netdev early f")
    );
    run("nft", "delete table netdev early");
    run("nft", "add table bridge mine");
    run("nft", "add chain bridge mine p { type filter hook prerouting priority 0 ; policy accept ; }");
    run("nft", "add rule bridge mine p udp dport 67 drop");
    look(&lab, "").has("firewall", "warning", &["bridge mine p", "may drop"]);
    run("nft", "flush table bridge mine");
    run("nft", "add chain bridge mine f { type filter hook forward priority 0 ; policy drop ; }");
    look(&lab, "").has("firewall", "failure", &["bridge mine f", "nft insert rule bridge mine f accept"]);
}

#[test]
fn addresses_that_two_cards_have_are_told_of() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let first = lab.shim("--bridge br0,mac=02:00:00:00:00:01 -name alice").boot();
    look(&lab, "").has("mac", "ok", &["1 guest, and no address twice"]);
    let second = lab.shim("--bridge br0,mac=02:00:00:00:00:01 -name bob").boot();
    look(&lab, "").has("mac", "failure", &["02:00:00:00:00:01", "kvb0 (alice)", "kvb1 (bob)"]);
    second.kill();
    lab.waits_until_gone("kvb1");
    look(&lab, "").has("mac", "ok", &[]);
    // Somebody on the LAN has it too, and speaks.
    lab.lan.run("ip link set dev lan0 down");
    lab.lan.run("ip link set dev lan0 address 02:00:00:00:00:01 up");
    lab.settle();
    let _ = lab.lan.command("ping -c 1 -w 1 10.77.0.9").output();
    wait_for("the bridge to hear it", 5, || {
        let found = look(&lab, "");
        (found.of("mac")[0]["verdict"] == "failure")
            .then(|| found.has("mac", "failure", &["somebody behind eth0"]).0.len())
    });
    drop(first);
    lab.ends_here();
}

#[test]
fn addresses_that_are_going_to_be_given_are_checked() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let kept = lab.shim("--bridge br0,vm=alice").run().succeeds().qemu().macs()[0].clone();
    look(&lab, &format!("-- --bridge br0,mac={kept},vm=alice")).has("mac", "ok", &[]);
    look(&lab, &format!("-- --bridge br0,mac={kept},vm=bob")).has("mac", "failure", &["is kept for name:alice"]);
    look(&lab, "-- --bridge br0,mac=02:00:00:00:00:77").has("mac", "ok", &["not in use elsewhere"]);
    if !have("qemu-system-x86_64") {
        return;
    }
    let start = |tap: &str| {
        lab.ip(&format!("tuntap add dev {tap} mode tap"));
        lab.ip(&format!("link set dev {tap} up"));
        let words = format!(
            "-accel tcg -display none -S -netdev tap,id=n,ifname={tap},script=no,downscript=no -device e1000,netdev=n"
        );
        lab.program("qemu-system-x86_64").words(&words).start()
    };
    let in_use = |tap: &str| {
        wait_for("QEMU to have its TAP", 20, || {
            let link = lab.a_link(tap);
            link["flags"].as_array().is_some_and(|flags| !flags.iter().any(|flag| flag == "NO-CARRIER")).then_some(())
        });
    };
    let asked = "-- -netdev tap,id=n,ifname=tap7 -device e1000,netdev=n";
    look(&lab, asked).has("mac", "ok", &["no other that runs has it"]);
    let first = start("tap-a");
    in_use("tap-a");
    look(&lab, "").has("mac", "ok", &["and no other does"]);
    look(&lab, asked).has("mac", "failure", &["52:54:00:12:34:56", "has already"]);
    let second = start("tap-b");
    in_use("tap-b");
    look(&lab, "").has("mac", "failure", &["all have QEMU's default"]);
    drop((first, second));
    lab.ends_here();
}

/// A second DHCP server, on a host of its own behind another port of the bridge.
pub(crate) fn second_server(lab: &Lab) -> std::process::Child {
    run("ip", "netns add other");
    run("ip", "link add name eth1 type veth peer name other0 netns other");
    run("ip", "link set dev eth1 master br0 up");
    run("ip", "-n other addr add 10.77.0.250/24 dev other0");
    run("ip", "-n other link set dev other0 up");
    lab.settle();
    let file = |name: &str| lab.new_file(name).display().to_string();
    let mut command = Command::new("ip");
    command.args(["netns", "exec", "other", "dnsmasq", "--keep-in-foreground", "--no-ping", "--conf-file=/dev/null"]);
    command.args(["--port=0", "--user=root", "--interface=other0", "--bind-interfaces", "--dhcp-authoritative"]);
    command.args(["--dhcp-range=10.77.0.200,10.77.0.210,1h", "--log-facility=/dev/null"]);
    command.arg(format!("--pid-file={}", file("pid"))).arg(format!("--dhcp-leasefile={}", file("leases")));
    command.spawn().expect("start dnsmasq")
}

#[test]
fn before_any_bridge_is_made_the_interface_is_looked_at_that_would_be_taken() {
    let Some(lab) = Lab::with_address() else { return };
    if !lab.lan.serve_dhcp() {
        return;
    }
    let found = examined(lab.kvm_bridge("doctor --json"));
    found.has("uplink", "ok", &["eth0 would be shared"]).has("dhcp", "ok", &["10.77.0.1 ("]);
    lab.is_untouched();
}

#[test]
fn bridges_of_containers_are_well_without_carrier_and_server() {
    let Some(lab) = Lab::new() else { return };
    lab.ip("link add name docker0 type bridge");
    lab.ip("link set dev docker0 up");
    run("ip", "link add name veth1 type veth peer name inside");
    lab.ip("link set dev veth1 master docker0");
    let found = examined(lab.kvm_bridge("doctor --json --watch 0"));
    for name in ["uplink", "dhcp"] {
        assert!(found.of(name).iter().all(|check| check["verdict"] != "failure"), "{:#?}", found.of(name));
    }
    lab.ends_here();
}

#[test]
fn dhcp_servers_are_counted_none_one_and_two() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    if !have("dnsmasq") {
        return;
    }
    let ask = |words: &str| examined(lab.kvm_bridge(&format!("doctor --json --watch 0 {words}")));
    ask("br0").has("dhcp", "failure", &["nobody on br0 answers", "tcpdump -eni br0"]);
    // Its port is no network card: that may be a container's, and its bridge one on purpose without a server.
    ask("").has("dhcp", "warning", &["nobody on br0 answers"]);
    lab.is_untouched();
    lab.lan.serve_dhcp();
    let lan = lab.lan.mac();
    ask("").has("dhcp", "ok", &["10.77.0.1 (", &lan, "offers 10.77.0.1", "/24 with the router 10.77.0.1"]);
    lab.is_untouched();
    assert!(!lab.lan.dhcp_log().contains("DHCPACK"), "nothing is taken");
    let mut other = second_server(&lab);
    let found = wait_for("both to answer", 30, || {
        let found = ask("");
        (found.of("dhcp")[0]["verdict"] == "warning").then_some(found)
    });
    found.has("dhcp", "warning", &["2 servers answer", "10.77.0.1 (", "10.77.0.250 (", "offers 10.77.0.2"]);
    let _ = (other.kill(), other.wait());
    lab.ip("link set dev br0 type bridge stp_state 1 forward_delay 1500");
    ask("").has("dhcp", "warning", &["with STP on"]);
    lab.ip("link set dev br0 type bridge forward_delay 200");
    ask("br0").has("stp", "ok", &["a delay of only 2 s"]).has("dhcp", "ok", &["10.77.0.1 ("]);
    let as_nobody = examined(lab.kvm_bridge("doctor --json --watch 0").through(AS_NOBODY));
    as_nobody.has("dhcp", "warning", &["sudo kvm-bridge doctor"]);
    lab.ends_here();
}

#[test]
fn a_dhcp_server_is_found_before_the_bridge_is_made_and_on_the_host_itself() {
    let Some(lab) = Lab::with_address() else { return };
    if !lab.lan.serve_dhcp() {
        return;
    }
    examined(lab.kvm_bridge("doctor br0 --json")).has("dhcp", "ok", &["10.77.0.1 ("]);
    lab.is_untouched();
    // As libvirt has it: a bridge without an uplink, on which the host is the server.
    lab.ip("link add name virbr0 type bridge");
    lab.ip("link set dev virbr0 up");
    lab.settle();
    let mac = |lab: &Lab| lab.a_link("virbr0")["address"].clone();
    let before = mac(&lab);
    // A bridge without a port would get a carrier and another address by being asked on.
    let watching = lab.program("ip").words("-o monitor link dev virbr0").start();
    wait_for("it to listen", 10, || watching.process().is_receiving().then_some(()));
    let found = examined(lab.kvm_bridge("doctor virbr0 --json"));
    found.has("dhcp", "warning", &["no port of it has a carrier"]);
    assert_eq!((mac(&lab), watching.out()), (before, String::new()));
    drop(watching);
    let guest = lab.shim("--bridge virbr0").boot();
    let before = mac(&lab);
    examined(lab.kvm_bridge("doctor virbr0 --json --watch 0")).has("dhcp", "warning", &["nobody on virbr0"]);
    assert_eq!(mac(&lab), before);
    lab.ip("addr add 192.168.122.1/24 dev virbr0");
    let server =
        lab.program("dnsmasq").words("--keep-in-foreground --no-ping --conf-file=/dev/null --port=0 --user=root");
    let server = server.words("--interface=virbr0 --bind-interfaces --dhcp-range=192.168.122.10,192.168.122.20,1h");
    let files =
        ["--pid-file", "--dhcp-leasefile"].map(|option| format!("{option}={}", lab.new_file("dnsmasq").display()));
    let server = server.arg(&files[0]).arg(&files[1]).words("--log-facility=-").start();
    wait_for("the server to be ready", 5, || server.err().contains("DHCP, IP range").then_some(()));
    examined(lab.kvm_bridge("doctor virbr0 --json --watch 0")).has("dhcp", "ok", &["192.168.122.1 ("]);
    drop(guest);
    drop(server);
    lab.ends_here();
}

#[test]
fn a_guest_whose_bridge_was_deleted_is_named() {
    let Some(lab) = Lab::with_address() else { return };
    let guest = lab.shim("--bridge br0 -name alice").boot();
    lab.ip("link del br0");
    look(&lab, "").has("guest", "failure", &["alice (kvb0)", "alice is on no bridge", "ip link set dev kvb0 master"]);
    guest.kill();
    lab.becomes_as_before();
}

#[test]
fn what_a_firewall_of_the_host_drops_is_not_laid_to_the_switch() {
    let Some(lab) = Lab::with_address() else { return };
    if !Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists() {
        return crate::support::lacks("this kernel has no br_netfilter");
    }
    if !have("nft") || !lab.lan.serve_dhcp() {
        return;
    }
    run("nft", "add table ip filter");
    run("nft", "add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }");
    let guest = lab.shim("--bridge br0 -name alice").boot();
    let found = examined(lab.kvm_bridge("doctor br0 --json --watch 0"));
    found.has("firewall", "failure", &["FORWARD"]).has("dhcp", "failure", &["nobody on br0 answers"]);
    assert!(found.of("dhcp").iter().all(|check| !check["observed"].as_str().unwrap_or_default().contains("own MAC")));
    guest.kill();
    run("nft", "delete table ip filter");
    lab.becomes_as_before();
}

#[test]
fn what_a_firewall_drops_is_not_answered() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    if !have("nft") || !lab.lan.serve_dhcp() {
        return;
    }
    run("nft", "add table bridge mine");
    run("nft", "add chain bridge mine f { type filter hook forward priority 0 ; policy drop ; }");
    examined(lab.kvm_bridge("doctor br0 --json")).has("dhcp", "failure", &["nobody"]).has(
        "firewall",
        "failure",
        &["bridge mine f"],
    );
}

#[test]
fn doctor_tells_how_far_a_guest_got() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    if !have("dnsmasq") {
        return;
    }
    let watch = |lab: &Lab| examined(lab.kvm_bridge("doctor --json --watch 3"));
    let start = |deeds: &str| {
        let mut guest = lab.shim(&format!("--bridge br0,mac={} -name carol", frames::MAC)).then(deeds).start();
        guest.qemu();
        guest
    };
    let guest = start("hold");
    watch(&lab).has("guest", "failure", &["carol (kvb0)", "no frame at all", "Look at its console."]);
    guest.kill();
    lab.waits_until_gone("kvb0");

    let guest = start(&format!("send:{},hold", frames::is_free("fe80::99")));
    watch(&lab).has("guest", "warning", &["none of DHCP in 3 s", "ip=dhcp"]);
    guest.kill();
    lab.waits_until_gone("kvb0");

    let guest = start(&format!("send:{},hold", frames::dhcp(1, &[])));
    watch(&lab).has("guest", "failure", &["DISCOVER without OFFER"]);
    lab.lan.serve_dhcp();
    watch(&lab).has("guest", "failure", &["OFFER without REQUEST", "ethtool -K br0 tx off"]);
    guest.kill();
    lab.waits_until_gone("kvb0");

    // An address of another network is refused by this server.
    let guest = start(&format!("send:{},hold", frames::dhcp(3, &[50, 4, 10, 99, 0, 7])));
    watch(&lab).has("guest", "failure", &["refused the address (NAK)"]);
    lab.lan.close();
    watch(&lab).has("guest", "failure", &["REQUEST without ACK in 3 s", "tcpdump -eni kvb0"]);
    guest.kill();
    lab.waits_until_gone("kvb0");

    lab.lan.serve_dhcp();
    let guest = start(&format!("send:{},hold", frames::dhcp(3, &[50, 4, 10, 77, 0, 150])));
    watch(&lab).has("guest", "ok", &["ACK: it got 10.77.0.150 from 10.77.0.1"]);
    guest.kill();
}

/// Its lease is old, it is silent, and the host never had to do with it.
#[test]
fn a_silent_guest_is_asked_for_its_address() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let mut guest = lab.shim("--bridge br0 -name alice").then("answer:10.77.0.199,hold").start();
    guest.qemu();
    // Who has no address on the bridge can't ask.
    let watch = |lab: &Lab| examined(lab.kvm_bridge("doctor br0 --json --watch 2"));
    watch(&lab).has("guest", "failure", &["no frame at all"]);
    lab.ip("addr add 10.77.0.2/24 dev br0");
    let sent = || lab.ip_json("-s link show dev eth0")[0]["stats64"]["tx"]["packets"].as_u64().expect("a number");
    let before = sent();
    // What it knows it does not wait for: `examined` does not wait so long.
    examined(lab.kvm_bridge("doctor br0 --json --watch 3600")).has(
        "guest",
        "ok",
        &["alice (kvb0)", "it has 10.77.0.199"],
    );
    assert_eq!(lab.kvm_bridge("ip alice --wait 60").run().succeeds().out, "10.77.0.199\n");
    // Each time it was asked for 253 addresses, and nobody else was.
    assert!(sent() - before < 100, "the LAN heard the questions");
    guest.kill();
    lab.ends_here();
}

#[test]
fn a_real_guest_that_gets_its_address_is_well() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    lab.ip("addr add 10.77.0.2/24 dev br0");
    let Some(guest) = boot_linux(&lab, "br0,vm=alice") else { return };
    wait_for("the guest's TAP", 10, || lab.ports("br0").contains(&"kvb0".to_owned()).then_some(()));
    examined(lab.kvm_bridge("doctor --json --watch 50")).has("guest", "ok", &["alice (kvb0)", "ACK: it got 10.77.0.1"]);
    let address = lab.lan.lease_of(&mac_of(&guest), 10);
    run("ping", &format!("-c 1 -w 10 {address}"));
    look(&lab, "").has("guest", "ok", &[&format!("it has {address}")]);
    guest.kill();
    lab.ends_here();
}

/// The blog's own mistake: a kernel without the driver, and no initrd to load it from.
pub(crate) fn without_driver<'a>(lab: &'a Lab, name: &str) -> Option<crate::support::command::Running<'a>> {
    let (kernel, _) = linux()?;
    if !have("qemu-system-x86_64") {
        return None;
    }
    let folder = lab.new_file("kernel");
    fs::create_dir(&folder).expect("make a folder");
    std::os::unix::fs::symlink(kernel, folder.join("bzImage")).expect("link the kernel");
    fs::write(folder.join("bzImage.config"), "CONFIG_E1000=m\n# CONFIG_IP_PNP is not set\n").expect("write a file");
    let guest = real(lab.shim(&format!("--bridge br0 -m 256 -name {name}"))).words("-kernel");
    let guest = guest.arg(folder.join("bzImage")).words("-append").arg("ip=dhcp console=ttyS0 quiet").start();
    wait_for("the guest's TAP", 10, || lab.ports("br0").contains(&"kvb0".to_owned()).then_some(()));
    Some(guest)
}

#[test]
fn a_real_guest_whose_command_line_is_the_reason_is_told_so() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let Some(guest) = without_driver(&lab, "dave") else { return };
    let found = examined(lab.kvm_bridge("doctor --json --watch 8"));
    found.has("guest", "failure", &["dave (kvb0)", "no frame at all"]);
    found.has("kernel-driver", "failure", &["CONFIG_E1000=m", "no initrd", "scripts/config -e E1000"]);
    found.has("kernel-dhcp", "failure", &["lacks CONFIG_IP_PNP_DHCP"]);
    drop(guest);
}

#[test]
fn qemus_arguments_are_checked() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let kernel = lab.new_file("bzImage");
    let config = |text: &str| {
        fs::write(kernel.with_file_name(format!("{}.config", kernel.file_name().expect("a name").display())), text)
            .expect("write a file")
    };
    fs::write(&kernel, "no kernel").expect("write a file");
    let examine = |words: &str, append: &str| {
        let kernel = kernel.display();
        examined(
            lab.kvm_bridge(&format!("doctor --quick --json -- {words} -kernel {kernel} -nographic -append"))
                .arg(append),
        )
    };
    let good = "ip=dhcp console=ttyS0";
    examine("--bridge br0", good).has("kernel", "warning", &["neither in it nor beside it"]);
    config("CONFIG_E1000=y\nCONFIG_IP_PNP_DHCP=y\nCONFIG_VIRTIO_NET=m\n");
    let found = examine("--bridge br0", good);
    found.has("kernel", "ok", &[]).has("kernel-dhcp", "ok", &[]).has("kernel-driver", "ok", &["CONFIG_E1000=y"]);
    found.has("append-ip", "ok", &["ip=dhcp"]).has("append-console", "ok", &["ttyS0"]).has(
        "pair",
        "ok",
        &["e1000 on bridge0"],
    );
    examine("--bridge br0", "quiet").has("append-ip", "warning", &["has no ip=", "-append \\\"quiet ip=dhcp\\\""]);
    examine("--bridge br0", "quiet").has("append-console", "warning", &["quiet console=ttyS0"]);
    examine("--bridge br0", "ip=off").has(
        "append-ip",
        "warning",
        &["switches it off: ip=off", "-append \\\"ip=dhcp\\\""],
    );

    let virtio = "--bridge br0,model=virtio-net-pci";
    examine(virtio, good).has("kernel-driver", "failure", &["lacks CONFIG_VIRTIO_PCI"]);
    config("CONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_NET=m\n");
    examine(virtio, good).has("kernel-driver", "failure", &["CONFIG_VIRTIO_NET=m", "no initrd to load it from"]);
    examine(virtio, good).has(
        "kernel-dhcp",
        "failure",
        &["lacks CONFIG_IP_PNP_DHCP", "scripts/config -e IP_PNP -e IP_PNP_DHCP"],
    );
    let with_initrd = format!("{virtio} -initrd initramfs");
    examine(&with_initrd, good).has("kernel-driver", "ok", &["a module, which the initrd has to load"]);
    examine(&with_initrd, good).has("kernel-dhcp", "warning", &["only a DHCP client in the initrd"]);
    examine(&with_initrd, "console=ttyS0").has("kernel-dhcp", "ok", &[]);

    let blog = "-device e1000,netdev=network0,mac=52:55:00:d1:55:01 -netdev tap,id=network0,ifname=tap0,script=no,downscript=no";
    examine(blog, good).has("pair", "ok", &["network0 has its device"]);
    examine("-netdev tap,id=network0", good).has(
        "pair",
        "failure",
        &["no -device names", "-device e1000,netdev=network0"],
    );
    examine("-device e1000,netdev=network0", good).has(
        "pair",
        "failure",
        &["which is not there", "--bridge br0,id=network0"],
    );
    examine("--bridge br0,id=n -device e1000,netdev=n", good).has("pair", "ok", &["a device of yours"]);
    let without = examined(lab.kvm_bridge("doctor --quick --json -- -nic none"));
    without.has("pair", "warning", &["asked for with none"]);
    let pipe = lab.new_file("pipe");
    nix::unistd::mkfifo(&pipe, Mode::from_bits_truncate(0o600)).expect("make a pipe");
    let piped = lab.kvm_bridge("doctor --quick --json -- --bridge br0 -kernel").arg(&pipe);
    examined(piped).has("kernel", "failure", &["it is no file"]);
    let missing = lab.kvm_bridge("doctor --quick --json -- --bridge br0 -kernel /no/such/bzImage");
    examined(missing).has("kernel", "failure", &["cannot read /no/such/bzImage"]).has(
        "append-ip",
        "warning",
        &["no -append"],
    );
}
