//! `kvm-bridge install`: once, twice, looked at, and taken back.

use crate::support::Lab;
use crate::support::command::fake_qemu;
use crate::support::namespaces::hide;
use crate::support::user::{ALICE, Right, our_helper, write_rules};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

const COPY: &str = "/usr/local/libexec/kvm-bridge-helper";
const RULES: &str = "/etc/kvm-bridge/bridge.conf";

/// A host with br0, on which only the programs are, side by side as they were built.
pub(crate) fn lab() -> Option<Lab> {
    let lab = Lab::with_bridge("br0").and_then(Lab::with_users)?;
    for folder in ["/usr/local", "/usr/lib/qemu", "/usr/libexec"] {
        if Path::new(folder).is_dir() {
            hide(folder).expect("hide a folder");
        }
    }
    // New file systems are everybody's, these are not.
    for folder in ["/run", "/usr/local"] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("set the mode");
    }
    for program in
        [Path::new(env!("CARGO_BIN_EXE_qemu-kvm")), Path::new(env!("CARGO_BIN_EXE_kvm-bridge")), &fake_qemu()]
    {
        lab.install(program, Right::None);
    }
    lab.install(&our_helper(), Right::None);
    Some(lab)
}

#[track_caller]
fn install(lab: &Lab, words: &str) -> String {
    lab.program("/run/bin/kvm-bridge").words(&format!("install {words}")).run().succeeds().out
}

#[track_caller]
fn is_refused(lab: &Lab, words: &str) -> String {
    lab.program("/run/bin/kvm-bridge").words(&format!("install {words}")).run().exits_with(125).err
}

/// All files of the folders that it writes to, with what they hold.
pub(crate) fn files() -> Vec<String> {
    fn walk(folder: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let (path, kind) = (entry.path(), entry.file_type().expect("a kind"));
            if kind.is_symlink() && path.starts_with("/etc") {
                continue;
            }
            let metadata = path.symlink_metadata().expect("metadata");
            let text = if kind.is_file() { fs::read(&path).unwrap_or_default() } else { Vec::new() };
            found.push(format!("{} {:o} {}", path.display(), metadata.mode(), text.len()));
            if kind.is_dir() {
                walk(&path, found);
            }
        }
    }
    let mut found = Vec::new();
    for folder in ["/usr/local", "/etc", "/var/lib", "/run/bin", "/run/libexec"] {
        walk(Path::new(folder), &mut found);
    }
    found.sort();
    found
}

fn capability(path: &str) -> String {
    let output = std::process::Command::new("getcap").arg(path).output().expect("getcap");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn after_an_installation_a_user_has_a_guest() {
    let Some(lab) = lab() else { return };
    let told = install(&lab, "--allow br0:alice");
    assert!(told.contains(COPY) && told.contains("'allow br0 user alice'"), "{told}");
    assert_eq!(capability(COPY), format!("{COPY} cap_net_admin=p"));
    assert_eq!(fs::metadata(COPY).expect("the copy").mode() & 0o7777, 0o755);
    let guest = || {
        let shim = lab.as_user(ALICE, "/run/bin/qemu-kvm").words("--bridge br0");
        shim.env("KVM_BRIDGE_QEMU", "/run/bin/fake-qemu").then("arp:10.77.0.1,hold").start()
    };
    assert_eq!(guest().qemu().answer("bridge0"), Some(lab.lan.mac()));
    install(&lab, "--uninstall");
}

#[test]
fn an_installation_twice_is_as_once() {
    let Some(lab) = lab() else { return };
    let words = "--allow br0:alice --allow br1 --link --link=qemu-system-aarch64";
    install(&lab, words);
    let once = files();
    assert_eq!(install(&lab, words), "There is nothing to do: all of it is there.\n");
    assert_eq!(install(&lab, ""), "There is nothing to do: all of it is there.\n");
    assert_eq!(files(), once);
    assert_eq!(fs::read_link("/usr/local/bin/qemu-kvm").expect("a link"), Path::new("/run/bin/qemu-kvm"));
    assert!(fs::read_to_string("/etc/qemu/bridge.conf").expect("rules").ends_with("\nallow br1\n"));
    install(&lab, "--uninstall");
}

#[test]
fn uninstall_takes_back_what_was_made_and_only_that() {
    let Some(lab) = lab() else { return };
    // Nothing was there.
    let before = files();
    install(&lab, "--allow br0:alice --allow br1 --link");
    assert_ne!(files(), before);
    install(&lab, "--uninstall");
    assert_eq!(
        files().into_iter().filter(|file| !file.starts_with("/var/lib/kvm-bridge ")).collect::<Vec<_>>(),
        before
    );
    assert_eq!(install(&lab, "--uninstall"), "There is nothing to take back.\n");

    // Everything was, and the admin's own.
    write_rules(RULES, "# mine\nallow br7 max 3");
    fs::set_permissions(RULES, fs::Permissions::from_mode(0o640)).expect("set the mode");
    fs::create_dir_all("/usr/local/bin").expect("make a folder");
    let before = files();
    install(&lab, "--allow br0:alice --link");
    assert_eq!(fs::read_to_string(RULES).expect("rules"), "# mine\nallow br7 max 3\nallow br0 user alice\n");
    // What is written by hand meanwhile stays.
    let text = fs::read_to_string(RULES).expect("rules") + "allow br8\n";
    fs::write(RULES, text).expect("write the rules");
    fs::remove_file("/usr/local/bin/qemu-kvm").expect("remove the link");
    std::os::unix::fs::symlink("/bin/true", "/usr/local/bin/qemu-kvm").expect("another link");
    install(&lab, "--uninstall");
    assert_eq!(fs::read_to_string(RULES).expect("rules"), "# mine\nallow br7 max 3\nallow br8\n");
    assert_eq!(fs::metadata(RULES).expect("rules").mode() & 0o777, 0o640);
    fs::remove_file("/usr/local/bin/qemu-kvm").expect("its link is left");
    write_rules(RULES, "# mine\nallow br7 max 3");
    fs::set_permissions(RULES, fs::Permissions::from_mode(0o640)).expect("set the mode");
    assert_eq!(files(), before);
}

#[test]
fn a_helper_that_make_or_a_package_installed_is_given_its_right_where_it_is() {
    let Some(lab) = lab() else { return };
    fs::create_dir("/run/libexec").expect("make a folder");
    fs::rename("/run/bin/kvm-bridge-helper", "/run/libexec/kvm-bridge-helper").expect("move it");
    let told = install(&lab, "");
    assert_eq!(told, "gave /run/libexec/kvm-bridge-helper the capability cap_net_admin\n");
    assert!(!Path::new(COPY).exists());
    // An upgrade of the package loses it.
    fs::copy(our_helper(), "/run/libexec/kvm-bridge-helper").expect("copy it");
    assert_eq!(capability("/run/libexec/kvm-bridge-helper"), "");
    assert!(is_refused(&lab, "--check").contains("neither the capability cap_net_admin nor setuid root"));
    assert_eq!(install(&lab, ""), told);
    install(&lab, "--uninstall");
    assert!(Path::new("/run/libexec/kvm-bridge-helper").exists());
    assert_eq!(capability("/run/libexec/kvm-bridge-helper"), "");
}

#[test]
fn a_newer_build_replaces_the_copy() {
    let Some(lab) = lab() else { return };
    install(&lab, "");
    let mut text = fs::read("/run/bin/kvm-bridge-helper").expect("the helper");
    text.push(0);
    fs::write("/run/bin/kvm-bridge-helper", &text).expect("a newer one");
    assert!(install(&lab, "").contains("a copy of /run/bin/kvm-bridge-helper"));
    assert_eq!(fs::read(COPY).expect("the copy"), text);
    assert_eq!(capability(COPY), format!("{COPY} cap_net_admin=p"));
    install(&lab, "--uninstall");
}

#[test]
fn check_says_what_is_missing_to_anybody() {
    let Some(lab) = lab() else { return };
    fs::remove_file("/run/bin/kvm-bridge-helper").expect("no helper");
    assert!(lab.tun_has_mode(0o600));
    let check = |words: &str| lab.as_user(ALICE, "/run/bin/kvm-bridge").words(&format!("install --check {words}"));
    let said = check("").run().exits_with(125).err;
    for missing in [
        "no kvm-bridge-helper is installed",
        "mode 0600",
        "no bridge is allowed to anybody",
        "sudo kvm-bridge install --allow",
    ] {
        assert!(said.contains(missing), "{said}");
    }
    lab.is_untouched();
    assert!(lab.tun_has_mode(0o666));
    lab.install(&our_helper(), Right::None);
    install(&lab, "--allow br0:alice");
    let said = check("--allow br0:alice").run().succeeds().out;
    for there in ["has the capability cap_net_admin", RULES, "br0 is allowed to alice"] {
        assert!(said.contains(there), "{said}");
    }
    let said = check("--allow br0:bob").run().exits_with(125).err;
    assert!(
        said.contains("no rule allows br0 to bob") && said.contains("sudo kvm-bridge install --allow br0:bob"),
        "{said}"
    );
    write_rules("/etc/qemu/bridge.conf", "alow br0\n");
    let said = check("").run().exits_with(125).err;
    assert!(said.contains("/etc/qemu/bridge.conf, line 1"), "{said}");
    install(&lab, "--uninstall");
}

#[test]
fn whatever_the_umask_users_can_read_and_execute_what_was_made() {
    let Some(lab) = lab() else { return };
    let words = "umask 077; exec /run/bin/kvm-bridge install --allow br0:alice --allow br1";
    lab.program("/bin/sh").words("-c").arg(words).run().succeeds();
    let mode = |path: &str| fs::metadata(path).expect(path).mode() & 0o7777;
    for folder in ["/etc/kvm-bridge", "/etc/qemu", "/usr/local/libexec", "/var/lib/kvm-bridge"] {
        assert_eq!(mode(folder), 0o755, "{folder}");
    }
    for file in [RULES, "/etc/qemu/bridge.conf"] {
        assert_eq!(mode(file), 0o644, "{file}");
    }
    assert_eq!(mode(COPY), 0o755);
    lab.as_user(ALICE, "/run/bin/kvm-bridge").words("install --check --allow br0:alice").run().succeeds();
    install(&lab, "--uninstall");
}

#[test]
fn a_rule_that_is_asked_for_twice_is_written_once() {
    let Some(lab) = lab() else { return };
    install(&lab, "--allow br1 --allow br1");
    assert_eq!(fs::read_to_string("/etc/qemu/bridge.conf").expect("rules").matches("allow br1").count(), 1);
    install(&lab, "--uninstall");
    assert!(!Path::new("/etc/qemu/bridge.conf").exists());
}

#[test]
fn what_has_been_changed_since_is_left_and_told_of() {
    let Some(lab) = lab() else { return };
    install(&lab, "--allow br0:alice --link");
    let left = |what: &str, told: &str| assert!(told.contains(&format!("left {what}: ")), "{told}");
    // Another helper, a link to elsewhere, a line that was edited, a file beside the rules.
    fs::remove_file(COPY).expect("remove the copy");
    fs::copy(our_helper(), COPY).expect("as make install does");
    fs::remove_file("/usr/local/bin/qemu-kvm").expect("remove the link");
    std::os::unix::fs::symlink("/bin/true", "/usr/local/bin/qemu-kvm").expect("another link");
    let text = fs::read_to_string(RULES).expect("rules").replace("user alice", "user alice max 4");
    fs::write(RULES, text).expect("write the rules");
    fs::write("/etc/kvm-bridge/bridge.new", "notes").expect("write notes");
    let told = install(&lab, "--uninstall");
    for path in [COPY, "/usr/local/bin/qemu-kvm", RULES, "/etc/kvm-bridge"] {
        left(path, &told);
        assert!(Path::new(path).exists(), "{path}");
    }
    assert_eq!(fs::read_to_string("/etc/kvm-bridge/bridge.new").expect("the notes"), "notes");
    assert_eq!(install(&lab, "--uninstall"), "There is nothing to take back.\n");

    // A right that somebody else has given since.
    fs::set_permissions(COPY, fs::Permissions::from_mode(0o755)).expect("set the mode");
    install(&lab, "");
    let given = std::process::Command::new("setcap").args(["cap_net_admin=ep", COPY]).status();
    assert!(given.is_ok_and(|status| status.success()));
    left(COPY, &install(&lab, "--uninstall"));
    assert_eq!(capability(COPY), format!("{COPY} cap_net_admin=ep"));
}

#[test]
fn rules_are_judged_with_the_groups_of_the_user() {
    let Some(lab) = lab() else { return };
    write_rules(RULES, "allow br0 group kvm\n");
    install(&lab, "--allow br0:alice");
    assert_eq!(fs::read_to_string(RULES).expect("rules"), "allow br0 group kvm\n", "alice is in the group");
    assert!(install(&lab, "--check --allow br0:alice").contains("br0 is allowed to alice"));
    write_rules(RULES, "allow br0 user alice\ndeny br0 group kvm max 3\n");
    for words in ["--check --allow br0:alice", "--allow br0:alice"] {
        let said = is_refused(&lab, words);
        assert!(said.contains("bridge.conf, line 2 denies br0"), "{said}");
    }
    install(&lab, "--uninstall");
}

#[test]
fn check_as_root_says_what_users_may_not_read_or_execute() {
    let Some(lab) = lab() else { return };
    install(&lab, "--allow br0:alice");
    let mode = |path: &str, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set the mode");
    for (path, closed, open, flags) in [
        (RULES, 0o640, 0o644, "a+r"),
        (COPY, 0o750, 0o755, "a+rx"),
        ("/etc/kvm-bridge", 0o700, 0o755, "a+rx"),
        ("/usr/local/libexec", 0o700, 0o755, "a+rx"),
    ] {
        mode(path, closed);
        for words in ["--check", "--check --allow br0:alice"] {
            let said = is_refused(&lab, words);
            assert!(said.contains(&format!("{path} has mode {closed:04o}: sudo chmod {flags} {path}")), "{said}");
        }
        assert!(install(&lab, "").contains("still missing: users cannot "));
        mode(path, open);
        install(&lab, "--check --allow br0:alice");
    }
    // A group that was chosen may be all that is meant.
    std::os::unix::fs::chown(RULES, None, Some(104)).expect("give it to kvm");
    mode(RULES, 0o640);
    install(&lab, "--check");
    install(&lab, "--check --allow br0:alice");
    assert!(is_refused(&lab, "--check --allow br0:bob").contains("bob cannot read"));
    install(&lab, "--uninstall");
}

#[test]
fn check_without_rules_names_what_was_asked_for() {
    let Some(lab) = lab() else { return };
    let said = is_refused(&lab, "--check --allow br0:alice --allow $(id)");
    assert!(said.contains("sudo kvm-bridge install --allow br0:alice --allow '$(id)'"), "{said}");
}

#[test]
fn an_installation_that_cannot_be_done_is_refused_before_it_begins() {
    let Some(lab) = lab() else { return };
    write_rules("/etc/qemu/bridge.conf", "deny br1\n");
    fs::create_dir_all("/usr/local/bin").expect("make a folder");
    fs::write("/usr/local/bin/kvm", "").expect("a file");
    let before = files();
    for (words, why) in [
        ("--allow br1", "/etc/qemu/bridge.conf, line 1 denies br1"),
        ("--allow br0:carol", "there is no user carol"),
        ("--link=kvm", "/usr/local/bin/kvm is there and leads elsewhere"),
        ("--link=../x", "is no name for a link"),
        ("--allow sixteen-bytes-xy", "16 bytes"),
        ("--check --uninstall", "cannot be used with"),
    ] {
        let said = is_refused(&lab, words);
        assert!(said.contains(why), "{said}");
    }
    for words in [
        "install",
        "install --allow br0:alice --link=vm",
        "install --uninstall",
        "up br0 --uplink eth0 --save",
        "down br0 --force",
        "recover",
    ] {
        let said = lab.as_user(ALICE, "/run/bin/kvm-bridge").words(words).run().exits_with(125).err;
        assert!(said.lines().any(|line| line.ends_with(&format!("sudo kvm-bridge {words}"))), "{said}");
    }
    let after: Vec<_> = files().into_iter().filter(|file| !file.contains("/var/lib/kvm-bridge")).collect();
    assert_eq!(after, before);
}

#[test]
fn an_installation_killed_at_any_call_that_writes_is_finished_or_taken_back() {
    let Some(lab) = lab() else { return };
    if !crate::support::have("strace") {
        return;
    }
    let untouched =
        |files: Vec<String>| files.into_iter().filter(|file| !file.contains("kvm-bridge ")).collect::<Vec<_>>();
    let before = untouched(files());
    let words = "install --allow br0:alice --allow br1 --link";
    let mut kills = 0;
    for call in ["write", "rename", "mkdir", "setxattr", "symlink", "openat", "fsync", "fchmod", "fchmodat"] {
        for nth in 1..60 {
            if !lab.program("/run/bin/kvm-bridge").words(words).dies_at(call, nth) {
                break;
            }
            kills += 1;
            if nth % 2 == 0 {
                install(&lab, "--allow br0:alice --allow br1 --link");
                assert_eq!(capability(COPY), format!("{COPY} cap_net_admin=p"), "{call} {nth}");
            }
            install(&lab, "--uninstall");
            let left: Vec<_> = untouched(files()).into_iter().filter(|file| !before.contains(file)).collect();
            assert!(left.is_empty(), "{call} {nth}: {left:?}");
        }
        install(&lab, "--uninstall");
    }
    assert!(kills > 30, "{kills}");
}

#[test]
fn a_folder_that_others_can_write_to_gets_no_helper() {
    let Some(lab) = lab() else { return };
    let folder = Path::new("/usr/local/libexec");
    fs::create_dir_all(folder).expect("make the folder");
    for mode in [0o777, 0o1777] {
        fs::set_permissions(folder, fs::Permissions::from_mode(mode)).expect("open it");
        let refused = lab.program("/run/bin/kvm-bridge").words("install --allow br0:alice").run().exits_with(125);
        let expected = "others than root can write to /usr/local/libexec, on the way to the helper\n  \
                        Close it: sudo chmod go-w /usr/local/libexec\n";
        assert!(refused.err.contains(expected), "{}", refused.err);
        assert!(!Path::new(COPY).exists());
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("close it");
    install(&lab, "--allow br0:alice");
    install(&lab, "--uninstall");
}
