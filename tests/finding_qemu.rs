//! Which program is the real QEMU: never ourselves, by whatever name and way we were called.

use crate::support::command::fake_qemu;
use crate::support::processes::Process;
use crate::support::programs;
use crate::support::{Lab, have, namespaces, wait_for};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

const SHIM: &str = env!("CARGO_BIN_EXE_qemu-kvm");

/// A folder with programs, to be put on PATH.
struct Folder(PathBuf);

impl Folder {
    fn new(lab: &Lab) -> Self {
        let folder = lab.new_file("bin");
        fs::create_dir(&folder).expect("make a folder");
        Self(folder)
    }

    fn link(self, name: &str, to: impl AsRef<Path>) -> Self {
        let (to, path) = (to.as_ref(), self.0.join(name));
        // Of a user's checkout: root executes no program of a user's that is found.
        match to.metadata().is_ok_and(|file| file.uid() != 0) {
            true => programs::copy(to, path),
            false => symlink(to, path).expect("make a link"),
        }
        self
    }

    fn script(self, name: &str, script: &str) -> Self {
        let path = self.0.join(name);
        programs::script(path, script);
        self
    }

    fn copy_of_us(self, name: &str) -> Self {
        programs::copy(SHIM, self.0.join(name));
        self
    }
}

/// A PATH of these folders; the shell and its tools stay within reach at the end.
fn path(folders: &[&Folder]) -> String {
    folders.iter().map(|folder| format!("{}:", folder.0.display())).collect::<String>() + "/nowhere"
}

/// A machine on which no QEMU is installed.
fn without_system_qemu() -> Option<Lab> {
    let lab = Lab::new()?;
    let keep = ["sh", "dash", "bash", "env", "ip"].map(|name| (name, fs::read(Path::new("/usr/bin").join(name)).ok()));
    namespaces::hide("/usr/bin").expect("hide /usr/bin");
    for (name, program) in keep {
        let path = Path::new("/usr/bin").join(name);
        if let Some(program) = program {
            fs::write(&path, program).expect("write a program");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make it executable");
        }
    }
    if Path::new("/usr/libexec").exists() {
        namespaces::hide("/usr/libexec").expect("hide /usr/libexec");
    }
    Some(lab)
}

#[test]
fn qemu_kvm_on_the_path_is_found_behind_a_link_to_ourselves() {
    let Some(lab) = without_system_qemu() else { return };
    let ours = Folder::new(&lab).link("qemu-kvm", SHIM);
    let real = Folder::new(&lab).link("qemu-kvm", fake_qemu());
    let ended = lab.program(ours.0.join("qemu-kvm")).words("-m 64").finding_qemu_on(path(&[&ours, &real])).run();
    assert_eq!(ended.succeeds().qemu().line(), "-m 64");
}

#[test]
fn a_hard_link_to_ourselves_is_not_qemu() {
    let Some(lab) = without_system_qemu() else { return };
    // A hard link can't leave the file system that the program is on.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("make a folder");
    fs::hard_link(SHIM, folder.path().join("qemu-kvm")).expect("make a hard link");
    let real = Folder::new(&lab).link("qemu-system-x86_64", fake_qemu());
    let path = format!("{}:{}", folder.path().display(), path(&[&real]));
    lab.shim("-m 64").finding_qemu_on(path).run().succeeds().qemu();
}

#[test]
fn a_copy_of_ourselves_only_passes_on() {
    let Some(lab) = without_system_qemu() else { return };
    let copy = Folder::new(&lab).copy_of_us("qemu-kvm");
    let real = Folder::new(&lab).link("qemu-kvm", fake_qemu());
    let ended = lab.shim("-m 64").finding_qemu_on(path(&[&copy, &real])).run().succeeds();
    assert_eq!(ended.qemu().line(), "-m 64");
}

#[test]
fn copies_of_ourselves_pass_on_to_the_qemu_behind_them() {
    let Some(lab) = without_system_qemu() else { return };
    lab.add_bridge("br0");
    let [one, two, three] = [(); 3].map(|()| Folder::new(&lab).copy_of_us("qemu-kvm"));
    let real = Folder::new(&lab).link("qemu-kvm", fake_qemu());
    let path = path(&[&one, &two, &three, &real]);
    for folder in [&one, &two, &three] {
        let run = |line: &str| {
            lab.program(folder.0.join("qemu-kvm")).words(line).finding_qemu_on(&path).run().succeeds().qemu().line()
        };
        assert_eq!(run("-m 64"), "-m 64");
        assert!(run("--bridge br0").starts_with("-netdev tap,id=bridge0,"));
    }
    lab.ends_here();
}

#[test]
fn copies_of_ourselves_alone_are_no_qemu() {
    let Some(lab) = without_system_qemu() else { return };
    let (one, two) = (Folder::new(&lab).copy_of_us("qemu-kvm"), Folder::new(&lab).copy_of_us("qemu-kvm"));
    let ended = lab.shim("-m 64").finding_qemu_on(path(&[&one, &two])).run().exits_with(127);
    assert!(ended.err.contains("cannot find QEMU"), "{}", ended.err);
}

#[test]
fn a_wrapper_before_us_that_gives_a_bridge_each_time_is_noticed_before_it_does_so_twice() {
    let Some(lab) = without_system_qemu() else { return };
    let wrapper = Folder::new(&lab).script("qemu-kvm", &format!("exec {SHIM} --bridge br7,uplink=none \"$@\""));
    let real = Folder::new(&lab).link("qemu-system-x86_64", fake_qemu());
    let run = |line: &str| {
        let cmd = lab.program(wrapper.0.join("qemu-kvm")).words(line).finding_qemu_on(path(&[&wrapper, &real]));
        cmd.run().exits_with(126).err
    };
    let said = run("-name wr");
    assert!(said.contains(&wrapper.0.join("qemu-kvm").display().to_string()), "{said}");
    let listed = lab.kvm_bridge("mac list").run().succeeds().out;
    assert!(!listed.contains("wr  1"), "{listed}");
    assert_eq!(listed.matches("name:wr").count(), 1, "one set up: {listed}");
    lab.becomes_as_before();
}

#[test]
fn a_wrapper_before_us_that_gives_its_words_to_us_is_passed_over() {
    let Some(lab) = without_system_qemu() else { return };
    lab.add_bridge("br0");
    let wrapper = Folder::new(&lab).script("qemu-kvm", &format!("exec {SHIM} \"$@\" -wrapped"));
    let real = Folder::new(&lab).link("qemu-system-x86_64", fake_qemu());
    let cmd = lab.program(wrapper.0.join("qemu-kvm")).words("--bridge br0").finding_qemu_on(path(&[&wrapper, &real]));
    let line = cmd.run().succeeds().qemu().line();
    assert!(line.starts_with("-netdev tap,") && line.ends_with("-wrapped -wrapped"), "{line}");
    lab.ends_here();
}

#[test]
fn a_wrapper_that_executes_us_again_is_named_as_a_loop() {
    let Some(lab) = without_system_qemu() else { return };
    let wrapper = Folder::new(&lab).script("qemu-kvm", &format!("exec {SHIM} \"$@\""));
    let ended = lab.shim("-m 64").finding_qemu_on(path(&[&wrapper])).run().exits_with(126);
    assert!(ended.err.contains(&wrapper.0.join("qemu-kvm").display().to_string()), "{}", ended.err);
}

#[test]
fn a_wrapper_that_forks_us_again_is_named_as_a_loop() {
    let Some(lab) = without_system_qemu() else { return };
    let wrapper = Folder::new(&lab).script("qemu-kvm", &format!("{SHIM} \"$@\"; exit $?"));
    let ended = lab.shim("-m 64").finding_qemu_on(path(&[&wrapper])).run().exits_with(126);
    assert!(ended.err.contains(&wrapper.0.join("qemu-kvm").display().to_string()), "{}", ended.err);
}

#[test]
fn a_wrapper_that_ends_in_qemu_is_a_qemu() {
    let Some(lab) = without_system_qemu() else { return };
    let wrapper = Folder::new(&lab).script("qemu-kvm", &format!("exec {} -wrapped \"$@\"", fake_qemu().display()));
    let ended = lab.shim("-m 64").finding_qemu_on(path(&[&wrapper])).run().succeeds();
    assert_eq!(ended.qemu().line(), "-wrapped -m 64");
}

#[test]
fn a_guest_that_is_started_from_within_a_guests_wrapper_is_no_loop() {
    let Some(lab) = without_system_qemu() else { return };
    // A script that starts one VM from a hook of another inherits whatever we left in the environment.
    let nested = lab.new_file("record");
    let (fake, nested) = (fake_qemu().display().to_string(), nested.display().to_string());
    let real = Folder::new(&lab).link("qemu-system-x86_64", &fake);
    let wrapper = Folder::new(&lab).script(
        "qemu-kvm",
        &format!(
            "FAKE_QEMU_RECORD={nested} KVM_BRIDGE_QEMU={}/qemu-system-x86_64 {SHIM} -nested && exec {fake} \"$@\"",
            real.0.display()
        ),
    );
    lab.shim("-m 64").finding_qemu_on(path(&[&wrapper])).run().succeeds().qemu();
    assert!(Path::new(&nested).exists());
}

#[test]
fn under_the_name_of_another_qemu_that_qemu_is_found() {
    let Some(lab) = without_system_qemu() else { return };
    for name in ["qemu-system-x86_64", "qemu-system-aarch64"] {
        let ours = Folder::new(&lab).link(name, SHIM);
        let real = Folder::new(&lab).link("qemu-kvm", "/bin/false").link(name, fake_qemu());
        let ended = lab.program(ours.0.join(name)).words("-m 64").finding_qemu_on(path(&[&ours, &real])).run();
        let argv = ended.succeeds().qemu().argv.clone();
        assert!(argv[0].to_string_lossy().ends_with(name), "{argv:?}");
        assert_eq!(argv[1..], ["-m", "64"]);
    }
}

#[test]
fn the_configuration_says_which_qemu() {
    let Some(lab) = without_system_qemu() else { return };
    lab.configure(&format!("qemu = \"{}\"\n", fake_qemu().display()));
    lab.shim("-m 64").finding_qemu_on("/nowhere").run().succeeds().qemu();
}

#[test]
fn the_environment_names_qemu_before_the_configuration() {
    let Some(lab) = without_system_qemu() else { return };
    lab.configure("qemu = \"/bin/false\"\n");
    lab.shim("-m 64").run().succeeds().qemu();
}

#[test]
fn a_configuration_that_is_wrong_keeps_no_line_of_qemus_own_from_it() {
    let Some(lab) = without_system_qemu() else { return };
    let real = Folder::new(&lab).link("qemu-kvm", fake_qemu());
    lab.configure("qemu = = 1\n");
    let run = |cmd: crate::support::command::Cmd| cmd.finding_qemu_on(path(&[&real])).run().succeeds();
    let ended = run(lab.shim("-m 64"));
    assert_eq!((ended.qemu().line().as_str(), ended.err.matches("config.toml").count()), ("-m 64", 1), "{}", ended.err);
    for probe in ["-version", "-device help", "-machine none"] {
        assert_eq!(run(lab.shim(probe)).err, "");
        assert_eq!(run(lab.shim(probe).env("KVM_BRIDGE", "br0")).err, "");
    }
    lab.shim("--bridge br0").finding_qemu_on(path(&[&real])).run().exits_with(125);
}

#[test]
fn without_any_qemu_the_status_is_127() {
    let Some(lab) = without_system_qemu() else { return };
    let ended = lab.shim("-m 64").finding_qemu_on("/nowhere").run().exits_with(127);
    assert!(ended.err.starts_with("qemu-kvm: "), "{}", ended.err);
}

#[test]
fn a_qemu_that_is_not_there_is_127_and_one_that_cannot_run_is_126() {
    let Some(lab) = Lab::new() else { return };
    let run = |qemu: &str| lab.shim("-m 64").env("KVM_BRIDGE_QEMU", qemu).run();
    run("/nowhere/qemu").exits_with(127);
    run("/etc/passwd").exits_with(126);
    run("/usr").exits_with(126);
    run(SHIM).exits_with(126);
}

#[test]
fn a_qemu_that_cannot_run_leaves_no_bridge() {
    let Some(lab) = Lab::new() else { return };
    lab.shim("--bridge br0,uplink=none").env("KVM_BRIDGE_QEMU", "/etc/passwd").run().exits_with(126);
    lab.shim("--bridge br0,uplink=none").env("KVM_BRIDGE_QEMU", "/nowhere/qemu").run().exits_with(127);
    lab.becomes_as_before();
}

/// A path, and what is there: `QEMU`, a script, or else the target of a link.
type Place = (&'static str, &'static str);

/// Puts programs where a distribution has them.
fn install(files: &[Place]) {
    for (path, what) in files {
        let path = Path::new(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("make a folder");
        match *what {
            "QEMU" => programs::copy(fake_qemu(), path),
            script if script.starts_with("#!") => {
                programs::write(path, script);
            }
            target => symlink(target, path).expect("make a link"),
        }
    }
}

const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[test]
fn every_distribution_has_its_place_for_qemu() {
    // As each lays it out for its own machine, and whether QEMU is then called by a name that ends in kvm.
    let layouts: [(&str, &[Place], bool); 7] = [
        ("Debian", &[("/usr/bin/qemu-system-x86_64", "QEMU"), ("/usr/bin/kvm", "qemu-system-x86_64")], true),
        ("RHEL", &[("/usr/libexec/qemu-kvm", "QEMU")], true),
        (
            "Fedora",
            &[
                ("/usr/bin/qemu-system-x86_64", "QEMU"),
                ("/usr/bin/qemu-kvm", "#!/bin/sh\nexec /usr/bin/qemu-system-x86_64 -machine accel=kvm \"$@\"\n"),
            ],
            false,
        ),
        ("SUSE", &[("/usr/bin/qemu-system-x86_64", "QEMU"), ("/usr/bin/qemu-kvm", "qemu-system-x86_64")], true),
        ("Arch and Alpine", &[("/usr/bin/qemu-system-x86_64", "QEMU")], true),
        (
            "Gentoo",
            &[
                ("/usr/bin/qemu-system-x86_64", "QEMU"),
                ("/usr/bin/kvm", "#!/bin/sh\nexec /usr/bin/qemu-system-x86_64 --enable-kvm \"$@\"\n"),
            ],
            false,
        ),
        (
            "Nix",
            &[
                ("/run/store/qemu/bin/.qemu-system-x86_64-wrapped", "QEMU"),
                (
                    "/run/store/qemu/bin/qemu-system-x86_64",
                    "#!/usr/bin/bash -e\nexport XDG_DATA_DIRS=/x\n\
                     exec -a \"$0\" /run/store/qemu/bin/.qemu-system-x86_64-wrapped \"$@\"\n",
                ),
                ("/run/store/qemu/bin/qemu-kvm", "qemu-system-x86_64"),
                ("/run/current-system/sw/bin", "/run/store/qemu/bin"),
            ],
            true,
        ),
    ];
    for (name, files, is_kvm) in layouts {
        let Some(lab) = without_system_qemu() else { return };
        install(files);
        lab.ip("link add br0 type bridge");
        lab.ip("link set br0 up");
        let path = format!("/run/current-system/sw/bin:{USUAL_PATH}");
        for program in ["qemu-kvm", "qemu-system-x86_64"] {
            let ours = Folder::new(&lab).link(program, SHIM);
            let cmd = lab.program(ours.0.join(program)).words("--bridge br0 -m 64").finding_qemu_on(&path);
            let ended = cmd.run().succeeds();
            let qemu = ended.qemu();
            assert!(qemu.line().contains("-netdev tap,id=bridge0,fd="), "{name}: {}", qemu.line());
            assert_eq!(qemu.taps().len(), 1, "{name}: the descriptor goes through wrappers");
            let called = qemu.argv[0].to_string_lossy().into_owned();
            assert_eq!(called.ends_with("kvm"), is_kvm && program == "qemu-kvm", "{name}: {called}");
        }
        lab.ends_here();
    }
}

#[test]
fn the_qemu_that_is_found_tells_the_machine() {
    let Some(lab) = without_system_qemu() else { return };
    install(&[
        ("/usr/bin/qemu-system-s390x", "QEMU"),
        ("/usr/bin/qemu-system-x86_64-microvm", "QEMU"),
        ("/usr/bin/kvm", "qemu-system-s390x"),
    ]);
    lab.ip("link add br0 type bridge");
    lab.ip("link set br0 up");
    let card = |program: &str| {
        let ours = Folder::new(&lab).link(program, SHIM);
        let cmd = lab.program(ours.0.join(program)).words("--bridge br0").finding_qemu_on(USUAL_PATH);
        cmd.run().succeeds().qemu().value_of("-device").split(',').next().map(str::to_owned)
    };
    assert_eq!(card("qemu-system-s390x").as_deref(), Some("virtio-net-ccw"));
    assert_eq!(card("qemu-system-x86_64-microvm").as_deref(), Some("virtio-net-device"));
    assert_eq!(card("qemu-kvm").as_deref(), Some("virtio-net-ccw"), "through the link");
    lab.ends_here();
}

#[test]
fn root_executes_no_qemu_that_others_can_write_unless_it_is_named() {
    let Some(lab) = without_system_qemu() else { return };
    let ours = Folder::new(&lab);
    let real = Folder::new(&lab).link("kvm", fake_qemu());
    let of_alice = Folder::new(&lab);
    let qemu = of_alice.0.join("qemu-kvm");
    programs::copy(fake_qemu(), &qemu);
    let belongs = |path: &Path, uid: u32| chown(path, Some(uid), Some(uid)).expect("chown");
    for whose in [&of_alice.0, &qemu] {
        belongs(&of_alice.0, 0);
        belongs(&qemu, 0);
        belongs(whose, 1000);
        let refused = lab.shim("-m 64").finding_qemu_on(path(&[&of_alice])).run().exits_with(126).err;
        let why = format!("{} is not executed as root: others than root can write it", qemu.display());
        assert!(
            refused.contains(&why) && refused.contains(&format!("KVM_BRIDGE_QEMU={}", qemu.display())),
            "{refused}"
        );
        // One that is root's is found behind it.
        let found = lab.shim("-m 64").finding_qemu_on(path(&[&of_alice, &real])).run().succeeds();
        assert_eq!(found.qemu().line(), "-m 64");
        lab.shim("-m 64").finding_qemu_on(path(&[&ours])).env("KVM_BRIDGE_QEMU", &qemu).run().succeeds().qemu();
    }
}

#[test]
fn a_qemu_of_ones_own_in_the_first_folder_comes_before_the_distributions() {
    let Some(lab) = without_system_qemu() else { return };
    let own = Folder::new(&lab).link("qemu-system-x86_64", fake_qemu());
    let distribution = Folder::new(&lab).script("kvm", "exit 3").script("qemu-system-x86_64", "exit 3");
    lab.shim("-m 64").finding_qemu_on(path(&[&own, &distribution])).run().succeeds().qemu();
    // What was called comes first all the same.
    let called = Folder::new(&lab).link("qemu-kvm", fake_qemu());
    lab.shim("-m 64").finding_qemu_on(path(&[&distribution, &called])).run().succeeds().qemu();
}

/// As Python's subprocess does, unless it is told not to.
#[test]
fn a_script_that_closes_what_it_inherits_is_found_out() {
    let Some(lab) = Lab::with_bridge("br0").filter(|_| have("qemu-system-x86_64") && have("python3")) else { return };
    let script = |name: &str, text: &str| {
        let path = lab.new_file(name);
        programs::script(&path, &format!("#!/bin/sh\n{text}\n"));
        path
    };
    let python = |keeps: &str| {
        format!(
            "exec python3 -c 'import subprocess, sys; sys.exit(subprocess.run([\"qemu-system-x86_64\"] + sys.argv[1:]{keeps}).returncode)' \"$@\""
        )
    };
    let closes = script("closes", &python(""));
    let refused =
        lab.shim("--bridge br0 -accel tcg -display none -S").env("KVM_BRIDGE_QEMU", &closes).run().exits_with(125);
    let expected = format!("{} closes the files that it inherits, and the guest's TAP is one", closes.display());
    assert!(refused.err.contains(&expected) && refused.err.contains("close_fds=False"), "{}", refused.err);
    let keeps = script("keeps", &python(", close_fds=False"));
    let mut guest = lab.shim("--bridge br0 -accel tcg -display none -S").env("KVM_BRIDGE_QEMU", &keeps).start();
    wait_for("its TAP to be open", 20, || (lab.link("kvb0").is_some()).then_some(()));
    let qemu = wait_for("QEMU to have it", 20, || {
        let is_qemu = |process: &Process| process.command.starts_with("qemu-system-x86_64");
        let has_it = |process: &Process| process.open_files().iter().any(|file| file == "/dev/net/tun");
        lab.processes().into_iter().find(|process| is_qemu(process) && has_it(process) && process.is_waiting())
    });
    assert!(guest.is_running(), "{}", guest.err());
    qemu.kill();
    guest.kill();
}

/// A program that is no script is asked as well, and before anything is made; of one that keeps them that is known then.
#[test]
fn a_program_that_closes_what_it_inherits_is_found_out_before_anything_is_made() {
    let Some(lab) = Lab::with_address().filter(|_| have("qemu-system-x86_64") && have("cc")) else { return };
    let log = lab.new_file("log");
    let wrapper = |name: &str, first: u32| {
        let (program, source) = (lab.new_file(name), lab.dir.path().join(format!("{name}.c")));
        let text = format!(
            "#include <unistd.h>\n#include <fcntl.h>\nint main(int n, char **words) {{\n\
             write(open(\"{}\", O_WRONLY | O_CREAT | O_APPEND, 0600), \"x\", 1);\n\
             for (int fd = {first}; fd < 65536; fd++) close(fd);\nexecv(\"{}\", words);\nreturn 1;\n}}\n",
            log.display(),
            crate::support::real::QEMU
        );
        std::fs::write(&source, text).expect("write a program");
        assert!(Command::new("cc").arg("-o").arg(&program).arg(&source).status().expect("run cc").success());
        program
    };
    let closes = wrapper("closes", 3);
    for line in ["--bridge br0 -m 64", "--bridge-dry-run --bridge br0 -m 64"] {
        let refused = lab.shim(line).env("KVM_BRIDGE_QEMU", &closes).run().exits_with(125);
        let expected = format!("{} closes the files that it inherits, and the guest's TAP is one", closes.display());
        assert!(refused.err.contains(&expected), "{}", refused.err);
        lab.is_untouched();
    }
    let keeps = wrapper("keeps", 65536);
    let starts = || std::fs::read(&log).expect("the starts").len();
    let plan = || lab.shim("--bridge-dry-run --bridge br0 -m 64").env("KVM_BRIDGE_QEMU", &keeps).run().succeeds();
    plan();
    let before = starts();
    plan();
    assert_eq!(starts(), before, "it was asked once");
}

#[test]
fn each_step_of_a_launch_is_told_if_that_is_asked_for() {
    let Some(lab) = Lab::with_address() else { return };
    for (line, variable) in [("--bridge-verbose --bridge br0", ""), ("--bridge br0", "1")] {
        let told = lab.shim(line).env("KVM_BRIDGE_VERBOSE", variable).run().succeeds().err;
        for step in ["QEMU is ", "the host was looked at", "has slot 0 and ", "is a port of br0", "executes "] {
            assert!(told.contains(step), "{step}: {told}");
        }
        assert!(told.lines().any(|line| line.starts_with("qemu-kvm: ") && line.contains(" ms  ")), "{told}");
    }
    assert!(!lab.shim("--bridge br0").run().succeeds().err.contains(" ms  "));
    let told = lab.kvm_bridge("down br0 --verbose").run().succeeds().err;
    assert!(told.contains("kvm-bridge: ") && told.contains("undoes what was made for br0"), "{told}");
    lab.becomes_as_before();
}

/// What doctor plugs in to ask for servers is nobody's guest.
#[test]
fn doctors_own_tap_is_no_guest_and_keeps_no_bridge() {
    let Some(lab) = Lab::with_address() else { return };
    lab.kvm_bridge("up br0 --tap tap0 --user root").run().succeeds();
    let guest = lab.shim("--bridge br0,ifname=tap0").boot();
    let asking = lab.kvm_bridge("doctor br0 --watch 0").start();
    let probe = wait_for("its TAP", 5, || {
        lab.ports("br0").into_iter().find(|port| port.starts_with("kvb") && port != "kvbp-br0")
    });
    let shown = lab.kvm_bridge("status br0").run().succeeds().out;
    assert!(!shown.contains(&probe), "{shown}");
    guest.kill();
    lab.kvm_bridge("down br0").run().succeeds();
    assert!(lab.link("br0").is_none());
    asking.end_within(20);
    lab.becomes_as_before();
}
