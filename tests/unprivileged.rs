//! The shim, called by somebody who is not root.

use crate::support::command::{Cmd, fake_qemu};
use crate::support::programs;
use crate::support::user::{ALICE, BOB, QEMUS, Right, our_helper};
use crate::support::{Lab, have};
use std::path::Path;

/// A host with br0 and a LAN, and the shim where users can run it.
fn lab() -> Option<Lab> {
    let lab = Lab::with_bridge("br0").and_then(Lab::with_users)?;
    for program in
        [Path::new(env!("CARGO_BIN_EXE_qemu-kvm")), Path::new(env!("CARGO_BIN_EXE_kvm-bridge")), &fake_qemu()]
    {
        lab.install(program, Right::None);
    }
    hide_systems_helpers();
    Some(lab)
}

/// Debian's own, which is there and has no right, would be found behind ours.
fn hide_systems_helpers() {
    for folder in ["/usr/lib/qemu", "/usr/libexec", "/usr/local/libexec"] {
        if Path::new(folder).is_dir() {
            crate::support::namespaces::hide(folder).expect("hide a folder");
        }
    }
}

/// QEMU itself may have files beside its helper.
fn show_qemus_files() {
    let _ = crate::support::namespaces::show_again("/usr/lib/qemu");
}

fn shim<'lab>(lab: &'lab Lab, user: &str, words: &str) -> Cmd<'lab> {
    let shim = lab.as_user(user, "/run/bin/qemu-kvm").words(words);
    shim.env("KVM_BRIDGE_QEMU", "/run/bin/fake-qemu")
}

/// The one line of a dry run that says which way is taken.
#[track_caller]
fn way(lab: &Lab, words: &str) -> String {
    let out = shim(lab, ALICE, &format!("--bridge-dry-run {words}")).run().succeeds().out;
    let lines: Vec<&str> =
        out.lines().filter(|line| line.starts_with("# ") && !line.contains("The MAC below")).collect();
    assert_eq!(lines.len(), 1, "{out}");
    lines[0].to_owned()
}

#[test]
fn a_user_can_have_nothing_announced_and_is_told_so() {
    let Some(lab) = lab() else { return };
    lab.install(&our_helper(), Right::Capability);
    lab.allow_more("allow br0 user alice\n");
    let refused = shim(&lab, ALICE, "--bridge br0,announce=on").run().exits_with(125);
    assert!(refused.err.contains("CAP_NET_RAW") && refused.err.contains("leave announce= out"), "{}", refused.err);
    assert!(!refused.qemu_ran());
    shim(&lab, ALICE, "--bridge br0,announce=off").run().succeeds();
}

#[test]
fn a_user_has_a_guest_on_the_bridge_by_our_helper() {
    for right in [Right::Capability, Right::Setuid] {
        let Some(lab) = lab() else { return };
        lab.install(&our_helper(), right);
        lab.allow_more("allow br0 user alice\n");
        assert_eq!(way(&lab, "--bridge br0"), "# br0: by /run/bin/kvm-bridge-helper (guarded)");
        let mut guest = shim(&lab, ALICE, "--bridge br0 -name vm").then("arp:10.77.0.1,hold").start();
        assert_eq!(guest.qemu().answer("bridge0"), Some(lab.lan.mac()));
        assert!(guest.qemu().tap().vnet_hdr);
        let mac = guest.qemu().mac();
        guest.kill();
        lab.becomes_as_before();
        // The address is kept in the user's own state.
        let list = lab.as_user(ALICE, "/run/bin/kvm-bridge").words("mac list").run().succeeds();
        assert!(list.out.contains(&mac), "{}", list.out);
        assert!(Path::new("/run/alice/.local/state/kvm-bridge").is_dir());
        // Bob is not alice.
        let said = shim(&lab, BOB, "--bridge br0").run().exits_with(125).err;
        assert!(said.contains("no rule allows br0 to bob") && said.contains("--allow br0:bob"), "{said}");
    }
}

#[test]
fn two_cards_and_two_bridges_are_had_too() {
    let Some(lab) = lab() else { return };
    lab.add_bridge("br1");
    lab.install(&our_helper(), Right::Capability);
    lab.allow("allow all\n");
    let mut guest = shim(&lab, ALICE, "--bridge br0 --bridge br1 --bridge br0").boot();
    assert_eq!(guest.qemu().taps().len(), 3);
    assert_eq!(lab.ports("br0").len(), 3);
    assert_eq!(lab.ports("br1").len(), 2);
    guest.kill();
}

#[test]
fn qemus_own_helper_is_taken_where_ours_is_missing_or_has_lost_its_right() {
    let Some(lab) = lab() else { return };
    if !Path::new(QEMUS).parent().is_some_and(Path::is_dir) {
        return crate::support::skip("there is no folder for QEMU's helper");
    }
    crate::support::namespaces::show_again("/usr/lib/qemu").expect("show it again");
    let copy = lab.install_helper(Path::new(QEMUS), false, Right::Setuid).path;
    crate::support::namespaces::hide("/usr/lib/qemu").expect("hide a folder");
    std::fs::rename(&copy, QEMUS).or_else(|_| move_with_mode(&copy)).expect("put it where Debian has it");
    lab.allow("allow br0\n");
    for _ in 0..2 {
        assert_eq!(way(&lab, "--bridge br0"), format!("# br0: by {QEMUS}"));
        let mut guest = shim(&lab, ALICE, "--bridge br0").then("arp:10.77.0.1,hold").start();
        assert_eq!(guest.qemu().answer("bridge0"), Some(lab.lan.mac()));
        guest.kill();
        lab.becomes_as_before();
        lab.install(&our_helper(), Right::None);
    }
    lab.install(&our_helper(), Right::Capability);
    assert_eq!(way(&lab, "--bridge br0"), "# br0: by /run/bin/kvm-bridge-helper (guarded)");
    // What ours refuses, though it has its right, nobody else is asked for.
    lab.allow_more("allow br0 user alice max 0\n");
    let said = shim(&lab, ALICE, "--bridge br0").run().exits_with(125).err;
    assert!(said.contains("kvm-bridge-helper says: you have as many TAPs on br0"), "{said}");
}

fn move_with_mode(from: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::copy(from, QEMUS)?;
    std::fs::set_permissions(QEMUS, std::fs::Permissions::from_mode(0o4755))
}

/// A program in the place of QEMU's helper that has its right; what it does is of no interest.
fn pretend_qemus_helper() {
    std::fs::create_dir_all(Path::new(QEMUS).parent().expect("a folder")).expect("make the folder");
    programs::copy("/bin/true", QEMUS);
    set_mode(QEMUS, 0o4755);
}

fn set_mode(path: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set the mode");
}

/// What is said to alice, and by a dry run too.
#[track_caller]
fn refusal(lab: &Lab, words: &str) -> String {
    let said = shim(lab, ALICE, words).run().exits_with(125).err;
    assert_eq!(said.lines().count(), 2, "{said}");
    let dry = shim(lab, ALICE, &format!("--bridge-dry-run {words}")).run();
    let why = said.lines().next().and_then(|line| line.strip_prefix("qemu-kvm: ")).expect("a reason");
    assert!(dry.out.contains(why) || dry.err.contains(why), "{said}{}{}", dry.out, dry.err);
    said
}

#[test]
fn a_helper_that_the_user_may_not_execute_is_passed_over() {
    let Some(lab) = lab() else { return };
    let ours = lab.install(&our_helper(), Right::Capability);
    let ours = ours.to_str().expect("a name");
    lab.allow("allow br0\n");
    set_mode(ours, 0o750);
    let said = refusal(&lab, "--bridge br0");
    assert!(said.contains("is not for you to execute") && said.contains(&format!("sudo chmod a+rx {ours}")), "{said}");
    if Path::new(QEMUS).parent().is_some_and(Path::is_dir) {
        pretend_qemus_helper();
        assert_eq!(way(&lab, "--bridge br0"), format!("# br0: by {QEMUS}"));
    }
}

#[test]
fn qemus_helper_is_no_way_where_it_would_refuse_or_not_count() {
    let Some(lab) = lab() else { return };
    if !Path::new(QEMUS).parent().is_some_and(Path::is_dir) {
        return crate::support::skip("there is no folder for QEMU's helper");
    }
    pretend_qemus_helper();
    lab.allow_more("allow br0 user alice\n");
    let said = refusal(&lab, "--bridge br0");
    assert!(
        said.contains("only /etc/kvm-bridge/bridge.conf allows br0") && said.contains("kvm-bridge install"),
        "{said}"
    );
    lab.allow("allow br0\n");
    assert_eq!(way(&lab, "--bridge br0"), format!("# br0: by {QEMUS}"));
    lab.allow_more("allow br0 user alice max 3\n");
    let said = refusal(&lab, "--bridge br0");
    assert!(said.contains("line 1 allows 3 TAPs") && said.contains("does not count them"), "{said}");
    // QEMU's takes nothing into effect by itself.
    lab.allow_more("");
    set_mode(QEMUS, 0o755);
    let setcap = |set: &str| std::process::Command::new("setcap").args([set, QEMUS]).status();
    assert!(setcap("cap_net_admin=p").is_ok_and(|status| status.success()));
    assert!(refusal(&lab, "--bridge br0").contains("neither the capability"));
    assert!(setcap("cap_net_admin=ep").is_ok_and(|status| status.success()));
    assert_eq!(way(&lab, "--bridge br0"), format!("# br0: by {QEMUS}"));
}

#[test]
fn a_dry_run_calls_no_tap_the_users_that_is_not() {
    let Some(lab) = lab() else { return };
    for (name, owner) in [("tap-a", "user 1000"), ("tap-b", "user 1001"), ("tap-g", "group 104"), ("tap-n", "")] {
        lab.ip(&format!("tuntap add dev {name} mode tap vnet_hdr {owner}"));
        lab.ip(&format!("link set dev {name} master br0 addrgenmode none up"));
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1").expect("switch IPv6 off");
    }
    lab.settle();
    assert_eq!(way(&lab, "--bridge br0,ifname=tap-g"), "# br0: by your group's TAP tap-g");
    assert_eq!(way(&lab, "--bridge br0,ifname=tap-n"), "# br0: by a TAP without an owner, tap-n");
    for name in ["tap-g", "tap-n"] {
        shim(&lab, ALICE, &format!("--bridge br0,ifname={name}")).boot().kill();
    }
    let said = refusal(&lab, "--bridge br0,ifname=tap-b");
    assert!(said.contains("somebody else's") && said.contains("user alice"), "{said}");
    let said = shim(&lab, BOB, "--bridge br0,ifname=tap-g").run().exits_with(125).err;
    assert!(said.contains("somebody else's"), "{said}");
    assert!(lab.tun_has_mode(0o600));
    let said = refusal(&lab, "--bridge br0,ifname=tap-a");
    assert!(said.contains("cannot open /dev/net/tun"), "{said}");
}

#[test]
fn a_missing_bridge_is_always_roots_to_make() {
    let Some(lab) = lab() else { return };
    // New file systems are everybody's, this one is not.
    set_mode("/run", 0o755);
    let command = "sudo kvm-bridge up br7";
    for (words, command) in [
        // There is no default route: as root it would be refused too.
        ("--bridge br7", command),
        ("--bridge br7,uplink=nix", "sudo kvm-bridge up br7 --uplink nix"),
        ("--bridge br7,uplink=none", "sudo kvm-bridge up br7 --uplink none"),
        ("--bridge $(id)", "sudo kvm-bridge up '$(id)'"),
    ] {
        let said = refusal(&lab, words);
        assert!(said.contains("only root can make one") && said.trim_end().ends_with(command), "{said}");
    }
    let own = format!("setpriv {ALICE} --inh-caps +net_admin --ambient-caps +net_admin");
    let shim =
        || lab.program("/run/bin/qemu-kvm").env("KVM_BRIDGE_QEMU", "/run/bin/fake-qemu").env("HOME", "/run/alice");
    let said = shim().words("--bridge br7,uplink=none").through(&own).run().exits_with(125).err;
    assert!(said.contains(command), "{said}");
    let dry = shim().words("--bridge-dry-run --bridge br7,uplink=none").through(&own).run().succeeds().out;
    assert!(dry.starts_with("# Not as this user: ") && dry.contains(command), "{dry}");
    lab.is_untouched();
}

#[test]
fn a_rule_that_denies_is_named_though_there_is_no_helper() {
    let Some(lab) = lab() else { return };
    lab.allow_more("deny br0\n");
    let said = refusal(&lab, "--bridge br0");
    assert!(said.contains("/etc/kvm-bridge/bridge.conf, line 1 denies br0") && said.contains("sudoedit"), "{said}");
    lab.allow_more("alow br0\n");
    let said = refusal(&lab, "--bridge br0");
    assert!(said.contains("/etc/kvm-bridge/bridge.conf, line 1: a line begins with"), "{said}");
}

#[test]
fn a_persistent_tap_of_the_users_own_needs_no_helper() {
    let Some(lab) = lab() else { return };
    lab.ip("tuntap add dev tap-a mode tap vnet_hdr user 1000");
    lab.ip("link set dev tap-a master br0 addrgenmode none up");
    std::fs::write("/proc/sys/net/ipv6/conf/tap-a/disable_ipv6", "1").expect("switch IPv6 off");
    lab.settle();
    assert_eq!(way(&lab, "--bridge br0,ifname=tap-a"), "# br0: by your own TAP tap-a");
    let mut guest = shim(&lab, ALICE, "--bridge br0,ifname=tap-a").then("arp:10.77.0.1,hold").start();
    assert_eq!(guest.qemu().answer("bridge0"), Some(lab.lan.mac()));
    guest.kill();
    lab.becomes_as_before();
    let said = shim(&lab, BOB, "--bridge br0,ifname=tap-a").run().exits_with(125).err;
    assert!(said.contains("somebody else's") && said.contains("user bob"), "{said}");
    let said = shim(&lab, ALICE, "--bridge br0,ifname=tap-b").run().exits_with(125).err;
    assert!(said.contains("ip tuntap add dev tap-b mode tap user alice"), "{said}");
}

#[test]
fn the_right_itself_comes_first() {
    let Some(lab) = lab() else { return };
    lab.install(&our_helper(), Right::Capability);
    let own = format!("setpriv {ALICE} --inh-caps +net_admin --ambient-caps +net_admin");
    let shim =
        || lab.program("/run/bin/qemu-kvm").env("KVM_BRIDGE_QEMU", "/run/bin/fake-qemu").env("HOME", "/run/alice");
    let dry = shim().words("--bridge-dry-run").words("--bridge br0").through(&own).run().succeeds();
    assert!(dry.out.starts_with("# By your own right to change the network"), "{}", dry.out);
    let mut guest = shim().words("--bridge br0").through(&own).then("arp:10.77.0.1,hold").start();
    assert_eq!(guest.qemu().answer("bridge0"), Some(lab.lan.mac()));
    guest.kill();
}

/// What is said where nothing works, each with the one command that fixes it.
#[test]
fn the_error_names_what_is_missing_and_the_command() {
    let Some(lab) = lab() else { return };
    let is_refused = |words: &str, what: &str, command: &str| {
        let said = shim(&lab, ALICE, words).run().exits_with(125).err;
        assert!(said.contains(what) && said.contains(command), "{said}");
        assert_eq!(said.lines().count(), 2, "{said}");
        let dry = shim(&lab, ALICE, &format!("--bridge-dry-run {words}")).run();
        assert!(!dry.status.success() || dry.out.starts_with("# Not as this user: "), "{}", dry.out);
        lab.is_untouched();
    };
    lab.allow("allow br0\n");
    is_refused("--bridge br7,uplink=none", "no such bridge", "sudo kvm-bridge up br7");
    is_refused("--bridge br0,mtu=1400", "not 1400", "run: sudo ip link set dev br0 mtu 1400");
    is_refused("--bridge br0,keep=on", "only root decides", "Leave keep= out");
    is_refused("--bridge br0,forward=tcp:2222:22", "forward= is for uplink=nat", "Leave forward= out");
    is_refused("--bridge br0", "no helper is installed", "sudo kvm-bridge install");
    lab.install(&our_helper(), Right::None);
    is_refused("--bridge br0", "neither the capability cap_net_admin nor setuid root", "sudo kvm-bridge install");
    lab.allow("");
    is_refused("--bridge br0", "has neither the capability", "sudo kvm-bridge install --allow br0:alice");
    lab.install(&our_helper(), Right::Capability);
    is_refused("--bridge br0", "no rule allows br0 to alice", "sudo kvm-bridge install --allow br0:alice");
    lab.allow("allow br0\ndeny br0\n");
    is_refused("--bridge br0", "/etc/qemu/bridge.conf, line 2 denies br0", "sudoedit /etc/qemu/bridge.conf");
    lab.allow("allow br0\n");
    assert!(lab.tun_has_mode(0o600));
    is_refused(
        "--bridge br0",
        "cannot open /dev/net/tun: Permission denied (its mode is 0600)",
        "sudo chmod 666 /dev/net/tun",
    );
    assert!(lab.tun_has_mode(0o666));
    lab.ip("link set br0 down");
    lab.baseline();
    is_refused("--bridge br0", "br0 is down", "sudo ip link set dev br0 up");
}

#[test]
fn a_sandbox_without_new_rights_and_a_file_system_without_suid_are_told() {
    let Some(lab) = lab() else { return };
    lab.install(&our_helper(), Right::Capability);
    lab.allow("allow br0\n");
    let confined = lab.program("/run/bin/qemu-kvm").words("--bridge br0").env("KVM_BRIDGE_QEMU", "/run/bin/fake-qemu");
    let said = confined
        .through(&format!("setpriv {ALICE} --no-new-privs"))
        .env("HOME", "/run/alice")
        .run()
        .exits_with(125)
        .err;
    assert!(said.contains("no_new_privs") && said.contains("NoNewPrivileges=no"), "{said}");
    let remount = |option: &str| {
        let done = std::process::Command::new("mount").args(["-o", &format!("remount,{option}"), "/run"]).status();
        assert!(done.is_ok_and(|status| status.success()));
    };
    remount("nosuid");
    let said = shim(&lab, ALICE, "--bridge br0").run().exits_with(125).err;
    remount("suid");
    assert!(said.contains("mounted nosuid") && said.contains("sudo mount -o remount,suid /run"), "{said}");
}

#[test]
fn a_guest_of_a_user_gets_its_address() {
    for right in [Right::Capability, Right::Setuid] {
        let Some(lab) = lab() else { return };
        if !have("qemu-system-x86_64") || !lab.lan.serve_dhcp() {
            return;
        }
        lab.install(&our_helper(), right);
        lab.allow("allow br0\n");
        show_qemus_files();
        let line = "--bridge br0,mac=02:00:5e:00:00:03 -accel tcg -display none -machine pc,graphics=off -m 64 -boot n";
        let guest = shim(&lab, ALICE, line).env("KVM_BRIDGE_QEMU", "/usr/bin/qemu-system-x86_64").start();
        lab.lan.lease_of("02:00:5e:00:00:03", 60);
        guest.terminate().succeeds();
        lab.becomes_as_before();
    }
}

#[test]
fn the_line_of_a_dry_run_works_when_it_is_pasted() {
    let Some(lab) = lab() else { return };
    if !have("qemu-system-x86_64") || !lab.lan.serve_dhcp() {
        return;
    }
    lab.install(&our_helper(), Right::Capability);
    lab.allow("allow br0\n");
    show_qemus_files();
    let line = "--bridge-dry-run --bridge br0,mac=02:00:5e:00:00:04 -accel tcg -display none -machine pc,graphics=off -m 64 -boot n";
    let dry = shim(&lab, ALICE, line).env("KVM_BRIDGE_QEMU", "/usr/bin/qemu-system-x86_64").run().succeeds();
    let pasted =
        lab.as_user(ALICE, "/bin/sh").words("-c").arg(format!("exec {}", dry.out.lines().last().expect("a line")));
    let guest = pasted.start();
    lab.lan.lease_of("02:00:5e:00:00:04", 60);
    guest.terminate().succeeds();
}
