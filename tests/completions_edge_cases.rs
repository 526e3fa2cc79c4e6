//! Completions where it is hard: words in quotes, odd names, a cursor within a word, and a QEMU that does not answer.

use crate::completions::{BASH_COMPLETION, QEMU, have_qemu, lab, make_script};
use crate::support::files::{BASH, path};
use crate::support::shell::{Shell, search_path};
use crate::support::{Lab, have};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// A lab with a VM whose name has a blank, another with a comma, and a folder of files with odd names.
fn odd() -> Option<(Lab, String)> {
    let lab = lab()?;
    for name in ["my vm", "a,,b"] {
        lab.shim("--bridge").arg(format!("br0,vm={name}")).run().succeeds();
    }
    let folder = lab.new_file("odd");
    fs::create_dir(&folder).expect("make a folder");
    for name in ["c,d.img", "i@j.img", "g:h.img", "it's.img", "$(x y).img", "back\\slash.img"] {
        fs::write(folder.join(name), "").expect("write a file");
    }
    let folder = folder.display().to_string();
    Some((lab, folder))
}

/// What is typed, and what the line is after a TAB, in any shell: words in quotes, with blanks and commas, and those that
/// are complete already; and where nothing fits, no names of files in its place.
#[track_caller]
fn completes_odd_words(shell: &mut Shell, folder: &str) {
    for (typed, line) in [
        ("--bridge br0,vm=my", r"--bridge br0,vm=my\ vm "),
        (r"--bridge br0,vm=my\ vm,ke", r"--bridge br0,vm=my\ vm,keep="),
        ("--bridge br0,vm=a,,", "--bridge br0,vm=a,,b "),
        ("--bridge br0,vm=a,,b,ke", "--bridge br0,vm=a,,b,keep="),
        ("--bridge \"br0,ke", "--bridge \"br0,keep="),
        ("--bridge \"br0,vm=my vm,ke", "--bridge \"br0,vm=my vm,keep="),
        ("--bridge \"br0,keep=of", "--bridge \"br0,keep=off"),
        ("--bridge 'br0,keep=of", "--bridge 'br0,keep=off"),
        ("-append \"\" --bridge br0,ke", "-append \"\" --bridge br0,keep="),
        ("-append \"it's\" --bridge br0,ke", "-append \"it's\" --bridge br0,keep="),
        ("-append 'a \"b' --bridge br0,ke", "-append 'a \"b' --bridge br0,keep="),
        ("--bridge br0,keep=off", "--bridge br0,keep=off "),
        ("--bridge br0,keep=on,keep", "--bridge br0,keep=on,keep"),
        ("--bridge br0,mtu=", "--bridge br0,mtu="),
        ("--bridge br0,vm=nobody-has-this", "--bridge br0,vm=nobody-has-this"),
        ("-drive file=FOLDER/c", "-drive file=FOLDER/c,,d.img "),
        ("-drive file=FOLDER/c,,", "-drive file=FOLDER/c,,d.img "),
        ("-drive file=FOLDER/i@", "-drive file=FOLDER/i@j.img "),
        ("-drive file=FOLDER/g:", "-drive file=FOLDER/g:h.img "),
        ("-drive file=FOLDER/it", r"-drive file=FOLDER/it\'s.img "),
        ("-drive file=FOLDER/back", r"-drive file=FOLDER/back\\slash.img "),
    ] {
        let [typed, line] = [typed, line].map(|text| format!("qemu-kvm {text}").replace("FOLDER", folder));
        let found = shell.line_after(&format!("{typed}\t"));
        // Some close a quote, and some do not.
        let is_quoted = line.contains(['"', '\'']) && found.trim_end().trim_end_matches(['"', '\'']) == line;
        assert!(found == line || is_quoted, "{typed:?} becomes {found:?}, not {line:?}");
    }
}

#[test]
fn words_in_quotes_are_completed_and_nothing_is_where_nothing_fits() {
    if !(["bash", "zsh", "fish", "script"].iter().all(|program| have(program)) && have_qemu()) {
        return;
    }
    let Some((lab, folder)) = odd() else { return };
    let ours = format!("source {}", path(BASH).display());
    let within = format!("cd {folder}\n{ours}");
    let mut shells = vec![Shell::bash(&lab, &within, &[]), Shell::zsh(&lab), Shell::fish(&lab)];
    if Path::new(BASH_COMPLETION).exists() {
        shells.push(Shell::bash(&lab, &format!("{within}\nsource {BASH_COMPLETION}"), &[]));
        for breaks in [":", "=", "[=:]"] {
            let rc = format!("source {BASH_COMPLETION}\n{within}\nCOMP_WORDBREAKS=${{COMP_WORDBREAKS//{breaks}}}");
            shells.push(Shell::bash(&lab, &rc, &[]));
        }
    }
    for mut shell in shells {
        completes_odd_words(&mut shell, &folder);
        shell.exits();
    }
}

#[test]
fn a_name_that_a_shell_would_run_is_not_run() {
    if !(have("bash") && have("script")) {
        return;
    }
    let Some((lab, folder)) = odd() else { return };
    let mut bash = Shell::bash(&lab, &format!("source {}", path(BASH).display()), &[]);
    for (typed, line) in [
        ("\"file=FOLDER/$", "\"file=FOLDER/\\$(x y).img\" "),
        ("'file=FOLDER/i", "'file=FOLDER/i"),
        ("'file=FOLDER/it", "'file=FOLDER/it'\\''s.img' "),
    ] {
        let [typed, line] = [typed, line].map(|text| format!("qemu-kvm -drive {text}").replace("FOLDER", &folder));
        assert_eq!(bash.line_after(&format!("{typed}\t")), line);
    }
    bash.exits();
}

#[test]
fn a_cursor_within_a_word_completes_what_is_before_it() {
    if !(have("bash") && have("zsh") && have("script")) {
        return;
    }
    let Some(lab) = lab() else { return };
    let ours = format!("source {}", path(BASH).display());
    for mut shell in [Shell::bash(&lab, &ours, &[]), Shell::zsh_with(&lab, "setopt complete_in_word")] {
        let back = "\x02".repeat(",mtu=1500".len());
        for (typed, line) in [("br0,ke", "br0,keep="), ("br0,announce=of", "br0,announce=off")] {
            let found = shell.line_after(&format!("\x05\x15qemu-kvm --bridge {typed},mtu=1500{back}\t"));
            assert_eq!(found.replace(' ', ""), format!("qemu-kvm--bridge{line},mtu=1500"));
        }
        shell.exits();
    }
}

#[test]
fn completion_behind_sudo_and_with_a_path_is_the_same() {
    if !(["bash", "zsh", "fish", "script"].iter().all(|program| have(program)) && Path::new(BASH_COMPLETION).exists()) {
        return;
    }
    let Some(lab) = lab() else { return };
    let bash = Shell::bash(&lab, &format!("source {BASH_COMPLETION}\nsource {}", path(BASH).display()), &[]);
    // fish asks whether there is a sudo.
    let folder = lab.new_file("sudo");
    fs::create_dir(&folder).expect("make a folder");
    symlink("/bin/true", folder.join("sudo")).expect("make a link");
    let fish = Shell::fish_with(&lab, &format!("set -p PATH {}", folder.display()));
    let shim = env!("CARGO_BIN_EXE_qemu-kvm");
    for mut shell in [bash, Shell::zsh(&lab), fish] {
        for before in ["sudo qemu-kvm", "nice qemu-kvm", shim, "KVM_BRIDGE=x qemu-kvm", "true; qemu-kvm"] {
            let found = shell.line_after(&format!("{before} --bridge br0,keep=of\t"));
            assert_eq!(found, format!("{before} --bridge br0,keep=off "));
        }
        shell.exits();
    }
}

#[test]
fn a_qemu_kvm_that_is_the_distributions_own_has_no_option_of_ours() {
    if !(["bash", "zsh", "fish", "script"].iter().all(|program| have(program)) && have_qemu()) {
        return;
    }
    let Some(lab) = lab() else { return };
    let folder = lab.new_file("theirs");
    fs::create_dir(&folder).expect("make a folder");
    symlink(QEMU, folder.join("qemu-kvm")).expect("make a link");
    let (first, rest) = (folder.display(), search_path());
    let ours = format!("source {}", path(BASH).display());
    let shells = [
        Shell::bash(&lab, &format!("PATH={first}:{rest}\n{ours}"), &[]),
        Shell::zsh_with(&lab, &format!("path=({first} $path)")),
        Shell::fish_with(&lab, &format!("set -p PATH {first}")),
    ];
    for mut shell in shells {
        for name in ["qemu-kvm", "qemu-system-x86_64"] {
            let line = format!("{name} --bridge-h");
            assert_eq!(shell.line_after(&format!("{line}\t")), line);
        }
        assert_eq!(shell.line_after("qemu-kvm -machine q3\t"), "qemu-kvm -machine q35 ");
        let shim = env!("CARGO_BIN_EXE_qemu-kvm");
        assert_eq!(shell.line_after(&format!("{shim} --bridge-h\t")), format!("{shim} --bridge-help "));
        shell.exits();
    }
}

#[test]
fn a_qemu_that_hangs_or_prints_without_end_is_not_waited_for() {
    let Some(lab) = Lab::new() else { return };
    for (name, script) in [
        ("hangs", "sleep 1000"),
        ("turns away", "exec >&- 2>&- sleep 1000"),
        ("prints", "exec yes"),
        ("complains", "exec yes >&2"),
        ("fails", "exit 127"),
    ] {
        let (qemu, cache) = (lab.new_file(name), lab.new_file(&format!("{name}.cache")));
        let asked = lab.new_file("asked");
        make_script(&qemu, &format!("echo >>{}\n{script}", asked.display()));
        let count = || fs::read_to_string(&asked).unwrap_or_default().len();
        let ask = || {
            let program = lab.kvm_bridge("complete -- qemu-kvm -device e1000, -nosuch x --bridge br0,model=");
            let program = program.env("KVM_BRIDGE_QEMU", &qemu).env("XDG_CACHE_HOME", &cache);
            let ended = program.start().end_within(10).succeeds();
            assert!(ended.out.contains("virtio-net-pci"), "{name}: {}", ended.out);
        };
        ask();
        let first = count();
        assert!(first > 0, "{name} was not asked");
        if ["hangs", "turns away"].contains(&name) {
            ask();
            assert_eq!(count(), first, "it is asked again at once");
        }
    }
    assert!(!lab.processes().iter().any(|process| process.command.contains("sleep 1000")), "it still runs");
}

#[test]
fn a_qemu_that_could_not_start_is_asked_again() {
    if !have_qemu() {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let (qemu, cache, library) = (lab.new_file("qemu"), lab.new_file("cache"), lab.new_file("library"));
    make_script(&qemu, &format!("[ -e {} ] || exit 127\nexec {QEMU} \"$@\"", library.display()));
    let ask = || {
        let program = lab.kvm_bridge("complete -- qemu-kvm -device e1000,");
        program.env("KVM_BRIDGE_QEMU", &qemu).env("XDG_CACHE_HOME", &cache).run().succeeds().out
    };
    assert!(!ask().contains("mac="));
    fs::write(&library, "").expect("write a file");
    assert!(ask().contains("mac="), "what it could not answer was kept");
}
