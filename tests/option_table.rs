//! Which of QEMU's options take a value: our table, held against the QEMU that is installed.

use crate::support::command::fake_qemu;
use crate::support::{Lab, have};
use model::options::{ALONE, Arity, VALUE, arity};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

const QEMU: &str = "qemu-system-x86_64";

/// What QEMU itself says of an option; it looks at all of them before it obeys `-version`.
fn asked(option: &str) -> Arity {
    let output = Command::new(QEMU).args(["-version", &format!("-{option}")]).output().expect("run QEMU");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.success() {
        true => Arity::Alone,
        false if said.contains("requires an argument") => Arity::Value,
        false if said.contains("invalid option") => Arity::Unknown,
        false => panic!("QEMU says of -{option}: {said}"),
    }
}

#[test]
fn the_splitter_agrees_with_qemu_about_every_option() {
    if !have(QEMU) {
        return;
    }
    let help = Command::new(QEMU).arg("-help").output().expect("run QEMU");
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let of_help = help.lines().filter_map(|line| line.strip_prefix('-')?.split([' ', ',', '[']).next());
    // Help names some by two names, as `-h or -help`, and hides others: the table's own are asked about too.
    let options: BTreeSet<&str> = of_help
        .map(|name| name.trim_start_matches('-'))
        .chain(ALONE.split_whitespace())
        .chain(VALUE.split_whitespace())
        .collect();
    let mut known = 0;
    for option in options {
        match asked(option) {
            // Of another version, or for another machine.
            Arity::Unknown => continue,
            answer => assert_eq!(arity(option.as_bytes()), answer, "-{option}"),
        }
        known += 1;
    }
    assert!(known > 100, "QEMU knows {known} of them only");
    assert_eq!(asked("bridge"), Arity::Unknown, "QEMU has an option of our name");
}

#[test]
fn ours_as_the_value_of_another_is_left_alone() {
    let Some(lab) = Lab::new() else { return };
    for option in VALUE.split_whitespace().filter(|option| !["h", "help"].contains(option)) {
        for ours in ["--bridge", "-bridge", "--bridge=br0", "--bridge-help", "--bridge-dry-run"] {
            let words = [format!("-{option}"), ours.to_owned()];
            let line = model::argv::scan(&words.clone().map(Into::into), || Ok(Vec::new())).expect("a line");
            assert_eq!((line.nics.len(), line.parts.len()), (0, 2), "{words:?}");
        }
    }
    for line in ["-append --bridge", "-name --bridge=br0", "-fw_cfg -bridge -m 64", "--append --bridge-help"] {
        assert_eq!(lab.shim(line).run().succeeds().qemu().line(), line);
    }
    lab.is_untouched();
}

/// A QEMU with options that nobody knows yet; it writes down what it is asked.
fn newer_qemu(lab: &Lab) -> (PathBuf, PathBuf) {
    let (path, asked) = (lab.new_file("qemu"), lab.new_file("asked"));
    let script = format!(
        "#!/bin/sh\n\
         case \"$1 $2\" in -version*|-device\\ help) echo \"$*\" >>{asked} ;; esac\n\
         case \"$1 $2\" in\n\
         '-version -new-flag'|'-version -bridge-flag') exit 0 ;;\n\
         '-version -new-value'|'-version -bridge-value') echo \"$0: $2: requires an argument\" >&2; exit 1 ;;\n\
         '-version '*) echo \"$0: $2: invalid option\" >&2; exit 1 ;;\n\
         '-device help') printf '%s\\n' 'Network devices:' 'name \"new-net\", bus PCI' 'name \"e1000\", bus PCI'; exit 0 ;;\n\
         esac\n\
         exec {fake} \"$@\"\n",
        asked = asked.display(),
        fake = fake_qemu().display()
    );
    fs::write(&path, script).expect("write a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make it executable");
    (path, asked)
}

#[test]
fn a_newer_qemu_is_asked_only_where_its_answer_makes_a_difference() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let (qemu, asked) = newer_qemu(&lab);
    for (line, questions, becomes) in [
        ("-m 64 --bridge br0 disk.img", "", "-m 64 NIC disk.img"),
        ("-new-flag --bridge br0 -name n", "-version -new-flag\n", "-new-flag NIC -name n"),
        ("-new-value --bridge -m 64 --bridge br0", "-version -new-value\n", "-new-value --bridge -m 64 NIC"),
        ("-new-value x --bridge br0 -name n", "", "-new-value x NIC -name n"),
        ("--bridge br0 -name n -new-flag", "", "NIC -name n -new-flag"),
        (
            "-bridge-flag --bridge br0 -name n",
            "-version -bridge-flag\n-version -bridge-flag\n",
            "-bridge-flag NIC -name n",
        ),
        ("--bridge br0,model=e1000", "", "NIC"),
        ("--bridge br0,model=new-net", "-device help\n", "NIC"),
    ] {
        let _ = fs::remove_file(&asked);
        let ended = lab.shim(line).env("KVM_BRIDGE_QEMU", &qemu).run().succeeds();
        let (netdev, device) = (ended.qemu().value_of("-netdev"), ended.qemu().value_of("-device"));
        let nic = format!("-netdev {netdev} -device {device}");
        assert_eq!(ended.qemu().line().replace(&nic, "NIC"), becomes, "{line}");
        // As it is a script, it is asked besides whether it hands on what it inherits.
        let asked = fs::read_to_string(&asked).unwrap_or_default();
        let asked: String =
            asked.lines().filter(|line| !line.starts_with("-add-fd")).map(|line| format!("{line}\n")).collect();
        assert_eq!(asked, questions, "{line}");
    }
    // However the caller has left signals and files.
    for script in
        [r#"exec env --ignore-signal=CHLD "$0" "$@""#, r#"exec "$0" "$@" <&-"#, r#"exec "$0" "$@" <&- >&- 2>&-"#]
    {
        let line = "-new-value --bridge -new-flag --bridge br0,model=new-net -name n";
        let ended = lab.shim(line).env("KVM_BRIDGE_QEMU", &qemu).through_sh(script).run().succeeds();
        assert!(
            ended.qemu().line().starts_with("-new-value --bridge -new-flag -netdev tap,"),
            "{}",
            ended.qemu().line()
        );
        let ended = lab.shim("--bridge br0,model=old-net").env("KVM_BRIDGE_QEMU", &qemu).through_sh(script).run();
        assert_eq!(ended.status.code(), Some(125), "{script}");
    }
    // One that closes its output and runs on is not waited for.
    let hangs = lab.new_file("hangs");
    fs::write(&hangs, "#!/bin/sh\n[ \"$2\" = help ] || exit 0\nexec >&- 2>&-\nsleep 1000\n").expect("write a script");
    fs::set_permissions(&hangs, fs::Permissions::from_mode(0o755)).expect("let it run");
    let ended = lab.shim("--bridge br0,model=new-net").env("KVM_BRIDGE_QEMU", &hangs).start().end_within(60);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.err);
    assert!(lab.processes().is_empty(), "{:?}", lab.processes());
    // An option of QEMU's own that begins like ours, where there is nothing of ours.
    let ended = lab.shim("-bridge-value x").env("KVM_BRIDGE_QEMU", &qemu).run().succeeds();
    assert_eq!(ended.qemu().line(), "-bridge-value x");
    let ended = lab.shim("--bridge-nonsense").env("KVM_BRIDGE_QEMU", &qemu).run().exits_with(125);
    assert!(ended.err.contains("there is no option --bridge-nonsense"), "{}", ended.err);
}

#[test]
fn a_model_that_qemu_does_not_have_is_met_with_those_near_it() {
    let Some(lab) = Lab::new() else { return };
    if !have(QEMU) {
        return;
    }
    let model = |model: &str| {
        let line = format!("--bridge br0,uplink=none,model={model}");
        lab.shim(&line).env("KVM_BRIDGE_QEMU", format!("/usr/bin/{QEMU}")).run().exits_with(125).err
    };
    let said = model("virtio");
    assert!(said.contains("no such network card") && said.contains("virtio-net-pci"), "{said}");
    let said = model("e1001");
    assert!(said.contains("e1000"), "{said}");
    let said = model("3c905");
    assert!(said.contains("Its network cards are ") && said.contains("vmxnet3"), "{said}");
    assert!(model("virtio-blk-pci").contains("no such network card"));
    lab.is_untouched();
}

#[test]
fn a_qemu_that_does_not_answer_has_the_last_word() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let ended = lab.shim("--bridge br0,model=anything").run().succeeds();
    assert!(ended.qemu().value_of("-device").starts_with("anything,"), "{}", ended.qemu().line());
}
