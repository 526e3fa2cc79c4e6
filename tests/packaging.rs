//! What packages bring beside the programs is in step with them; `man_pages`, `completions` and `docs` have the rest.

use crate::support::files::{BASH, FISH, LOADER, ZSH, entries, path, read};
use crate::support::{Lab, have};
use std::fs;
use std::process::Command;

#[test]
fn the_files_for_network_managers_are_documented_and_match_the_names_of_our_links() {
    let (docs, makefile) = (read("docs/managers.md"), read("Makefile"));
    let mut names = Vec::new();
    for entry in fs::read_dir(path("packaging/network")).expect("read the folder").flatten() {
        let name = entry.file_name().into_string().expect("UTF-8");
        assert!(docs.contains(&format!("/{name}`")), "docs/managers.md lacks {name}");
        let ending = name.rsplit('.').next().expect("an ending").to_owned();
        assert!(makefile.contains(&format!("packaging/network/*.{ending}")), "the Makefile does not install {name}");
        let text = fs::read_to_string(entry.path()).expect("read a file");
        assert!(text.contains("kvb*") || text.contains("ID_NET_MANAGED_BY=kvm-bridge"), "{name}: {text}");
        names.push(name);
    }
    assert_eq!(names.len(), 5, "{names:?}");
    let prefix = "pub const PREFIX: &str = \"kvb\";";
    assert!(read("model/src/ifname.rs").contains(prefix) && read("src/sys/tap.rs").contains("\"kvb%d\""));
}

#[test]
fn the_configuration_that_packages_bring_says_nothing_and_all_of_its_comments_are_right() {
    let Some(lab) = Lab::new() else { return };
    let shipped = read("packaging/config.toml");
    assert!(shipped.lines().all(|line| line.is_empty() || line.starts_with('#')), "it would change something");
    let set: String = shipped
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| !line.starts_with(' '))
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(set.contains("qemu = ") && set.contains("[bridge.br0]"), "{set}");
    lab.configure(&set);
    let ended = lab.shim("--bridge-dry-run --bridge lab,uplink=none").run().succeeds();
    assert!(ended.out.contains("virtio-net-pci"), "{}", ended.out);
}

#[test]
fn packages_have_the_version_of_the_programs() {
    let changelog = read("packaging/debian/changelog");
    assert!(changelog.starts_with(&format!("kvm-bridge ({}-", env!("CARGO_PKG_VERSION"))), "{changelog}");
}

#[test]
fn the_unit_brings_up_and_takes_down_what_its_name_says() {
    let unit = read("kvm-bridge@.service");
    for (key, command, more) in [("ExecStart", "up", " --late"), ("ExecStop", "down", "")] {
        assert!(unit.contains(&format!("\n{key}=/usr/local/bin/kvm-bridge {command} %i{more}\n")), "{unit}");
        assert!(entries().iter().any(|entry| entry.path == format!("kvm-bridge {command}")));
    }
}

/// Runs a checker on a file; it has to succeed and to say nothing.
#[track_caller]
fn has_no_complaint(program: &str, options: &[&str], name: &str) {
    if have(program) {
        let output = Command::new(program).args(options).arg(path(name)).output().expect("run the checker");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{program}: {:?}\n{said}", output.status);
    }
}

#[test]
fn shells_have_no_complaint_of_the_completions() {
    has_no_complaint("bash", &["-n"], BASH);
    has_no_complaint("bash", &["-n"], LOADER);
    has_no_complaint("shellcheck", &["-s", "bash"], BASH);
    has_no_complaint("zsh", &["-n"], ZSH);
    has_no_complaint("fish", &["--no-execute"], FISH);
}
