//! Completions, as they are at a prompt: real interactive shells at a terminal, and the candidates that they enter.

use crate::support::files::{BASH, FISH, Words, entries, options_of_the_shim, path, words};
use crate::support::programs;
use crate::support::shell::{Shell, search_path};
use crate::support::{Lab, have, skip};
use model::request::KEYS;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where distributions put bash-completion.
pub(crate) const BASH_COMPLETION: &str = "/usr/share/bash-completion/bash_completion";
pub(crate) const QEMU: &str = "/usr/bin/qemu-system-x86_64";

pub(crate) fn make_script(path: &Path, text: &str) {
    programs::script(path, text);
}

pub(crate) fn have_qemu() -> bool {
    Path::new(QEMU).exists() || {
        skip("there is no qemu-system-x86_64");
        false
    }
}

// What the core answers, without a shell.

/// The kinds, texts and explanations of all candidates, each with the head in front.
fn answer(lab: &Lab, typed: &str) -> Vec<(char, String, String)> {
    let mut program = lab.kvm_bridge("complete --").finding_qemu_on(search_path());
    for word in typed.split(' ') {
        program = program.arg(word);
    }
    let out = program.run().succeeds().out;
    let mut head = String::new();
    let mut found = Vec::new();
    for line in out.lines() {
        let [kind, text, about] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{typed:?}: {line:?}") };
        match kind {
            "h" => text.clone_into(&mut head),
            _ => found.push((kind.chars().next().expect("a kind"), format!("{head}{text}"), about.to_owned())),
        }
    }
    found
}

fn texts(lab: &Lab, typed: &str) -> Words {
    answer(lab, typed).into_iter().filter(|(kind, ..)| *kind != 'f').map(|(_, text, _)| text).collect()
}

#[test]
fn the_uplink_of_a_bridge_that_is_there_is_completed_and_no_link_of_ours() {
    let Some(lab) = Lab::with_address() else { return };
    let guest = lab.shim("--bridge br0").boot();
    let found = texts(&lab, "qemu-kvm --bridge br0,uplink=");
    assert!(found.iter().any(|text| text.ends_with("uplink=eth0")), "{found:?}");
    assert!(!found.iter().any(|text| text.contains("kvb")), "{found:?}");
    guest.kill();
    lab.becomes_as_before();
}

#[test]
fn every_option_command_and_key_is_completed_and_none_that_does_not_exist() {
    let Some(lab) = Lab::new() else { return };
    for entry in entries() {
        let wanted: Words = entry.options.iter().cloned().chain(entry.end_of_options).collect();
        assert_eq!(texts(&lab, &format!("{} -", entry.path)), wanted, "{}", entry.path);
        let shown = texts(&lab, &format!("{} ", entry.path));
        assert!(entry.subcommands.is_subset(&shown), "{}: {shown:?}", entry.path);
    }
    let ours = texts(&lab, "qemu-kvm --").into_iter().filter(|option| option.starts_with("--bridge"));
    assert_eq!(ours.collect::<Words>(), options_of_the_shim());
    let keys = KEYS.iter().map(|(key, ..)| format!("br0,{key}=")).collect::<Words>();
    assert_eq!(texts(&lab, "qemu-kvm --bridge br0,"), keys);
    for (_, option, about) in
        answer(&lab, "qemu-kvm --").into_iter().filter(|(_, option, _)| option.starts_with("--bridge"))
    {
        assert!(!about.is_empty(), "{option} is not explained");
    }
}

#[test]
fn qemus_options_are_those_of_the_installed_qemu() {
    if !have_qemu() {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let offered = texts(&lab, "qemu-kvm --");
    assert_eq!(texts(&lab, "qemu-kvm -x").into_iter().map(|option| format!("-{option}")).collect::<Words>(), offered);
    let help = Command::new(QEMU).arg("-help").output().expect("run QEMU");
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let shown = help.lines().filter_map(|line| line.strip_prefix('-')?.split([' ', '/']).next());
    for option in shown {
        let option = format!("--{}", option.trim_start_matches('-'));
        assert!(offered.contains(&option), "{option} is not offered");
    }
    // QEMU looks at all options before it obeys -version, and no VM starts.
    for option in offered.difference(&options_of_the_shim()) {
        let output = Command::new(QEMU).args(["-version", option]).output().expect("run QEMU");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() || said.contains("requires an argument"), "{option}: {said}");
    }
}

#[test]
fn what_is_behind_qemus_options_is_offered_with_what_it_is() {
    if !have_qemu() {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let file = lab.new_file("disk");
    fs::write(&file, "").expect("write a file");
    let disk = file.display().to_string();
    for (typed, wanted) in [
        ("-machine q", "q35"),
        ("-M q", "q35"),
        ("--machine q35,accel=", "q35,accel=tcg"),
        ("-machine pc,acp", "pc,acpi="),
        ("-machine pc,acpi=", "pc,acpi=off"),
        ("-cpu q", "qemu64"),
        ("-cpu host,+ae", "host,+aes"),
        ("-cpu host,aes=", "host,aes=on"),
        ("-accel t", "tcg"),
        ("-accel tcg,thr", "tcg,thread="),
        ("-display n", "none"),
        ("-device e1", "e1000"),
        ("-device e1000,ma", "e1000,mac="),
        ("-device e1000,multifunction=", "e1000,multifunction=on"),
        ("-netdev user,id=lan -device e1000,netdev=", "e1000,netdev=lan"),
        ("--bridge br0,id=lan -device e1000,netdev=", "e1000,netdev=lan"),
        ("-device e1000,netdev=lan --bridge br0,id=", "br0,id=lan"),
        ("-netdev t", "tap"),
        ("-netdev tap,vh", "tap,vhost="),
        ("-netdev tap,vhost=", "tap,vhost=on"),
        ("-nic user,hostf", "user,hostfwd="),
        ("-drive cac", "cache="),
        ("-drive file=x,cache=", "file=x,cache=none"),
        ("-drive if=", "if=virtio"),
        ("-drive format=q", "format=qcow2"),
        ("-object rng-random,fi", "rng-random,filename="),
        ("-chardev socket,pa", "socket,path="),
        ("-smp c", "cores="),
        ("-rtc base=", "base=utc"),
        ("-vga s", "std"),
        ("-k d", "de"),
        ("-d in_asm,c", "in_asm,cpu"),
        ("-global e1000.ma", "e1000.mac="),
        ("--bridge br0,model=vir", "br0,model=virtio-net-pci"),
    ] {
        let found = texts(&lab, &format!("qemu-kvm {typed}"));
        assert!(found.contains(wanted), "{typed}: {found:?}");
    }
    assert!(
        texts(&lab, &format!("qemu-kvm -drive file={}", &disk[..disk.len() - 1])).contains(&format!("file={disk}"))
    );
    for typed in ["qemu-kvm ", "qemu-kvm -kernel ", "qemu-kvm -nographic ", "qemu-kvm -drive file=x "] {
        assert_eq!(answer(&lab, typed), [('f', String::new(), String::new())], "{typed}");
    }
    for typed in ["qemu-kvm -append ", "qemu-kvm -uuid ", "qemu-kvm -vnc "] {
        assert_eq!(answer(&lab, typed), [], "{typed}");
    }
    let about = |typed: &str, text: &str| {
        answer(&lab, typed).into_iter().find(|(_, found, _)| found == text).map(|(.., about)| about)
    };
    assert_eq!(about("qemu-kvm -device e", "e1000").as_deref(), Some("Intel Gigabit Ethernet"));
    assert!(about("qemu-kvm -nogr", "-nographic").expect("an option").starts_with("disable graphical output"));
    assert!(about("qemu-kvm -machine ", "q35").expect("a machine").starts_with("Standard PC (Q35"));
}

#[test]
fn no_key_of_qemus_comes_twice() {
    if !have_qemu() {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    for (value, key) in [
        ("-device e1000,mac=52:54:00:00:00:01,", "mac="),
        ("-drive if=virtio,", "if="),
        ("-netdev user,id=x,", "id="),
        ("-machine pc,acpi=on,", "acpi="),
        ("-cpu host,aes=on,", "aes="),
        ("-cpu host,+aes,+", "aes"),
        ("-d in_asm,", "in_asm"),
    ] {
        let head = value.rsplit(' ').next().expect("a word");
        let found = texts(&lab, &format!("qemu-kvm {value}"));
        assert!(found.len() > 3 && !found.contains(&format!("{head}{key}")), "{value}: {found:?}");
    }
    let again = texts(&lab, "qemu-kvm -netdev user,hostfwd=tcp::2222-:22,");
    assert!(again.contains("user,hostfwd=tcp::2222-:22,hostfwd="), "{again:?}");
}

#[test]
fn what_the_host_has_is_offered() {
    let Some(lab) = Lab::new() else { return };
    lab.add_bridge("br0");
    lab.configure("[bridge.later]\nuplink = \"eth0\"\n");
    let running = lab.shim("--bridge made,uplink=none,vm=alice").boot();
    let bridges = answer(&lab, "qemu-kvm --bridge ");
    let bridges: Vec<_> = bridges.iter().map(|(_, name, about)| (name.as_str(), about.as_str())).collect();
    assert_eq!(
        bridges,
        [("br0", "port1"), ("made", "made by kvm-bridge: 1 TAP"), ("later", "to be made, with the uplink eth0"),]
    );
    // A port of br0 can't be taken for another bridge, and br0 has its uplink.
    assert_eq!(
        texts(&lab, "qemu-kvm --bridge new,uplink="),
        words(["new,uplink=auto", "new,uplink=nat", "new,uplink=user", "new,uplink=none", "new,uplink=eth0"])
    );
    assert_eq!(
        texts(&lab, "qemu-kvm --bridge br0,uplink="),
        words(["br0,uplink=auto", "br0,uplink=nat", "br0,uplink=user", "br0,uplink=none", "br0,uplink=port1"])
    );
    assert_eq!(texts(&lab, "qemu-kvm --bridge br0,vm="), words(["br0,vm=alice"]));
    assert!(texts(&lab, "qemu-kvm -name ").contains("alice"));
    assert_eq!(texts(&lab, "kvm-bridge mac export "), words(["name:alice"]));
    assert_eq!(texts(&lab, "kvm-bridge mac export name:alice "), Words::new());
    assert_eq!(
        texts(&lab, "kvm-bridge-helper --br="),
        words(["--br=br0", "--br=made"].into_iter().chain(["--br=later"]))
    );
    assert_eq!(texts(&lab, "kvm-bridge-helper --use-vnet "), words(["--br=", "--fd="]));
    running.kill();
}

#[test]
fn answers_are_kept_for_each_version_of_qemu() {
    if !have_qemu() {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let (cache, bin) = (lab.new_file("cache"), lab.new_file("bin"));
    fs::create_dir(&bin).expect("make a folder");
    let qemu = bin.join("qemu");
    let script = |more: &str| {
        make_script(&qemu, &format!("{more}echo \"$*\" >>{}/asked\nexec {QEMU} \"$@\"", bin.display()));
    };
    let asked = || fs::read_to_string(bin.join("asked")).unwrap_or_default().lines().count();
    let ask = || {
        let program = lab.kvm_bridge("complete -- qemu-kvm -device e1000,").env("KVM_BRIDGE_QEMU", &qemu);
        let ended = program.env("XDG_CACHE_HOME", &cache).run().succeeds();
        assert!(ended.out.contains("mac="), "{}", ended.out);
    };
    script("");
    ask();
    let first = asked();
    ask();
    assert_eq!(asked(), first, "the answers were not kept");
    // Root's own, whatever the environment says.
    let versions = || fs::read_dir("/var/cache/kvm-bridge").expect("a cache").count();
    assert_eq!(versions(), 1);
    script("# another version\n");
    ask();
    assert!(asked() > first, "another version was not asked");
    assert_eq!(versions(), 1, "what was known of the old version is still there");
}

#[test]
fn completion_does_not_fail_where_nothing_can_be_known() {
    let Some(lab) = Lab::new() else { return };
    for words in [
        "",
        "qemu-kvm",
        "qemu-kvm -device",
        "kvm-bridge nosuch thing -",
        "kvm-bridge mac -- --",
        "/nosuch/qemu-system-z80 -device x,",
    ] {
        let ended = lab.kvm_bridge("complete --").words(words).finding_qemu_on("/nosuch").run().succeeds();
        assert_eq!(ended.err, "", "{words}");
    }
    // A cache that can't be written costs time and nothing else.
    let _ = fs::remove_dir_all("/var/cache/kvm-bridge");
    fs::write("/var/cache/kvm-bridge", "").expect("write a file");
    let asked = lab.kvm_bridge("complete -- qemu-kvm --bridge br0,k").run().succeeds();
    assert!(asked.out.contains("keep="), "{}", asked.out);
}

// What they do at a prompt.

/// A host with one bridge, br0, and one VM that has an address, alice.
pub(crate) fn lab() -> Option<Lab> {
    let lab = Lab::new()?;
    lab.add_bridge("br0");
    lab.shim("--bridge br0,vm=alice").run().succeeds();
    Some(lab)
}

/// Lines as they are typed, and the candidates for their last words.
fn expected() -> Vec<(String, Words)> {
    let keys = |but: &str| KEYS.iter().map(|(key, ..)| *key).filter(|key| *key != but).collect::<Vec<_>>();
    let with = |value: &str, keys: Vec<&str>| keys.iter().map(|key| format!("{value}{key}=")).collect::<Words>();
    let mut expected = vec![
        ("qemu-kvm --bri".to_owned(), options_of_the_shim()),
        ("qemu-kvm -bridge-d".to_owned(), words(["-bridge-dry-run"])),
        ("qemu-kvm --bridge b".to_owned(), words(["br0"])),
        ("qemu-kvm --bridge br0,".to_owned(), with("br0,", keys(""))),
        ("qemu-kvm -m 64 -bridge br0,keep=on,".to_owned(), with("br0,keep=on,", keys("keep"))),
        ("qemu-kvm --bridge br0,upl".to_owned(), words(["br0,uplink="])),
        ("qemu-kvm --bridge br0,keep=".to_owned(), words(["br0,keep=on", "br0,keep=off"])),
        ("qemu-kvm --bridge=br0,keep=of".to_owned(), words(["--bridge=br0,keep=off"])),
        ("qemu-kvm --bridge br0,mtu=1500,model=e1000e".to_owned(), { words(["br0,mtu=1500,model=e1000e"]) }),
        (
            "qemu-kvm --bridge br0,uplink=".to_owned(),
            words(["br0,uplink=auto", "br0,uplink=nat", "br0,uplink=user", "br0,uplink=none", "br0,uplink=port1"]),
        ),
        ("qemu-kvm -device e1000,mac=1,multif".to_owned(), words(["e1000,mac=1,multifunction="])),
        ("qemu-kvm -append \"--bridge x\" --netdev tap,vhost=".to_owned(), words(["tap,vhost=on", "tap,vhost=off"])),
        ("qemu-kvm --nogra".to_owned(), words(["--nographic"])),
        ("qemu-kvm -machine q3".to_owned(), words(["q35"])),
        ("qemu-kvm -drive file=/etc/os-rel".to_owned(), words(["file=/etc/os-release"])),
        ("kvm-bridge-helper --us".to_owned(), words(["--use-vnet"])),
        ("qemu-kvm --bridge br0,vm=al".to_owned(), words(["br0,vm=alice"])),
        ("kvm-bridge ma".to_owned(), words(["mac"])),
        ("kvm-bridge status b".to_owned(), words(["br0"])),
        ("kvm-bridge down ".to_owned(), words(["br0"])),
        ("kvm-bridge ip name:al".to_owned(), words(["name:alice"])),
        ("kvm-bridge up br0 --uplink et".to_owned(), words(["eth0"])),
        ("kvm-bridge up br0 --tap tap0 --user nobo".to_owned(), words(["nobody"])),
        ("kvm-bridge doctor br0 -- --bridge br0,keep=of".to_owned(), words(["br0,keep=off"])),
        ("kvm-bridge install --allow br0:nobo".to_owned(), words(["br0:nobody"])),
        ("qemu-kvm --bridge br0,announce=".to_owned(), words(["br0,announce=on", "br0,announce=off"])),
        ("kvm-bridge mac for".to_owned(), words(["forget"])),
        ("kvm-bridge mac forget name:a".to_owned(), words(["name:alice"])),
        ("kvm-bridge plan -- --bridge br0,keep=of".to_owned(), words(["br0,keep=off"])),
    ];
    for entry in entries() {
        if !entry.subcommands.is_empty() {
            expected.push((format!("{} ", entry.path), entry.subcommands));
        }
        expected.push((format!("{} --", entry.path), entry.options.into_iter().chain(entry.end_of_options).collect()));
    }
    expected
}

#[track_caller]
fn completes_as_expected(shell: &mut Shell) {
    for (typed, candidates) in expected() {
        assert_eq!(shell.candidates(&typed), candidates, "for {typed:?}");
    }
    for (typed, line) in [
        ("qemu-kvm --bridge br0,upl", "qemu-kvm --bridge br0,uplink="),
        ("qemu-kvm --bridge br0,keep=of", "qemu-kvm --bridge br0,keep=off "),
        ("kvm-bridge mac for", "kvm-bridge mac forget "),
    ] {
        assert_eq!(shell.line_after(&format!("{typed}\t")), line);
    }
}

#[test]
fn bash_completes() {
    if !(have("bash") && have("script")) {
        return;
    }
    let Some(lab) = lab() else { return };
    let mut bash = Shell::bash(&lab, &format!("source {}", path(BASH).display()), &[]);
    completes_as_expected(&mut bash);
    bash.exits();
}

#[test]
fn bash_completes_with_bash_completion_loaded_before_or_after() {
    if !(have("bash") && have("script")) {
        return;
    }
    if !Path::new(BASH_COMPLETION).exists() {
        return skip("bash-completion is not installed");
    }
    let Some(lab) = lab() else { return };
    let (ours, theirs) = (format!("source {}", path(BASH).display()), format!("source {BASH_COMPLETION}"));
    // As it is when our file is installed and bash-completion loads it.
    let folder = lab.new_file("user");
    fs::create_dir_all(folder.join("completions")).expect("make a folder");
    fs::copy(path(BASH), folder.join("completions/kvm-bridge")).expect("copy a file");
    let user = [("BASH_COMPLETION_USER_DIR", folder.to_str().expect("UTF-8"))];
    // As `make install` links it: for names that lead to the shim, and for those that do not.
    let links = linked(&lab);
    for name in ["kvm", "qemu-kvm", "qemu-system-x86_64", "qemu-system-alpha", "qemu-system-sparc"] {
        symlink("kvm-bridge", folder.join("completions").join(name)).expect("make a link");
    }
    for (typed, line) in [
        ("kvm --bridge-h", "kvm --bridge-help "),
        ("qemu-kvm --bridge-h", "qemu-kvm --bridge-help "),
        ("qemu-system-alpha --bridge-h", "qemu-system-alpha --bridge-help "),
        ("qemu-system-x86_64 -hda /etc/os-r", "qemu-system-x86_64 -hda /etc/os-release "),
        ("qemu-system-x86_64 --bridge-h", "qemu-system-x86_64 --bridge-h"),
        ("qemu-system-sparc /etc/os-r", "qemu-system-sparc /etc/os-release "),
    ] {
        let mut bash = Shell::bash(&lab, &format!("PATH={}:$PATH\n{theirs}", links.display()), &user);
        assert_eq!(bash.line_after(&format!("{typed}\t")), line);
        bash.exits();
    }

    for (rc, first) in [
        (format!("{theirs}\n{ours}"), "qemu-kvm --bri"),
        (format!("{ours}\n{theirs}"), "qemu-kvm --bri"),
        (format!("{theirs}\n{ours}"), "qemu-system-x86_64 -hd"),
        (format!("{ours}\n{theirs}"), "qemu-system-x86_64 -hd"),
        (format!("{ours}\n{ours}\n{theirs}\n{ours}"), "qemu-system-x86_64 -hd"),
        (format!("{ours}\n{ours}\n{theirs}"), "qemu-system-x86_64 -hd"),
        (theirs.clone(), "kvm-bridge ma"),
    ] {
        let mut bash = Shell::bash(&lab, &rc, &user);
        assert!(!bash.candidates(first).is_empty());
        assert_eq!(bash.candidates("qemu-system-x86_64 -hd"), words(["-hda", "-hdb", "-hdc", "-hdd"]));
        assert_eq!(bash.candidates("qemu-kvm -hd"), words(["-hda", "-hdb", "-hdc", "-hdd"]), "{rc}");
        let all = bash.candidates("qemu-kvm -");
        assert!(all.is_superset(&options_of_the_shim()) && all.contains("-hda"), "{all:?}");
        completes_as_expected(&mut bash);
        bash.exits();
    }
}

#[test]
fn bash_loads_ours_by_the_file_that_packages_put_into_its_old_folder() {
    if !(have("bash") && have("script")) {
        return;
    }
    if !Path::new(BASH_COMPLETION).exists() {
        return skip("bash-completion is not installed");
    }
    let Some(lab) = lab() else { return };
    let share = lab.new_file("share");
    fs::create_dir_all(share.join("bash-completion/completions")).expect("make a folder");
    fs::copy(path(BASH), share.join("bash-completion/completions/kvm-bridge")).expect("copy a file");
    let loader = fs::read_to_string(path("completions/kvm-bridge.load.bash")).expect("read the loader");
    let folders = "/usr/share /usr/local/share";
    assert!(loader.contains(folders), "the loader looks elsewhere");
    let file = lab.new_file("loader");
    fs::write(&file, loader.replace(folders, &share.display().to_string())).expect("write a file");
    let rc = format!("source {BASH_COMPLETION}\nsource {}", file.display());
    // A link is completed from the start, and a name that is no link of ours as it was.
    let links = linked(&lab);
    symlink(env!("CARGO_BIN_EXE_qemu-kvm"), links.join("qemu-system-aarch64")).expect("make a link");
    for (name, is_ours) in [("kvm", true), ("qemu-system-aarch64", true), ("qemu-system-s390x", false)] {
        let mut bash = Shell::bash(&lab, &format!("PATH={}:$PATH\n{rc}", links.display()), &[]);
        let found = bash.line_after(&format!("{name} --bridge-h\t"));
        assert_eq!(found, format!("{name} --bridge-h{}", if is_ours { "elp " } else { "" }));
        bash.exits();
    }
    for first in ["qemu-kvm --bri", "qemu-system-x86_64 -hd"] {
        let mut bash = Shell::bash(&lab, &rc, &[]);
        assert!(!bash.candidates(first).is_empty(), "{first}");
        assert_eq!(bash.candidates("qemu-system-x86_64 -hd"), words(["-hda", "-hdb", "-hdc", "-hdd"]));
        completes_as_expected(&mut bash);
        bash.exits();
    }
}

/// A folder with links to our shim: one that zsh and bash-completion know, and one that nobody knows.
fn linked(lab: &Lab) -> PathBuf {
    let folder = lab.new_file("linked");
    fs::create_dir(&folder).expect("make a folder");
    for name in ["qemu-system-i386", "qemu-system-alpha", "kvm"] {
        symlink(env!("CARGO_BIN_EXE_qemu-kvm"), folder.join(name)).expect("make a link");
    }
    folder
}

#[test]
fn names_that_lead_to_the_shim_are_completed_as_it_is_and_plain_qemu_as_before() {
    if !(have("bash") && have("zsh") && have("fish") && have("script") && have_qemu()) {
        return;
    }
    let Some(lab) = lab() else { return };
    let folder = linked(&lab);
    let path_of_test = format!("{}:{}", folder.display(), search_path());
    let ours = format!("source {}", path(BASH).display());
    let shells = [
        Shell::bash(&lab, &format!("PATH={path_of_test}\nsource {BASH_COMPLETION}\n{ours}"), &[]),
        Shell::zsh_with(&lab, &format!("path=({} $path)", folder.display())),
    ];
    for mut shell in shells {
        for name in ["qemu-system-alpha", "qemu-system-i386", "kvm"] {
            assert_eq!(
                shell.candidates(&format!("{name} --bridge-")),
                words(["--bridge-dry-run", "--bridge-help", "--bridge-verbose", "--bridge-version"])
            );
            assert_eq!(shell.candidates(&format!("{name} --bridge br0,keep=of")), words(["br0,keep=off"]));
        }
        assert!(shell.candidates("qemu-system-x86_64 -hd").contains("-hda"), "plain QEMU is completed as before");
        let plain = shell.candidates("qemu-system-x86_64 -");
        assert!(!plain.iter().any(|word| word.contains("bridge")), "{plain:?}");
        shell.exits();
    }
    let script = r#"source $argv[1]; for line in $argv[2..]; complete -C $line; echo END; end"#;
    let fish = lab.program("fish").words("--no-config -c").arg(script).arg("--").arg(path(FISH));
    let fish = fish.arg("qemu-system-alpha --bridge-h").arg("qemu-system-x86_64 --bridge-h");
    let ended = fish.finding_qemu_on(&path_of_test).run().succeeds();
    let answers: Vec<&str> = ended.out.split_terminator("END\n").collect();
    assert!(answers[0].starts_with("--bridge-help\t") && answers[1].is_empty(), "{answers:?}");
}

#[test]
fn zsh_completes() {
    if !(have("zsh") && have("script")) {
        return;
    }
    let Some(lab) = lab() else { return };
    let mut zsh = Shell::zsh(&lab);
    completes_as_expected(&mut zsh);
    zsh.exits();
}

#[test]
fn fish_completes() {
    if !(have("fish") && have("script")) {
        return;
    }
    let Some(lab) = lab() else { return };
    let mut fish = Shell::fish(&lab);
    completes_as_expected(&mut fish);
    fish.exits();
}
